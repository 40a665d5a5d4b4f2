"""A ladder of sample counts from one trunk: the loss after 200, 400, 800 … samples at little more than the longest.

The trunk reads the samples once, at a constant rate. For each count the trunk's state at four fifths of it is kept, and
a branch goes on from there while its rate falls to zero; the branch is what is scored. So every count is a whole
training, and all of them share the trunk. A trunk that was interrupted goes on from the newest branch that was saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import nn as unit
from ...errors import UserError
from ...nn.precision import formats
from ...runs import saved_states
from .. import checkpoint
from .examples import Example, batch_of

DECAY = 0.2  # the share of a count over which the rate falls to zero
RULES = ("none", "absmax", "rms")
EVALUATED_ROWS = 8
PIECE_LOGITS = 1 << 25  # of a piece of a batch; training keeps about five tensors of that size


@dataclass(frozen=True)
class FineTuning:
    """How a model is fine-tuned: AdamW at ``lr`` on batches of ``batch`` samples, up to each of the ``counts``.

    ``rule`` scales the operands of its products ("absmax", "rms", or "none"), which are then cast to ``format`` if one
    is given ("fp8", "bf16", …), in simulation. The ladder ends early after ``patience`` counts in a row whose held-out
    loss is not below the best; 0: never.

    Raises:
        UserError: a value out of its range.
    """

    counts: tuple[int, ...]
    lr: float = 1e-4
    batch: int = 8
    rule: str = "absmax"
    format: str | None = None
    patience: int = 2
    seed: int = 0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < self.batch or list(self.counts) != sorted(set(self.counts)):
            raise UserError(f"--samples {self.counts}: give counts that grow, each at least a batch of {self.batch}")
        if not (0 < self.lr < math.inf) or self.batch < 1 or self.patience < 0 or not 0 <= self.weight_decay < math.inf:
            raise UserError("--lr must be a finite number above zero, --batch at least 1, --patience at least 0")
        if self.rule not in RULES:
            raise UserError(f"--rule {self.rule}: unknown; there are {', '.join(RULES)}")
        if self.format is not None:
            if self.rule == "none":
                raise UserError('--format: needs --rule "absmax" or "rms", by which operands are brought into range')
            try:
                formats.by_name(self.format)
            except ValueError as error:
                raise UserError(f"--format: {str(error).removeprefix('name: ')}") from None


@dataclass(frozen=True)
class ExampleScore:
    """The held-out loss in nats a token of the completions, or a text with a label; its error over ``examples``.

    ``accuracy`` is the share of the labels that were named rightly; None where there are none.
    """

    loss: float
    loss_se: float
    accuracy: float | None = None
    examples: int = 0


@dataclass(frozen=True)
class CountResult:
    """The training of one count: what came of it on held-out examples, and the tokens that were read for it.

    Those of the trunk that were read before, for shorter counts or before an interruption, are not among ``tokens``.
    """

    count: int
    held_out: ExampleScore
    train_loss: float
    tokens: int


@dataclass
class SampleLadder:
    """Trains the counts of a :class:`FineTuning` on a model of transformers, or any with the like output ``logits``.

    Those are of every token, (rows, length, vocabulary), or for texts with a label (rows, labels). ``pad`` fills up
    the shorter of a batch.
    """

    model: nn.Module
    train: Sequence[Example]
    held_out: Sequence[Example]
    options: FineTuning
    should_stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda text: None
    pad: int = 0
    optimizer: Any = field(init=False)

    def __post_init__(self) -> None:
        if self.options.counts[-1] > len(self.train):
            raise UserError(
                f"--samples {self.options.counts[-1]}: there are {len(self.train)} examples to train on; give fewer"
            )
        self.model.eval()  # fine-tuning of these sizes is done without dropout; the scales are measured so too
        if self.options.rule != "none":
            example = [_inputs(batch_of(self.train[: self.options.batch], self.pad))]
            form = None if self.options.format is None else formats.by_name(self.options.format)
            unit.scale_model(self.model, example, self.options.rule, inplace=True, format=form)
        groups = unit.finetune_groups(self.model, self.options.lr, weight_decay=self.options.weight_decay)
        self.optimizer = torch.optim.AdamW(groups)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    @property
    def threads(self) -> int:
        """The threads that PyTorch computes with."""
        return torch.get_num_threads()

    def tokens_of(self, count: int) -> int:
        """The tokens in the first ``count`` samples."""
        return sum(len(example.tokens) for example in self.train[:count])

    def branches(self, folder: Path, done: Collection[int] = ()) -> Iterator[CountResult]:
        """The counts that are not ``done``, one after another; states are kept in ``folder``.

        After each of them the model holds the weights of that branch, until the next is asked for.

        Raises:
            UserError: the loss is not finite, or the trunk's state is gone from ``folder``.
        """
        missing = [count for count in self.options.counts if count not in done]
        if not missing:
            return
        first, _ = self._leaves(missing[0])
        # Later states are of counts that were dropped since: no count begins there, and the oldest state gives way.
        saved_states.delete(folder, checkpoint.name_of(first))
        step = self._resume(folder, first) or 0
        for count in missing:
            begun = step
            leaves, steps = self._leaves(count)
            while step < leaves:
                self._step(step, 1.0, count)
                step += 1
                if self.should_stop():
                    self._save(folder, step)
                    raise KeyboardInterrupt
            self._save(folder, step)
            losses = []
            for at in range(leaves, steps):
                losses.append(self._step(at, (steps - at) / (steps - leaves + 1), count))
                if self.should_stop():
                    raise KeyboardInterrupt
            read = self.tokens_of(count) - self.tokens_of(begun * self.options.batch)
            yield CountResult(count, self.score(), sum(losses) / len(losses), read)
            back = self._resume(folder, step)
            if back is None:
                raise UserError(f"{folder}: the state of the trunk is gone; run the same command again")
            step = back

    def _leaves(self, count: int) -> tuple[int, int]:
        """The step at which a count leaves the trunk, and its last; that has fewer samples where they do not divide."""
        steps = math.ceil(count / self.options.batch)
        return steps - max(1, round(DECAY * steps)), steps

    def score(self) -> ExampleScore:
        """What comes of the model, as it is, on the held-out examples."""
        totals, counts, right = [], [], 0
        with torch.no_grad():
            for first in range(0, len(self.held_out), EVALUATED_ROWS):
                part = batch_of(self.held_out[first : first + EVALUATED_ROWS], self.pad)
                losses, logits = _losses(self.model, part)
                labels = part["labels"]
                if labels.dim() == 1:
                    right += int((logits.argmax(1) == labels).sum())
                totals += losses.sum(1).double().tolist()
                counts += (labels != -100).view(len(labels), -1).sum(1).tolist()
        mean = sum(totals) / sum(counts)
        spread = sum((total - mean * count) ** 2 for total, count in zip(totals, counts, strict=True))
        accuracy = right / len(self.held_out) if self.held_out[0].label is not None else None
        return ExampleScore(mean, math.sqrt(spread) / sum(counts), accuracy, len(self.held_out))

    def _step(self, step: int, shape: float, count: int) -> float:
        """One step of AdamW at ``shape`` times the peak rate, on samples among the first ``count``.

        The batch is read in pieces that bound its logits.
        """
        rows = self.train[step * self.options.batch : min((step + 1) * self.options.batch, count)]
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * shape * min(1.0, (step + 1) / 10)  # ten steps of warmup
        self.optimizer.zero_grad(set_to_none=True)
        counted = sum(1 if row.label is not None else len(row.tokens) - row.first for row in rows)
        value = 0.0
        for first in range(0, len(rows), self._piece):
            losses, _ = _losses(self.model, batch_of(rows[first : first + self._piece], self.pad))
            loss = losses.sum() / counted
            value += loss.item()
            loss.backward()
        if not math.isfinite(value):
            raise UserError(f"the loss is not finite after {step} steps: give a lower --lr")
        self.optimizer.step()
        return value

    @cached_property
    def _piece(self) -> int:
        """The rows that are read at once: as many as keep the logits of every token within :data:`PIECE_LOGITS`."""
        classes = getattr(getattr(self.model, "config", None), "vocab_size", 1)
        longest = max(len(example.tokens) for example in self.train)
        return max(1, PIECE_LOGITS // (classes * longest))

    def _save(self, folder: Path, step: int) -> None:
        """Write the state of the trunk: no copy of it is kept in memory, where a model and its moments fill enough."""
        self.optimizer.zero_grad(set_to_none=True)
        if step in checkpoint.steps(folder):
            return
        state: dict[str, Tensor] = {f"buffer.{name}": buffer for name, buffer in self.model.named_buffers()}
        for name, parameter in self.model.named_parameters():
            state[f"model.{name}"] = parameter.detach()
            state |= {f"{key}.{name}": value for key, value in self.optimizer.state.get(parameter, {}).items()}
        checkpoint.save_state(folder, state, {"step": step}, nullcontext())

    def _resume(self, folder: Path, upto: int) -> int | None:
        """Put back the newest state that was saved up to a step; returns its step, None where there is none."""
        self.optimizer.zero_grad(set_to_none=True)
        loaded = checkpoint.load_state(folder, self.say, -1, upto, nullcontext())
        if loaded is None:
            return None
        tensors, meta = loaded
        checkpoint.restore(self.model, self.optimizer, tensors)
        return int(meta["step"])


def _losses(model: nn.Module, part: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The cross-entropy of each token that counts, (rows, length − 1), 0 elsewhere, or of each label, (rows, 1).

    And the logits.
    """
    logits, targets = model(**_inputs(part)).logits.float(), part["labels"]
    if targets.dim() == 2:
        logits, targets = logits[:, :-1], targets[:, 1:]
    flat = logits.reshape(-1, logits.shape[-1])
    losses = nn.functional.cross_entropy(flat, targets.flatten(), ignore_index=-100, reduction="none")
    return losses.view(len(targets), -1), logits


def _inputs(part: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: part[name] for name in ("input_ids", "attention_mask")}
