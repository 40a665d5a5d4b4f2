"""What is believed of candidate runs and of a target, and what each run would add: the one model of all choices here.

One model or several (laws, or a process over the inputs), each with its weight, say together what the candidates would
measure and what the goals are: Gaussian, with means and covariances. A run takes away its share of a model's variance,
and moves the models towards each other where they expect different things of it. Its value is assumed to be what the
models expect together, so that a choice needs no refit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Belief:
    """Gaussian beliefs about every value that a candidate measures and, last, about the goals.

    Attributes:
        weights: of the models, (models,).
        means: (models, points).
        covariances: (models, points, points).
        rows: of each candidate, the points that it measures: one, or several that are measured together.
        noises: of each candidate, the covariance of what it measures around those points.
        num_goals: how many of the last points are goals, each in the unit whose square counts as one.
    """

    weights: Array
    means: Array
    covariances: Array
    rows: tuple[slice, ...]
    noises: tuple[Array, ...]
    num_goals: int

    @classmethod
    def of_single_runs(
        cls, weights: Array, means: Array, covariances: Array, noise: float, num_goals: int = 1
    ) -> Belief:
        """Each candidate measures one point, with a standard deviation of ``noise``."""
        places = range(means.shape[1] - num_goals)
        one = np.full((1, 1), noise**2)
        rows = tuple(slice(place, place + 1) for place in places)
        return cls(weights, means, covariances, rows, tuple(one for _ in places), num_goals)

    def variances(self) -> Array:
        """Of each goal, over the models and between them, (goals,)."""
        goals = slice(-self.num_goals, None)
        own = np.diagonal(self.covariances[:, goals, goals], axis1=1, axis2=2)
        return self.weights @ (own + (self.means[:, goals] - self.weights @ self.means[:, goals]) ** 2)

    def risk(self) -> float:
        """The sum of the goals' variances: what runs are chosen to lessen."""
        return float(self.variances().sum())

    def risk_after(self) -> Array:
        """The risk after each candidate alone, (candidates,)."""
        risks = np.empty(len(self.rows))
        lengths = np.array([rows.stop - rows.start for rows in self.rows])
        for length in np.unique(lengths):
            places = np.flatnonzero(lengths == length)
            risks[places] = self._risk_after(places)
        return risks

    def _risk_after(self, places: Array) -> Array:
        """The same for candidates that all measure as many points, (places,)."""
        index = np.stack([np.arange(self.rows[place].start, self.rows[place].stop) for place in places])
        goals = slice(-self.num_goals, None)
        noise = np.stack([self.noises[place] for place in places])
        inner = self.covariances[:, index[:, :, None], index[:, None, :]] + noise  # (models, places, length, length)
        cross = self.covariances[:, :, goals][:, index]  # (models, places, length, goals)
        gains = np.linalg.solve(inner, cross)
        surprise = (self.weights @ self.means - self.means)[:, index]
        means = self.means[:, None, goals] + np.einsum("mplg,mpl->mpg", gains, surprise)
        own = np.diagonal(self.covariances[:, goals, goals], axis1=1, axis2=2)[:, None]
        left = own - (gains * cross).sum(axis=2)
        apart = (means - np.einsum("m,mpg->pg", self.weights, means)) ** 2
        return np.einsum("m,mpg->p", self.weights, left + apart)

    def after(self, place: int) -> Belief:
        """After a run of that candidate, whose values are those that the models together expect."""
        rows = self.rows[place]
        cross = self.covariances[:, rows, :]
        gains = np.linalg.solve(self.covariances[:, rows, rows] + self.noises[place], cross)
        surprise = (self.weights @ self.means - self.means)[:, rows]
        means = self.means + np.einsum("mlp,ml->mp", gains, surprise)
        return replace(self, means=means, covariances=self.covariances - cross.swapaxes(1, 2) @ gains)


@dataclass(frozen=True)
class Spent:
    """A candidate that was chosen, and the risk before and after it."""

    place: int
    before: float
    after: float


def spend(
    belief: Belief,
    price: Sequence[float] | Array,
    budget: float,
    power: float,
    *,
    allowed: Callable[[list[int]], Array] | None = None,
    most: int | None = None,
    least_gain: float = 0.0,
) -> list[Spent]:
    """The candidates that a budget is spent on, one by one: each time the most risk taken off over price^power.

    No candidate is chosen twice.

    Args:
        belief: of candidates and goals.
        price: of each candidate, in the unit of the budget.
        budget: what they may cost together.
        power: 1: most for its price first; 0: most first.
        allowed: after some were chosen, which candidates may be the next (boolean); all if None.
        most: candidates at most.
        least_gain: the share of the standard deviation (the root of the risk) that each but the first must take away.
    """
    price, left = np.asarray(price, float), budget
    free = np.ones(len(price), bool)
    chosen: list[Spent] = []
    while most is None or len(chosen) < most:
        free &= price <= left * (1 + 1e-12)
        if not free.any():
            break
        before, after = belief.risk(), belief.risk_after()
        now = free & allowed([one.place for one in chosen]) if allowed else free
        worth = np.where(now, (before - after) / price**power, -np.inf)
        if chosen:
            worth[after > (1 - least_gain) ** 2 * before] = -np.inf
        place = int(np.argmax(worth))
        if worth[place] <= 0:
            break
        chosen.append(Spent(place, before, float(after[place])))
        belief, left = belief.after(place), left - price[place]
        free[place] = False
    return chosen
