"""The gradient noise scale: the batch size at which a gradient's noise equals its size, from two measured norms."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError
from .formula import require_positive


@dataclass(frozen=True)
class GradientNoise:
    """Squared size of the true gradient, trace of the noise of one token, and their quotient (a batch in tokens)."""

    gradient_squared: float
    noise: float
    batch: float


def gradient_noise(small_batch: float, small_norm: float, big_batch: float, big_norm: float) -> GradientNoise:
    """The noise scale B_noise = S/G² from mean squared gradient norms at two batch sizes.

    G² = (B·g_B² − b·g_b²)/(B − b) and S = (g_b² − g_B²)/(1/b − 1/B); arXiv 1812.06162, appendix A.

    Args:
        small_batch: tokens (or any unit; the answer has the same) of the smaller batch.
        small_norm: mean over batches of the squared gradient norm there.
        big_batch: the larger batch.
        big_norm: mean squared norm there.

    Raises:
        UserError: the batches are not in order, or the norms do not fall with the batch as noise does.
    """
    require_positive(small_batch=small_batch, small_norm=small_norm, big_batch=big_batch, big_norm=big_norm)
    if not small_batch < big_batch:
        raise UserError(f"the small batch ({small_batch:g}) must be smaller than the big one ({big_batch:g})")
    gradient = (big_batch * big_norm - small_batch * small_norm) / (big_batch - small_batch)
    noise = (small_norm - big_norm) / (1 / small_batch - 1 / big_batch)
    if gradient <= 0 or noise <= 0:
        raise UserError(
            "these norms give no noise scale: the squared norm must fall with the batch, but more slowly than 1/B; "
            "average over more batches"
        )
    return GradientNoise(gradient, noise, noise / gradient)
