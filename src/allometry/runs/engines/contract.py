"""The contract of an engine: where jobs are trained, whoever trains them."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from ...config.run import RunConfig
from ..hooks import EventHandler
from ..job import Job
from ..study import Study


def silent(event: dict) -> None:
    """The handler that ignores every event."""


class Engine(Protocol):
    """Processes that train jobs. Use as a context manager: leaving it stops them, their training saved."""

    @property
    def workers(self) -> int:
        """How many jobs are trained at a time, once the engine has been entered."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def train(self, study: Study, jobs: Sequence[Job], on_event: EventHandler = silent) -> None:
        """Train all jobs, the longest first, until each of their runs has a record in the study.

        ``on_event`` is called with progress, notes and every record, as they come. Jobs that another process is
        training are waited for, and taken over when it dies.

        Raises:
            UserError: a job failed, or killed its process again and again; what was recorded stays.
        """
        ...


class LadderEngine(Engine, Protocol):
    """An engine that a ladder can use: it also measures how fast its workers train."""

    def measure(self, configs: Sequence[RunConfig], models: int = 1) -> list[float]:
        """Seconds of a training step of each configuration, with all workers busy at once.

        With several ``models``, of a step of all of them as one batched model.

        Raises:
            UserError: a worker failed or died.
        """
        ...
