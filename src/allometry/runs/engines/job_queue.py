"""Which job is next, in a study that other processes may be training as well; every engine uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...config.run import RunConfig
from ...errors import UserError
from ..claims import Observer
from ..hooks import EventHandler
from ..job import Job
from ..study import Study
from .contract import silent

RESTARTS = 2  # how often a job is given to a new worker after its own died


@dataclass(frozen=True)
class Turn:
    """A job for a worker now; its claim is the attempt after ``follows`` (:func:`allometry.runs.claims.take`)."""

    job: Job
    follows: int

    def message(self, study: Study) -> dict[str, Any]:
        """What a worker needs to know, as JSON."""
        return {"study": str(study.path), "follows": self.follows} | self.job.to_json()


class JobQueue:
    """Gives out jobs, the longest first, until all their runs are recorded, by this engine's workers or by others.

    An engine calls :meth:`take` whenever it has a free worker, :meth:`pass_on` for each event of a worker, and
    :meth:`done`, :meth:`taken` or :meth:`died` when the worker has ended the job. While :attr:`open` it asks again, at
    least twice a second if it got nothing. ``on_event`` is called with all events of the workers, with the runs that
    other processes record, and with notes.
    """

    def __init__(self, study: Study, jobs: Sequence[Job], on_event: EventHandler = silent):
        self.study, self.on_event = study, on_event
        self._waiting = sorted(jobs, key=lambda job: -job.seconds)
        self._out: list[Turn] = []
        self._observer = Observer(study.claims_path)
        self._deaths: dict[str, int] = {}
        self._shared_noted = False
        # Runs whose record needs no event any more.
        self._reported = {config.id for job in jobs for config in job.configs if self._record_exists(config)}

    @property
    def open(self) -> bool:
        """Whether a job is still to be done, or is being done."""
        return bool(self._waiting or self._out)

    def take(self) -> Turn | None:
        """A job that may be trained now; None if there is none, or if other processes train those that are left."""
        for job in [*self._waiting]:
            if self._recorded(job):
                self._waiting.remove(job)
                continue
            follows = self._observer.free(job.claim)
            if follows is not None:
                self._waiting.remove(job)
                turn = Turn(job, follows)
                self._out.append(turn)
                return turn
            if not self._shared_noted:
                self._shared_noted = True
                self._note(job, f"another process is at trunk {job.claim}; the work is shared")
        return None

    def pass_on(self, event: dict[str, Any]) -> None:
        """Pass on an event of a worker."""
        if event["event"] == "recorded":
            self._reported.add(event["id"])
        self.on_event(event)

    def done(self, turn: Turn) -> None:
        """The worker has trained the job."""
        self._out.remove(turn)
        self._recorded(turn.job)

    def taken(self, turn: Turn) -> None:
        """Another process holds the job: it comes again unless that process records it."""
        self._out.remove(turn)
        self._waiting.append(turn.job)

    def stalled(self, turn: Turn) -> bool:
        """Whether its worker has stood still so long that its claim may be taken over; ask at least twice a second."""
        return self._observer.stalled(turn.job.claim, turn.follows + 1)

    def died(self, turn: Turn, why: str) -> None:
        """The worker died while it trained the job.

        Raises:
            UserError: workers died at this job too often.
        """
        self._out.remove(turn)
        trunk = turn.job.claim
        self._deaths[trunk] = self._deaths.get(trunk, 0) + 1
        if self._deaths[trunk] > RESTARTS:
            raise UserError(
                f"a training process died {self._deaths[trunk]} times at trunk {trunk} ({why}); "
                "the same command again goes on from here"
            )
        self._note(turn.job, f"a training process died ({why}); another goes on with trunk {trunk}")
        self._waiting.insert(0, turn.job)

    def _recorded(self, job: Job) -> bool:
        """Whether all runs of a job are recorded; reports those that other processes recorded."""
        complete = True
        for config in job.configs:
            if not self._record_exists(config):
                complete = False
            elif config.id not in self._reported:
                self._reported.add(config.id)
                self.on_event({"event": "recorded", "id": config.id})
        return complete

    def _record_exists(self, config: RunConfig) -> bool:
        return (self.study.run_path(config.id) / "record.json").exists()

    def _note(self, job: Job, text: str) -> None:
        self.on_event({"event": "note", "id": job.configs[0].id, "text": text})
