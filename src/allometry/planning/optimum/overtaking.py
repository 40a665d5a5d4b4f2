"""At which budget one law overtakes another: two frontiers of best loss by compute, and where the lower one changes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...errors import UserError
from ...laws import Forecast
from ...laws.prediction import LossPredictor, check_level
from .optimal import OptimumProblem
from .predictor import FLOPS_PER_PARAM_TOKEN, Array, Predictor, mixture_draws

BUDGETS = 49
BEYOND = 1e3  # budgets are compared up to so many times the largest run of either


@dataclass(frozen=True, eq=False)
class BestLosses:
    """The lowest loss that each budget buys by one law, in the unit of the comparison.

    Attributes:
        flops: of the budgets, 6·N·D, ascending.
        num_params: the best sizes.
        loss, low, high: with the interval of a run (NaN if the law has none).
        draws: ln of the loss of every draw, (draws, budgets); None without refits.
    """

    flops: Array
    num_params: Array
    loss: Array
    low: Array
    high: Array
    draws: Array | None


@dataclass(frozen=True, eq=False)
class Overtaking:
    """Two laws along the same budgets.

    Attributes:
        first, second: their best losses.
        leader: 0 or 1: whose loss is lower at the smallest budget.
        flops: the budget from which the other one is lower, for good; None: the leader is lower at the largest too.
        low, high: its interval at ``level``; 0 below the budgets compared, infinite beyond them (or where the leader
            stays ahead); None where a law has no refits.
        share: of the draws, those in which one overtakes the other among these budgets; None without refits.
    """

    first: BestLosses
    second: BestLosses
    leader: int
    flops: float | None
    low: float | None
    high: float | None
    share: float | None
    level: float


def overtaking(
    first: LossPredictor,
    second: LossPredictor,
    *,
    units: tuple[float, float] = (1.0, 1.0),
    level: float = 0.9,
) -> Overtaking:
    """Where the frontier of one law passes below that of another.

    A draw takes one refit of each law (of a forecast one of every law, and weights around its own) and one drift with
    distance; the two are drawn independently.

    Args:
        first, second: fits, forecasts, or predictors of your own with a ``range``.
        units: what each law's losses are multiplied by before they are compared.
        level: of the intervals.

    Raises:
        UserError: a law whose range is not known, no budget that both can spend, a unit not above zero.
    """
    check_level(level)
    if not all(math.isfinite(unit) and unit > 0 for unit in units):
        raise UserError(f"units must be finite numbers above zero, not {units}")
    problems = [OptimumProblem.of(law, 1.0, level=level) for law in (first, second)]
    spans = [problem.fitted_range.flops for problem in problems if problem.fitted_range]
    if len(spans) < 2:
        raise UserError("laws can be compared whose runs are known: give fits or forecasts")
    budgets = np.geomspace(min(low for low, _ in spans), BEYOND * max(high for _, high in spans), BUDGETS)
    one, other = (
        _best_losses(problem, budgets, unit, seed)
        for seed, (problem, unit) in enumerate(zip(problems, units, strict=True))
    )
    gap = np.log(one.loss) - np.log(other.loss)
    leader = 0 if gap[0] <= 0 else 1
    place = _place(budgets, gap, leader)
    low = high = share = None
    if one.draws is not None and other.draws is not None:
        count = min(len(one.draws), len(other.draws))
        changes = np.array([_place(budgets, row, leader) for row in one.draws[:count] - other.draws[:count]])
        share = float(np.isfinite(changes).mean())
        places = np.round((len(changes) - 1) * np.array([(1 - level) / 2, (1 + level) / 2])).astype(int)
        low, high = np.exp(np.sort(changes)[places]).tolist()
    return Overtaking(one, other, leader, math.exp(place) if math.isfinite(place) else None, low, high, share, level)


def _best_losses(problem: OptimumProblem, budgets: Array, unit: float, seed: int) -> BestLosses:
    """The frontier of a law, and draws of it at its own best sizes: a draw's own best size differs in second order."""
    law = problem.predictor
    sizes = np.array([problem.best_size(float(flops)) for flops in budgets])
    tokens = budgets / FLOPS_PER_PARAM_TOKEN / sizes
    predicted = law.predict(sizes, tokens, level=problem.level)
    value, low, high = (unit * np.asarray(part, float) for part in (predicted.value, predicted.low, predicted.high))
    return BestLosses(budgets, sizes, value, low, high, _draws(law, sizes, tokens, np.log(value), seed))


def _draws(law: Predictor, sizes: Array, tokens: Array, centre: Array, seed: int) -> Array | None:
    """Draws of ln L around what is predicted: constants, weights, and drift with distance beyond the runs."""
    draws = mixture_draws(law.weighted_samples(sizes, tokens))
    if draws is None:
        return None
    # What is predicted holds more than the laws do (leftovers, corrections): only the spread is that of the draws.
    draws = centre + draws - np.median(draws, axis=0)
    generator = np.random.default_rng(seed)
    if isinstance(law, Forecast):
        distance = np.log(np.maximum(np.asarray(law.factor(sizes, tokens)), 1.0))
        draws += law.drift * distance * generator.standard_normal((len(draws), 1))
    # Both laws draw resamples and weights from the same seeds: in another order theirs are independent.
    return generator.permutation(draws)


def _last_change(budgets: Array, gap: Array) -> float | None:
    """The budget of the last change of sign, between two budgets in their logarithms; None without a change."""
    changes = np.flatnonzero(np.sign(gap[1:]) * np.sign(gap[:-1]) < 0)
    if not len(changes):
        return None
    i = changes[-1]
    share = gap[i] / (gap[i] - gap[i + 1])
    return float(np.exp(np.log(budgets[i]) + share * np.log(budgets[i + 1] / budgets[i])))


def _place(budgets: Array, gap: Array, leader: int) -> float:
    """ln of the budget from which the leader is behind for good in one draw; −∞: at all budgets, ∞: at none."""
    ahead = gap if leader == 0 else -gap
    change = _last_change(budgets, ahead)
    if ahead[-1] <= 0:
        return math.inf
    return -math.inf if change is None else math.log(change)
