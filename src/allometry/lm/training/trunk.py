"""A training under way, step by step: the one place where weights move.

Everything the next step depends on can be captured and put back, so a trunk can be left for a branch and gone on with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.utils.checkpoint
from torch import Tensor

from ... import nn
from ...config.run import RunConfig
from ...data.corpus import Corpus
from ...runs.cost import EVAL_TOKENS, MEMORY_SHARE, PROCESS_BYTES, memory_bytes, memory_share, most_sequences
from .. import checkpoint
from .. import device as devices
from ..batches import Windows
from ..decoder import LanguageModel, build

CURVE_POINTS = 200
SMOOTHING = 0.05  # the training loss is shown as an average over about 1/SMOOTHING steps


class Diverged(Exception):
    """The training loss is no longer finite."""


class Trunk:
    """A training under way: model, optimiser, place in the text, and what it cost so far."""

    def __init__(self, config: RunConfig, corpus: Corpus):
        train = config.train
        self.config = config
        self.device = devices.mine()
        self.model = build(config.model, train.seed, train.precision, train.compile).to(self.device)
        self.optimizer = nn.AdamW(
            self.model, train.lr, betas=(train.beta1, train.beta2), weight_decay=train.weight_decay
        )
        # What a step holds at once changes rounding only, so it is no part of the run's identity; records tell it.
        memory = _memory(self.device)
        self.most_sequences = most_sequences(config, memory)
        self.recomputes = memory_bytes(config, 1) > memory
        if self.recomputes:
            recompute(self.model)
        self.windows = Windows(corpus.train, config.model.context, train.seed)
        self.curve_every = max(1, config.schedule.steps // CURVE_POINTS)
        self.step = 0
        self.smooth: float | None = None
        self.curve: list[list[float]] = []
        self.seconds = 0.0

    def advance(self, config: RunConfig, until: int, after_step: Callable[[], None]) -> None:
        """Train on to step ``until`` along the schedule of ``config``.

        Raises:
            Diverged: the loss is not finite.
        """
        schedule = config.schedule
        while self.step < until:
            begin = time.perf_counter()
            self.optimizer.set_schedule(schedule.lr_factor_at(self.step))
            batch = self.windows.batch(*schedule.batch_at(self.step))
            value = self._backward(*(devices.put(side, self.device) for side in batch))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.smooth = value if self.smooth is None else self.smooth + SMOOTHING * (value - self.smooth)
            self.seconds += time.perf_counter() - begin
            if not math.isfinite(value):
                raise Diverged
            if self.step % self.curve_every == 0 or self.step == until:
                self.curve.append([schedule.tokens_before(self.step), round(self.smooth, 5)])
            after_step()

    def cut(self) -> dict[str, int | bool]:
        """What was done for want of memory: pieces of the largest batch, activations computed twice."""
        parts = self.config.schedule.stages[-1].batch // self.most_sequences
        pieces = {"pieces_of_a_batch": parts} if parts > 1 else {}
        return pieces | ({"activations_recomputed": True} if self.recomputes else {})

    def _backward(self, tokens: Tensor, targets: Tensor) -> float:
        """The loss of a batch, and its gradients: of one backward pass, or of equal pieces that fit the memory."""
        parts = max(1, len(tokens) // self.most_sequences)
        value = 0.0
        with nn.accumulation(parts):
            for piece in zip(tokens.chunk(parts), targets.chunk(parts), strict=True):
                loss = self.model.loss(*piece)
                loss.backward()
                value += loss.item() / parts
        return value

    def capture(self) -> tuple[dict[str, Tensor], dict]:
        """A copy of all that the next step depends on: tensors by name, and a JSON value."""
        meta = {"step": self.step, "smooth": self.smooth, "curve": [*self.curve], "seconds": self.seconds}
        return checkpoint.capture(self.model, self.optimizer), meta

    def restore(self, tensors: dict[str, Tensor], meta: dict) -> None:
        """Go back to a captured state."""
        checkpoint.restore(self.model, self.optimizer, tensors)
        self.step, self.smooth, self.curve, self.seconds = (
            meta["step"],
            meta["smooth"],
            [*meta["curve"]],
            meta["seconds"],
        )


def _memory(device: torch.device) -> float:
    """Bytes for a training: of a device's own memory, or this process's share of the machine's."""
    if device.type == "cuda":
        return MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory
    return memory_share() - PROCESS_BYTES


def recompute(model: LanguageModel) -> None:
    """Let ``model`` keep the inputs of its blocks only, and compute what is within again in the backward pass."""
    model.step = None  # compiled kernels keep all
    for block in model.stack.blocks:
        block.forward = partial(torch.utils.checkpoint.checkpoint, block.forward, use_reentrant=False)


def evaluate(model: LanguageModel, windows: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Mean loss over held-out windows, in nats a token, and its standard error over windows."""
    device = model.readout.weight.device
    batches = zip(*(part.split(max(1, EVAL_TOKENS // part.shape[1])) for part in windows), strict=True)
    losses = [model.token_losses(*(devices.put(side, device) for side in batch)).mean(1) for batch in batches]
    per_window = torch.cat(losses).double()
    return per_window.mean().item(), per_window.std(correction=0).item() / math.sqrt(len(per_window))
