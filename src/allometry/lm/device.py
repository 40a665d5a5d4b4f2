"""Where tensors live: the one place that knows CPU, CUDA, MPS and XLA apart.

Weights are drawn on the CPU and then moved, so that a seed gives the same model everywhere. BF16 is computed by
tensors of that type, without autocast, which is the same code on every device. XLA is experimental.
"""

from __future__ import annotations

import contextlib
import os
import platform
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError

CPU = torch.device("cpu")
NAMES = ("auto", "cpu", "cuda", "mps", "xla")
_CONTROL_GROUPS = ("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")


def pick(name: str = "auto", place: int = 0, processes: int = 1) -> torch.device:
    """The device for the process number ``place`` of the ``processes`` that share this machine.

    "auto" is CUDA where there is one, then MPS, then the CPU. Each process has a CUDA device of its own.

    Raises:
        UserError: an unknown name, no such device here, or more processes than devices.
    """
    if name not in NAMES:
        raise UserError(f"--device {name}: unknown; there are {', '.join(NAMES)}")
    if name == "auto":
        name = next((kind for kind in ("cuda", "mps") if count(kind)), "cpu")
    if name == "cpu":
        return CPU
    there = count(name)
    if not there:
        raise UserError(f"--device {name}: this machine and this build of PyTorch have none; there is --device cpu")
    if processes > there:
        raise UserError(
            f"{processes} processes on this machine, but {there} {name} device{'s' * (there > 1)}: start "
            f"{there}, or give --device cpu"
        )
    if name == "xla":
        import torch_xla  # pyright: ignore[reportMissingImports]

        return torch_xla.device()
    return torch.device(name, place)


@lru_cache(maxsize=1)
def mine() -> torch.device:
    """The device of this process, which its starter names by ALLOMETRY_DEVICE and ALLOMETRY_PLACE; else the CPU.

    Raises:
        UserError: there is no such device.
    """
    name = os.environ.get("ALLOMETRY_DEVICE", "cpu")
    device = pick(name, int(os.environ.get("ALLOMETRY_PLACE", "0")))
    start(device)
    return device


def count(kind: str) -> int:
    """How many devices of a kind this process can use."""
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    if kind == "xla":
        try:
            import torch_xla  # pyright: ignore[reportMissingImports]  # noqa: F401
        except ImportError:
            return 0
    return 1


def check_precision(device: torch.device, precision: str) -> None:
    """Try a product in BF16 where a run asks for it.

    Raises:
        UserError: the device cannot.
    """
    if precision != "bf16" or device.type == "cpu":
        return
    try:
        one = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
        right = (one @ one).float().mean().item() == 16.0
    except (RuntimeError, TypeError):
        right = False
    if not right:
        raise UserError(f'{describe(device)} does not compute in bf16; give precision = "fp32"')


def start(device: torch.device) -> None:
    """Make ``device`` this process's own, so that nothing lands on the first one by default."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def put(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; to CUDA from pinned memory, without waiting for it."""
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def synchronize(device: torch.device) -> None:
    """Wait until everything asked of ``device`` is done, for a clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    elif device.type == "xla":
        import torch_xla  # pyright: ignore[reportMissingImports]

        torch_xla.sync(wait=True)


def free_bytes(device: torch.device, processes: int = 1) -> int | None:
    """Bytes that a process may still take on ``device``; None where it cannot be known.

    The CPU's memory is shared by ``processes``, and limited by a control group where there is one.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if device.type != "cpu":
        return None
    free = _host_bytes()
    return None if free is None else free // processes


def _host_bytes(root: Path = Path("/")) -> int | None:
    """Free memory of the machine, or of the control group that this process is held in."""
    bounds = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text().splitlines()
        bounds.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    for limit, used in _CONTROL_GROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            group = root / "sys/fs/cgroup"
            bounds.append(int((group / limit).read_text()) - int((group / used).read_text()))
    return max(0, min(bounds)) if bounds else None


def describe(device: torch.device) -> str:
    """The product's name, as its maker writes it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return {"cpu": platform.machine(), "mps": f"Apple {platform.machine()}"}.get(device.type, device.type)


def threads_for(processes: int) -> int:
    """Threads of each of the ``processes`` on this machine: OMP_NUM_THREADS, or its share of the cores."""
    from ..runs.machine import cores

    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else max(1, cores() // processes)
