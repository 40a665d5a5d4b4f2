"""A ladder of sample counts from one trunk: the loss after 200, 400, 800 … samples at little more than the longest.

The trunk reads the samples once, at a constant rate. For each count the trunk's state at four fifths of it is kept, and
a branch goes on from there while its rate falls to zero; the branch is what is scored. So every count is a whole
training, and all of them share the trunk. A trunk that was interrupted goes on from the newest branch that was saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import nn as unit
from ...errors import UserError
from ...nn.precision import formats
from .. import checkpoint
from .examples import Example, batch_of

DECAY = 0.2  # the share of a count over which the rate falls to zero
RULES = ("none", "absmax", "rms")
EVALUATED_ROWS = 8


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
                raise UserError(f"--format {self.format}: {error}") from None


@dataclass(frozen=True)
class CountResult:
    """The training of one count: its held-out loss in nats a token of the completions, and the tokens it read."""

    count: int
    loss: float
    loss_se: float
    train_loss: float
    tokens: int
    steps: int


@dataclass
class SampleLadder:
    """Trains the counts of a :class:`FineTuning` on a model of transformers, or any that returns ``loss``."""

    model: nn.Module
    train: Sequence[Example]
    held_out: Sequence[Example]
    options: FineTuning
    should_stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda text: None
    optimizer: Any = field(init=False)

    def __post_init__(self) -> None:
        if self.options.counts[-1] > len(self.train):
            raise UserError(
                f"--samples {self.options.counts[-1]}: there are {len(self.train)} examples to train on; give fewer"
            )
        self.model.eval()  # fine-tuning of these sizes is done without dropout; the scales are measured so too
        if self.options.rule != "none":
            example = [_inputs(batch_of(self.train[: self.options.batch]))]
            form = None if self.options.format is None else formats.by_name(self.options.format)
            unit.scale_model(self.model, example, self.options.rule, inplace=True, format=form)
        groups = unit.finetune_groups(self.model, self.options.lr, weight_decay=self.options.weight_decay)
        self.optimizer = torch.optim.AdamW(groups)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    @property
    def threads(self) -> int:
        """The threads that PyTorch computes with."""
        return torch.get_num_threads()

    def branches(self, folder: Path, done: int = 0) -> Iterator[CountResult]:
        """The counts above ``done``, one after another; states are kept in ``folder``.

        After each of them the model holds the weights of that branch, until the next is asked for.
        """
        step = self._resume(folder, self.options.counts[-1])
        for count in (count for count in self.options.counts if count > done):
            steps = count // self.options.batch
            leaves = steps - max(1, round(DECAY * steps))
            while step < leaves:
                self._step(step, 1.0)
                step += 1
                if self.should_stop():
                    self._save(folder, step)
                    raise KeyboardInterrupt
            self._save(folder, step)
            losses = []
            for at in range(leaves, steps):
                losses.append(self._step(at, (steps - at) / (steps - leaves + 1)))
                if self.should_stop():
                    raise KeyboardInterrupt
            loss, error = self.score()
            yield CountResult(count, loss, error, sum(losses) / len(losses), self._tokens(steps), steps)
            self._resume(folder, step)

    def score(self) -> tuple[float, float]:
        """The held-out loss in nats a token of the completions, and its standard error over examples."""
        totals, counts = [], []
        with torch.no_grad():
            for first in range(0, len(self.held_out), EVALUATED_ROWS):
                part = batch_of(self.held_out[first : first + EVALUATED_ROWS])
                losses = _token_losses(self.model, part)
                totals += losses.sum(1).double().tolist()
                counts += (part["labels"] != -100).sum(1).tolist()
        mean = sum(totals) / sum(counts)
        spread = sum((total - mean * count) ** 2 for total, count in zip(totals, counts, strict=True))
        return mean, math.sqrt(spread) / sum(counts)

    def _step(self, step: int, shape: float) -> float:
        rows = self.train[step * self.options.batch : (step + 1) * self.options.batch]
        part = batch_of(rows)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * shape * min(1.0, (step + 1) / 10)  # ten steps of warmup
        self.optimizer.zero_grad(set_to_none=True)
        loss = _token_losses(self.model, part).sum() / (part["labels"] != -100).sum()
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(f"the loss is not finite after {step} steps: give a lower --lr")
        loss.backward()
        self.optimizer.step()
        return value

    def _tokens(self, steps: int) -> int:
        return sum(len(example.tokens) for example in self.train[: steps * self.options.batch])

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

    def _resume(self, folder: Path, upto: int) -> int:
        """Put back the newest state that was saved up to a step; returns its step, 0 where there is none."""
        self.optimizer.zero_grad(set_to_none=True)
        loaded = checkpoint.load_state(folder, self.say, -1, upto, nullcontext())
        if loaded is None:
            return 0
        tensors, meta = loaded
        checkpoint.restore(self.model, self.optimizer, tensors)
        return int(meta["step"])


def _token_losses(model: nn.Module, part: dict[str, Tensor]) -> Tensor:
    """The cross-entropy of each token that counts, (rows, length − 1); 0 elsewhere."""
    logits = model(**_inputs(part)).logits[:, :-1].float()
    targets = part["labels"][:, 1:]
    flat = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    return flat.view(targets.shape)


def _inputs(part: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: part[name] for name in ("input_ids", "attention_mask")}
