"""What a tool left of one run, before anything is derived: settings, series of logged values, a summary."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

# More steps of more values than this are no log of one run that a laptop should read.
MOST_POINTS = 20_000_000


class Fact(NamedTuple):
    """A number that is known of a run, and how: one sentence without its subject."""

    value: float
    how: str


class Series:
    """The values of one name along a run, in the order in which they were logged."""

    def __init__(self) -> None:
        self.steps, self.values = array("d"), array("d")

    def __len__(self) -> int:
        return len(self.values)

    def add(self, step: float, value: float) -> None:
        self.steps.append(step)
        self.values.append(value)


@dataclass
class LoggedRun:
    """What a tool left of one run.

    Attributes:
        tool: that wrote it: "hf_trainer", "tensorboard", "wandb", "mlflow", "lightning", "optuna", "nanogpt", …
        name: of the run, by its tool or by its folder.
        path: the file or folder that holds it.
        settings: name → value, nested names joined by points.
        series: name → what was logged along the run.
        summary: name → last value.
        facts: field → what the reader of the tool knows of it; goes before anything that is derived.
        status: "finished", or what its tool calls its state.
        notes: what a reader left out, and why.
    """

    tool: str
    name: str
    path: Path
    settings: dict[str, Any] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)
    status: str = "finished"
    notes: list[str] = field(default_factory=list)

    def log(self, step: float, values: Mapping[str, Any]) -> None:
        """Add the numbers among the values that were logged at a step."""
        for name, value in values.items():
            if type(value) is float or (type(value) is int and abs(value) < 1e300):
                if (series := self.series.get(name)) is None:
                    series = self.series[name] = Series()
                series.add(step, value)


def flat(value: Mapping[str, Any], before: str = "", depth: int = 6) -> dict[str, Any]:
    """Nested settings as one mapping: ``{"optim": {"lr": 1}}`` is ``{"optim.lr": 1}``; lists are left out."""
    settings: dict[str, Any] = {}
    for key, one in value.items():
        name = f"{before}{key}"
        if isinstance(one, Mapping) and one.keys() <= {"value", "desc"} and "value" in one:
            one = one["value"]
        if isinstance(one, Mapping):
            if depth > 1:
                settings |= flat(one, f"{name}.", depth - 1)
        elif isinstance(one, str | int | float | bool) or one is None:
            settings[name] = one
    return settings


def number(value: Any) -> float:
    """A setting as a finite number; nan for anything else."""
    if isinstance(value, bool):
        return math.nan
    try:
        read = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return read if math.isfinite(read) else math.nan


def finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
