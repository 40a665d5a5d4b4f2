"""How much a run says about those that are worth making: the more the dearer it is, and the nearer to the frontier.

Dear runs are nearer to what is to be predicted, and simple laws are wrong far below them, so runs count by a power of
their cost, as far as that leaves half of them.

Every simple law is wrong somewhere far from the frontier (a large model on few tokens, data repeated a thousand times,
a rate far too high), and the worst runs have the largest errors. A form may therefore also be fitted with runs counting
less the farther they lie above the frontier, and errors of the backtest count less there; or the farther their targets
lie from the best one, since what is worth predicting is as good or better (the first checkpoints of a run follow
another law than its last ones).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..tables.measurements import Measurements
from .held_out import cost_at, cost_of

Array = np.ndarray
# Weights fall by e^−(12·0.1) for a run 10 % above the frontier; what is left unexplained grows by e^(4·0.1).
WEIGHT_POWER, GROWTH = 12.0, 4.0
LEAST_WEIGHT, LEAST_RELEVANCE = 1e-4, 0.02
# From this correlation with the logarithm of the cost, within groups, a target goes with it.
LEAST_CORRELATION = 0.2
# Which runs a form is fitted to most closely: all alike, those near the frontier, those near the best, those near both.
ALL, FRONTIER, BEST, BOTH = "all", "near the frontier", "near the best", "near the frontier and the best"
# Weights fall by 1/(1 + level^4), level 1 being half-way through the runs of a group; what is left unexplained grows
# accordingly, by this power of 1 + level^4.
LEVEL_POWER, LEVEL_GROWTH = 4, 0.5
MOST_LEVEL = 30.0
# Powers of the cost by which runs count: the largest that leaves this share of the runs, as effective number.
COST_POWERS, LEAST_EFFECTIVE = (0.5, 0.4, 0.3, 0.2, 0.1, 0.0), 0.5


def has_frontier(runs: Measurements) -> bool:
    """Whether the target is above zero and falls with the cost."""
    if runs.are_shares or not (runs.values > 0).all():
        return False
    return _correlation(runs, np.log(runs.values)) < -LEAST_CORRELATION


def emphases(runs: Measurements) -> list[str]:
    """The ways of counting runs that these allow, besides all alike."""
    frontier, best = has_frontier(runs), not runs.are_shares and _goes_with_cost(runs)
    return [FRONTIER] * frontier + [BEST] * best + [BOTH] * (frontier and best)


class Levels(NamedTuple):
    """How far a target is from the best of its group, in units of how far the middle run is.

    ``sign`` is 1 where low targets are good; ``best`` and ``unit`` have shape (groups,).
    """

    sign: float
    best: Array
    unit: Array

    @classmethod
    def of(cls, runs: Measurements, values: Array) -> Levels:
        """Of runs with these targets, (runs,), on the scale on which levels are to be told."""
        sign = 1.0 if _correlation(runs, values) <= 0 else -1.0
        best, unit = np.full(len(runs.group_names), np.inf), np.zeros(len(runs.group_names))
        for number in np.unique(runs.group):
            own = sign * values[runs.group == number]
            best[number], unit[number] = own.min(), np.median(own) - own.min()
        return cls(sign, best, np.maximum(unit, 0.1 * unit.mean() + 1e-12))

    def at(self, values: Array, group: Array) -> Array:
        """The levels of targets (points,), 0 for the best one and beyond it, and in a group without runs."""
        return np.clip((self.sign * values - self.best[group]) / self.unit[group], 0.0, MOST_LEVEL)


def emphasis_weights(runs: Measurements, values: Array, emphasis: str) -> Array:
    """How much each run counts under an emphasis, (runs,); ``values`` are the targets on the scale of the mixture."""
    weights = np.ones(len(runs))
    if emphasis in (FRONTIER, BOTH):
        weights = frontier_weights(runs)
    if emphasis in (BEST, BOTH):
        weights = weights / (1 + Levels.of(runs, values).at(values, runs.group) ** LEVEL_POWER)
    return np.maximum(weights, LEAST_WEIGHT)


def excess(runs: Measurements) -> Array:
    """ln(target / best target of the group at no more cost), (runs,), 0 on the frontier."""
    own = cost_of(runs)
    return _above(runs, own, own, np.log(runs.values), runs.group)


def excess_at(runs: Measurements, points: Array, logged: Array, group: Array) -> Array:
    """The same of points with these logarithms of the target, by what the inputs cost, as of a point no other cost is
    known; 0 where nothing as cheap was run."""
    return _above(runs, cost_at(runs, runs.points), cost_at(runs, points), logged, group)


def _above(runs: Measurements, own: Array, cost: Array, logged: Array, group: Array) -> Array:
    above = np.zeros(len(cost))
    for number in np.unique(group):
        mine, points = np.flatnonzero(runs.group == number), np.flatnonzero(group == number)
        if not len(mine):
            continue
        order = mine[np.argsort(own[mine], kind="stable")]
        best = np.minimum.accumulate(np.log(runs.values[order]))
        place = np.searchsorted(own[order], cost[points] * (1 + 1e-9), side="right") - 1
        above[points] = np.where(place >= 0, logged[points] - best[np.maximum(place, 0)], 0.0)
    return np.maximum(above, 0.0)


def cost_weights(runs: Measurements) -> Array:
    """How much each run counts for its cost beside the dearest of its group, (runs,), 1 on average.

    All count alike where the target does not go with the cost.
    """
    if runs.are_shares or not _goes_with_cost(runs):
        return np.ones(len(runs))
    cost = np.log(cost_of(runs))
    dearest = np.full(len(runs.group_names), -np.inf)
    np.maximum.at(dearest, runs.group, cost)
    for power in COST_POWERS:
        weights = np.exp(power * (cost - dearest[runs.group]))
        if weights.sum() ** 2 >= LEAST_EFFECTIVE * len(runs) * (weights**2).sum():
            break
    return weights / weights.mean()


def _goes_with_cost(runs: Measurements) -> bool:
    return abs(_correlation(runs, runs.values)) > LEAST_CORRELATION


def _correlation(runs: Measurements, values: Array) -> float:
    """Of targets (runs,) with the logarithm of the cost, both less the means of their groups; 0 if one is constant."""
    groups = np.eye(len(runs.group_names))[runs.group]
    both = np.stack([np.log(cost_of(runs)), values], axis=1)
    both = both - groups @ (groups.T @ both / np.maximum(groups.sum(axis=0), 1)[:, None])
    spread = both.std(axis=0)
    scale = np.abs(np.stack([np.log(cost_of(runs)), values])).max(axis=1)
    return float(both.prod(axis=1).mean() / spread.prod()) if (spread > 1e-12 * scale).all() else 0.0


def frontier_weights(runs: Measurements) -> Array:
    """How much each run counts, (runs,)."""
    return np.maximum(np.exp(-WEIGHT_POWER * excess(runs)), LEAST_WEIGHT)


def relevance(runs: Measurements, values: Array) -> Array:
    """How much the error of predicting each run counts, (runs,); 1 for all where targets do not go with the cost.

    ``values`` are the targets on the scale on which errors are told.
    """
    counts, ways = np.ones(len(runs)), emphases(runs)
    if FRONTIER in ways:
        counts = np.exp(-WEIGHT_POWER * excess(runs))
    if BEST in ways:
        counts = counts / (1 + Levels.of(runs, values).at(values, runs.group) ** LEVEL_POWER)
    return np.maximum(counts, LEAST_RELEVANCE)


def growth(above: Array) -> Array:
    """How much larger than on the frontier what a form leaves is expected to be."""
    return np.exp(np.minimum(GROWTH * above, 5.0))


def level_growth(level: Array) -> Array:
    """How much larger than at the best target what a form leaves is expected to be."""
    return (1 + level**LEVEL_POWER) ** LEVEL_GROWTH
