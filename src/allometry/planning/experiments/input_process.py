"""What runs of any inputs tell about targets: a Gaussian process over the inputs, learnt from the losses seen so far.

The target's scale (its logarithm where all are above zero) is a broad parabola in the standardised inputs, plus a
smooth process (Matérn 5/2), plus noise; groups share a part of it. The parabola extrapolates, as a law does; the
process holds what it misses near the runs. How much each input matters, and the shares of the parts, are learnt from
the losses by their likelihood. Only covariances decide which run comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

Array = np.ndarray
LEAST_TO_LEARN = 6
STEPS = (0.5, 2.0)
ROUNDS = 3


@dataclass(frozen=True)
class ProcessScales:
    """Standard deviations of the parts, in those of the target; ``relevance`` of each input; ``shared`` by groups."""

    level: float = 2.0
    slope: float = 1.0
    bend: float = 0.3
    process: float = 0.3
    length: float = 1.5
    noise: float = 0.03
    shared: float = 0.5
    relevance: tuple[float, ...] = ()

    def covariance(self, one: Array, other: Array, group: Array, other_group: Array) -> Array:
        """Between the points of ``one`` and of ``other``, (rows, inputs) each, in groups."""
        weights = np.array(self.relevance or (1.0,) * one.shape[1])
        product = (one * weights) @ (other * weights).T
        squares = ((one * weights) ** 2).sum(axis=1)[:, None] + ((other * weights) ** 2).sum(axis=1) - 2 * product
        distance = np.sqrt(np.maximum(5 * squares, 0.0)) / self.length
        smooth = (1 + distance + distance**2 / 3) * np.exp(-distance)
        whole = self.level**2 + self.slope**2 * product + self.bend**2 * product**2 + self.process**2 * smooth
        return whole * np.where(group[:, None] == other_group, 1.0, self.shared)

    def log_likelihood(self, points: Array, group: Array, values: Array) -> float:
        """Of standardised values at points."""
        covariance = self.covariance(points, points, group, group) + self.noise**2 * np.eye(len(values))
        try:
            lower = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            return -np.inf
        white = np.linalg.solve(lower, values)
        return float(-0.5 * white @ white - np.log(lower.diagonal()).sum())

    def learnt(self, points: Array, group: Array, values: Array) -> ProcessScales:
        """The scales of the greatest likelihood, by steps of two from these; a prior holds them near where they began.

        With few values, or values that do not vary, these scales themselves.
        """
        spread = float(values.std()) if len(values) >= LEAST_TO_LEARN else 0.0
        if spread == 0:
            return self
        scaled = (values - values.mean()) / spread
        best = replace(self, relevance=self.relevance or (1.0,) * points.shape[1])
        names = ["slope", "bend", "process", "noise", *range(points.shape[1])]
        names += ["shared"] if len(np.unique(group)) > 1 else []
        start, reached = best, best.log_likelihood(points, group, scaled)
        for _ in range(ROUNDS):
            improved = False
            for name in names:
                for step in STEPS:
                    tried = best.moved(name, step)
                    value = tried.log_likelihood(points, group, scaled) - tried.distance(start)
                    if value > reached + 0.1:
                        best, reached, improved = tried, value, True
            if not improved:
                break
        return best

    def moved(self, name: str | int, factor: float) -> ProcessScales:
        """With one scale, or the relevance of one input, times a factor."""
        if isinstance(name, int):
            own = list(self.relevance)
            own[name] *= factor
            return replace(self, relevance=tuple(own))
        value = getattr(self, name) * factor
        return replace(self, **{name: min(value, 0.95) if name == "shared" else value})

    def distance(self, other: ProcessScales) -> float:
        """Half the squared distance of the logarithms, in factors of four."""
        pairs = [(self.slope, other.slope), (self.bend, other.bend), (self.process, other.process)]
        pairs += [(self.noise, other.noise), *zip(self.relevance, other.relevance, strict=True)]
        return 0.5 * float(sum((np.log(one / two) / np.log(4)) ** 2 for one, two in pairs))


@dataclass(frozen=True, eq=False)
class InputProcess:
    """The knowledge of targets ``at`` from the candidates chosen so far.

    Attributes:
        scales: of the process.
        points: of the candidates, standardised, (candidates, inputs); ``group`` of each.
        at: the targets, likewise; ``at_group`` of each.
        price: of each candidate.
        known: rows chosen.
        factors: one column of the Cholesky factor a chosen row, (candidates,).
        crossing: covariance of candidates and targets given those rows, (candidates, targets).
        variance: of each candidate given those rows, (candidates,).
        target_variance: of the targets, added up.
    """

    scales: ProcessScales
    points: Array
    group: Array
    at: Array
    at_group: Array
    price: Array
    known: tuple[int, ...]
    factors: tuple[Array, ...]
    crossing: Array
    variance: Array
    target_variance: float

    @classmethod
    def of(
        cls,
        scales: ProcessScales,
        points: Array,
        group: Array,
        at: Array,
        at_group: Array,
        price: Array,
        known: Sequence[int] = (),
    ) -> InputProcess:
        """Given the rows that are known already."""
        crossing = scales.covariance(points, at, group, at_group)
        own = _own_variance(scales, points)
        start = cls(
            scales, points, group, at, at_group, price, (), (), crossing, own, float(_own_variance(scales, at).sum())
        )
        for index in known:
            start = start.after(index)
        return start

    def useful(self) -> Array:
        """Candidates not chosen yet."""
        free = np.ones(len(self.price), bool)
        free[list(self.known)] = False
        return free

    def spread(self) -> float:
        """Root mean square of the targets' standard deviations."""
        return float(np.sqrt(max(self.target_variance, 0.0) / len(self.at)))

    def spread_after(self) -> Array:
        """The same after a run of each candidate."""
        left = self.target_variance - (self.crossing**2).sum(axis=1) / self._observed
        return np.sqrt(np.maximum(left, 0.0) / len(self.at))

    def after(self, index: int) -> Self:
        """After a run of that candidate."""
        here, there = self.points[index : index + 1], self.group[index : index + 1]
        column = self.scales.covariance(self.points, here, self.group, there)[:, 0]
        if self.factors:
            before = np.stack(self.factors)
            column = column - before[:, index] @ before
        factor = column / np.sqrt(self._observed[index])
        toward = self.crossing[index] / np.sqrt(self._observed[index])
        return replace(
            self,
            known=(*self.known, index),
            factors=(*self.factors, factor),
            crossing=self.crossing - np.outer(factor, toward),
            variance=self.variance - factor**2,
            target_variance=self.target_variance - float(toward @ toward),
        )

    @cached_property
    def _observed(self) -> Array:
        """Variance of what a run of each candidate would show."""
        return np.maximum(self.variance, 0.0) + self.scales.noise**2


def _own_variance(scales: ProcessScales, points: Array) -> Array:
    weights = np.array(scales.relevance or (1.0,) * points.shape[1])
    product = ((points * weights) ** 2).sum(axis=1)
    return scales.level**2 + scales.slope**2 * product + scales.bend**2 * product**2 + scales.process**2


def standardised(points: Array, at: Array) -> tuple[Array, Array]:
    """Candidates and targets in deviations of all of them; by logarithms for an input that is above zero everywhere."""
    every = np.concatenate([points, at])
    positive = (every > 0).all(axis=0)
    scaled = np.where(positive, np.log(np.where(positive, every, 1.0)), every)
    deviation = scaled.std(axis=0)
    scaled = (scaled - scaled.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    return scaled[: len(points)], scaled[len(points) :]
