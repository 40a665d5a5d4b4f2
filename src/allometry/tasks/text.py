"""The built-in task: predict the next token of a corpus; scored by the loss on held-out text, in nats a token."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..config.model import DecoderConfig
from ..config.run import RunConfig
from ..config.task import EVALUATED_TOKENS, HELD_OUT_WINDOWS, TextConfig
from ..data.corpus import Corpus, load_corpus
from ..errors import UserError
from ..nn import functional as F
from .contract import ALONE, Batch, OpenTask, Processes, Score
from .sample_order import turns
from .windows import Windows, held_out_windows

Measure = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class ComputesLosses(Protocol):
    """A language model with losses of its own, equal to those of its logits but for rounding, and faster."""

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy in nats a token."""
        ...

    def token_losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy of every token in nats, (batch, length), without gradients."""
        ...


class TextTask:
    """Next tokens of a corpus, for models from tokens to logits: (batch, length) → (batch, length, vocabulary).

    A row is a window of ``context`` tokens. ``vocab_size`` is the model's. See :class:`.contract.Task`.

    Raises:
        UserError: the text is too short for the context.
    """

    name = "text"
    unit = TextConfig.unit

    def __init__(self, corpus: Corpus, context: int, seed: int, vocab_size: int):
        self.corpus, self.context = corpus, context
        self.fingerprint = corpus.fingerprint
        self.guess = math.log(vocab_size)
        self.windows = Windows(corpus.train, context, seed)

    @classmethod
    def of(cls, corpus: Corpus, config: RunConfig) -> TextTask:
        """The task of a run on a corpus."""
        return cls(corpus, config.model.row_tokens, config.train.seed, vocabulary_of(config))

    @cached_property
    def held_out(self) -> Batch:
        """The windows of held-out text that every run is scored on."""
        return held_out_windows(self.corpus.held_out, self.context, HELD_OUT_WINDOWS)

    def batch(self, first: int, rows: int) -> Batch:
        return self.windows.batch(first, rows)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        tokens, targets = batch
        if isinstance(model, ComputesLosses):
            return model.loss(tokens, targets)
        return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())

    def evaluate(self, model: nn.Module, processes: Processes = ALONE) -> dict[str, Score]:
        return {"loss": evaluate_windows(model, self.held_out, processes)}


def evaluate_windows(model: nn.Module, windows: Batch, processes: Processes = ALONE) -> Score:
    """Mean loss over windows, in nats a token, and its standard error over windows; each process takes some of them."""
    mean_loss = lambda tokens, targets: _token_losses(model, tokens, targets).mean(1)[None]
    (losses,) = measure_windows(model, windows, processes, mean_loss)
    return Score(losses.mean().item(), losses.std(correction=0).item() / math.sqrt(len(losses)))


def measure_windows(model: nn.Module, windows: Batch, processes: Processes, measure: Measure, count: int = 1) -> Tensor:
    """What ``measure`` says of windows, (count, rows) for (rows, length): of all of them, (count, windows), float64."""
    device = next(model.parameters()).device
    rows = max(1, EVALUATED_TOKENS // windows[0].shape[1])
    batches = list(zip(*(side.split(rows) for side in windows), strict=True))
    values = torch.zeros(count, len(batches), rows, dtype=torch.float64, device=device)
    for number, counts in turns(len(batches), processes):
        tokens, targets = (side.to(device) for side in batches[number])
        of_windows = measure(tokens, targets)
        if counts:
            values[:, number, : of_windows.shape[1]] = of_windows
    return processes.sum(values).flatten(1)[:, : len(windows[0])]


def _token_losses(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    if isinstance(model, ComputesLosses):
        return model.token_losses(tokens, targets)
    with torch.no_grad():
        logits = model(tokens).flatten(0, 1)
        return cross_entropy(logits, targets.flatten(), reduction="none").view(targets.shape)


def vocabulary_of(config: RunConfig) -> int:
    """The number of classes that a run's model predicts: the tokenizer's, or more if the model says so."""
    if isinstance(config.model, DecoderConfig):
        return config.model.vocab_size
    return config.task.vocab_size if isinstance(config.task, TextConfig) else 0


class TextSource:
    """Opens text tasks. See :class:`.contract.TaskSource`."""

    task: type[TextTask] = TextTask

    def open(self, folder: Path, verify: bool = True) -> OpenTask:
        corpus = load_corpus(folder, verify=verify)

        def task_of(config: RunConfig) -> TextTask:
            if config.task.fingerprint != corpus.fingerprint:
                raise UserError(f"{folder.parent}: run {config.id} was planned for other text than this study holds")
            corpus.check(config.model.row_tokens, vocabulary_of(config))
            return self.task.of(corpus, config)

        return task_of

    def stand_in(self, config: RunConfig) -> TextTask:
        """On random tokens, enough for one batch of the run."""
        context, vocab_size = config.model.row_tokens, vocabulary_of(config)
        rows = max(1, config.train.batch_tokens // context)
        tokens = torch.randint(vocab_size, (max(2, rows + 2) * context + 1,)).numpy()
        corpus = Corpus(tokens, tokens, "random tokens", config.task.fingerprint, 1, 0, 0, vocab_size=vocab_size)
        return self.task.of(corpus, config)


TEXT = TextSource()
