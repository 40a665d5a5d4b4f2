"""What a form leaves unexplained: a Gaussian process over all inputs, shared in part between groups, plus noise.

Every form bends away from the data somewhere, and runs near each other are then off alike. The mean of the process is
added to a prediction and fades away from the runs; its spread widens the interval. Where residuals are noise, it adds
nothing. One eigenbasis serves all forms of a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..tables.measurements import Measurements
from .padded import logs, middle_of

Array = np.ndarray
# Factors on the lengths of the inputs, over which a prediction averages.
LENGTHS = (0.6, 1.2, 3.0)
# Lengths of one input, in its standard deviations, and what runs at one point of two groups have in common, of which
# the likeliest are chosen.
EACH_LENGTH = (0.5, 1.0, 2.0, 4.0, 8.0)
BETWEEN_GROUPS = (0.0, 0.6, 0.95)
# Variance of the process over that of the noise; no process at all has half of the prior.
RATIOS = np.array([0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0])
LOG_PRIOR = np.log(np.where(RATIOS == 0, 0.5, 0.5 / (len(RATIOS) - 1)))
# Runs from which lengths are chosen.
ENOUGH_RUNS = 250
SWEEPS = 2
MOST_RUNS = 1000


class Places(NamedTuple):
    """Where points lie for the process: inputs in deviations from the middle, by logarithm where that is how they are
    worked with; each (inputs,)."""

    middle: Array
    deviation: Array
    by_logarithm: Array

    @classmethod
    def of(cls, runs: Measurements) -> Places:
        """The unit in which the inputs of runs deviate by one."""
        middle, positive = middle_of(runs), runs.by_logarithm
        deviation = np.where(positive, logs(runs.points, middle), runs.points).std(axis=0)
        return cls(middle, np.where(deviation > 0, deviation, 1.0), positive)

    def at(self, points: Array) -> Array:
        """The places of points (rows, inputs)."""
        return np.where(self.by_logarithm, logs(points, self.middle), points) / self.deviation


class Metric(NamedTuple):
    """How far each input reaches (inputs,), in its own unit, and the correlation between groups."""

    lengths: Array
    between: float


class Leftover(NamedTuple):
    """Mean of the process, its standard deviation, and that of a run's noise (one number), at points."""

    mean: Array
    spread: Array
    noise: float


class ProcessMixture(NamedTuple):
    """Processes that differ in the factor on their lengths and in the ratio of their variance to the noise's.

    ``shares`` and ``noises`` (variances of a run's noise) have shape (factors, ratios). ``weighed`` holds for each
    factor the residuals along the eigenvectors, each over its variance, (ratios, runs). ``freedom`` is the share of the
    runs that the constants leave, ``noise`` the standard deviation of a run over all processes.
    """

    shares: Array
    weighed: list[Array]
    noises: Array
    freedom: float
    noise: float


@dataclass(frozen=True, eq=False)
class Basis:
    """Eigenbases of the correlations of runs, one for each factor on the lengths.

    Attributes:
        places: inputs of the runs used, each in its own length, (runs, inputs).
        group: of those.
        index: which runs of the table are used.
        metric: the lengths, and what groups have in common.
        eigen: for each factor the eigenvalues and eigenvectors.
    """

    places: Array
    group: Array
    index: Array
    metric: Metric
    eigen: tuple[tuple[Array, Array], ...]

    @classmethod
    def of(cls, places: Array, group: Array, metric: Metric) -> Basis:
        """The bases of runs at ``places`` (runs, inputs), in the unit of the metric's lengths."""
        index = np.arange(len(places))
        if len(index) > MOST_RUNS:
            index = np.sort(np.random.default_rng(0).permutation(len(index))[:MOST_RUNS])
        places, group = places[index] / metric.lengths, group[index]
        eigen = []
        for factor in LENGTHS:
            values, vectors = np.linalg.eigh(correlation(places, group, places, group, factor, metric.between))
            eigen.append((np.maximum(values, 0.0), vectors))
        return cls(places, group, index, metric, tuple(eigen))

    def crossing(self, places: Array, group: Array) -> list[Array]:
        """For each factor the correlations of points with the runs, in the eigenbasis, (points, runs)."""
        places = places / self.metric.lengths
        return [
            correlation(places, group, self.places, self.group, factor, self.metric.between) @ vectors
            for factor, (_, vectors) in zip(LENGTHS, self.eigen, strict=True)
        ]

    def estimate(self, residuals: Array, constants: float, crossing: list[Array]) -> Leftover:
        """What is left at points of residuals (runs,) of a form with so many constants."""
        mixture = self.mixture(residuals, constants)
        means, variances = [], []
        for (values, _), cross, weighed, noise in zip(
            self.eigen, crossing, mixture.weighed, mixture.noises, strict=True
        ):
            means.append(cross @ (RATIOS[:, None] * weighed).T)
            explained = cross**2 @ (RATIOS / (1 + values[:, None] * RATIOS))
            variances.append(RATIOS * np.maximum(1 - explained, 0) * noise)
        shares = mixture.shares.ravel()
        mean = np.concatenate(means, axis=1) @ shares
        variance = np.concatenate(variances, axis=1) @ shares / mixture.freedom
        return Leftover(mean, np.sqrt(variance), mixture.noise)

    def mixture(self, residuals: Array, constants: float) -> ProcessMixture:
        """The processes over which a prediction averages, by residuals (runs,) of a form with so many constants."""
        left = residuals[self.index]
        freedom = max(len(residuals) - constants, 0.25 * len(residuals), 1.0) / len(residuals)
        likelihoods, weighed, noises = [], [], []
        for values, vectors in self.eigen:
            total = 1 + RATIOS[:, None] * values
            along = left @ vectors
            weighed.append(along / total)
            noises.append((along * weighed[-1]).mean(axis=1) + 1e-18)
            likelihoods.append(LOG_PRIOR - len(left) / 2 * np.log(noises[-1]) - np.log(total).sum(axis=1) / 2)
        likelihood = np.concatenate(likelihoods)
        shares = np.exp(likelihood - likelihood.max())
        shares /= shares.sum()
        noise = float(np.sqrt(np.concatenate(noises) @ shares / freedom))
        return ProcessMixture(shares.reshape(len(LENGTHS), -1), weighed, np.stack(noises), freedom, noise)


def correlation(first: Array, group: Array, second: Array, other: Array, length: float, between: float) -> Array:
    """The Matérn correlation with ν = 5/2 between points, less between groups."""
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T
    reach = np.sqrt(5 * np.maximum(squares, 0)) / length
    return (1 + reach + reach**2 / 3) * np.exp(-reach) * np.where(group[:, None] == other[None], 1.0, between)


def choose_metric(places: Array, group: Array, residuals: Array) -> Metric:
    """The likeliest lengths, one input after another, and what groups have in common, for residuals (runs,)."""
    index = np.arange(len(places))
    if len(index) > ENOUGH_RUNS:
        index = np.random.default_rng(1).permutation(len(index))[:ENOUGH_RUNS]
    places, group, left = places[index], group[index], residuals[index]
    lengths, between = np.ones(places.shape[1]), 0.6
    best = _likelihood(places, group, left, lengths, between)
    for _ in range(SWEEPS):
        for place in range(len(lengths)):
            for length in EACH_LENGTH:
                tried = lengths.copy()
                tried[place] = length
                likelihood = _likelihood(places, group, left, tried, between)
                if likelihood > best + 1e-9:
                    best, lengths = likelihood, tried
        for other in BETWEEN_GROUPS if len(np.unique(group)) > 1 else ():
            likelihood = _likelihood(places, group, left, lengths, other)
            if likelihood > best + 1e-9:
                best, between = likelihood, other
    return Metric(lengths, between)


def _likelihood(places: Array, group: Array, left: Array, lengths: Array, between: float) -> float:
    """The likelihood of residuals, the best ratio of process to noise taken."""
    scaled = places / lengths
    values, vectors = np.linalg.eigh(correlation(scaled, group, scaled, group, 1.0, between))
    total = 1 + RATIOS[:, None] * np.maximum(values, 0)
    noise = ((left @ vectors) ** 2 / total).mean(axis=1) + 1e-18
    return float((-len(left) / 2 * np.log(noise) - np.log(total).sum(axis=1) / 2).max())
