"""What is known of a law's constants before a fit: each such constant counts as one more residual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

Array = np.ndarray
STEP = 1e-5


@dataclass(frozen=True, eq=False)
class Prior:
    """½·Σ weight·(constant − mean)² beside the sum over runs.

    Attributes:
        values: θ (..., constants) → the constants in the formula's letters.
        places: which of the constants are known before.
        mean: their means, (places,) or (batch, places).
        sd: their standard deviations, (places,).
        weight: the variance of a run of weight 1 over that of the constant, (places,).
    """

    values: Callable[[Array], Array]
    places: Array
    mean: Array
    sd: Array
    weight: Array

    def drawn(self, draws: int, generator: np.random.Generator) -> Prior:
        """For refits: the mean itself is drawn anew, as new noise is for the runs."""
        return replace(self, mean=self.mean + self.sd * generator.standard_normal((draws, len(self.places))))

    def evaluate(self, theta: Array, rows: Array | slice = slice(None)) -> tuple[Array, Array, Array]:
        """Value (batch,), gradient (batch, P) and Gauss–Newton matrix (batch, P, P) at θ."""
        mean = self.mean if self.mean.ndim == 1 else self.mean[rows]
        steps = STEP * np.eye(theta.shape[-1])
        up, down = (self.values(theta[:, None] + sign * steps)[..., self.places] for sign in (1, -1))
        jacobian = (up - down) / (2 * STEP)  # (batch, P, places)
        residual = self.values(theta)[..., self.places] - mean
        gradient = (jacobian @ (self.weight * residual)[..., None])[..., 0]
        return (
            (self.weight * residual**2).sum(axis=-1) / 2,
            gradient,
            (jacobian * self.weight) @ jacobian.swapaxes(1, 2),
        )
