"""The memory that a training takes on each device: an estimate whose formula can be checked by hand.

- States: 16 bytes a parameter for AdamW in mixed precision (weights and gradients in BF16, weights and two moments in
  FP32: 2 + 2 + 4 + 4 + 4; arXiv 1910.02054), divided over the devices, as in fully sharded training.
- Activations of one sequence a device, attention fused: 18·width + 8·hidden bytes a token and layer (a block keeps in
  BF16 its two inputs and their norms, q, k, v, the mixed values and the projection's input, four hidden vectors of the
  gated MLP), and 8·vocabulary bytes a token for FP32 logits and their gradient.
- Recomputed: 2·width bytes a token and layer, and one complete layer, at about a third more FLOPs (arXiv 2205.05198).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .shapes import DecoderShape

BYTES_PER_PARAM = 16.0
# The rest is for the runtime, its buffers and fragmentation, which the formula does not contain.
USABLE = 0.9


@dataclass(frozen=True)
class Memory:
    """Bytes on each of ``num_devices`` devices; ``limit`` is the memory of a device (None: not known).

    ``activations`` are those of one sequence, ``recomputed`` those if the backward pass recomputes each layer.
    """

    states: float
    activations: float
    recomputed: float
    num_devices: int
    limit: float | None

    @property
    def total(self) -> float:
        """States and the activations of one sequence."""
        return self.states + self.activations

    @property
    def fits(self) -> bool | None:
        """Whether the total is within 90 % of the device's memory; None if that is not known."""
        return None if self.limit is None else self.total <= USABLE * self.limit

    @property
    def fits_recomputed(self) -> bool | None:
        """The same with activations recomputed."""
        return None if self.limit is None else self.states + self.recomputed <= USABLE * self.limit

    def note(self) -> str | None:
        """What to do if it does not fit; None if it fits or the limit is not known."""
        if self.limit is None or self.fits:
            return None
        if self.fits_recomputed:
            return "a sequence fits into a device's memory only with activations recomputed: about a third more FLOPs"
        room = USABLE * self.limit - self.recomputed
        if room <= 0:
            return "the activations of one sequence do not fit into a device's memory: shorten the context"
        least = -(-self.states * self.num_devices // room)
        return f"does not fit into a device's memory: it would if sharded over {least:.0f} devices or more"

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        return asdict(self)


def memory(model: object, num_devices: int = 1, limit: float | None = None) -> Memory | None:
    """The estimate for a configuration; None unless it is a ``DecoderShape``.

    Args:
        model: the configuration.
        num_devices: devices that share the states.
        limit: bytes of a device.
    """
    if not isinstance(model, DecoderShape):
        return None
    layer = 18 * model.width + 8 * model.hidden
    ends = 8 * model.vocab_size
    return Memory(
        states=BYTES_PER_PARAM * model.num_params_total / num_devices,
        activations=float(model.context * (model.layers * layer + ends)),
        recomputed=float(model.context * (2 * model.width * model.layers + layer + ends)),
        num_devices=num_devices,
        limit=limit,
    )
