"""Train jobs in processes on this machine, each with its own threads.

Small models cannot use two cores at once, so the ladder trains one on each: several processes of one thread. A large
one takes them all: one process of several threads. Processes stay up between jobs, since importing torch takes longer
than some runs.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

from ...config.run import RunConfig
from ...errors import UserError
from ..cost import memory_share
from ..hooks import EventHandler
from ..job import Job
from ..machine import cores
from ..study import Study
from .contract import silent
from .job_queue import JobQueue, Turn
from .worker_process import cause_of_death, start_worker

_LOOK_SECONDS = 0.5  # between looks at what other processes do with the study
_SAVING_SECONDS = 60  # that a worker has to save its training when it is asked to leave

Worker = subprocess.Popen[str]


class LocalEngine:
    """Worker processes on this machine. Use as a context manager: leaving it stops them, their training saved.

    ``workers`` processes of ``threads`` threads each; by default one process a core. They train on ``device``, of
    which (:data:`allometry.lm.device.NAMES`) each has one of its own where there are several. Each loads ``trainer``
    when it starts, and any other when a job needs it.
    """

    _hurried = False

    def __init__(self, workers: int | None = None, threads: int = 1, device: str = "cpu", trainer: str = "built_in"):
        self.workers, self.threads, self.device = workers or cores() // threads or 1, threads, device
        self.trainer = trainer
        self._events: queue.Queue[tuple[Worker, dict[str, Any] | None]] = queue.Queue()
        self._processes: list[Worker] = []

    def __enter__(self) -> Self:
        LocalEngine._hurried = False
        self._processes = [self._start(number) for number in range(self.workers)]
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + (0.0 if LocalEngine._hurried else _SAVING_SECONDS)
        try:
            for process in self._processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    assert process.stdin is not None
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

    def train(self, study: Study, jobs: Sequence[Job], on_event: EventHandler = silent) -> None:
        """See :meth:`.contract.Engine.train`."""
        jobs_left = JobQueue(study, jobs, on_event)
        at_work: dict[Worker, Turn] = {}
        looked = 0.0
        while jobs_left.open:
            self._hand_out(study, jobs_left, at_work)
            if time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                for process in [process for process, turn in at_work.items() if jobs_left.stalled(turn)]:
                    process.kill()  # it stands still; what it has saved is gone on from
            try:
                process, event = self._events.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            if event is None:
                if process in at_work:
                    jobs_left.died(at_work.pop(process), cause_of_death(process))
            elif event["event"] == "failed":
                raise UserError(event["message"])
            elif event["event"] == "done":
                turn = at_work.pop(process)
                jobs_left.taken(turn) if event["result"] == "taken" else jobs_left.done(turn)
            else:
                jobs_left.pass_on(event)

    def _hand_out(self, study: Study, jobs_left: JobQueue, at_work: dict[Worker, Turn]) -> None:
        """Give every free worker a job that may be trained now; a worker that died is replaced."""
        for number in range(self.workers):
            if self._processes[number] in at_work:
                continue
            turn = jobs_left.take()
            if turn is None:
                return
            if self._processes[number].poll() is not None:
                self._processes[number] = self._start(number)
            at_work[self._processes[number]] = turn
            self._send(self._processes[number], turn.message(study))

    def measure(self, configs: Sequence[RunConfig], models: int = 1) -> list[float]:
        """See :meth:`.contract.LadderEngine.measure`."""
        message = {"measure": [config.to_dict() for config in configs], "models": models}
        for process in self._processes:
            self._send(process, message)
        results: dict[Worker, list[float]] = {}
        while len(results) < len(self._processes):
            process, event = self._events.get()
            if event is None:
                cause = cause_of_death(process)
                raise UserError(f"a training process ended ({cause}) while this machine's speed was measured")
            if event["event"] == "failed":
                raise UserError(event["message"])
            results[process] = event["result"]
        return [max(times) for times in zip(*results.values(), strict=True)]

    def _start(self, number: int) -> Worker:
        process = start_worker(self.threads, self.device, number, memory_share() / self.workers, self.trainer)
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        return process

    def _listen(self, process: Worker) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._events.put((process, json.loads(line)))
        self._events.put((process, None))

    def _send(self, process: Worker, message: dict[str, Any]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; the thread that reads its events notices
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
