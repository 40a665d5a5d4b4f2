"""What a trainer reports while it trains, and how it is asked to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

from .record import RunRecord

EventHandler = Callable[[dict[str, Any]], None]  # called with every event of a training, a JSON value


class Interrupted(Exception):
    """Training was asked to stop; everything so far is saved."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands, reported about twice a second."""

    id: str
    tokens: int
    loss: float
    tokens_per_second: float


@dataclass(frozen=True)
class Hooks:
    """Callbacks of a trainer.

    ``report`` is called with the progress of a run, ``recorded`` with each record as soon as it is written, ``note``
    with a run's id and a sentence for the user. ``should_stop`` is asked after every step.
    """

    report: Callable[[Progress], None] = lambda progress: None
    recorded: Callable[[RunRecord], None] = lambda record: None
    note: Callable[[str, str], None] = lambda run, text: None
    should_stop: Callable[[], bool] = lambda: False

    @classmethod
    def to(cls, on_event: EventHandler, should_stop: Callable[[], bool] = lambda: False) -> Self:
        """Hooks that send all they are called with to ``on_event``, as the events of an engine."""
        return cls(
            report=lambda progress: on_event({"event": "progress", **asdict(progress)}),
            recorded=lambda record: on_event({"event": "recorded", "id": record.id}),
            note=lambda run, text: on_event({"event": "note", "id": run, "text": text}),
            should_stop=should_stop,
        )


SILENT = Hooks()
