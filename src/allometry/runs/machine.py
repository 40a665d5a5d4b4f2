"""What this machine offers a training process: cores, and a compiler."""

from __future__ import annotations

import os
import shutil
import sys


def compiler() -> str | None:
    """The C++ compiler that training can have kernels from: that of the variable CXX, or the first of usual name."""
    if sys.platform != "linux":
        return None  # elsewhere PyTorch's threads are not those of the compiler
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
