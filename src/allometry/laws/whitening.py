"""Runs that branch from one trunk share its noise: whitening by their covariance, in closed form.

Runs of different length that leave one trunk (one model, one seed, one order of text) share what luck that trunk had.
The noise of ln L is t + e: t is the trunk's and the same in all its runs, e is a run's own and independent. The inverse
root of that covariance subtracts from every run a share of the weighted mean of its trunk, so that a fit by least
squares of what is left is the fit by the covariance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

Array = np.ndarray
NEVER = 1e-9  # stands for no time at all where a resample has left a trunk out


@dataclass(frozen=True, eq=False)
class Trunks:
    """Which runs share a trunk, and how large its noise is beside theirs.

    Attributes:
        code: trunk of each run, 0, 1, 2 …, all of them present, (runs,).
        ratio: variance of t over that of e in a run of weight 1, (trunks,) or (batch, trunks).
    """

    code: Array
    ratio: Array

    @property
    def count(self) -> int:
        """How many trunks there are."""
        return len(self._first)

    @cached_property
    def _order(self) -> Array:
        return np.argsort(self.code, kind="stable")

    @cached_property
    def _first(self) -> Array:
        return np.searchsorted(self.code[self._order], np.arange(self.code.max() + 1))

    def sums(self, x: Array) -> Array:
        """The sum over each trunk, (..., runs) → (..., trunks)."""
        return np.add.reduceat(x[..., self._order], self._first, axis=-1)

    def of(self, rows: Array | slice) -> Trunks:
        """For some rows of a batch."""
        return self if self.ratio.ndim == 1 else replace(self, ratio=self.ratio[rows])

    def where(self, mask: Array | slice) -> Trunks:
        """For some of the runs."""
        left, code = np.unique(self.code[mask], return_inverse=True)
        return Trunks(code, self.ratio[..., left])

    def drawn(self, times: Array) -> Trunks:
        """For resamples in which a trunk comes so many times, (batch, trunks), and weights are multiplied by that."""
        return replace(self, ratio=self.ratio / np.maximum(times, NEVER))

    def whiten(self, weights: Array, *arrays: Array) -> list[Array]:
        """Each array less a share of its trunk's mean, so that Σ w·x² is the sum of squares by the covariance.

        Args:
            weights: (runs,) or (batch, runs).
            arrays: of the shape of the weights, or with one axis more before the last.
        """
        total, share = self._shares(weights)
        return [self._less(x, *self._beside(x, weights, total, share)) for x in arrays]

    def colour(self, weights: Array, noise: Array) -> Array:
        """The inverse of ``whiten``: independent noise over √w, (..., runs), becomes noise with the covariance."""
        total, share = self._shares(weights)
        return self._less(noise, *self._beside(noise, weights, total, -share / (1 - share)))

    def log_determinant(self, weights: Array) -> Array:
        """ln of the covariance's determinant over that of the runs' own noise."""
        return np.log1p(self.ratio * self.sums(weights)).sum(axis=-1)

    def _shares(self, weights: Array) -> tuple[Array, Array]:
        total = self.sums(weights)
        return total, 1 - 1 / np.sqrt(1 + self.ratio * total)

    @staticmethod
    def _beside(x: Array, *arrays: Array) -> list[Array]:
        """The arrays with axes of one where ``x`` has one more."""
        return [one if one.ndim == x.ndim or one.ndim == 1 else one[..., None, :] for one in arrays]

    def _less(self, x: Array, weights: Array, total: Array, share: Array) -> Array:
        mean = self.sums(weights * x) / np.maximum(total, 1e-300)
        return x - (share * mean)[..., self.code]
