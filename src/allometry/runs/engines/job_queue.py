"""Which job is next: what every engine needs to know of a study that others may be at work on too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...config.run import RunConfig
from ...errors import UserError
from ..claims import Observer
from ..study import Study

Listener = Callable[[dict[str, Any]], None]
RESTARTS = 2  # how often a job is given to a new worker after its own died


@dataclass(frozen=True)
class Job:
    """Runs that one process trains; ``seconds`` is the estimate.

    Those of one trunk are trained one after another, several trunks side by side as one batched model.
    ``retry_of`` says of runs that are trained again at a lower rate which diverged run each of them follows.
    """

    configs: tuple[RunConfig, ...]
    kind: str
    seconds: float = 0.0
    retry_of: Mapping[str, str] = field(default_factory=dict)

    @property
    def claim(self) -> str:
        """What is claimed to train it."""
        return claim_name(self.configs)


def claim_name(configs: Sequence[RunConfig]) -> str:
    """What is claimed to train these runs: their trunk; or, of several trunks trained together, all as one."""
    trunks = sorted({config.trunk for config in configs})
    return trunks[0] if len(trunks) == 1 else hashlib.sha256(" ".join(trunks).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Turn:
    """A job for a worker now; its claim is the attempt after ``follows`` (:func:`allometry.runs.claims.take`)."""

    job: Job
    follows: int

    def message(self, study: Study) -> dict[str, Any]:
        """What a worker needs to know, as JSON."""
        job = self.job
        configs = [config.to_dict() for config in job.configs]
        what = {"study": str(study.path), "kind": job.kind, "configs": configs, "retry_of": dict(job.retry_of)}
        return what | {"follows": self.follows}


class Dispatch:
    """Hands out jobs, the longest first, until all their runs are recorded, by this engine's workers or by others.

    An engine calls :meth:`take` whenever it has a free worker, :meth:`hear` for what the worker tells, and
    :meth:`done`, :meth:`taken` or :meth:`died` when it is through; while :attr:`open` it asks again, at least twice a
    second if it got nothing. ``listener`` hears all of it, runs that others record, and notes.
    """

    def __init__(self, study: Study, jobs: Sequence[Job], listener: Listener = lambda event: None):
        self.study, self.listener = study, listener
        self._waiting = sorted(jobs, key=lambda job: -job.seconds)
        self._out: list[Turn] = []
        self._observer = Observer(study.claims_path)
        self._deaths: dict[str, int] = {}
        # Of these runs the listener knows, or needs to hear nothing.
        self._told = {config.id for job in jobs for config in job.configs if self._record_exists(config)}

    @property
    def open(self) -> bool:
        """Whether anything is still to do, or being done."""
        return bool(self._waiting or self._out)

    def take(self) -> Turn | None:
        """A job that may be trained now; None where there is none, or others are at those that are left."""
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
            if "others" not in self._told:
                self._told.add("others")
                self._note(job, f"another process is at trunk {job.claim}; the work is shared")
        return None

    def hear(self, event: dict[str, Any]) -> None:
        """An event of a worker, for the listener."""
        if event["event"] == "recorded":
            self._told.add(event["id"])
        self.listener(event)

    def done(self, turn: Turn) -> None:
        """The worker has trained it."""
        self._out.remove(turn)
        self._recorded(turn.job)

    def taken(self, turn: Turn) -> None:
        """Another process was quicker, or has taken it over: it comes again unless that one records it."""
        self._out.remove(turn)
        self._waiting.append(turn.job)

    def stalled(self, turn: Turn) -> bool:
        """Whether its worker has stood still so long that its claim may be taken over; ask at least twice a second."""
        return self._observer.stalled(turn.job.claim, turn.follows + 1)

    def died(self, turn: Turn, why: str) -> None:
        """The worker died at it.

        Raises:
            UserError: it has done so too often.
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
        """Whether all runs of a job are recorded; those that others did are told of."""
        left = False
        for config in job.configs:
            if not self._record_exists(config):
                left = True
            elif config.id not in self._told:
                self._told.add(config.id)
                self.listener({"event": "recorded", "id": config.id})
        return not left

    def _record_exists(self, config: RunConfig) -> bool:
        return (self.study.run_path(config.id) / "record.json").exists()

    def _note(self, job: Job, text: str) -> None:
        self.listener({"event": "note", "id": job.configs[0].id, "text": text})
