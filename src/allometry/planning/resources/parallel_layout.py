"""The parallel layout that fits a model on devices: the one that is expected to waste least.

Every division of the devices into tensor × pipeline × data that the model's shape allows is estimated by ``memory``; of
those that fit, the one of the least overhead is taken. The overheads are rules of thumb, and only their order matters:
a pipeline's bubble is exact; recomputation costs a third more FLOPs; tensor parallelism a few per cent for each
doubling inside a node; sharded weights are gathered in time only if a data-parallel group has about 8000 tokens a step
(BF16 weights three times over 50 GB/s, against 0.4 PFLOP/s).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from .memory import USABLE, Layout, Memory, memory
from .shapes import DecoderShape, row_tokens_of

MOST_STAGES = 64
MOST_DEVICES = 2**17
TOKENS_AT_ONCE = 16_384  # a matrix unit is full long before; more only takes memory
RECOMPUTE, TENSOR, GATHER, OTHER_BATCH = 1 / 3, 0.03, 0.1, 0.1
GROUP_TOKENS = 8192.0
MOST_BUBBLE = 0.25


def fit_layout(
    model: object, num_devices: int, batch_tokens: float, limit: float | None = None, per_node: int = 8
) -> Memory | None:
    """The memory of the best layout; of the leanest if none fits; None unless the model is a ``DecoderShape``.

    Args:
        model: the configuration.
        num_devices: devices to divide it over, all of which are used.
        batch_tokens: tokens of a step.
        limit: bytes of a device (None: not known, and everything fits).
        per_node: devices that share a fast link; tensor parallelism stays within.
    """
    if not isinstance(model, DecoderShape):
        return None
    every = [
        needed
        for layout in _layouts(model, num_devices, batch_tokens / row_tokens_of(model), per_node)
        if (needed := memory(model, layout, limit)) is not None
    ]
    fitting = [needed for needed in every if needed.fits is not False]
    if fitting:
        wanted = batch_tokens / row_tokens_of(model)
        return min(fitting, key=lambda needed: _overhead(model, needed.layout, wanted))
    return min(every, key=lambda needed: needed.total)


def advice(model: object, needed: Memory, batch_tokens: float, per_node: int = 8) -> str | None:
    """What to do if a layout does not fit, or recomputes; None if all is well."""
    layout = needed.layout
    if needed.limit is None or needed.fits:
        if layout.recompute:
            return "fits only with activations recomputed: about a third more FLOPs"
        return None
    count = layout.num_devices
    while count < MOST_DEVICES:
        count *= 2
        larger = fit_layout(model, count, batch_tokens, needed.limit, per_node)
        if larger is not None and larger.fits:
            return f"it does not fit into a device's memory; it would on {count} devices or more"
    if needed.states + needed.gathered > USABLE * needed.limit:
        return "the states of the optimiser alone do not fit into a device's memory, on however many devices"
    return "the activations of one sequence do not fit into a device's memory: shorten the context"


def _layouts(model: DecoderShape, num_devices: int, sequences: float, per_node: int) -> Iterator[Layout]:
    """Every layout that the shape and the batch allow; with too small a batch, of one sequence for each group."""
    for tensor in _divisors(math.gcd(num_devices, per_node)):
        if model.heads % tensor or (model.kv_width // model.head_dim) % tensor or model.hidden % tensor:
            continue
        for pipeline in _divisors(num_devices // tensor):
            if pipeline > min(MOST_STAGES, model.layers):
                break
            data = num_devices // tensor // pipeline
            each = max(1, round(sequences / data))
            micro = 1
            while micro <= each and (micro == 1 or micro * row_tokens_of(model) <= TOKENS_AT_ONCE):
                layout = Layout(tensor, pipeline, data, micro, max(1, round(each / micro)))
                if pipeline == 1 or layout.bubble <= MOST_BUBBLE or micro == 1:
                    yield layout
                    yield replace(layout, recompute=True)
                micro *= 2


def _overhead(model: DecoderShape, layout: Layout, wanted: float) -> tuple[float, int]:
    """About what share of the time is lost, and for equal shares the smaller micro-batch last.

    A step of more sequences than ``wanted`` is time lost; of fewer, another batch than planned.
    """
    group = layout.micro_batch * layout.accumulation * row_tokens_of(model)
    lost = layout.bubble / (1 - layout.bubble) + (RECOMPUTE if layout.recompute else 0.0)
    lost += TENSOR * math.log2(layout.tensor) + (0.02 if layout.pipeline > 1 else 0.0)
    if layout.data > 1:
        lost += GATHER * max(0.0, math.log2(GROUP_TOKENS / group))
    excess = layout.sequences / wanted
    lost += max(0.0, excess - 1) + OTHER_BATCH * abs(math.log(excess))
    return lost, -layout.micro_batch


def _divisors(number: int) -> list[int]:
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})
