"""The noise of a run: how far the loss of one size moves with the seed.

One configuration was trained under many seeds, which set initial weights and order of text (docs/log.md has the table).
The standard deviation does not depend on learning rate, batch, warmup, schedule, heads or depth in any way that could
be measured, and about halves with four times the parameters from 50 k parameters on. What no average would have
cured, whether a seed learns to copy, the start of a decoder takes out (:mod:`allometry.lm.induction`).
"""

from __future__ import annotations

NOISE, AT_PARAMS, EXPONENT = 0.010, 53_000.0, 0.4
MOST_NOISE = 0.012


def trunk_noise(num_params: float) -> float:
    """Standard deviation of ln L between seeds of the built-in decoder, by its non-embedding parameters."""
    return min(MOST_NOISE, NOISE * (num_params / AT_PARAMS) ** -EXPONENT)
