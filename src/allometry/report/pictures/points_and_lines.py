"""Points and lines of several pictures: finished runs, predicted losses along sizes and tokens, the target.

Compute is always the exact FLOPs of the shapes, as runs and plans count them; :func:`exact_flops_per_token` extends
that count to sizes for which no shape is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ... import laws
from ...planning.resources.shapes import size_of
from ...quantities import format_count
from ...runs.record import RunRecord
from ..study_contents import StudyContents

Array = np.ndarray
Predictor = laws.Fit | laws.Forecast


@dataclass(frozen=True)
class RunPoint:
    """One finished run as a point."""

    id: str
    kind: str
    num_params: float
    tokens: float
    flops: float
    loss: float
    loss_se: float | None

    @classmethod
    def of(cls, record: RunRecord, size: float) -> RunPoint:
        """The point of a run that has a loss; ``size`` is as the law counts it."""
        assert record.loss is not None
        tokens, flops = record.tokens, record.flops
        return cls(record.id, record.kind, size, tokens, flops, record.loss, record.loss_se)

    def describe(self) -> str:
        """The run in one line, for a pointer over its point."""
        return run_line(self.id, self.num_params, self.tokens, self.loss, self.loss_se)


@dataclass(frozen=True, eq=False)
class PredictedLine:
    """A predicted loss along sizes and tokens, with its interval (NaN if the fit has none)."""

    num_params: Array
    tokens: Array
    flops: Array
    loss: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Target:
    """The planned run, the loss that was predicted for it, and its run (None: not trained yet)."""

    num_params: float
    tokens: float
    flops: float
    loss: float
    low: float | None
    high: float | None
    level: float
    actual: RunPoint | None


def run_line(name: str, num_params: float, tokens: float, loss: float | None, error: float | None = None) -> str:
    """What a point says of its run: name, size, tokens and loss."""
    reached = "diverged" if loss is None else f"loss {loss:.4f}" + (f" ± {error:.4f}" if error else "")
    return f"{name}: {format_count(num_params)} parameters, {format_count(tokens)} tokens, {reached}"


def finished_points(contents: StudyContents, *kinds: str) -> tuple[RunPoint, ...]:
    """The finished runs of these kinds as points."""
    return tuple(RunPoint.of(record, contents.size(record)) for record in contents.finished(*kinds))


def target(contents: StudyContents) -> Target | None:
    """The plan as a point, with the result of its run; None without a plan."""
    plan = contents.plan
    if plan is None:
        return None
    config = contents.planned
    if config is not None:
        size, tokens, flops = size_of(config.model, contents.counted), config.tokens, config.flops
    else:
        size, tokens = plan.num_params, plan.tokens
        flops = float(exact_flops_per_token(contents)(size)) * tokens
    trained = contents.target if contents.target and contents.target.loss is not None else None
    actual = RunPoint.of(trained, contents.size(trained)) if trained else None
    return Target(size, tokens, flops, plan.loss, plan.low, plan.high, plan.level, actual)


def predicted_loss(predictor: Predictor, num_params: Array, tokens: Array, level: float) -> Array:
    """The predicted loss at sizes and tokens that broadcast together."""
    return np.asarray(predictor.predict(num_params, tokens, level=level).value)


def predicted_line(predictor: Predictor, num_params: Array, tokens: Array, flops: Array, level: float) -> PredictedLine:
    """The prediction with its interval along ``num_params`` and ``tokens``; ``flops`` is their compute."""
    prediction = predictor.predict(num_params, tokens, level=level)
    return PredictedLine(
        num_params, tokens, flops, *map(np.asarray, (prediction.value, prediction.low, prediction.high))
    )


def exact_flops_per_token(contents: StudyContents) -> Callable[[float | Array], Array]:
    """FLOPs per token at any size, counted as the law counts it, as the shapes of this study have them.

    Head and attention add to 6·N a share that decreases about as a power of N. The result is exact at the sizes of the
    study and of its plan, and follows that power between and beyond them; where N counts the embedding too, whose
    FLOPs are none, it follows the ratio to 6·N itself. It is plain 6·N if no shape is known.
    """
    share = {contents.size(run): run.flops / (6.0 * contents.size(run) * run.tokens) - 1 for run in contents.records}
    if contents.planned:
        size = size_of(contents.planned.model, contents.counted)
        share[size] = contents.planned.flops / (6.0 * size * contents.planned.tokens) - 1
    if not share or max(map(abs, share.values())) <= 1e-9:  # FLOPs that are 6·N·D themselves
        return lambda num_params: 6 * np.asarray(num_params, float)
    if min(share.values()) <= 1e-9:
        known = np.array(sorted(share))
        ratios = 1 + np.array([share[size] for size in known])
        return lambda num_params: (
            6 * np.asarray(num_params, float) * np.interp(np.log(num_params), np.log(known), ratios)
        )
    sizes = np.log(sorted(share))
    shares = np.log([share[size] for size in sorted(share)])

    def flops_per_token(num_params: float | Array) -> Array:
        x = np.log(num_params)
        value = np.interp(x, sizes, shares)
        if len(sizes) > 1:
            first, last = ((shares[i + 1] - shares[i]) / (sizes[i + 1] - sizes[i]) for i in (0, len(sizes) - 2))
            value = value + first * np.minimum(x - sizes[0], 0) + last * np.maximum(x - sizes[-1], 0)
        return np.asarray(6 * num_params * (1 + np.exp(value)))

    return flops_per_token


def lowest(x: Array, y: Array) -> Array:
    """Where each row of ``y`` is lowest: the vertex of the parabola through its least point and the neighbours, or an
    end of the row.

    Args:
        x: positions (rows, points), equally spaced in each row.
        y: values (rows, points).
    """
    rows, index = np.arange(len(y)), np.argmin(y, axis=1)
    inner = np.clip(index, 1, y.shape[1] - 2)
    before, here, after = (y[rows, inner + step] for step in (-1, 0, 1))
    bend = np.maximum(before - 2 * here + after, 1e-300)
    shift = np.clip((before - after) / (2 * bend), -1, 1)
    moved = x[rows, inner] + shift * (x[:, 1] - x[:, 0])
    return np.where(index == inner, moved, x[rows, index])


def budget_grid(budgets: Array, fewest: float, most: float, points: int) -> Array:
    """ln N along each budget of 6·N·D, between the given limits of tokens per parameter: (budgets, points)."""
    ends = [np.log(budgets / 6 / ratio) / 2 for ratio in (most, fewest)]
    return np.linspace(ends[0], ends[1], points, axis=1)
