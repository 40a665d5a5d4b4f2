"""The noise of a run: how far the loss of one size moves with the seed.

One configuration was trained under many seeds, which set initial weights and order of text (docs/log.md has the table).
The standard deviation does not depend on learning rate, batch, warmup, schedule, heads or depth in any way that could
be measured, and hardly on the size or the length: decoders that start able to copy (:mod:`allometry.lm.induction`)
scatter by 0.8 % at widths 16 and 32, and by somewhat less above (``benchmarks/seed_noise.py --wired``).
"""

from __future__ import annotations

NOISE, AT_PARAMS, EXPONENT = 0.008, 53_000.0, 0.2


def trunk_noise(num_params: float) -> float:
    """Standard deviation of ln L between seeds of the built-in decoder, by its non-embedding parameters."""
    return NOISE * max(num_params / AT_PARAMS, 1.0) ** -EXPONENT
