"""When is a training lost? Its loss is not finite, or it has risen far above where it was and stays there.

Losses of single steps jump, and a spike that heals in some tens of steps does little harm (PaLM, arXiv 2204.02311,
§ 5.1, restarted from before those that did not). So it is the smoothed loss that is watched, against the least that it
has been. Where batches differ as silence differs from speech, the smoothed loss rises and falls by itself: such a rise
says nothing.
"""

from __future__ import annotations

import math

import torch

from ... import nn
from ...nn.own_modules import has_ours
from ...tasks.contract import Batch

SMOOTHING = 0.05  # the training loss is watched, and shown, as an average over about 1/SMOOTHING steps
SPIKE_NATS = 0.5  # a rise that undoes a factor of ten to a hundred in compute, at the slopes of fitted laws
SPIKE_STEPS = 200  # ten times the smoothing
NOISE_SHARE = 0.01  # of a step, in what is known of the noise
SPIKE_NOISE = 9.0  # standard deviations of the smoothed loss: more than lies between its least and its most by chance


class Spikes:
    """Watches a smoothed training loss, step by step."""

    def __init__(self) -> None:
        self.least, self.since = math.inf, -1
        self.last: float | None = None
        self.noise = 0.0  # variance of the loss of one step, from the differences of consecutive ones

    def see(self, step: int, smooth: float, loss: float) -> bool:
        """Whether the smoothed loss has been :attr:`rise` above its least for :data:`SPIKE_STEPS` steps."""
        if self.last is not None:
            self.noise += max(NOISE_SHARE, 1 / step) * ((loss - self.last) ** 2 / 2 - self.noise)
        self.last, self.least = loss, min(self.least, smooth)
        if smooth <= self.least + self.rise:
            self.since = -1
        elif self.since < 0:
            self.since = step
        return self.up and step - self.since >= SPIKE_STEPS

    @property
    def rise(self) -> float:
        """Nats above the least that are too many: :data:`SPIKE_NATS`, or more where the loss is as noisy as that."""
        return max(SPIKE_NATS, SPIKE_NOISE * math.sqrt(self.noise * SMOOTHING / (2 - SMOOTHING)))

    @property
    def up(self) -> bool:
        """Whether the loss stands that high now: a run that ends so has diverged, however short the time."""
        return self.since >= 0

    def state(self) -> list[float] | None:
        """A copy, as JSON; None at the beginning."""
        return None if self.last is None else [self.least, self.since, self.last, self.noise]

    def restore(self, state: list[float] | None) -> None:
        self.least, self.since, self.last, self.noise = state or (math.inf, -1, None, 0.0)


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
