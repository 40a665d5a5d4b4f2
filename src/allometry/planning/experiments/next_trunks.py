"""Which trunks a ladder trains next: those that tell most, per unit of cost, where the best size for a target lies.

A *trunk* is one training from which runs of several lengths branch: all of them share its noise, so it tells the slope
in tokens well and the level as one run does. Two things are to be known at the target's compute C: the loss of the best
size N*, and on which side of N* the loss is lower, that is ln L(2·N*) − ln L(N*/2). The first is the prediction; the
second, over the curvature of the valley, is the error of N*. The model of what runs tell is that of
:mod:`.gaussian_model`, with the noise of trunks besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...laws import Observations
from .gaussian_model import DRIFT, log_points
from .posterior import LinearizedLaw

Array = np.ndarray
# Standard deviations that count as one: half a percent of the loss, and two percent between half and twice N*. A valley
# in which half and twice the best size cost 2 % each has the optimum within a factor of 1.25 then.
LOSS_KNOWN, SLOPE_KNOWN = 0.005, 0.02
OWN_NOISE = 0.003  # standard deviation of ln L of a run around its trunk
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
        drift: standard deviation of the laws' error over an e-fold of N or of D.
    """
    state = _State.of(observations, choices, best, weights, trunks, noises, drift)
    before, chosen, left = state.knowledge(), [], budget
    while True:
        now = state.knowledge().risk
        worth = [
            (now - state.after(place).knowledge().risk) / choice.cost
            if place not in chosen and choice.cost <= left
            else -np.inf
            for place, choice in enumerate(choices)
        ]
        place = int(np.argmax(worth)) if worth else -1
        if not worth or worth[place] <= 0:
            return chosen, before, state.knowledge()
        state, left = state.after(place), left - choices[place].cost
        chosen.append(place)


@dataclass(frozen=True)
class _State:
    """ln L at the runs of every choice and, last, at half, once and twice N*: means and covariances by each law."""

    choices: tuple[TrunkChoice, ...]
    rows: tuple[slice, ...]
    weights: Array
    means: Array
    covariances: Array

    @classmethod
    def of(
        cls,
        observations: Observations,
        choices: Sequence[TrunkChoice],
        best: tuple[float, float],
        weights: dict[str, float],
        trunks: Sequence[object],
        noises: Sequence[float],
        drift: float,
    ) -> _State:
        runs = log_points(observations.num_params, observations.tokens)
        lengths = [len(choice.tokens) for choice in choices]
        ends = np.cumsum(lengths)
        rows = tuple(slice(int(end - length), int(end)) for end, length in zip(ends, lengths, strict=True))
        runs_of = [log_points(np.full(len(one.tokens), one.num_params), np.array(one.tokens)) for one in choices]
        factors = np.array(HALF_AND_TWICE)
        target = log_points(best[0] * factors, best[1] / factors)
        points = np.concatenate([runs, *runs_of, target, target[1:2]])  # the last is where the drift starts
        same = np.equal.outer(np.array(trunks, object), np.array(trunks, object))
        noise = np.outer(noises, noises) * same + OWN_NOISE**2 * np.eye(len(runs))
        laws = [LinearizedLaw.through(name, observations, points) for name in weights]
        rest = slice(len(runs), -1)
        covariances = []
        for law in laws:
            prior = law.prior_covariance(drift)
            known, cross = prior[: len(runs), : len(runs)] + noise, prior[: len(runs)]
            covariances.append((prior - cross.T @ np.linalg.solve(known, cross))[rest, rest])
        means = np.stack([law.means[rest] for law in laws])
        return cls(tuple(choices), rows, np.array(list(weights.values())), means, np.stack(covariances))

    def knowledge(self) -> Knowledge:
        """What is known now, over constants, drift and laws."""
        return Knowledge(self._spread(np.array([0.0, 1.0, 0.0])), self._spread(np.array([-1.0, 0.0, 1.0])))

    def after(self, place: int) -> _State:
        """After a trunk whose losses are those that the laws together expect."""
        choice, rows = self.choices[place], self.rows[place]
        length = len(choice.tokens)
        noise = choice.noise**2 + OWN_NOISE**2 * np.eye(length)
        cross = self.covariances[:, rows, :]
        gains = np.linalg.solve(self.covariances[:, rows, rows] + noise, cross)
        surprise = (self.weights @ self.means - self.means)[:, rows]
        means = self.means + np.einsum("lrp,lr->lp", gains, surprise)
        return _State(self.choices, self.rows, self.weights, means, self.covariances - cross.swapaxes(1, 2) @ gains)

    def _spread(self, at: Array) -> float:
        """Standard deviation of a combination of the three losses at the target."""
        means, covariances = self.means[:, -3:] @ at, np.einsum("i,lij,j->l", at, self.covariances[:, -3:, -3:], at)
        return float(np.sqrt(self.weights @ (covariances + (means - self.weights @ means) ** 2)))
