"""The compiled kernels of a training step: built once on a machine, kept on its disk, called through ctypes.

``cpp/kernels.cpp`` takes about three seconds of a C++ compiler and serves every shape. The library lies in the user's
cache folder under a hash of its source, the compiler and the processor.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from ...files import replace_file
from ...runs.machine import compiler

SOURCE = Path(__file__).with_name("cpp") / "kernels.cpp"
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-mprefer-vector-width=512", "-ffp-contract=fast"),
    *("-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC", "-w"),
)

_POINTER, _SIZE, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
SIGNATURES = {  # p: tensor, n: size, f: factor, i: threads
    "norm_forward": "pppnnfi",
    "norm_backward": "pppppnnffi",
    "gate_forward": "ppnnfi",
    "gate_backward": "ppnnfi",
    "cross_entropy": "pppnnfi",
    "embedding_forward": "pppnni",
    "embedding_backward": "pppnnf",
    "attention_forward": "pppppnnnnfi",
    "attention_backward": "ppppppnnnnfi",
}
_TYPES = {"p": _POINTER, "n": _SIZE, "f": _FLOAT, "i": _INT}
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class Unavailable(Exception):
    """There are no kernels on this machine; the message says why."""


class Kernels:
    """The functions of ``cpp/kernels.cpp`` for tensors of one type, as attributes; pointers as integers."""

    embedding_backward: Callable[..., None]

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype):
        for name, signature in SIGNATURES.items():
            function = getattr(library, f"{name}_{_NAMES[dtype]}")
            function.argtypes, function.restype = [_TYPES[letter] for letter in signature], None
            setattr(self, name, function)


@lru_cache
def kernels(dtype: torch.dtype) -> Kernels:
    """The kernels for FP32 or BF16 tensors, built if they are not yet.

    Raises:
        Unavailable: there is no C++ compiler, or it fails.
    """
    return Kernels(_library(), dtype)


@lru_cache
def available() -> str:
    """Empty if there are kernels, else why not."""
    try:
        _library()
    except Unavailable as error:
        return str(error)
    return ""


@lru_cache
def _library() -> ctypes.CDLL:
    compiler_path = compiler()
    if compiler_path is None:
        raise Unavailable("they need Linux and a C++ compiler")
    try:
        folder = cache_folder()
        path = folder / f"kernels-{_identity(compiler_path)}.so"
        if not path.exists():
            with tempfile.TemporaryDirectory() as scratch:
                built = Path(scratch, "kernels.so")
                command = [compiler_path, *FLAGS, str(SOURCE), "-o", str(built)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise Unavailable(f"{compiler_path} fails: {(done.stderr.splitlines() or ['no message'])[0]}")
                replace_file(path, built.read_bytes())
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError) as error:  # no such folder; no home
        raise Unavailable(f"they cannot be kept or loaded: {error}") from None


def cache_folder() -> Path:
    """Where built kernels are kept; nobody else can write there."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "allometry"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _identity(compiler_path: str) -> str:
    """What the library depends on: source, flags, compiler, processor."""
    version = subprocess.run([compiler_path, "--version"], capture_output=True, text=True).stdout
    processor = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        prefixes = ("model name", "flags", "Features", "CPU part")
        processor += "".join(next((line for line in lines if line.startswith(name)), "") for name in prefixes)
    sources = [path.read_text() for path in sorted(SOURCE.parent.glob("*.[hc]*"))]
    text = "\n".join((*sources, *FLAGS, version, processor))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
