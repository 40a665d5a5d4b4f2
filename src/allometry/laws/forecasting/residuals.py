"""What the laws leave unexplained, and how much of it a prediction may take over from the runs nearby.

Every law bends away from the data somewhere: at few tokens a parameter, at small sizes, along a whole budget. Runs
that are near each other in (ln N, ln D) are then off by similar amounts, so the residuals are taken for a Gaussian
process over that plane plus noise. Its mean is added to a prediction and fades within a few e-folds of the runs; its
spread widens the interval away from them. Where residuals are noise, it adds nothing. The noise that runs of one trunk
share is noise too: residuals and correlations are whitened by it first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..whitening import Trunks

Array = np.ndarray
# Residuals one e-fold of N or D apart agree (correlation 0.8), four apart hardly (0.1); fixed, since tables of a few
# dozen runs do not determine a length as well.
LENGTH = 2.0
# Variance of the process over that of the noise. Weights follow from the likelihood; no process at all has half of
# the prior.
RATIOS = np.array([0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0])
LOG_PRIOR = np.log(np.where(RATIOS == 0, 0.5, 0.5 / (len(RATIOS) - 1)))
# Process and noise grow with how far a loss lies above the frontier: by e^(6·0.1) for one 10 % above.
EXCESS_GROWTH = 6.0
LEAST_NOISE = 1e-4
# The cost is cubic in runs: of a larger table every second, third, … run by compute is used.
MOST_RUNS = 500


class ResidualEstimate(NamedTuple):
    """Mean of the process, its standard deviation, and that of a run's own noise, each (points,), as parts of ln L."""

    mean: Array
    spread: Array
    noise: Array


class ResidualMixture(NamedTuple):
    """The process by k, the Matérn correlations of a point with the runs used, before its growth.

    Attributes:
        num_params, tokens: of the runs used, (runs,).
        mean: the mean is k·``mean``, (runs,).
        variances: of the process of each of ``RATIOS``, its share of the mixture included, (ratios,).
        noise: the variance of a run's own noise.
        trunks: of the runs used.
    """

    num_params: Array
    tokens: Array
    mean: Array
    variances: Array
    noise: float
    trunks: Trunks | None


@dataclass(frozen=True, eq=False)
class ResidualProcess:
    """ln(observed/fitted) of runs, in the order of their compute.

    Attributes:
        num_params, tokens: of the runs, (runs,).
        residuals: ln(observed/fitted).
        excess: how far each run's ln L lies above the frontier.
        constants: how many constants the fit took from the runs; the noise is corrected for them.
        trunks: which runs share the noise of a trunk; None where none do.
    """

    num_params: Array
    tokens: Array
    residuals: Array
    excess: Array
    constants: float
    trunks: Trunks | None = None

    def at(self, num_params: Array, tokens: Array, excess: Array) -> ResidualEstimate:
        """What to expect at points (points,) whose ln L lies ``excess`` above the frontier."""
        basis, eigenvalues, coefficients, noises, shares = self._solved
        cross = self._whiten(_matern(_plane(num_params, tokens), self._points)) @ basis
        growth = np.exp(EXCESS_GROWTH * excess)
        mean = cross @ ((shares * RATIOS) @ coefficients)
        explained = cross**2 @ (RATIOS / (1 + eigenvalues[:, None] * RATIOS))
        variance = (RATIOS * np.maximum(1 - explained, 0)) @ (shares * noises)
        return ResidualEstimate(growth * mean, growth * np.sqrt(variance), growth * np.sqrt(shares @ noises))

    def mixture(self) -> ResidualMixture:
        """The same estimate as plain numbers, from which another program can work it out."""
        basis, _, coefficients, noises, shares = self._solved
        return ResidualMixture(
            self.num_params[self._thin],
            self.tokens[self._thin],
            self._whiten(basis @ ((shares * RATIOS) @ coefficients)),
            shares * noises * RATIOS,
            float(shares @ noises),
            None if self.trunks is None else self.trunks.where(self._thin),
        )

    @property
    def _thin(self) -> slice:
        return slice(None, None, -(-len(self.residuals) // MOST_RUNS))

    @property
    def _points(self) -> Array:
        return _plane(self.num_params[self._thin], self.tokens[self._thin])

    @property
    def noise_share(self) -> float:
        """How much of the residuals' variance is noise, that of trunks included; the process is the rest."""
        *_, noises, shares = self._solved
        noise = float(shares @ noises) * (1.0 if self.trunks is None else 1.0 + float(self.trunks.ratio.mean()))
        return noise / (noise + float((shares * noises) @ RATIOS))

    def _whiten(self, rows: Array) -> Array:
        """Rows over the runs used, (..., runs), by the covariance of their noise."""
        if self.trunks is None:
            return rows
        used = self.trunks.where(self._thin)
        return used.whiten(np.ones(rows.shape[-1]), rows)[0]

    @cached_property
    def _solved(self) -> tuple[Array, ...]:
        """The eigenbasis and eigenvalues of the correlations; for each ratio coefficients, noise and its share."""
        scaled = self._whiten((self.residuals / np.exp(EXCESS_GROWTH * self.excess))[self._thin])
        correlations = _matern(self._points, self._points)
        eigenvalues, basis = np.linalg.eigh(self._whiten(self._whiten(correlations).T))
        eigenvalues = np.maximum(eigenvalues, 0.0)
        total = 1 + RATIOS[:, None] * eigenvalues
        coefficients = scaled @ basis / total
        noises = (coefficients**2 * total).mean(axis=1) + LEAST_NOISE**2
        likelihood = LOG_PRIOR - len(scaled) / 2 * np.log(noises) - np.log(total).sum(axis=1) / 2
        shares = np.exp(likelihood - likelihood.max())
        freedom = max(len(self.residuals) - self.constants, 1.0) / len(self.residuals)
        return basis, eigenvalues, coefficients, noises / freedom, shares / shares.sum()


def _plane(num_params: Array, tokens: Array) -> Array:
    return np.stack([np.log(num_params), np.log(tokens)], axis=1) / LENGTH


def _matern(first: Array, second: Array) -> Array:
    """The Matérn correlation with ν = 5/2, smooth enough for a bend of a law, (first, second)."""
    squares = ((first[:, None] - second[None]) ** 2).sum(axis=2)
    reach = np.sqrt(5 * squares)
    return (1 + reach + reach**2 / 3) * np.exp(-reach)
