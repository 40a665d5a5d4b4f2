"""The cores and the compiler that this machine offers to a training process."""

from __future__ import annotations

import os
import shutil
import sys


def compiler() -> str | None:
    """The path of a C++ compiler for the training kernels, or None: the variable CXX, or the first of the usual names.

    On systems other than Linux always None: there, PyTorch's threads are not those of the compiler.
    """
    if sys.platform != "linux":
        return None
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def cores() -> int:
    """The number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
