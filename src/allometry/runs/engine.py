"""Where runs are trained: processes on this machine, each with its own threads.

Small models cannot use two cores at once, so the ladder trains one on each: several processes of one thread. A large
one takes them all: one process of several threads. Processes stay up between jobs, since importing torch takes longer
than some runs.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import RunConfig
from ..errors import UserError
from .store import Study

Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """Runs that one process trains one after another because they share a trunk; ``seconds`` is the estimate."""

    configs: tuple[RunConfig, ...]
    kind: str
    seconds: float = 0.0


class LocalEngine:
    """Worker processes on this machine. Use as a context manager: leaving it stops them, their training saved.

    ``workers`` processes of ``threads`` threads each; by default one process a core.
    """

    def __init__(self, workers: int | None = None, threads: int = 1):
        self.workers, self.threads = workers or cores() // threads or 1, threads
        self._events: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> LocalEngine:
        for number in range(self.workers):
            process = self._start()
            self._processes.append(process)
            threading.Thread(target=self._listen, args=(number, process), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.stdin.close()
        deadline = time.monotonic() + 20
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def train(self, study: Study, jobs: Sequence[Job], listener: Listener = lambda event: None) -> None:
        """Train all jobs, the longest first; ``listener`` hears progress and every record.

        Raises:
            UserError: a job failed or a process died; what was recorded stays.
        """
        ordered = sorted(jobs, key=lambda job: -job.seconds)
        messages = [
            {"study": str(study.path), "kind": job.kind, "configs": [config.to_dict() for config in job.configs]}
            for job in ordered
        ]
        self._serve(messages, listener)

    def measure(self, configs: Sequence[RunConfig]) -> list[float]:
        """Seconds a training step of each configuration, with all workers busy at once, as they will be."""
        message = {"measure": [config.to_dict() for config in configs]}
        results = self._serve([message] * self.workers)
        return [max(times) for times in zip(*results, strict=True)]

    def _start(self) -> subprocess.Popen:
        count = str(self.threads)
        # A thread that spins long while it waits makes a step a hundred times slower as soon as its core is wanted
        # elsewhere; one that sleeps at once makes it a quarter slower always.
        spin = {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "2000")}
        environment = os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count} | spin
        # A terminal sends Ctrl-C to all of them; a worker inherits that it is ignored, from its first instruction on.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "allometry.lm.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
        finally:
            signal.signal(signal.SIGINT, handler)

    def _listen(self, number: int, process: subprocess.Popen) -> None:
        for line in process.stdout:
            self._events.put((number, json.loads(line)))
        self._events.put((number, None))

    def _serve(self, messages: Sequence[dict[str, Any]], listener: Listener = lambda event: None) -> list[Any]:
        """Hand out messages to free workers, in order; the results in the same order."""
        results: list[Any] = [None] * len(messages)
        waiting = list(enumerate(messages))
        at_work: dict[int, int] = {}

        def hand_out(number: int) -> None:
            if waiting:
                at_work[number], message = waiting.pop(0)
                process = self._processes[number]
                try:
                    process.stdin.write(json.dumps(message) + "\n")
                    process.stdin.flush()
                except BrokenPipeError:
                    self._died(number)

        for number in range(self.workers):
            hand_out(number)
        while at_work:
            number, event = self._events.get()
            if event is None:
                self._died(number)
            elif event["event"] == "failed":
                raise UserError(event["message"])
            elif event["event"] == "done":
                results[at_work.pop(number)] = event["result"]
                hand_out(number)
            else:
                listener(event)
        return results

    def _died(self, number: int) -> None:
        code = self._processes[number].wait()
        why = "out of memory, perhaps" if code == -signal.SIGKILL else "its message stands above"
        raise UserError(
            f"a training process ended with status {code} ({why}); the same command again goes on from here"
        )


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
