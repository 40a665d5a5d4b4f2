"""What the pictures of laws and plans show, as plain arrays: for any table of runs, not only for a study's.

Compute is 6·N·D, or the table's own FLOPs where it has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ... import laws, planning
from ...planning import FittedRange
from .study_data import PredictedLine, lowest

Array = np.ndarray
BUDGETS, SIZES, POINTS = 48, 49, 161
BEYOND = 30.0  # how far past the largest run the law is drawn
LEVELS = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
Predictor = laws.Fit | laws.Forecast


@dataclass(frozen=True, eq=False)
class Frontier:
    """Every run by its compute, and the predicted loss where each budget is split best between size and tokens."""

    flops: Array
    loss: Array
    num_params: Array
    best: PredictedLine
    reach: float
    level: float


@dataclass(frozen=True, eq=False)
class FitResiduals:
    """ln(observed/fitted) of each run, against what a law might have missed: compute, and tokens per parameter."""

    law: str
    flops: Array
    tokens_per_param: Array
    num_params: Array
    residual: Array
    rms: float


@dataclass(frozen=True, eq=False)
class BasinSlice:
    """The predicted loss along one budget, 6·N·D, and how far it is flat.

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
    """How often intervals of each nominal level held what came out; ``groups`` hold the share for each table."""

    nominal: Array
    observed: Array
    groups: Array
    names: tuple[str, ...]
    points: int


@dataclass(frozen=True, eq=False)
class SurfaceSlice:
    """The price of a learning rate and a batch at one size and number of tokens.

    ``price[i, j]``: relative loss above the best at ``batch_tokens[i]``, ``lr[j]``; runs: (lr, batch, price), the last
    over the best run of the table there.
    """

    num_params: float
    tokens: float
    lr: Array
    batch_tokens: Array
    price: Array
    runs: tuple[Array, Array, Array]
    best: tuple[float, float]
    best_lr: tuple[float, float]
    best_batch: tuple[float, float]


def frontier(predictor: Predictor, observations: laws.Observations, level: float = 0.9) -> Frontier:
    """The runs, and the frontier from the cheapest of them to ``BEYOND`` times the largest.

    The split of a budget is sought among the tokens per parameter that the table visited.
    """
    n, d = observations.num_params, observations.tokens
    reach = float(observations.flops.max())
    # The table's own FLOPs may hold more than 6·N·D; one factor carries over.
    over = float(np.median(observations.flops / (6 * n * d)))
    budgets = np.geomspace(observations.flops.min(), BEYOND * reach, BUDGETS)
    fewest, most = FittedRange.of(n, d).tokens_per_param
    ends = (np.log(budgets / over / 6 / ratio) / 2 for ratio in (most, fewest))
    grid = np.linspace(*ends, SIZES, axis=1)
    sizes = np.exp(grid)
    loss = predictor.predict(sizes, budgets[:, None] / over / 6 / sizes, level=level).value
    best = np.exp(lowest(grid, loss))
    tokens = budgets / over / 6 / best
    made = predictor.predict(best, tokens, level=level)
    line = PredictedLine(best, tokens, budgets, made.value, made.low, made.high)
    return Frontier(observations.flops, observations.loss, n, line, reach, level)


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
    """The slice of a prediction at a budget, to eight times either side of its lowest point."""
    best = planning.optimal(predictor, flops, level=level)
    low, high = best.searched
    sizes = np.geomspace(max(best.num_params / 8, low), min(best.num_params * 8, high), POINTS)
    tokens = flops / 6 / sizes
    made = predictor.predict(sizes, tokens, level=level)
    line = PredictedLine(sizes, tokens, np.full_like(sizes, flops), made.value, made.low, made.high)
    within = ((0.005, best.basin.within_0_5_percent), (0.001, best.basin.within_0_1_percent))
    return BasinSlice(flops, line, best.num_params, best.loss, within, level)


def calibration(tested: Iterable[tuple[str, Predictor, laws.Observations]]) -> Calibration:
    """Coverage of runs that no predictor saw: (name of the table, predictor, its held-out runs)."""
    names, shares, counts = [], [], []
    for name, predictor, held_out in tested:
        made = [predictor.predict(held_out.num_params, held_out.tokens, level=float(level)) for level in LEVELS]
        shares.append([float(np.mean((one.low <= held_out.loss) & (held_out.loss <= one.high))) for one in made])
        names.append(name)
        counts.append(len(held_out))
    groups = np.array(shares)
    pooled = np.average(groups, axis=0, weights=counts)
    return Calibration(LEVELS, pooled, groups, tuple(names), int(sum(counts)))


def surface_slice(
    surface: planning.Surface, observations: laws.Observations, num_params: float, tokens: float, level: float = 0.9
) -> SurfaceSlice:
    """The surface at one size and number of tokens over the rates and batches of the table, and the runs made there."""
    lr, batch = observations.column("lr"), observations.column("batch_tokens")
    here = (np.abs(np.log(observations.num_params / num_params)) < 0.01) & (
        np.abs(np.log(observations.tokens / tokens)) < 0.01
    )
    axes = [np.geomspace(column.min(), column.max(), POINTS) for column in (lr, batch)]
    price = surface.regret(axes[0][None, :], axes[1][:, None], num_params, tokens)
    best = surface.optimum(num_params, tokens, level=level)
    loss = observations.loss[here]
    over = loss / loss.min() - 1 if len(loss) else loss
    return SurfaceSlice(
        num_params,
        tokens,
        *axes,
        price,
        (lr[here], batch[here], over),
        (best.lr.value, best.batch_tokens.value),
        (best.lr.low, best.lr.high),
        (best.batch_tokens.low, best.batch_tokens.high),
    )
