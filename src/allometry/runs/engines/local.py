"""Where runs are trained: processes on this machine, each with its own threads.

Small models cannot use two cores at once, so the ladder trains one on each: several processes of one thread. A large
one takes them all: one process of several threads. Processes stay up between jobs, since importing torch takes longer
than some runs.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from ...config.run import RunConfig
from ...errors import UserError
from ...extras import require
from ..cost import MEMORY_VARIABLE, memory_share
from ..machine import cores
from ..study import Study
from .job_queue import Dispatch, Job, Listener, Turn

__all__ = ["Job", "Listener", "LocalEngine", "cores"]
_LOOK_SECONDS = 0.5  # between looks at what other processes do with the study
_SAVING_SECONDS = 60  # that a worker has to save its training when it is told to leave


class LocalEngine:
    """Worker processes on this machine. Use as a context manager: leaving it stops them, their training saved.

    ``workers`` processes of ``threads`` threads each; by default one process a core. They train on ``device``, of
    which (:data:`allometry.lm.device.NAMES`) each has one of its own where there are several.
    """

    _hurried = False

    def __init__(self, workers: int | None = None, threads: int = 1, device: str = "cpu"):
        require("torch", "safetensors")  # a worker imports them; here it can still be said in one line
        self.workers, self.threads, self.device = workers or cores() // threads or 1, threads, device
        self._events: queue.Queue[tuple[subprocess.Popen, dict[str, Any] | None]] = queue.Queue()
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> LocalEngine:
        LocalEngine._hurried = False
        self._processes = [self._start(number) for number in range(self.workers)]
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + (0.0 if LocalEngine._hurried else _SAVING_SECONDS)
        try:
            for process in self._processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    process.stdin.close()
            for process in self._processes:
                process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt:  # whoever presses Ctrl-C again wants no more waiting, for the other engine neither
            LocalEngine._hurried = True
            raise
        finally:  # no process is left behind
            for process in self._processes:
                process.kill()
            for process in self._processes:
                process.wait()

    def train(self, study: Study, jobs: Sequence[Job], listener: Listener = lambda event: None) -> None:
        """Train all jobs, the longest first; ``listener`` hears progress, notes and every record.

        Other processes may be at work on the same study: what they train is waited for, or taken over when they die.

        Raises:
            UserError: a job failed, or killed its process again and again; what was recorded stays.
        """
        dispatch = Dispatch(study, jobs, listener)
        at_work: dict[subprocess.Popen, Turn] = {}
        looked = 0.0
        while dispatch.open:
            self._hand_out(study, dispatch, at_work)
            if time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                for process in [process for process, turn in at_work.items() if dispatch.stalled(turn)]:
                    process.kill()  # it stands still; what it has saved is gone on from
            try:
                process, event = self._events.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            if event is None:
                if process in at_work:
                    dispatch.died(at_work.pop(process), _why(process))
            elif event["event"] == "failed":
                raise UserError(event["message"])
            elif event["event"] == "done":
                turn = at_work.pop(process)
                dispatch.taken(turn) if event["result"] == "taken" else dispatch.done(turn)
            else:
                dispatch.hear(event)

    def _hand_out(self, study: Study, dispatch: Dispatch, at_work: dict[subprocess.Popen, Turn]) -> None:
        """Give every free worker a job that may be trained now; a worker that died is replaced."""
        for number in range(self.workers):
            if self._processes[number] in at_work:
                continue
            turn = dispatch.take()
            if turn is None:
                return
            if self._processes[number].poll() is not None:
                self._processes[number] = self._start(number)
            at_work[self._processes[number]] = turn
            self._send(self._processes[number], turn.message(study))

    def measure(self, configs: Sequence[RunConfig], models: int = 1) -> list[float]:
        """Seconds a training step of each configuration, with all workers busy at once, as they will be.

        With several ``models``, of a step of all of them as one batched model.
        """
        message = {"measure": [config.to_dict() for config in configs], "models": models}
        for process in self._processes:
            self._send(process, message)
        results: dict[subprocess.Popen, list[float]] = {}
        while len(results) < len(self._processes):
            process, event = self._events.get()
            if event is None:
                raise UserError(f"a training process ended ({_why(process)}) while this machine's speed was measured")
            if event["event"] == "failed":
                raise UserError(event["message"])
            results[process] = event["result"]
        return [max(times) for times in zip(*results.values(), strict=True)]

    def _start(self, number: int) -> subprocess.Popen:
        process = start_worker(self.threads, self.device, number, memory_share() / self.workers)
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        return process

    def _listen(self, process: subprocess.Popen) -> None:
        for line in process.stdout:
            self._events.put((process, json.loads(line)))
        self._events.put((process, None))

    def _send(self, process: subprocess.Popen, message: dict[str, Any]) -> None:
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; its listener says so


def start_worker(threads: int, device: str = "cpu", place: int = 0, memory: float | None = None) -> subprocess.Popen:
    """A training process of so many threads (:mod:`allometry.lm.training.worker`): messages in, events out.

    It trains on the device number ``place`` of the kind ``device``, within ``memory`` bytes: by default all there are.
    """
    count = str(threads)
    # A thread that spins long while it waits makes a step a hundred times slower as soon as its core is wanted
    # elsewhere; one that sleeps at once makes it a quarter slower always.
    spin = {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "2000")}
    environment = os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count} | spin
    environment |= {"ALLOMETRY_DEVICE": device, "ALLOMETRY_PLACE": str(place)}
    environment |= {} if memory is None else {MEMORY_VARIABLE: str(memory)}
    # A terminal sends Ctrl-C to all of them; a worker inherits that it is ignored, from its first instruction on.
    in_main = threading.current_thread() is threading.main_thread()  # elsewhere there is no terminal
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "allometry.lm.training.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
    finally:
        if in_main:
            signal.signal(signal.SIGINT, handler)


def _why(process: subprocess.Popen) -> str:
    """What a dead process died of, as far as one can tell."""
    code = process.wait()
    cause = "killed, out of memory perhaps" if code == -signal.SIGKILL else "its message stands above"
    return f"status {code}: {cause}"
