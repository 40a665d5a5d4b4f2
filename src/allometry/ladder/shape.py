"""From a width, or a number of parameters, to a real decoder."""

from __future__ import annotations

import math
from bisect import bisect_left

from ..config.model import GATED, DecoderConfig, DecoderOptions
from ..errors import UserError

PLAIN = DecoderOptions()
BYTES = 256  # the largest vocabulary whose tokens heads of 16 dimensions tell apart


def shape(width: int, context: int = 128, vocab_size: int = 256, options: DecoderOptions = PLAIN) -> DecoderConfig:
    """The model of a width: heads of about 16 dimensions, an MLP of 3 times the width, depth that grows with the width.

    With a vocabulary beyond bytes heads have 32 dimensions or more: to copy, a head must tell tokens apart, and models
    of 1024 subwords end 8 % lower so (docs/log.md). Four layers up to width 128, then 4·(width/128)^0.6: 12 at width
    768, 32 at 4096, as in common practice. ``options`` may say otherwise: an MLP without a gate is 4 times as wide as
    the model, a Llama's 8/3, to a multiple of 8.

    Raises:
        UserError: the width is odd, or the options do not fit it.
    """
    if width < 8 or width % 2:
        raise UserError(f"width {width}: a model's width is an even number from 8 up")
    heads = _heads(width, vocab_size, options)
    layers = options.layers or max(4, round(4 * (width / 128) ** 0.6))
    if options.width_per_layer is not None:
        layers = max(1, round(width / options.width_per_layer))
    fields = options.fields
    usual = 8 / 3 if options.preset == "llama" else 3
    ratio = options.hidden_per_width or (usual if fields["activation"] in GATED else 4)
    hidden = max(8, 8 * round(width * ratio / 8))
    return DecoderConfig(
        width=width,
        layers=layers,
        head_dim=width // heads,
        hidden=hidden,
        vocab_size=vocab_size,
        context=context,
        kv_heads=None if options.queries_per_kv == 1 else heads // options.queries_per_kv,
        **fields,
    )


def _heads(width: int, vocab_size: int, options: DecoderOptions) -> int:
    """The number of heads of queries nearest to the wish that the width and the groups of queries allow."""
    group = options.queries_per_kv
    if options.head_dim is not None:
        heads = width // options.head_dim
        if width % options.head_dim or heads % group:
            wanted = f"heads of {options.head_dim}" + (f" in groups of {group}" if group > 1 else "")
            raise UserError(f"width {width}: no whole {wanted}; give multiples of {_whole(options)}")
        return heads
    wished = round(width / 16 / group) if vocab_size <= BYTES else width // (32 * group)
    heads = group * max(1, wished)
    while heads > group and width % (2 * heads):
        heads -= group
    if width % (2 * heads):
        raise UserError(f"width {width}: no {group} heads of an even size; give multiples of {_whole(options)}")
    return heads


def shape_near(
    num_params: float, context: int = 128, vocab_size: int = 256, options: DecoderOptions = PLAIN
) -> DecoderConfig:
    """The shape whose number of non-embedding parameters is nearest, in the logarithm, to ``num_params``."""
    if num_params > 1e13:
        raise UserError(f"a model of {num_params:.3g} parameters is beyond what this recipe shapes (1e13)")
    count = lambda width: shape(width, context, vocab_size, options).num_params
    # The count grows with the width, so the answer is next to where it passes N; the widths double until one passes.
    step = math.lcm(8, _whole(options))
    most = step
    while count(most) < num_params:
        most *= 2
    widths = range(max(16, step), most + 2 * step, step)
    place = bisect_left(widths, num_params, key=count)
    near = widths[max(0, place - 1) : place + 1]
    best = min(near, key=lambda width: abs(math.log(count(width) / num_params)))
    return shape(best, context, vocab_size, options)


def least_width(options: DecoderOptions, width: int) -> int:
    """The least width from ``width`` up that divides into whole heads and groups of them."""
    return math.ceil(width / _whole(options)) * _whole(options)


def _whole(options: DecoderOptions) -> int:
    """Features of one head of keys with all its queries: a width is a multiple of them."""
    return (options.head_dim or 2) * options.queries_per_kv
