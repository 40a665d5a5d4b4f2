"""The memory that a training takes on each device: an estimate whose formula can be checked by hand.

- States: 16 bytes a parameter for AdamW in mixed precision (weights and gradients in BF16, weights and two moments in
  FP32: 2 + 2 + 4 + 4 + 4; arXiv 1910.02054). Tensor parallelism divides every matrix, pipeline parallelism the layers;
  what is left is sharded over the data-parallel devices (FSDP, ZeRO-3).
- Gathered: sharded weights are collected for the layer at work and the one after, and a layer's gradient stands whole
  before it is scattered: three times 2 bytes a parameter of the largest layer (or table), with more than one shard.
- Activations of a micro-batch, attention fused: 14·width + 4·(width of keys) + 8·hidden bytes a token and layer (a
  block keeps in BF16 its two inputs and their norms, q, k, v, the mixed values and the projection's input, four hidden
  vectors of the gated MLP), and 8·vocabulary bytes a token for FP32 logits and their gradient. Tensor parallelism with
  sequence parallelism divides them (arXiv 2205.05198); of p pipeline stages the first keeps p micro-batches.
- Recomputed: 2·width bytes a token and layer, and one complete layer, at about a third more FLOPs (arXiv 2205.05198).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...quantities import format_bytes, plural
from .shapes import DecoderShape

BYTES_PER_PARAM = 16.0
# The rest is for the runtime, its buffers and fragmentation, which the formula does not contain.
USABLE = 0.9


@dataclass(frozen=True)
class Layout:
    """How a training is divided over devices: ``tensor`` × ``pipeline`` × ``data`` of them.

    ``micro_batch`` sequences go through at once, ``accumulation`` micro-batches of each data-parallel group make a
    step. ``recompute``: the backward pass computes the activations again.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    micro_batch: int = 1
    accumulation: int = 1
    recompute: bool = False

    @property
    def num_devices(self) -> int:
        """All devices."""
        return self.tensor * self.pipeline * self.data

    @property
    def sequences(self) -> int:
        """Sequences of one step."""
        return self.data * self.micro_batch * self.accumulation

    @property
    def bubble(self) -> float:
        """Share of the time in which a pipeline stage waits: (p − 1)/(m + p − 1) (arXiv 2104.04473)."""
        return (self.pipeline - 1) / (self.accumulation + self.pipeline - 1)

    def describe(self) -> str:
        """One line: ``tensor 8 × pipeline 4 × data 16 (FSDP), 2 sequences at a time, 8 times a step``."""
        parts = [
            f"{word} {value}"
            for word, value in (("tensor", self.tensor), ("pipeline", self.pipeline), ("data", self.data))
            if value > 1 or word == "data"
        ]
        sharded = " (FSDP)" if self.data > 1 else ""
        steps = f", {plural(self.micro_batch, 'sequence')} at a time, {plural(self.accumulation, 'time')} a step"
        recomputed = ", activations recomputed" if self.recompute else ""
        bubble = f", {self.bubble:.0%} of the time waits for the pipeline" if self.pipeline > 1 else ""
        return f"{' × '.join(parts)}{sharded}{steps}{recomputed}{bubble}"


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest device of a ``layout``; ``limit`` is the memory of a device (None: not known).

    ``states`` of parameters and optimiser, layers ``gathered`` at work, ``activations`` of the micro-batches in flight.
    """

    states: float
    gathered: float
    activations: float
    layout: Layout
    limit: float | None

    @property
    def total(self) -> float:
        """All of it."""
        return self.states + self.gathered + self.activations

    @property
    def fits(self) -> bool | None:
        """Whether the total is within 90 % of the device's memory; None if that is not known."""
        return None if self.limit is None else self.total <= USABLE * self.limit

    def describe(self) -> str:
        """The total and its parts, in words."""
        where = "on one device" if self.layout.num_devices == 1 else "a device"
        gathered = f", layers at work {format_bytes(self.gathered)}" if self.gathered else ""
        text = (
            f"{format_bytes(self.total)} {where}: states {format_bytes(self.states)}{gathered}, activations "
            f"{format_bytes(self.activations)}"
        )
        return text if self.limit is None else f"{text}; it has {format_bytes(self.limit)}"

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Memory:
        """The estimate that ``to_json`` wrote."""
        values: dict[str, Any] = {**record, "layout": Layout(**record["layout"])}
        return cls(**values)


def memory(model: object, layout: Layout = Layout(), limit: float | None = None) -> Memory | None:
    """The estimate for a configuration; None unless it is a ``DecoderShape``.

    Args:
        model: the configuration.
        layout: how it is divided; one device by default.
        limit: bytes of a device.
    """
    if not isinstance(model, DecoderShape):
        return None
    tensor, stages = layout.tensor, layout.pipeline
    table = model.vocab_size * model.width
    per_layer = model.num_params / model.layers
    layers = -(-model.layers // stages)
    tables = model.num_params_total - model.num_params
    params = (layers * per_layer + (tables if stages == 1 else table)) / tensor
    gathered = 3 * 2 * max(per_layer, table) / tensor if layout.data > 1 else 0.0
    return Memory(BYTES_PER_PARAM * params / layout.data, gathered, _activations(model, layout, layers), layout, limit)


def _activations(model: DecoderShape, layout: Layout, layers: int) -> float:
    """Bytes of the activations on the fullest device, ``layers`` of which it holds."""
    tokens = layout.micro_batch * model.context / layout.tensor
    layer = 14 * model.width + 4 * model.kv_width + 8 * model.hidden
    kept = 2 * model.width * layers + layer if layout.recompute else layers * layer
    in_flight = min(layout.pipeline, layout.accumulation)
    logits = 8 * model.vocab_size
    if layout.pipeline == 1:
        return float(tokens * (kept + logits))
    return float(tokens * max(in_flight * kept, kept + logits))
