"""What is known about runs while they are trained: how far they are, what they cost, how long they will take."""

from __future__ import annotations

from dataclasses import dataclass

from ..config.run import RunConfig
from ..runs.hooks import Progress
from ..runs.record import RunRecord
from .listener import Event, Recorded, RunsToCome


@dataclass
class RunState:
    """One run: its newest reading while it is under way, its record when it has ended.

    ``expected_seconds`` is what it was expected to take (None: not known).
    """

    config: RunConfig
    expected_seconds: float | None = None
    reading: Progress | None = None
    record: RunRecord | None = None

    @property
    def share(self) -> float:
        """The share of its tokens that it has seen; 1 when it has ended."""
        if self.record is not None:
            return 1.0
        return self.reading.tokens / self.config.tokens if self.reading else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds still to go, from what was expected, or else from its speed; None if neither is known."""
        if self.record is not None:
            return 0.0
        whole = self.expected_seconds
        if not whole and self.reading and self.reading.tokens_per_second:
            whole = self.config.tokens / self.reading.tokens_per_second
        return whole * max(0.0, 1 - self.share) if whole else None


class RunsUnderWay:
    """The runs of one :class:`~allometry.workflow.listener.RunsToCome`, kept up to date by the events after it.

    ``states`` holds them by id, the smallest models first.
    """

    def __init__(self, batch: RunsToCome):
        self.title, self.workers = batch.title, batch.workers
        ordered = sorted(batch.runs, key=lambda config: (config.num_params, config.train.lr, config.flops))
        self.states = {
            config.id: RunState(config, batch.seconds.get(config.id), record=batch.records.get(config.id))
            for config in ordered
        }

    def update(self, event: Event) -> RunState | None:
        """Take in an event; the state of the run that it is about, None if it is about none of these runs."""
        if isinstance(event, Progress):
            state = self.states.get(event.id)
            if state is not None:
                state.reading = event
            return state
        if isinstance(event, Recorded):
            state = self.states.get(event.record.id)
            if state is not None:
                state.record = event.record
            return state
        return None

    @property
    def records(self) -> list[RunRecord]:
        """The records of the runs that have ended."""
        return [state.record for state in self.states.values() if state.record is not None]

    @property
    def flops_spent(self) -> float:
        """FLOPs that the runs that have ended cost."""
        return sum(record.flops_spent for record in self.records)

    @property
    def seconds_spent(self) -> float:
        """Seconds of their processes that the runs that have ended took."""
        return sum(record.seconds for record in self.records)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all have ended, by all workers together; None while a run's speed is not known."""
        left = [state.seconds_left for state in self.states.values()]
        known = [seconds for seconds in left if seconds is not None]
        return sum(known) / self.workers if len(known) == len(left) else None
