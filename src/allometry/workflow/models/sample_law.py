"""The law of fine-tuning: held-out loss against the number of samples, L(D) = E + A·D^−β.

Source: arXiv 2402.02314, whose law has a second constant for what pretraining is worth in samples; from a handful of
counts that one is not determined, and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST, MOST = 0.05, 2.0  # of the exponent


@dataclass(frozen=True)
class SampleLaw:
    """L(D) = floor + factor·D^−exponent, its rms residual (relative), and refits that each leave one count out."""

    floor: float
    factor: float
    exponent: float
    rms: float
    refits: tuple[tuple[float, float, float], ...]

    def predict(self, samples: float) -> tuple[float, float, float]:
        """The loss after so many samples, and the range over the refits."""
        values = [_loss(constants, samples) for constants in self.refits]
        value = _loss((self.floor, self.factor, self.exponent), samples)
        return value, min([*values, value]), max([*values, value])

    def samples_for(self, loss: float) -> tuple[float, float, float]:
        """The samples that a loss needs, and the range over the refits; infinite where the law never gets there."""
        counts = [_count(constants, loss) for constants in self.refits]
        value = _count((self.floor, self.factor, self.exponent), loss)
        return value, min([*counts, value]), max([*counts, value])

    def to_json(self) -> dict[str, Any]:
        return {"E": self.floor, "A": self.factor, "beta": self.exponent, "rms": self.rms}


def fit_sample_law(points: Sequence[tuple[float, float]]) -> SampleLaw:
    """The law by least squares of relative errors, over pairs (samples, loss); three at least.

    Given β the rest is linear, and neither E nor A is negative; β is searched from 0.05 to 2.
    """
    constants, rms = _fit(points)
    refits = [_fit([*points[:i], *points[i + 1 :]])[0] for i in range(len(points))] if len(points) > 3 else []
    return SampleLaw(*constants, rms, tuple(refits))


def _fit(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float, float], float]:
    from scipy.optimize import minimize_scalar, nnls

    samples, losses = np.array(points, dtype=float).T

    def solve(exponent: float) -> tuple[np.ndarray, float]:
        design = np.stack((np.ones_like(samples), samples**-exponent), 1) / losses[:, None]
        return nnls(design, np.ones_like(losses))

    grid = np.linspace(LEAST, MOST, 40)
    best = int(np.argmin([solve(exponent)[1] for exponent in grid]))
    ends = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    search: Any = minimize_scalar(lambda value: solve(value)[1], bounds=ends, method="bounded")
    exponent = float(search.x)
    (floor, factor), residual = solve(exponent)
    return (float(floor), float(factor), exponent), float(residual) / math.sqrt(len(points))


def _loss(constants: tuple[float, float, float], samples: float) -> float:
    floor, factor, exponent = constants
    return floor + factor * samples**-exponent


def _count(constants: tuple[float, float, float], loss: float) -> float:
    floor, factor, exponent = constants
    return math.inf if loss <= floor else (factor / (loss - floor)) ** (1 / exponent)
