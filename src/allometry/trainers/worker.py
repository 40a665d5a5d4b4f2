"""A training process: jobs in on standard input, events out on standard output, one JSON value a line.

Engines start it by name (:mod:`allometry.runs.engines.worker_process`). It leaves when its input ends, when it is
asked to stop (SIGTERM), and when the process that started it is gone, each time with its training saved. Ctrl-C goes
to the starter alone. It imports torch only if the trainer of a job does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config.run import RunConfig
from ..errors import UserError
from ..runs.claims import Fenced, Taken
from ..runs.hooks import EventHandler, Hooks, Interrupted
from ..runs.job import Job
from ..runs.study import Study
from .catalog import trainer_named
from .contract import Trainer


class Worker:
    """Serves messages, each by the trainer that its runs name; a trainer is made once."""

    def __init__(self, send: EventHandler, should_stop: Callable[[], bool]):
        self.send, self.should_stop = send, should_stop
        self._trainers: dict[str, Trainer] = {}

    def trainer(self, name: str) -> Trainer:
        if name not in self._trainers:
            self._trainers[name] = trainer_named(name)
        return self._trainers[name]

    def serve(self, message: dict[str, Any]) -> None:
        """Do what one message asks for, and send what came of it.

        Raises:
            Interrupted: asked to stop.
        """
        try:
            self._measure(message) if "measure" in message else self._train(message)
        except UserError as error:
            self._fail(str(error))
        except OSError as error:  # a full disk, say
            where = error.filename or "study"
            self._fail(f"{where}: {error.strerror or error}; the same command again goes on from here")

    def _fail(self, text: str) -> None:
        self.send({"event": "failed", "message": text})

    def _measure(self, message: dict[str, Any]) -> None:
        configs = [RunConfig.parse(value) for value in message["measure"]]
        seconds = self.trainer(configs[0].trainer.name).measure(configs, message["models"])
        self.send({"event": "done", "result": seconds})

    def _train(self, message: dict[str, Any]) -> None:
        job, study = Job.from_json(message), Study(Path(message["study"]))
        hooks = Hooks.to(self.send, self.should_stop)
        try:
            self.trainer(job.trainer).train(job, study, hooks, message["follows"])
        except Taken:
            self.send({"event": "done", "result": "taken"})
        except Fenced:
            text = "this process stood still, and another has taken the work over; what was not saved is left to it"
            hooks.note(job.configs[0].id, text)
            self.send({"event": "done", "result": "taken"})
        else:
            self.send({"event": "done", "result": None})


def main() -> None:
    """Serve messages until the input ends; the arguments name trainers to load at once."""
    # Whatever prints to standard output must not break the protocol.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    parent = os.getppid()
    should_stop = lambda: bool(stopped) or os.getppid() != parent
    worker = Worker(lambda event: print(json.dumps(event), file=events), should_stop)
    with contextlib.suppress(UserError):  # the first job that needs it says what is missing
        for name in sys.argv[1:]:
            worker.trainer(name)
    for line in sys.stdin:
        try:
            worker.serve(json.loads(line))
        except (Interrupted, BrokenPipeError):
            break
        if should_stop():
            break


if __name__ == "__main__":
    main()
