"""Accuracies and the like, through the loss: a sigmoid from low to high as the loss falls.

A task's accuracy does not follow a power of compute: it lies at chance, rises, and ends below one. It does follow the
loss closely. So it is predicted in two steps, each with its interval: the loss by ``fit`` or ``forecast``, and the
metric from the loss here (arXiv 2407.21783, section 3.2.1; arXiv 2412.04403).

>>> step = laws.fit_metric(loss, accuracy, chance=0.25)
>>> step.predict(laws.forecast(observations).predict(7e9, 4e12))

A positive metric without a ceiling needs no second step: ``laws.fit("power", …)`` takes any, and gives
positive exponents to one that rises.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ..errors import UserError
from ..quantities import plural
from .base import Array, grid
from .from_record import reads_record
from .prediction import Prediction, around, check_level
from .solver import Problem, solve

# Steepest and flattest sigmoid: k times the span of the losses.
STEEPNESS = (0.2, 200.0)
STARTS = 16


@dataclass(frozen=True)
class MetricSigmoid:
    """metric = low + (high − low)/(1 + e^(k·(L − L0))). θ = (L0, ln k, low, high)."""

    name: ClassVar[str] = "sigmoid"
    formula: ClassVar[str] = "metric = low + (high − low)/(1 + e^(k·(L − L0)))"
    symbols: ClassVar[tuple[str, ...]] = ("L0", "k", "low", "high")
    source: ClassVar[str] = "arXiv 2412.04403, equation 3"

    def metric(self, theta: Array, loss: Array) -> tuple[Array, Array]:
        """The metric, (batch, points), and its derivatives by θ, (batch, constants, points).

        Losses have shape (points,) or (batch, points).
        """
        middle, log_k, low, high = theta.T[:, :, None]
        along = np.exp(log_k) * (loss - middle)
        share = 0.5 - 0.5 * np.tanh(along / 2)
        slope = (high - low) * share * (1 - share)
        slopes = [np.exp(log_k) * slope, -along * slope, 1 - share, share]
        return low + (high - low) * share, np.stack(slopes, axis=1)

    def log_loss(self, theta: Array, loss: Array) -> tuple[Array, Array]:
        """The same as the solver needs it, as logarithms."""
        metric, slopes = self.metric(theta, loss)
        positive = np.maximum(metric, 1e-300)
        return np.log(positive), slopes / positive[:, None]


SIGMOID = MetricSigmoid()


@dataclass(frozen=True, eq=False)
class MetricFit:
    """A metric as a sigmoid of the loss, with the spread of its constants and its noise.

    Attributes:
        values: "L0" (the loss in the middle of the rise), "k" (steepness), "low" and "high" → value.
        chance: the level at which ``low`` was held; None if it was fitted.
        residuals: observed − fitted, one a point.
        range: "loss", "metric" → (least, most) of the points.
        draws: constants of the bootstrap refits, (draws, constants).
        active_bounds: constants that ended at a bound, in words; worth reporting.
        seed: of the draws.
    """

    values: dict[str, float]
    chance: float | None
    residuals: Array
    range: dict[str, tuple[float, float]]
    draws: Array
    active_bounds: tuple[str, ...] = ()
    seed: int = 0
    kind: str = field(default="metric_fit", init=False)

    @property
    def num_points(self) -> int:
        """Number of points."""
        return len(self.residuals)

    @property
    def freedom(self) -> int:
        """Points less the constants fitted to them."""
        return max(self.num_points - len(SIGMOID.symbols) + (self.chance is not None), 1)

    @property
    def sigma(self) -> float:
        """The noise of the metric, corrected for the constants fitted."""
        return float(np.sqrt((self.residuals**2).sum() / self.freedom))

    @cached_property
    def standard_errors(self) -> dict[str, float]:
        """Constant → standard deviation over the refits."""
        return dict(zip(SIGMOID.symbols, map(float, self.draws.std(axis=0, ddof=1)), strict=True))

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Constant → its 90 % interval."""
        return self.intervals_at(0.9)

    def intervals_at(self, level: float) -> dict[str, tuple[float, float]]:
        """Constant → (low, high) that hold ``level`` of the refits."""
        check_level(level)
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return {s: (float(a), float(b)) for s, a, b in zip(SIGMOID.symbols, low, high, strict=True)}

    def predict(self, loss: float | Array | Prediction, level: float = 0.9) -> Prediction:
        """The metric at a loss, or at a predicted loss, with the interval of one new run.

        The interval holds the spread of the constants and the noise of the metric; for a predicted loss also the
        uncertainty of that, taken as normal on either side with the interval that the prediction has.

        Raises:
            UserError: a loss that is not finite, a prediction without interval, a level outside (0, 1).
        """
        check_level(level)
        shape, centre, below, above = _spread_of(loss)
        generator = np.random.default_rng(self.seed + 1)
        normal = generator.standard_normal((len(self.draws), 1))
        samples = centre + np.where(normal > 0, above, below) * normal
        noise = self.sigma * generator.standard_t(self.freedom, size=(len(normal), 1))
        metric = SIGMOID.metric(_theta(self.draws), samples)[0] + noise
        low, high = np.clip(np.quantile(metric, [(1 - level) / 2, (1 + level) / 2], axis=0), 0, 1)
        value = SIGMOID.metric(_theta(np.array([list(self.values.values())])), centre)[0][0]
        return around(value, low, high, level, shape)

    def summary(self) -> str:
        """A table of the constants with standard errors and intervals, and how good the fit is."""
        lines = [SIGMOID.formula, f"{'':8}{'value':>12}{'std. error':>12}   90 % interval"]
        for symbol, value in self.values.items():
            low, high = self.intervals[symbol]
            held = "   held at chance" if symbol == "low" and self.chance is not None else f"   {low:.5g} to {high:.5g}"
            lines.append(f"{symbol:8}{value:12.5g}{self.standard_errors[symbol]:12.3g}{held}")
        loss, metric = self.range["loss"], self.range["metric"]
        lines.append(
            f"{plural(self.num_points, 'point')}, noise {self.sigma:.2g}; loss {loss[0]:.4g} to {loss[1]:.4g}, "
            f"metric {metric[0]:.3g} to {metric[1]:.3g}"
        )
        return "\n".join([*lines, *(f"note: {text}" for text in self.active_bounds)])

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        return {
            **{name: getattr(self, name) for name in ("kind", "values", "standard_errors", "chance", "seed")},
            "range": {key: list(pair) for key, pair in self.range.items()},
            "active_bounds": list(self.active_bounds),
            "residuals": self.residuals.tolist(),
            "draws": self.draws.tolist(),
        }

    @classmethod
    @reads_record("a fit of a metric", "fit it anew")
    def from_json(cls, data: dict[str, Any]) -> MetricFit:
        """The fit that ``to_json`` wrote.

        Raises:
            UserError: not such a record.
        """
        return cls(
            values={symbol: float(data["values"][symbol]) for symbol in SIGMOID.symbols},
            chance=data["chance"],
            residuals=np.array(data["residuals"], dtype=float),
            range={key: (float(pair[0]), float(pair[1])) for key, pair in data["range"].items()},
            draws=np.array(data["draws"], dtype=float).reshape(-1, len(SIGMOID.symbols)),
            active_bounds=tuple(data["active_bounds"]),
            seed=data["seed"],
        )


def fit_metric(
    loss: Array,
    metric: Array,
    chance: float | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> MetricFit:
    """Fit a metric that rises from chance to a ceiling as the loss falls, by least squares.

    Args:
        loss: of each run or checkpoint, on the corpus that predicts the task best, shape (points,).
        metric: a share between 0 and 1, such as an accuracy.
        chance: the metric of guessing, where the rise begins; fitted if None.
        bootstrap: number of refits behind standard errors and intervals.
        seed: of the bootstrap.

    Raises:
        UserError: too few points, losses that are all the same, a metric outside 0 to 1, one that rises with the loss.
    """
    loss, metric = _check(loss, metric, chance, bootstrap)
    problem = _problem(loss, metric, chance)
    theta = _optimum(problem, loss, metric)
    fitted = SIGMOID.metric(theta[None], loss)[0][0]
    refits = _refits(problem, theta, metric, fitted, bootstrap, seed)
    return MetricFit(
        values=dict(zip(SIGMOID.symbols, map(float, _natural(theta)), strict=True)),
        chance=chance,
        residuals=metric - fitted,
        range={name: (float(x.min()), float(x.max())) for name, x in (("loss", loss), ("metric", metric))},
        draws=_natural(refits),
        active_bounds=_at_bounds(problem, theta),
        seed=seed,
    )


def _check(loss: Array, metric: Array, chance: float | None, bootstrap: int) -> tuple[Array, Array]:
    """Losses and metric as floats, if a sigmoid can be fitted to them."""
    try:
        loss, metric = np.asarray(loss, dtype=float), np.asarray(metric, dtype=float)
    except (TypeError, ValueError):
        raise UserError("loss and metric must be numbers, one each a run") from None
    if loss.ndim != 1 or loss.shape != metric.shape or not np.all(np.isfinite(loss) & np.isfinite(metric)):
        raise UserError("loss and metric must be equally many finite numbers, one each a run; leave out failed runs")
    least = len(SIGMOID.symbols) + (chance is None)
    if len(loss) < least:
        raise UserError(
            f"{plural(len(loss), 'point is', 'points are')} too few for a sigmoid; give {least} or more, "
            f"checkpoints too"
        )
    if metric.max() > 1 or metric.min() < 0:
        raise UserError(
            f"the metric lies between {metric.min():.3g} and {metric.max():.3g}: give a share between 0 and 1 (percent "
            "divided by 100); a metric without a ceiling is for laws.fit('power', …)"
        )
    if chance is not None and not 0 <= chance < metric.max():
        raise UserError(f"chance is {chance}; it must lie between 0 and the best metric, {metric.max():.3g}")
    if np.ptp(loss) == 0 or np.ptp(metric) == 0:
        raise UserError("all points have one loss or one metric; add runs of other sizes, or earlier checkpoints")
    if np.corrcoef(loss, metric)[0, 1] > 0:
        raise UserError("the metric rises with the loss; give one that falls with it, such as 1 − error")
    if bootstrap < 2:
        raise UserError(f"bootstrap is {bootstrap}; give a number of refits, 2 or more")
    return loss, metric


def _problem(loss: Array, metric: Array, chance: float | None) -> Problem:
    """Least squares of the metric itself, with low and high on either side of the middle of the points."""
    span, middle = np.ptp(loss), (metric.min() + metric.max()) / 2
    least, most = (0.0, middle) if chance is None else (chance, chance)
    lower = np.array([loss.min() - span, np.log(STEEPNESS[0] / span), least, max(middle, least)])
    upper = np.array([loss.max() + span, np.log(STEEPNESS[1] / span), most, 1.0])
    return Problem(SIGMOID, (loss,), _log(metric), "squares", 1.0, lower, upper)


def _optimum(problem: Problem, loss: Array, metric: Array) -> Array:
    """The best θ from the best cells of a grid over L0 and k; low and high are as the points have them."""
    lower, upper = problem.lower, problem.upper
    cells = grid(np.linspace(lower[0], upper[0], 25), np.linspace(lower[1], upper[1], 12))
    ends = np.clip([metric.min(), metric.max()], lower[2:], upper[2:])
    theta = np.column_stack([cells, np.tile(ends, (len(cells), 1))])
    # Half of them go on to the most that a metric can be: the points may show only the beginning of the rise.
    theta = np.concatenate([theta, np.column_stack([theta[:, :3], np.full(len(theta), upper[3])])])
    squares = ((SIGMOID.metric(theta, loss)[0] - metric) ** 2).sum(axis=1)
    best = theta[np.argsort(squares, kind="stable")[:: len(theta) // (8 * STARTS)][:STARTS]]
    solved, reached = solve(problem, best, np.ones((len(best), len(loss))))
    return solved[int(np.argmin(reached))]


def _refits(problem: Problem, theta: Array, metric: Array, fitted: Array, draws: int, seed: int) -> Array:
    """θ of refits to the fitted metric with its residuals drawn anew, (draws, constants).

    Residuals are blown up for the freedom that the fit took, and every draw scales them by √(ν/χ²_ν), ν points less
    constants, so that few points give the wide tails of Student's t.
    """
    generator = np.random.default_rng(seed)
    points, freedom = len(metric), max(len(metric) - int((problem.lower < problem.upper).sum()), 1)
    residuals = (metric - fitted) * np.sqrt(points / freedom)
    tails = np.sqrt(freedom / generator.chisquare(freedom, size=(draws, 1)))
    drawn = np.clip(fitted + generator.choice(residuals, size=(draws, points)) * tails, 0, 1)
    resampled = replace(problem, log_loss=_log(drawn))
    return solve(resampled, np.tile(theta, (draws, 1)), np.ones((draws, points)), steps=60, tolerance=1e-9)[0]


def _spread_of(loss: float | Array | Prediction) -> tuple[tuple[int, ...], Array, Array, Array]:
    """The shape of a loss, itself flattened, and its standard deviations below and above; none of a plain number."""
    if isinstance(loss, Prediction):
        from scipy.stats import norm

        centre, low, high = (np.asarray(x, dtype=float) for x in (loss.value, loss.low, loss.high))
        width = float(norm.ppf((1 + loss.level) / 2))
        below, above = (centre - low) / width, (high - centre) / width
    else:
        centre = np.asarray(loss, dtype=float)
        below = above = np.zeros_like(centre)
    if centre.size == 0 or not np.all(np.isfinite(centre) & np.isfinite(below) & np.isfinite(above)):
        raise UserError("the loss must be finite, and a predicted loss must have an interval, to predict a metric")
    return centre.shape, centre.ravel(), below.ravel(), above.ravel()


def _natural(theta: Array) -> Array:
    """θ with k itself in the place of its logarithm."""
    return np.concatenate([theta[..., :1], np.exp(theta[..., 1:2]), theta[..., 2:]], axis=-1)


def _theta(values: Array) -> Array:
    """The inverse of ``_natural``."""
    return np.concatenate([values[..., :1], np.log(values[..., 1:2]), values[..., 2:]], axis=-1)


def _log(metric: Array) -> Array:
    return np.log(np.maximum(metric, 1e-300))


def _at_bounds(problem: Problem, theta: Array) -> tuple[str, ...]:
    """Which free constants ended at a bound, in words."""
    span = 1e-9 * (problem.upper - problem.lower)
    ends = {"lower": theta <= problem.lower + span, "upper": theta >= problem.upper - span}
    free = problem.lower < problem.upper
    return tuple(
        f"{symbol} ended at its {end} bound"
        for i, symbol in enumerate(SIGMOID.symbols)
        for end, there in ends.items()
        if free[i] and there[i]
    )
