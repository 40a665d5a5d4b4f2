"""When is a training lost? Its loss is not finite, or it has risen far above where it was and stays there.

Losses of single steps jump, and a spike that heals in some tens of steps does little harm (PaLM, arXiv 2204.02311,
§ 5.1, restarted from before those that did not). So it is the smoothed loss that is watched (:data:`.meter.SMOOTHING`,
about twenty steps), against the least that it has been.
"""

from __future__ import annotations

import math

import torch

from ... import nn
from ...nn.own_modules import has_ours
from ...tasks.contract import Batch

SPIKE_NATS = 0.5  # a rise that undoes a factor of ten to a hundred in compute, at the slopes of fitted laws
SPIKE_STEPS = 200  # ten times the smoothing


class Spikes:
    """Watches a smoothed training loss, step by step."""

    def __init__(self) -> None:
        self.least, self.since = math.inf, -1

    def see(self, step: int, smooth: float) -> bool:
        """Whether the loss has been :data:`SPIKE_NATS` above its least for :data:`SPIKE_STEPS` steps."""
        self.least = min(self.least, smooth)
        if smooth <= self.least + SPIKE_NATS:
            self.since = -1
        elif self.since < 0:
            self.since = step
        return self.up and step - self.since >= SPIKE_STEPS

    @property
    def up(self) -> bool:
        """Whether the loss stands that high now: a run that ends so has diverged, however short the time."""
        return self.since >= 0

    def state(self) -> list[float] | None:
        """A copy, as JSON; None at the beginning."""
        return [self.least, self.since] if math.isfinite(self.least) else None

    def restore(self, state: list[float] | None) -> None:
        self.least, self.since = state or (math.inf, -1)


ROWS = 4  # enough to judge scales by, and cheap beside a training


def scale_warning(model: torch.nn.Module, batch: Batch) -> str | None:
    """A line on the tensors whose scale is not healthy, by one step's forward and backward; None if all are.

    The model is left as it was. See :func:`allometry.nn.checks.audit`. A model without layers of ours is not meant to
    have unit scale, so none is looked for.
    """
    if not has_ours(model):
        return None
    audit = nn.audit(model, tuple(part[:ROWS] for part in batch))
    if audit.ok:
        return None
    first, more = audit.failures[0], len(audit.failures) - 1
    return (
        f"audit of scales: {first.name} ({first.kind}) {first.verdict}, rms {first.rms:.3g}"
        + (f", and {more} more tensors" if more else "")
        + "; `allometry audit STUDY/RUN` shows them all"
    )
