"""What a study reports while it works: typed events, and the listener that receives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from .. import laws
from ..config.run import RunConfig
from ..planning import Plan
from ..runs.hooks import Progress
from ..runs.record import RunRecord


@dataclass(frozen=True)
class Note:
    """A line about the study as a whole."""

    text: str


@dataclass(frozen=True)
class RunsToCome:
    """Runs are about to be trained, and their progress follows until :class:`RunsEnded`.

    ``title`` is what they are for: sweep, ladder, target or run. ``records`` are those of the runs that have ended
    before, by id; ``seconds`` what each run is expected to take, by id, as far as that is known. ``workers`` train at
    once.
    """

    title: str
    runs: tuple[RunConfig, ...]
    records: Mapping[str, RunRecord] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    workers: int = 1


@dataclass(frozen=True)
class Remark:
    """A line about one run that a person should read, from the engine, the trainer or the early warning."""

    run: str
    text: str


@dataclass(frozen=True)
class Recorded:
    """A run has ended; its record is in the study."""

    record: RunRecord


@dataclass(frozen=True)
class RunsEnded:
    """No more progress of the runs of this title, whether they have all ended or were interrupted."""

    title: str


@dataclass(frozen=True)
class Fitted:
    """The law of the study was fitted and written."""

    predictor: laws.Fit | laws.Forecast


@dataclass(frozen=True)
class Planned:
    """The plan of the study was made and written."""

    plan: Plan


Event = Note | RunsToCome | Progress | Remark | Recorded | RunsEnded | Fitted | Planned


class Listener(Protocol):
    """Receives every event, in order, in the thread that works; what it raises ends the work."""

    def __call__(self, event: Event, /) -> None: ...


def silent(event: Event) -> None:
    """The listener that ignores every event."""


def note_to(listener: Listener) -> Callable[[str], None]:
    """A function that passes a text to the listener as a :class:`Note`."""
    return lambda text: listener(Note(text))
