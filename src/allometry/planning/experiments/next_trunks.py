"""Which trunks a ladder trains next: those that tell most, per unit of cost, where the best size for a target lies.

A *trunk* is one training from which runs of several lengths branch: all of them share its noise, so it tells the slope
in tokens well and the level as one run does. Two things are to be known at the target's compute C: the loss of the best
size N*, and on which side of N* the loss is lower, that is ln L(2·N*) − ln L(N*/2). The first is the prediction; the
second, over the curvature of the valley, is the error of N*. What runs tell is a
``Belief`` of the laws (:mod:`.law_belief`), with the noise of trunks besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...laws import Observations
from .belief import Belief, spend
from .gaussian_model import DRIFT, log_points
from .law_belief import linearized

Array = np.ndarray
# Standard deviations that count as one: half a percent of the loss, and two percent between half and twice N*. A valley
# in which half and twice the best size cost 2 % each has the optimum within a factor of 1.25 then.
LOSS_KNOWN, SLOPE_KNOWN = 0.005, 0.02
HALF_AND_TWICE = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class TrunkChoice:
    """A trunk that could be trained: a size, the tokens of its runs, its noise and its cost (in any one unit)."""

    num_params: float
    tokens: tuple[float, ...]
    noise: float
    cost: float


@dataclass(frozen=True)
class Knowledge:
    """How well the target is known: standard deviations of ln L at N*, and of ln L(2·N*) − ln L(N*/2)."""

    loss: float
    slope: float

    @classmethod
    def of(cls, belief: Belief) -> Knowledge:
        """What ``trunk_belief`` says now."""
        loss, slope = np.sqrt(belief.variances())
        return cls(float(loss) * LOSS_KNOWN, float(slope) * SLOPE_KNOWN)

    @property
    def risk(self) -> float:
        """The two together; below 1 both are known as well as is wanted, on average."""
        return (self.loss / LOSS_KNOWN) ** 2 + (self.slope / SLOPE_KNOWN) ** 2


def next_trunks(
    observations: Observations,
    choices: Sequence[TrunkChoice],
    best: tuple[float, float],
    budget: float,
    weights: dict[str, float],
    *,
    trunks: Sequence[object],
    noises: Sequence[float],
    own_noise: float,
    drift: float = DRIFT,
) -> tuple[list[int], Knowledge, Knowledge]:
    """The choices to train together within ``budget``, by index, and what is known at the target before and after.

    Greedy: the most risk taken off per unit of cost first. No choice is taken twice.

    Args:
        observations: the runs that exist.
        choices: what could be trained.
        best: (N*, D*) at the target's compute, as it is known now.
        budget: what may be spent, in the unit of the choices' cost.
        weights: law → weight.
        trunks, noises: of each run that exists, its trunk and the standard deviation of that trunk's noise.
        own_noise: standard deviation of ln L of a run around its trunk.
        drift: standard deviation of the laws' error over an e-fold of N or of D.
    """
    known = {"trunks": trunks, "noises": noises, "own_noise": own_noise}
    belief = trunk_belief(observations, choices, best, weights, **known, drift=drift)
    chosen = [one.place for one in spend(belief, [choice.cost for choice in choices], budget, power=1.0)]
    after = belief
    for place in chosen:
        after = after.after(place)
    return chosen, Knowledge.of(belief), Knowledge.of(after)


def trunk_belief(
    observations: Observations,
    choices: Sequence[TrunkChoice],
    best: tuple[float, float],
    weights: dict[str, float],
    *,
    trunks: Sequence[object],
    noises: Sequence[float],
    own_noise: float,
    drift: float = DRIFT,
) -> Belief:
    """What the laws say of the runs of every choice, and of the two goals; arguments as of ``next_trunks``."""
    runs_of = [log_points(np.full(len(one.tokens), one.num_params), np.array(one.tokens)) for one in choices]
    factors = np.array(HALF_AND_TWICE)
    target = log_points(best[0] * factors, best[1] / factors)
    laws = linearized(observations, np.concatenate([*runs_of, target, target[1:2]]), weights)
    same = np.equal.outer(np.array(trunks, object), np.array(trunks, object))
    noise = np.outer(noises, noises) * same + own_noise**2 * np.eye(len(observations))
    ends = np.cumsum([len(choice.tokens) for choice in choices], dtype=int)
    goals = np.array([[0, 1 / LOSS_KNOWN, 0], [-1 / SLOPE_KNOWN, 0, 1 / SLOPE_KNOWN]])
    # The last point is where the drift starts; the three before it become the goals.
    seen, further = len(observations), sum(map(len, runs_of))
    onto = np.zeros((further + 2, further + 4))
    onto[:further, :further], onto[further:, further:-1] = np.eye(further), goals
    means = np.stack([onto @ law.means[seen:] for law in laws])
    covariances = np.stack([onto @ law.covariance(drift, noise) @ onto.T for law in laws])
    rows = tuple(slice(int(end) - len(one.tokens), int(end)) for one, end in zip(choices, ends, strict=True))
    own = tuple(one.noise**2 + own_noise**2 * np.eye(len(one.tokens)) for one in choices)
    return Belief(np.array(list(weights.values())), means, covariances, rows, own, len(goals))
