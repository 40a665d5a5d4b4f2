"""Write what answers a text: translations, summaries, answers; a prefix language model over bytes, scored on answers.

A row is the text, byte 1, the answer and byte 2, filled up with zeros to the context; only the bytes of the answer and
its end are learned. Scores beside the loss: exact match of what the model writes by itself, and chrF of translations
(sacrebleu), ROUGE-L of summaries (rouge-score) where those libraries are installed; of questions, the share of four
choices that is right.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..config.run import RunConfig
from ..config.task import Pairs
from ..data.task_data.sample_set import Samples
from ..data.task_data.text_pairs import END, MARK, encode_pair
from ..errors import UserError
from ..nn import Decoder
from ..quantities import Score
from .contract import ALONE, Batch, OpenTask, Processes
from .image_classes import cross_entropy_of, mean_of
from .sample_order import SampleOrder, evaluating, turns
from .text import ComputesLosses

EVALUATED = 64  # rows at a time
WRITTEN = 100  # held-out answers that the model writes by itself
IGNORED = -100  # as PyTorch has it: such a target has no loss


class PairsTask:
    """Answers to texts, for models (rows, length) → (rows, length, 256). See :class:`.contract.Task`."""

    unit = Pairs.unit

    def __init__(self, samples: Samples, context: int, seed: int):
        self.name, self.fingerprint, self.context = samples.task_name, samples.fingerprint, context
        self.order = SampleOrder(samples.size, seed)
        self.train, self.held_out = samples.train, samples.held_out
        self.guess = math.log(Pairs.vocab_size)

    def batch(self, first: int, rows: int) -> Batch:
        return rows_of(self.train["row"][self.order.rows(first, rows)], self.context)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        tokens, targets = batch
        return cross_entropy_of(model, model(tokens).flatten(0, 1), targets.flatten())

    def evaluate(self, model: nn.Module, processes: Processes = ALONE) -> dict[str, Score]:
        rows, choices = self.held_out["row"], self.held_out.get("choices")
        every = rows if choices is None else np.concatenate([rows, choices.reshape(-1, choices.shape[-1])])
        with evaluating(model):
            sums, counts = losses_of(model, every, self.context, processes)
            scores = {"loss": _ratio(sums[: len(rows)], counts[: len(rows)])}
            if choices is None:
                return scores | self._write(model)
        # How often the right answer, the first, is the likeliest of the choices, by nats a byte.
        per_byte = (sums[len(rows) :] / counts[len(rows) :].clamp(min=1)).view(len(choices), -1)
        return scores | {"accuracy": mean_of((per_byte.argmin(1) == 0).double())}

    def _write(self, model: nn.Module) -> dict[str, Score]:
        """Exact match, and what a library says of the likeness."""
        rows = self.held_out["row"][:WRITTEN]
        written = write_answers(model, rows, self.context)
        wanted = [answer_of(row) for row in rows]
        exact = torch.tensor([one == other for one, other in zip(written, wanted, strict=True)], dtype=torch.float64)
        return {"exact_match": mean_of(exact)} | likeness(self.name, written, wanted)


def rows_of(rows: np.ndarray, context: int) -> Batch:
    """Inputs and targets of rows, (rows, context) each; targets outside the answer are ignored."""
    tokens = torch.from_numpy(rows[:, : context + 1].astype(np.int64))
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()
    answering = (inputs == MARK).cumsum(1) > 0
    targets[~answering | (targets == 0)] = IGNORED
    return inputs, targets


def losses_of(model: nn.Module, rows: np.ndarray, context: int, processes: Processes) -> tuple[Tensor, Tensor]:
    """Nats and bytes of the answer of every row; each process computes some of them."""
    device = next(model.parameters()).device
    of_samples = torch.zeros(2, len(rows), dtype=torch.float64, device=device)
    for number, counted in turns(-(-len(rows) // EVALUATED), processes):
        part = slice(number * EVALUATED, (number + 1) * EVALUATED)
        tokens, targets = (side.to(device) for side in rows_of(rows[part], context))
        if isinstance(model, ComputesLosses):
            each = model.token_losses(tokens, targets)
        else:
            logits = model(tokens).flatten(0, 1).float()
            each = nn.functional.cross_entropy(logits, targets.flatten(), reduction="none").view(targets.shape)
        if counted:
            of_samples[0, part] = each.double().sum(1)
            of_samples[1, part] = (targets != IGNORED).double().sum(1)
    sums, counts = processes.sum(of_samples)
    return sums, counts


def _ratio(sums: Tensor, counts: Tensor) -> Score:
    """Σ sums / Σ counts over rows, with its standard error by linearisation."""
    value = (sums.sum() / counts.sum()).item()
    residuals = sums - value * counts
    return Score(value, (residuals.std(correction=1) * math.sqrt(len(sums)) / counts.sum()).item())


def write_answers(model: nn.Module, rows: np.ndarray, context: int) -> list[bytes]:
    """What the model writes after each text, the likeliest byte at a time, until its end or the context's."""
    device = next(model.parameters()).device
    tokens = torch.from_numpy(rows[:, :context].astype(np.int64)).to(device)
    marks = (tokens == MARK).int().argmax(1)
    positions = torch.arange(tokens.shape[1], device=device)
    tokens = torch.where(positions > marks[:, None], 0, tokens)
    ended = torch.zeros(len(tokens), dtype=torch.bool, device=device)
    logits_at = reader_of(model, tokens)
    for position in range(int(marks.min()), context - 1):
        logits = logits_at(position)
        writing = (positions[position] >= marks) & ~ended
        tokens[writing, position + 1] = logits[writing].argmax(1)
        ended |= writing & (tokens[:, position + 1] == END)
        if bool(ended.all()):
            break
    return [answer_of(row) for row in tokens.cpu().numpy().astype(np.uint8)]


def reader_of(model: nn.Module, tokens: Tensor) -> Callable[[int], Tensor]:
    """A function from a position to the logits there, (rows, classes), asked in order while ``tokens`` are written.

    Our decoder keeps the keys and values of what it has read; another model reads all of it at every position.
    """
    if not isinstance(model, Decoder):
        return lambda position: model(tokens[:, : position + 1])[:, position]
    cache = model.cache(tokens.shape[1], len(tokens))
    return lambda position: model(tokens[:, cache.lengths[0] : position + 1], cache)[:, -1]


def answer_of(row: np.ndarray) -> bytes:
    """The answer in a row, without its end."""
    text = row.astype(np.uint8).tobytes().partition(bytes([MARK]))[2]
    return text.partition(bytes([END]))[0].rstrip(b"\0")


def likeness(task: str, written: list[bytes], wanted: list[bytes]) -> dict[str, Score]:
    """How like what was written is to what was wanted, by the library of the task; nothing where it is not there."""
    ours, theirs = ([text.decode("utf-8", "replace") for text in side] for side in (written, wanted))
    if task == "translation" and importlib.util.find_spec("sacrebleu"):
        from sacrebleu.metrics.chrf import CHRF  # pyright: ignore[reportMissingImports]  # of an extra

        one = CHRF()
        each = [one.sentence_score(a, [b]).score / 100 for a, b in zip(ours, theirs, strict=True)]
        whole = one.corpus_score(ours, [theirs]).score / 100
        return {"chrf": Score(whole, mean_of(torch.tensor(each, dtype=torch.float64)).error)}
    if task == "summaries" and importlib.util.find_spec("rouge_score"):
        from rouge_score.rouge_scorer import RougeScorer  # pyright: ignore[reportMissingImports]  # of an extra

        scorer = RougeScorer(["rougeL"])
        each = [scorer.score(b, a)["rougeL"].fmeasure for a, b in zip(ours, theirs, strict=True)]
        return {"rouge_l": mean_of(torch.tensor(each, dtype=torch.float64))}
    return {}


class _Pairs:
    """Opens tasks on pairs. See :class:`.contract.TaskSource`."""

    def open(self, folder: Path, verify: bool = True) -> OpenTask:
        samples = Samples.load(folder, verify)

        def task_of(config: RunConfig) -> PairsTask:
            if config.task.fingerprint != samples.fingerprint:
                raise UserError(f"{folder.parent}: run {config.id} was planned for other pairs than this study holds")
            return PairsTask(samples, config.model.row_tokens, config.train.seed)

        return task_of

    def stand_in(self, config: RunConfig) -> PairsTask:
        """On random pairs, enough for one batch of the run."""
        context = config.model.row_tokens
        rng = np.random.default_rng(0)
        texts = [bytes(rng.integers(97, 122, context // 3, dtype=np.uint8)) for _ in range(64)]
        side = {"row": np.stack([encode_pair(text, text, context) for text in texts])}
        return PairsTask(Samples(config.task.name, "random", side, side), context, 0)


PAIRS = _Pairs()
