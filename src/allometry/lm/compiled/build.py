"""The compiled kernels of a training step: built once on a machine, kept on its disk, called through ctypes.

``cpp/kernels.cpp`` takes some seconds of a C++ compiler and serves every shape. The library lies in the user's
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


class Unavailable(Exception):
    """There are no kernels on this machine; the message says why."""


class Kernels:
    """The functions of ``cpp/kernels.cpp`` between two GEMMs in BF16, as attributes; pointers as integers."""

    embedding_backward: Callable[..., None]

    def __init__(self, library: ctypes.CDLL):
        for name, signature in SIGNATURES.items():
            function = getattr(library, f"{name}_bfloat16")
            function.argtypes, function.restype = [_TYPES[letter] for letter in signature], None
            setattr(self, name, function)


@lru_cache
def kernels() -> Kernels:
    """The kernels for BF16 tensors, built if they are not yet.

    Raises:
        Unavailable: there is no C++ compiler, or it fails.
    """
    return Kernels(_library())


@lru_cache
def decoder_functions() -> tuple[Callable[..., int], Callable[..., int]]:
    """The step of whole decoders, and the floats of working memory that it needs; see :mod:`.whole_step`.

    Raises:
        Unavailable: there is no C++ compiler, or it fails.
    """
    library = _library()
    run, memory = library.decoder_run, library.decoder_memory
    run.argtypes, run.restype = [_POINTER, _POINTER, _INT, _INT, _POINTER, _INT], _INT
    memory.argtypes, memory.restype = [_POINTER, _POINTER, _INT, _INT, _INT], _SIZE
    return run, memory


@lru_cache
def adamw_function() -> Callable[..., None]:
    """A step of AdamW over several tensors; see :mod:`.adamw`.

    Raises:
        Unavailable: there is no C++ compiler, or it fails.
    """
    run, double = _library().adamw_run, ctypes.c_double
    run.argtypes, run.restype = [_POINTER, _POINTER, _SIZE, double, double, _FLOAT, _INT], None
    return run


@lru_cache
def available() -> str:
    """Empty if there are kernels, else why not."""
    try:
        _library()
    except Unavailable as error:
        return str(error)
    return ""


@lru_cache
def matrix_unit() -> bool:
    """Whether the processor multiplies BF16 matrices in a unit of its own (AMX)."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text(errors="replace").split()


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
                built = compile_into(Path(scratch, "kernels.so"), compiler_path)
                replace_file(path, built.read_bytes())
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError) as error:  # no such folder; no home
        raise Unavailable(f"they cannot be kept or loaded: {error}") from None


def compile_into(path: Path, compiler_path: str, *flags: str) -> Path:
    """Compile the library to ``path``, which is returned.

    Raises:
        Unavailable: the compiler fails.
    """
    command = [compiler_path, *FLAGS, *flags, str(SOURCE), "-o", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{compiler_path} fails: {(done.stderr.splitlines() or ['no message'])[0]}")
    return path


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
