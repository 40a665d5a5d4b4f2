"""The data of the pictures of laws and plans, as plain arrays: for any table of runs, not only for a study's.

Compute is 6·N·D, or the table's own FLOPs if it has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ... import laws, planning
from ...laws.forecasting.calibration import FORECAST
from ...planning import FittedRange
from .points_and_lines import (
    Array,
    PredictedLine,
    Predictor,
    budget_grid,
    lowest,
    predicted_line,
    predicted_loss,
    run_line,
)

BUDGETS, SIZES, POINTS = 48, 49, 161
ENOUGH_TO_COVER = 10  # held-out runs
MOST_POINTS = 1000  # runs that a picture shows
BEYOND = 30.0  # the law is drawn to this multiple of the largest run's compute
LEVELS = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])


@dataclass(frozen=True, eq=False)
class Frontier:
    """Every run by its compute, and the predicted loss where each budget is split best between size and tokens."""

    flops: Array
    loss: Array
    num_params: Array
    best: PredictedLine
    reach: float
    level: float
    titles: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class FitResiduals:
    """ln(observed/fitted) of each run, with what a law may have missed: compute, and tokens per parameter."""

    law: str
    flops: Array
    tokens_per_param: Array
    num_params: Array
    residual: Array
    rms: float


@dataclass(frozen=True, eq=False)
class BasinSlice:
    """The predicted loss along one budget, 6·N·D, and the range of sizes in which it is flat.

    ``within``: (rise, (least, largest size)) for 0.5 and 0.1 %.
    """

    flops: float
    line: PredictedLine
    num_params: float
    loss: float
    within: tuple[tuple[float, tuple[float, float]], ...]
    level: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often intervals of each nominal level held the actual loss; ``groups`` has a row for each table."""

    nominal: Array
    observed: Array
    groups: Array
    names: tuple[str, ...]
    points: int


@dataclass(frozen=True, eq=False)
class SurfaceSlice:
    """What a learning rate and a batch cost at one size and number of tokens.

    Attributes:
        regret: [i, j] is the relative loss above the best at ``batch_tokens[i]`` and ``lr[j]``.
        runs: learning rate, batch and regret of the runs there; their regret is relative to the best of them.
        best: (learning rate, batch) of the optimum; ``best_lr`` and ``best_batch`` are its intervals.
    """

    num_params: float
    tokens: float
    lr: Array
    batch_tokens: Array
    regret: Array
    runs: tuple[Array, Array, Array]
    best: tuple[float, float]
    best_lr: tuple[float, float]
    best_batch: tuple[float, float]


def frontier(predictor: Predictor, observations: laws.Observations, level: float = 0.9) -> Frontier:
    """The runs, and the frontier from the cheapest of them to ``BEYOND`` times the largest.

    The split of a budget is sought within the range of tokens per parameter that the table covers.
    """
    n, d = observations.num_params, observations.tokens
    reach = float(observations.flops.max())
    # The table's own FLOPs may include more than 6·N·D; one factor converts them.
    factor = float(np.median(observations.flops / (6 * n * d)))
    budgets = np.geomspace(observations.flops.min(), BEYOND * reach, BUDGETS)
    grid = budget_grid(budgets / factor, *FittedRange.of(n.tolist(), d.tolist()).tokens_per_param, SIZES)
    sizes = np.exp(grid)
    loss = predicted_loss(predictor, sizes, budgets[:, None] / factor / 6 / sizes, level)
    best = np.exp(lowest(grid, loss))
    line = predicted_line(predictor, best, budgets / factor / 6 / best, budgets, level)
    shown = observations.where(spread_over(observations.flops, MOST_POINTS))
    columns = zip(shown.labels, shown.num_params, shown.tokens, shown.loss, strict=True)
    titles = tuple(run_line(*row) for row in columns)
    return Frontier(shown.flops, shown.loss, shown.num_params, line, reach, level, titles)


def spread_over(values: Array, most: int) -> Array:
    """Places of at most so many values, every second, third, … by size, the least and the largest among them."""
    order = np.argsort(values, kind="stable")
    return np.sort(order[np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int))])


def residuals(fit: laws.Fit, observations: laws.Observations) -> FitResiduals:
    """The residuals of a fit to these very runs."""
    return FitResiduals(
        law=fit.law.name,
        flops=observations.flops,
        tokens_per_param=observations.tokens / observations.num_params,
        num_params=observations.num_params,
        residual=fit.residuals,
        rms=fit.rms,
    )


def basin(predictor: Predictor, flops: float, level: float = 0.9) -> BasinSlice:
    """The prediction along a budget, from an eighth to eight times the size of its lowest point."""
    best = planning.optimal(predictor, flops, level=level)
    assert best.searched is not None  # they are None only if size or tokens are fixed
    assert best.basin is not None
    low, high = best.searched
    sizes = np.geomspace(max(best.num_params / 8, low), min(best.num_params * 8, high), POINTS)
    line = predicted_line(predictor, sizes, flops / 6 / sizes, np.full_like(sizes, flops), level)
    within = ((0.005, best.basin.within_0_5_percent), (0.001, best.basin.within_0_1_percent))
    return BasinSlice(flops, line, best.num_params, best.loss, within, level)


def calibration(tested: Iterable[tuple[str, Predictor, laws.Observations]]) -> Calibration:
    """The coverage of held-out runs. ``tested`` gives a table's name, a predictor, and runs that it has not seen."""
    names, shares, counts = [], [], []
    for name, predictor, held_out in tested:
        each = [predictor.predict(held_out.num_params, held_out.tokens, level=float(level)) for level in LEVELS]
        shares.append([float(np.mean((one.low <= held_out.loss) & (held_out.loss <= one.high))) for one in each])
        names.append(name)
        counts.append(len(held_out))
    groups = np.array(shares)
    pooled = np.average(groups, axis=0, weights=counts)
    return Calibration(LEVELS, pooled, groups, tuple(names), int(sum(counts)))


def backtest_calibration(forecast: laws.Forecast) -> Calibration | None:
    """The coverage of the runs that the backtest held out, by the forecast's own width; None for too few of them."""
    from scipy.special import stdtrit

    rows = [row for row in forecast.backtest.rows if row.law == FORECAST]
    if len(rows) < ENOUGH_TO_COVER:
        return None
    error, spread, sigma, factor = (
        np.array([getattr(row, name) for row in rows]) for name in ("error", "spread", "sigma", "factor")
    )
    distance, drift = np.log(factor), forecast.drift_prior
    off = np.abs(error - forecast.correction * np.minimum(distance, forecast.tested) + drift.slope * distance)
    scale = np.sqrt(sigma**2 + forecast.scale**2 * (spread**2 + (drift.sd * distance) ** 2))
    observed = np.array([np.mean(off <= stdtrit(forecast.freedom, (1 + level) / 2) * scale) for level in LEVELS])
    return Calibration(LEVELS, observed, np.empty((0, len(LEVELS))), (), len(rows))


def surface_slice(
    surface: planning.Surface, observations: laws.Observations, num_params: float, tokens: float, level: float = 0.9
) -> SurfaceSlice:
    """The surface at one size and number of tokens, over the table's learning rates and batches, and the runs there."""
    lr, batch = observations.column("lr"), observations.column("batch_tokens")
    here = (np.abs(np.log(observations.num_params / num_params)) < 0.01) & (
        np.abs(np.log(observations.tokens / tokens)) < 0.01
    )
    rates, batches = (np.geomspace(column.min(), column.max(), POINTS) for column in (lr, batch))
    best = surface.optimum(num_params, tokens, level=level)
    loss = observations.loss[here]
    return SurfaceSlice(
        num_params=num_params,
        tokens=tokens,
        lr=rates,
        batch_tokens=batches,
        regret=np.asarray(surface.regret(rates[None, :], batches[:, None], num_params, tokens)),
        runs=(lr[here], batch[here], loss / loss.min() - 1 if len(loss) else loss),
        best=(float(best.lr.value), float(best.batch_tokens.value)),
        best_lr=(float(best.lr.low), float(best.lr.high)),
        best_batch=(float(best.batch_tokens.low), float(best.batch_tokens.high)),
    )
