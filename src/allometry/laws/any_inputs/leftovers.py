"""What a form leaves unexplained: a Gaussian process over all inputs, shared in part between groups, plus noise.

Every form bends away from the data somewhere, and runs near each other are then off alike. The mean of the process is
added to a prediction and fades away from the runs; its spread widens the interval. Where residuals are noise, it adds
nothing. One eigenbasis serves all forms of a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Array = np.ndarray
# In standard deviations of an input (of its logarithm): how far apart runs are off alike.
LENGTHS = (0.7, 1.5, 4.0)
# Variance of the process over that of the noise; no process at all has half of the prior.
RATIOS = np.array([0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0])
LOG_PRIOR = np.log(np.where(RATIOS == 0, 0.5, 0.5 / (len(RATIOS) - 1)))
# What runs at one point of two groups have in common of the process.
BETWEEN_GROUPS = 0.6
MOST_RUNS = 500


class Leftover(NamedTuple):
    """Mean of the process, its standard deviation, and that of a run's noise (one number), at points."""

    mean: Array
    spread: Array
    noise: float


@dataclass(frozen=True, eq=False)
class Basis:
    """Eigenbases of the correlations of runs, one for each length.

    Attributes:
        places: standardised inputs of the runs used, (runs, inputs).
        group: of those.
        index: which runs of the table are used.
        eigen: for each length its eigenvalues and eigenvectors.
    """

    places: Array
    group: Array
    index: Array
    eigen: tuple[tuple[Array, Array], ...]

    @classmethod
    def of(cls, places: Array, group: Array) -> Basis:
        """The bases of runs at standardised ``places``."""
        index = np.arange(len(places))
        if len(index) > MOST_RUNS:
            index = np.sort(np.random.default_rng(0).permutation(len(index))[:MOST_RUNS])
        places, group = places[index], group[index]
        eigen = []
        for length in LENGTHS:
            values, vectors = np.linalg.eigh(correlation(places, group, places, group, length))
            eigen.append((np.maximum(values, 0.0), vectors))
        return cls(places, group, index, tuple(eigen))

    def crossing(self, places: Array, group: Array) -> list[Array]:
        """For each length the correlations of points with the runs, in the eigenbasis, (points, runs)."""
        return [
            correlation(places, group, self.places, self.group, length) @ vectors
            for length, (_, vectors) in zip(LENGTHS, self.eigen, strict=True)
        ]

    def estimate(self, residuals: Array, constants: float, crossing: list[Array]) -> Leftover:
        """What is left at points of residuals (runs,) of a form with so many constants."""
        left = residuals[self.index]
        runs = len(left)
        freedom = max(len(residuals) - constants, 0.25 * len(residuals), 1.0) / len(residuals)
        likelihoods, means, variances, noises = [], [], [], []
        for (values, vectors), cross in zip(self.eigen, crossing, strict=True):
            total = 1 + RATIOS[:, None] * values
            along = left @ vectors
            weighed = along / total
            noise = (along * weighed).mean(axis=1) + 1e-18
            likelihoods.append(LOG_PRIOR - runs / 2 * np.log(noise) - np.log(total).sum(axis=1) / 2)
            means.append(cross @ (RATIOS[:, None] * weighed).T)
            explained = cross**2 @ (RATIOS / (1 + values[:, None] * RATIOS))
            variances.append(RATIOS * np.maximum(1 - explained, 0) * noise)
            noises.append(noise)
        likelihood = np.concatenate(likelihoods)
        shares = np.exp(likelihood - likelihood.max())
        shares /= shares.sum()
        mean = np.concatenate(means, axis=1) @ shares
        variance = np.concatenate(variances, axis=1) @ shares / freedom
        return Leftover(mean, np.sqrt(variance), float(np.sqrt(np.concatenate(noises) @ shares / freedom)))


def correlation(first: Array, group: Array, second: Array, other: Array, length: float) -> Array:
    """The Matérn correlation with ν = 5/2 between points, less between groups."""
    squares = ((first[:, None] - second[None]) ** 2).sum(axis=2) / length**2
    reach = np.sqrt(5 * squares)
    same = np.where(group[:, None] == other[None], 1.0, BETWEEN_GROUPS)
    return (1 + reach + reach**2 / 3) * np.exp(-reach) * same
