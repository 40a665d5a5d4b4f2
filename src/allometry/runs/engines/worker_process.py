"""Start the process that trains jobs (:mod:`allometry.trainers.worker`), and say why one ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from ..cost import MEMORY_VARIABLE

WORKER = "allometry.trainers.worker"


def start_worker(
    threads: int, device: str = "cpu", place: int | None = None, memory: float | None = None, trainer: str = ""
) -> subprocess.Popen[str]:
    """A training process of ``threads`` threads: jobs in on its standard input, events out on its standard output.

    It trains on the device number ``place`` of the kind ``device`` (by default on those that it is left to see, of
    which it takes the first), within ``memory`` bytes: by default all there are.
    It loads ``trainer`` at once, so that this takes no time from the first job; by default when a job needs one.
    """
    count = str(threads)
    # A thread that spins long while it waits makes a step a hundred times slower as soon as its core is wanted
    # elsewhere; one that sleeps at once makes it a quarter slower always.
    spin = {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "2000")}
    environment = os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count} | spin
    environment |= {"ALLOMETRY_DEVICE": device}
    environment |= {} if place is None else {"ALLOMETRY_PLACE": str(place)}
    environment |= {} if memory is None else {MEMORY_VARIABLE: str(memory)}
    # A terminal sends Ctrl-C to all of them; a worker inherits that it is ignored, from its first instruction on.
    in_main = threading.current_thread() is threading.main_thread()  # elsewhere there is no terminal
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    try:
        return subprocess.Popen(
            [sys.executable, "-m", WORKER, *([trainer] if trainer else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
    finally:
        if in_main:
            signal.signal(signal.SIGINT, handler)


def cause_of_death(process: subprocess.Popen[str]) -> str:
    """Why a process ended, as far as its exit status shows it."""
    code = process.wait()
    cause = "killed, out of memory perhaps" if code == -signal.SIGKILL else "its message stands above"
    return f"status {code}: {cause}"
