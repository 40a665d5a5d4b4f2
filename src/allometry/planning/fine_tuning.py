"""Plans for fine-tuning: how many samples until a wanted loss, from a few cheap runs.

>>> plan = planning.samples_for("runs.csv", loss=1.2)   # columns samples and loss: 200, 500, 1000, 2000 … samples
>>> plan.samples, plan.low, plan.high

The law over the samples is found by ``laws.forecast``; the rectified power law of fine-tuning (arXiv 2402.02314), flat
at first and a power later, is one of its forms. The interval is where the interval of the loss passes the goal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import UserError
from ..laws import Observations, forecast
from ..laws.any_inputs.input_forecast import InputForecast
from ..laws.prediction import check_level
from ..quantities import format_count, require_positive

# Beyond this many times the largest run the answer is refused; beyond the second it is a caution.
MOST_BEYOND, FAR_BEYOND = 1000.0, 30.0


@dataclass(frozen=True)
class SamplesPlan:
    """How many samples a fine-tuning needs for a wanted loss.

    Attributes:
        loss: the goal.
        samples: at which the predicted loss is the goal.
        low, high: between these, at ``level``; None where the interval's end never passes the goal in reach.
        largest: of the runs (of the group that is planned for).
        least_loss: predicted at a thousand times the largest run, about the floor.
        cautions: what questions the answer.
    """

    loss: float
    samples: float
    low: float | None
    high: float | None
    level: float
    largest: float
    least_loss: float
    cautions: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        return {"kind": "samples_plan"} | asdict(self) | {"cautions": list(self.cautions)}

    def summary(self) -> str:
        """One line, after the cautions."""
        low = "few" if self.low is None else format_count(self.low)
        high = "…" if self.high is None else format_count(self.high)
        line = (
            f"a loss of {self.loss:g} takes {format_count(self.samples)} samples [{low}, {high}] at "
            f"{100 * self.level:g} %; the largest run has {format_count(self.largest)}"
        )
        return "\n".join([*(f"caution: {caution}" for caution in self.cautions), line])


def samples_for(
    runs: Any,
    loss: float,
    *,
    samples: str = "samples",
    target: str | None = "loss",
    group: str | list[str] | None = None,
    at: Mapping[str, Any] | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> SamplesPlan:
    """The samples at which a fine-tuning is predicted to reach a loss.

    Args:
        runs: a table of fine-tuning runs, as ``laws.Observations.read`` takes it, or a forecast from one.
        loss: the goal.
        samples: the column of the number of samples.
        target: the column of the loss.
        group: a column, or several (model, data set), whose cells have constants of their own.
        at: the other inputs and the group for which to plan: column → value.
        level: of the interval.
        seed: of the forecast's starting points.

    Raises:
        UserError: a table that gives no law, a goal that the law does not reach within a thousand times the largest
            run, or that lies above every run.
    """
    check_level(level)
    require_positive(loss=loss)
    if not isinstance(runs, InputForecast):
        read = Observations.read(runs, target=target, inputs=[samples], group=group)
        runs = forecast(read, seed=seed)
    if samples not in runs.inputs:
        raise UserError(f"the forecast does not read {samples}; it reads {', '.join(runs.inputs)}")
    if samples in (at or {}):
        raise UserError(f"{samples} is what is planned: leave it out of at=")
    # Of several groups, how far the answer goes is told by the runs of the one that is planned for.
    _, group_of, _ = runs.runs.at({samples: 1.0, **(at or {})})
    seen = runs.runs.points[runs.runs.group == group_of[0], runs.inputs.index(samples)]
    curve = _curves(runs, samples, at or {}, level)
    smallest, largest = float(seen.min()), float(seen.max())
    grid = np.geomspace(smallest, MOST_BEYOND * largest, 400)
    value, low, high = curve(grid)
    needed = _passes(grid, value, loss)
    if needed is None:
        raise UserError(
            f"no number of samples up to {MOST_BEYOND:g}× the largest run reaches a loss of {loss:g}: by this law it "
            f"is {value[-1]:.4g} there"
        )
    if needed <= smallest:
        raise UserError(
            f"a loss of {loss:g} is reached with the smallest run already ({format_count(smallest)} samples)"
        )
    cautions = []
    if needed > FAR_BEYOND * largest:
        cautions.append(
            f"{needed / largest:.3g}× the samples of the largest run: run one of {format_count(3 * largest)} first"
        )
    early, late = _passes(grid, low, loss), _passes(grid, high, loss)
    early = None if early is None or early <= smallest else early
    return SamplesPlan(loss, needed, early, late, level, largest, float(value[-1]), tuple(cautions))


def _curves(law: InputForecast, samples: str, at: Mapping[str, Any], level: float) -> Callable[[np.ndarray], Any]:
    """Value, low and high of the loss over numbers of samples."""

    def predict(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        frame = {samples: grid, **{name: [value] * len(grid) for name, value in at.items()}}
        predicted = law.predict(frame, level=level)
        return np.asarray(predicted.value), np.asarray(predicted.low), np.asarray(predicted.high)

    return predict


def _passes(grid: np.ndarray, losses: np.ndarray, goal: float) -> float | None:
    """Where a curve first falls to the goal, by interpolation in the logarithm; None if it does not."""
    below = np.flatnonzero(losses <= goal)
    if not len(below):
        return None
    index = int(below[0])
    if index == 0:
        return float(grid[0])
    share = (losses[index - 1] - goal) / (losses[index - 1] - losses[index])
    return math.exp(math.log(grid[index - 1]) + share * (math.log(grid[index]) - math.log(grid[index - 1])))
