"""The contract of a trainer. This file, like all that a trainer needs besides its own libraries, is without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..config.run import RunConfig
from ..runs.hooks import SILENT, Hooks
from ..runs.job import Job
from ..runs.study import Study


class Trainer(Protocol):
    """Trains the runs whose configuration names it.

    It is made without arguments (:mod:`.catalog`), in each process that trains, and serves any number of jobs.
    """

    def train(self, job: Job, study: Study, hooks: Hooks = SILENT, follows: int | None = None) -> None:
        """Train every run of ``job`` that has no record yet, and record each as soon as it ends.

        It holds the claim ``study.claim(job.claim, follows)`` while it trains and writes under it, so that of several
        processes one trains a job at a time, and one that was taken for dead writes nothing any more. What an earlier
        attempt has saved is gone on with. ``follows`` is the attempt that this one may follow, as an engine knows it.

        Raises:
            Interrupted: ``hooks.should_stop()`` was true; what was trained so far is saved.
            Taken: another process trains this job.
            Fenced: another process has taken the job over; nothing was written since.
            UserError: the runs cannot be trained.
        """
        ...

    def measure(self, configs: Sequence[RunConfig], models: int = 1) -> list[float]:
        """Seconds of one training step of each configuration, here and now; an empty list if it cannot be measured.

        With several ``models``, of a step of all of them as one batched model.
        """
        ...
