"""What this machine offers to a study, and what would make it faster: measured within a second, nothing is imported.

Each check is one line: its name, what is there, and what follows from it. Nothing here decides anything.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from ..installed_extras import version_of
from ..quantities import format_bytes, plural
from .machine import compiler, cores

PATIENCE = 0.8  # seconds that all checks together may take
HUB = ("huggingface.co", 443)
LOW_DISK = 1e9
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class MachineCheck:
    """One line: ``ok`` is False where something slows or blocks a study; ``advice`` then says what to do."""

    name: str
    value: str
    ok: bool = True
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        return asdict(self)


def machine_checks(folder: Path | None = None) -> list[MachineCheck]:
    """All checks, made at the same time; one that takes longer than :data:`PATIENCE` says so."""
    here = Path.cwd() if folder is None else folder
    checks: dict[str, Callable[[], MachineCheck]] = {
        "system": _system,
        "torch": _torch,
        "compiler": _compiler,
        "processor": _processor,
        "GPU": _gpu,
        "threads": _threads,
        "memory": _memory,
        "disk": lambda: _disk(here),
        "network": _network,
    }
    results: dict[str, MachineCheck] = {}
    threads = [Thread(target=_make, args=(name, check, results), daemon=True) for name, check in checks.items()]
    end = time.monotonic() + PATIENCE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [results.get(name) or MachineCheck(name, f"no answer within {PATIENCE:g} s") for name in checks]


def _make(name: str, check: Callable[[], MachineCheck], results: dict[str, MachineCheck]) -> None:
    try:
        results[name] = check()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        results[name] = MachineCheck(name, f"not known: {error}")


def _system() -> MachineCheck:
    return MachineCheck("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}")


def _torch() -> MachineCheck:
    there = version_of("torch")
    if there is None:
        return MachineCheck("torch", "not installed", False, "to train: pip install 'allometry[train]'")
    return MachineCheck("torch", there)


def _compiler() -> MachineCheck:
    path = compiler()
    if path is not None:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=PATIENCE, check=False)
        return MachineCheck("compiler", f"{path}: {answer.stdout.partition(chr(10))[0] or 'no version'}")
    if platform.system() != "Linux":
        return MachineCheck("compiler", "not used on this system: the training kernels are for Linux")
    advice = "training takes several times as long without; install g++ (apt install g++) or clang, or set CXX"
    return MachineCheck("compiler", "none", False, advice)


def _processor() -> MachineCheck:
    flags = _flags()
    if flags is None:
        return MachineCheck("processor", platform.processor() or platform.machine())
    wanted = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "BF16", "amx_bf16": "AMX"}
    there = [name for flag, name in wanted.items() if flag in flags]
    fast = "amx_bf16" in flags
    value = f"{', '.join(there) or 'no vector units that are known'}; training in {'BF16' if fast else 'FP32'}"
    return MachineCheck("processor", value if fast else f"{value}, as there is no AMX for BF16")


def _flags() -> set[str] | None:
    """The processor's flags; None where the system does not tell."""
    try:
        return set(Path("/proc/cpuinfo").read_text(errors="replace").split())
    except OSError:
        return None


def _gpu() -> MachineCheck:
    """Without importing torch, which takes seconds: the driver, and what torch was built for."""
    build = version_of("torch") or ""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return MachineCheck("GPU", "Apple's, by --device mps")
    number = _cuda_devices()
    if not number:
        return MachineCheck("GPU", "none that CUDA's driver knows; training on the CPU")
    value = f"{plural(number, 'CUDA device')}"
    if build.endswith("+cpu"):
        advice = "this torch is built for CPUs: install the CUDA build of torch to use it"
        return MachineCheck("GPU", f"{value}, not usable", False, advice)
    return MachineCheck("GPU", f"{value}, by --device cuda")


def _cuda_devices() -> int:
    """How many devices CUDA's driver has; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1" if platform.system() == "Linux" else "nvcuda.dll")
    except OSError:
        return 0
    number = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(number)):
        return 0
    return number.value


def _threads() -> MachineCheck:
    number, limit = cores(), _quota()
    chosen = os.environ.get("OMP_NUM_THREADS")
    parts = [plural(number, "core")]
    if limit is not None and limit < number:
        parts.append(f"of which a limit of this container allows {limit:.3g}")
    if chosen:
        parts.append(f"OMP_NUM_THREADS={chosen}")
    try:
        busy = os.getloadavg()[0]
    except (OSError, AttributeError):
        busy = 0.0
    if busy > number:
        advice = f"{busy:.1f} processes are at work: times will be longer than they are measured on an idle machine"
        return MachineCheck("threads", ", ".join(parts), False, advice)
    return MachineCheck("threads", ", ".join(parts))


def _quota() -> float | None:
    """The CPUs that a control group allows; None without a limit."""
    try:
        allowed, _, period = Path("/sys/fs/cgroup/cpu.max").read_text().partition(" ")
        return None if allowed == "max" else float(allowed) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _memory() -> MachineCheck:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        total, free = (1024.0 * int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError, IndexError):
        return MachineCheck("memory", "not known")
    return MachineCheck("memory", f"{format_bytes(free)} free of {format_bytes(total)}")


def _disk(folder: Path) -> MachineCheck:
    free = shutil.disk_usage(folder).free
    value = f"{format_bytes(free)} free in {folder}"
    for place in (folder, Path(tempfile.gettempdir())):
        if not os.access(place, os.W_OK):
            return MachineCheck("disk", value, False, f"{place} cannot be written to: work in another folder")
    if free < LOW_DISK:
        return MachineCheck("disk", value, False, "a study of a few minutes takes some hundred megabytes: make room")
    return MachineCheck("disk", value)


def _network() -> MachineCheck:
    """Whether the hub answers; only data sets and tokenizers of Hugging Face need it."""
    if named := [name for name in OFFLINE if os.environ.get(name, "0") not in ("0", "")]:
        return MachineCheck("network", f"not used, as {named[0]} is set")
    try:
        socket.create_connection(HUB, timeout=PATIENCE / 2).close()
    except OSError:
        return MachineCheck("network", "huggingface.co does not answer; only its data sets and tokenizers need it")
    return MachineCheck("network", "huggingface.co answers")
