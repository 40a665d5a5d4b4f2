"""What runs of any inputs tell about targets: a Gaussian process over the inputs, learnt from the losses seen so far.

The target's scale (its logarithm where all are above zero) is a broad parabola in the standardised inputs, plus a
smooth process (Matérn 5/2), plus noise; groups share a part of it. The parabola extrapolates, as a law does; the
process holds what it misses near the runs. How much each input matters, and the shares of the parts, are learnt from
the losses by their likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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

    def expected(self, points: Array, group: Array, values: Array, at: Array, at_group: Array) -> Array:
        """Of values at points, the expected values ``at`` other points."""
        inner = self.covariance(points, points, group, group) + self.noise**2 * np.eye(len(values))
        cross = self.covariance(at, points, at_group, group)
        return values.mean() + cross @ np.linalg.solve(inner, values - values.mean())

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


def telling(
    scales: ProcessScales, points: Array, group: Array, at: Array, at_group: Array, known: Sequence[int]
) -> Array:
    """How much a run of each candidate would take from the variance of targets, as a standard deviation, (candidates,).

    Args:
        scales: of the process.
        points: of the candidates, standardised, (candidates, inputs); ``group`` of each.
        at: the targets, likewise; ``at_group`` of each.
        known: candidates that are measured.
    """
    rows = list(known)
    inner = scales.covariance(points[rows], points[rows], group[rows], group[rows])
    lower = np.linalg.cholesky(inner + scales.noise**2 * np.eye(len(rows)))
    mine = np.linalg.solve(lower, scales.covariance(points[rows], points, group[rows], group))
    theirs = np.linalg.solve(lower, scales.covariance(points[rows], at, group[rows], at_group))
    crossing = scales.covariance(points, at, group, at_group) - mine.T @ theirs
    variance = np.maximum(_own_variance(scales, points) - (mine**2).sum(axis=0), 0.0)
    return np.sqrt((crossing**2).mean(axis=1) / (variance + scales.noise**2))


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
