"""A Gaussian process over any inputs, learnt from the runs so far: what they tell about targets, and what it predicts.

The target's scale (its logarithm where all are above zero) is a broad parabola in the standardised inputs, plus a
smooth process (Matérn 5/2), plus noise; groups share a part of it. The parabola extrapolates, as a law does; the
process holds what it misses near the runs. How much each input matters, and the shares of the parts, are learnt from
the runs by their likelihood; a prediction averages over all that were tried on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .belief import Belief

Array = np.ndarray
LEAST_TO_LEARN = 6
# What groups share is less than all; and a process that bends faster than this, in standard deviations of the inputs,
# would be taken for the noise of runs.
MOST_SHARED, LEAST_LENGTH = 0.95, 0.75
STEPS = (0.5, 2.0)
ROUNDS = 3
# Of a run, where the search starts: what is noise and what a process that bends fast is decided between the two ends.
NOISES = (0.03, 0.3)
# Scales less likely than the best by more e-folds than this have no part in a prediction.
LEAST_LIKELY = 5.0


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
        return self._sum(product, smooth) * np.where(group[:, None] == other_group, 1.0, self.shared)

    def variance(self, points: Array) -> Array:
        """At each point, before any run."""
        weights = np.array(self.relevance or (1.0,) * points.shape[1])
        return self._sum(((points * weights) ** 2).sum(axis=1), np.ones(len(points)))

    def _sum(self, product: Array, smooth: Array) -> Array:
        return self.level**2 + self.slope**2 * product + self.bend**2 * product**2 + self.process**2 * smooth

    def root(self, points: Array, group: Array) -> Array:
        """The lower triangle of Cholesky's factors of the covariance of runs at points, their noise in it.

        Raises:
            LinAlgError: it is not positive definite in the arithmetic.
        """
        return np.linalg.cholesky(self.covariance(points, points, group, group) + self.noise**2 * np.eye(len(points)))

    def log_likelihood(self, points: Array, group: Array, values: Array) -> float:
        """Of standardised values at points."""
        try:
            lower = self.root(points, group)
        except np.linalg.LinAlgError:
            return -np.inf
        white = np.linalg.solve(lower, values)
        return float(-0.5 * white @ white - np.log(lower.diagonal()).sum())

    def moved(self, name: str | int, factor: float) -> ProcessScales:
        """With one scale, or the relevance of one input, times a factor."""
        if isinstance(name, int):
            own = list(self.relevance)
            own[name] *= factor
            return replace(self, relevance=tuple(own))
        value = getattr(self, name) * factor
        if name == "shared":
            value = min(value, MOST_SHARED)
        return replace(self, **{name: max(value, LEAST_LENGTH) if name == "length" else value})

    def distance(self, other: ProcessScales) -> float:
        """Half the squared distance of the logarithms, in factors of four."""
        pairs = [(self.slope, other.slope), (self.bend, other.bend), (self.process, other.process)]
        pairs += [(self.noise, other.noise), (self.length, other.length)]
        pairs += zip(self.relevance, other.relevance, strict=True)
        return 0.5 * float(sum((np.log(one / two) / np.log(4)) ** 2 for one, two in pairs))


def likely_scales(points: Array, group: Array, values: Array) -> tuple[list[ProcessScales], Array]:
    """Scales that standardised values speak for, the best first, and their shares.

    Steps of two from the usual scales, quiet and noisy, to the greatest likelihood; a prior holds them near the usual
    ones. All that were tried have a share. With few values only the usual scales.
    """
    start = ProcessScales(relevance=(1.0,) * points.shape[1])
    if len(values) < LEAST_TO_LEARN:
        return [start], np.ones(1)
    names = ["slope", "bend", "process", "noise", *range(points.shape[1]), "length"]
    names += ["shared"] if len(np.unique(group)) > 1 else []
    known: dict[ProcessScales, float] = {}

    def worth(scales: ProcessScales) -> float:
        if scales not in known:
            known[scales] = scales.log_likelihood(points, group, values) - scales.distance(start)
        return known[scales]

    for noise in NOISES:
        best = replace(start, noise=noise)
        for _ in range(ROUNDS):
            before = best
            for name in names:
                for step in STEPS:
                    tried = best.moved(name, step)
                    if worth(tried) > worth(best) + 0.1:
                        best = tried
            if best == before:
                break
    ordered = sorted(known, key=lambda scales: -known[scales])
    kept = [scales for scales in ordered if known[scales] >= known[ordered[0]] - LEAST_LIKELY]
    shares = np.exp(np.array([known[scales] for scales in kept]) - known[kept[0]])
    return kept, shares / shares.sum()


@dataclass(frozen=True, eq=False)
class InputProcess:
    """The process after some runs.

    Attributes:
        points: of the runs, standardised, (runs, inputs); ``group`` of each.
        values: of the runs, standardised.
        middle, spread: what was taken from the target's scale, and by what it was divided.
        scales: that the runs speak for, the best first; ``shares`` of each.
    """

    points: Array
    group: Array
    values: Array
    middle: float
    spread: float
    scales: list[ProcessScales]
    shares: Array

    @classmethod
    def of(cls, points: Array, group: Array, values: Array) -> InputProcess:
        """Learnt from the values (on the target's scale) of runs."""
        middle, spread = float(values.mean()), float(values.std()) or 1.0
        scaled = (values - middle) / spread
        return cls(points, group, scaled, middle, spread, *likely_scales(points, group, scaled))

    @property
    def noise(self) -> float:
        """Of a run, in standard deviations of all runs."""
        return float(self.shares @ [scales.noise for scales in self.scales])

    @cached_property
    def _roots(self) -> list[Array]:
        return [scales.root(self.points, self.group) for scales in self.scales]

    def predict(self, at: Array, group: Array) -> tuple[Array, Array]:
        """The value of a new run at points, on the target's scale, and its standard deviation."""
        means, variances = [], []
        for scales, lower in zip(self.scales, self._roots, strict=True):
            cross = np.linalg.solve(lower, scales.covariance(self.points, at, self.group, group))
            means.append(np.linalg.solve(lower, self.values) @ cross)
            variances.append(np.maximum(scales.variance(at) - (cross**2).sum(axis=0), 0.0) + scales.noise**2)
        mean = self.shares @ np.stack(means)
        variance = self.shares @ (np.stack(variances) + (np.stack(means) - mean) ** 2)
        return self.middle + self.spread * mean, self.spread * np.sqrt(variance)

    def belief(self, candidates: Array, group: Array, goals: Array, goal_group: Array) -> Belief:
        """What the best scales say of candidates and of goals, whose mean variance is the risk."""
        scales, lower = self.scales[0], self._roots[0]
        at, groups = np.concatenate([candidates, goals]), np.concatenate([group, goal_group])
        cross = np.linalg.solve(lower, scales.covariance(self.points, at, self.group, groups))
        unit = np.where(np.arange(len(at)) < len(candidates), 1.0, 1 / np.sqrt(len(goals)))
        covariance = (scales.covariance(at, at, groups, groups) - cross.T @ cross) * unit[:, None] * unit
        means = np.linalg.solve(lower, self.values) @ cross * unit
        return Belief.of_single_runs(np.ones(1), means[None], covariance[None], scales.noise, len(goals))


@dataclass(frozen=True, eq=False)
class InputUnits:
    """How inputs are standardised: by logarithm where they are above zero everywhere, in deviations from the middle."""

    by_logarithm: Array
    middle: Array
    deviation: Array

    @classmethod
    def of(cls, points: Array) -> InputUnits:
        """In which these points (rows, inputs) deviate by one around zero."""
        positive = np.all(points > 0, axis=0)
        scaled = np.where(positive, np.log(np.where(positive, points, 1.0)), points)
        deviation = scaled.std(axis=0)
        return cls(np.asarray(positive), scaled.mean(axis=0), np.where(deviation > 0, deviation, 1.0))

    def at(self, points: Array) -> Array:
        """Points (rows, inputs) in these units."""
        scaled = np.where(self.by_logarithm, np.log(np.where(self.by_logarithm, points, 1.0)), points)
        return (scaled - self.middle) / self.deviation
