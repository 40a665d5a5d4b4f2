"""From a width, or a number of parameters, to a real decoder."""

from __future__ import annotations

import math
from bisect import bisect_left

from ..config.model import DecoderConfig
from ..errors import UserError


def shape(width: int, context: int = 128, vocab_size: int = 256) -> DecoderConfig:
    """The model of a width: heads of about 16 dimensions, an MLP of 8/3 the width, depth that grows with the width.

    Four layers up to width 128, then 4·(width/128)^0.6: 12 at width 768, 32 at 4096, as in common practice.
    """
    if width < 8 or width % 2:
        raise UserError(f"width {width}: a model's width is an even number from 8 up")
    heads = max(1, round(width / 16))
    while width % (2 * heads):
        heads -= 1
    layers = max(4, round(4 * (width / 128) ** 0.6))
    hidden = max(8, 8 * round(width / 3))
    return DecoderConfig(
        width=width, layers=layers, head_dim=width // heads, hidden=hidden, vocab_size=vocab_size, context=context
    )


def shape_near(num_params: float, context: int = 128, vocab_size: int = 256) -> DecoderConfig:
    """The shape whose number of non-embedding parameters is nearest, in the logarithm, to ``num_params``."""
    if num_params > 1e13:
        raise UserError(f"a model of {num_params:.3g} parameters is beyond what this recipe shapes (1e13)")
    count = lambda width: shape(width, context, vocab_size).num_params
    # At least four layers of 12·width²; the count grows with the width, so the answer is next to where it passes N.
    widths = range(16, 8 * int(math.sqrt(num_params / 48) / 8 + 8), 8)
    place = bisect_left(widths, num_params, key=count)
    near = widths[max(0, place - 1) : place + 1]
    return shape(min(near, key=lambda width: abs(math.log(count(width) / num_params))), context, vocab_size)
