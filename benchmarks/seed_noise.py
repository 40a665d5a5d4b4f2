"""The noise of a run: one configuration under many seeds, one thing changed at a time.

    python benchmarks/seed_noise.py              # 250 k tokens of the standard library, widths 32, 64 and 128
    python benchmarks/seed_noise.py --long       # 2 M tokens of Vim's scripts and of JavaScript, width 32
    python benchmarks/seed_noise.py --wired      # 0.3 and 1 M tokens of three texts, widths 16 to 96, as studies train
    python benchmarks/seed_noise.py --table

Each row trains eight seeds (the long ones sixteen) and adds its held-out losses to ``seed_noise.jsonl``; a row that
stands there is not run again. One process, one thread: about a minute a row at width 64 and two a long row.
But for the wired ones, all are of decoders from random weights, without the wiring of :mod:`allometry.lm.induction`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import torch

from allometry import nn
from allometry.config.model import DecoderConfig
from allometry.config.schedule import Schedule
from allometry.config.training import TrainConfig
from allometry.data.corpus import Corpus, read_corpus
from allometry.ladder.recipe import TEXT_TIMESCALE
from allometry.lm.decoder import LanguageModel, build
from allometry.tasks.text import TextTask
from allometry.tasks.windows import Windows
from result_rows import ResultRows, parse_options
from tournament import Entry, source

RESULTS = ResultRows("seed_noise")
CONTEXT, STRATA = 128, 64
SHORT = {"tokens": 250_000, "batch_tokens": 512, "lr": 0.5, "compile": True, "wired": False}
LONG = SHORT | {"tokens": 2_000_000, "lr": 0.4}
WIRED = SHORT | {"lr": 0.4, "wired": True, "weight_decay_timescale": TEXT_TIMESCALE}


def zero_readout(model: nn.Module) -> None:
    model.readout.weight.data.zero_()


def orthogonal(model: nn.Module) -> None:
    """Hidden and output matrices with equal singular values, of unit scale."""
    for name, weight in model.named_parameters():
        if "embedding" not in name:
            torch.nn.init.orthogonal_(weight.data)
            weight.data.mul_(max(weight.shape) ** 0.5)


def evenly(windows: Windows) -> None:
    """Let every 64 consecutive windows come from the 64 parts of the text, one from each."""

    def draw(epoch: int) -> tuple[int, np.ndarray]:
        rng = np.random.default_rng([windows.seed, epoch, 7])
        phase, count = int(rng.integers(windows.context)), windows.per_epoch
        size = -(-count // STRATA)
        parts = [rng.permutation(np.arange(k * size, min(count, (k + 1) * size))) for k in range(STRATA)]
        order = []
        for place in range(size):
            row = [part[place] for part in parts if place < len(part)]
            rng.shuffle(row)
            order += row
        return phase, np.array(order, dtype=np.uint32)

    windows._epoch = lru_cache(maxsize=2)(draw)


def normalized(weights: list[torch.Tensor]) -> None:
    torch.nn.utils.clip_grad_norm_(weights, 1e-3)


def each_normalized(weights: list[torch.Tensor]) -> None:
    for weight in weights:
        weight.grad.div_(weight.grad.norm() + 1e-12)


class Clipped:
    """Gradients of at most one and a half times their usual norm, a running mean."""

    def __init__(self):
        self.usual = None

    def __call__(self, weights: list[torch.Tensor]) -> None:
        norm = float(torch.nn.utils.clip_grad_norm_(weights, 1e30))
        self.usual = norm if self.usual is None else self.usual
        most = 1.5 * self.usual
        if norm > most:
            for weight in weights:
                weight.grad.mul_(most / norm)
        self.usual = 0.98 * self.usual + 0.02 * min(norm, most)


def slow_readout(model: nn.Module, train: TrainConfig) -> nn.AdamW:
    """The readout, which has a group of its own, at three tenths of its rate."""
    optimizer = nn.AdamW(model, train.lr, betas=(train.beta1, train.beta2))
    for group in optimizer.param_groups:
        if any(weight is model.readout.weight for weight in group["params"]):
            group["lr"] = group["peak_lr"] = 0.3 * group["peak_lr"]
    return optimizer


# What is changed: fields of the training and of the model, and "seeds" (what the seed sets), "start" (a change of the
# fresh model), "order" (of the windows), "gradients" (before Adam's moments), "optimizer".
ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("all: the seed sets weights and order of text", {}),
    ("initial weights alone", {"seeds": "weights"}),
    ("order of the text alone", {"seeds": "order"}),
    ("half the learning rate", {"lr": 0.25}),
    ("beta2 0.95", {"beta2": 0.95}),
    ("beta2 0.999", {"beta2": 0.999}),
    ("warmup over 100 k tokens", {"warmup_tokens": 100_000}),
    ("gradients normalized", {"gradients": lambda: normalized}),
    ("batch of 512 tokens throughout", {"batch_exponent": 0.0}),
    ("batch four times as large", {"batch_tokens": 2048}),
    ("decay over half of the run", {"decay": 0.5}),
    ("decay from the start", {"decay": 1.0}),
    ("BF16", {"precision": "bf16"}),
    ("layers instead of kernels", {"compile": False}),
    ("heads of 8", {"head_dim": 8}),
    ("two layers", {"layers": 2}),
    ("eight layers", {"layers": 8}),
    ("weight decay 0.01 a step", {"weight_decay": 0.01}),
    ("readout starts at zero", {"start": zero_readout}),
)
LONG_ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("all: the seed sets weights and order of text", {}),
    ("gradients normalized", {"gradients": lambda: normalized}),
    ("gradient of each tensor normalized", {"gradients": lambda: each_normalized}),
    ("gradients clipped at 1.5 times their usual norm", {"gradients": Clipped}),
    ("orthogonal initial weights", {"start": orthogonal}),
    ("windows from all parts of the text in turn", {"order": evenly}),
    ("epsilon 0.01", {"optimizer": lambda model, train: nn.AdamW(model, train.lr, eps=0.01)}),
    ("readout at 0.3 of its rate", {"optimizer": slow_readout}),
    ("queries and keys normalized", {"qk_norm": True, "compile": False}),
)
WIRED_ROW = ("as a study trains: wired, weights fade", {})
WIRED_TEXTS, WIRED_WIDTHS, WIRED_TOKENS = ("stdlib", "vim", "javascript"), (16, 32, 64, 96), (300_000, 1_000_000)
MODEL = ("head_dim", "layers", "qk_norm")


@dataclass(frozen=True)
class Row:
    """One line of the table: ``usual`` are the fields of the training before ``change``."""

    text: str
    width: int
    changed: str
    change: dict[str, Any]
    usual: dict[str, Any]
    seeds: int

    @property
    def key(self) -> dict[str, Any]:
        return {"text": self.text, "tokens": self.usual["tokens"], "width": self.width, "changed": self.changed}


def short_rows() -> Iterator[Row]:
    for width in (32, 64, 128):
        yield from (Row("stdlib", width, *row, SHORT, 8) for row in (ROWS if width < 128 else ROWS[:3]))


def long_rows() -> Iterator[Row]:
    yield from (Row(text, 32, *row, LONG, 16) for text in ("vim", "javascript") for row in LONG_ROWS)


def wired_rows() -> Iterator[Row]:
    for width, text, tokens in product(WIRED_WIDTHS, WIRED_TEXTS, WIRED_TOKENS):
        yield Row(text, width, *WIRED_ROW, WIRED | {"tokens": tokens}, 8)


def trained(
    corpus: Corpus, width: int, weights: int, order: int, fields: dict[str, Any]
) -> tuple[LanguageModel, TextTask]:
    """A model after one training, and its task; ``weights`` and ``order`` are seeds, "wired" says how it starts."""
    fields = dict(fields)
    wired = fields.pop("wired", True)
    start, arrange, make = (fields.pop(name, None) for name in ("start", "order", "optimizer"))
    change_gradients = fields.pop("gradients", lambda: None)()
    shape = {"layers": 4, "head_dim": 16} | {name: fields.pop(name) for name in MODEL if name in fields}
    config = DecoderConfig(width=width, hidden=3 * width, context=CONTEXT, **shape)
    train = TrainConfig.parse(fields, "seed_noise")
    schedule, ways = Schedule(train, CONTEXT), (train.precision, train.compile)
    torch.manual_seed(weights)
    model = build(config, weights, *ways) if wired else LanguageModel(config, *ways)
    task = TextTask(corpus, CONTEXT, order, config.vocab_size)
    for change, changed in ((start, model), (arrange, task.windows)):
        if change is not None:
            change(changed)
    betas = (train.beta1, train.beta2)
    optimizer = make(model, train) if make else nn.AdamW(model, train.lr, betas, 1e-12, train.starting_weight_decay)
    parameters = list(model.parameters())
    for step in range(schedule.steps):
        task.loss(model, task.batch(*schedule.batch_at(step))).backward()
        if change_gradients is not None:
            change_gradients(parameters)
        optimizer.set_schedule(schedule.lr_factor_at(step), schedule.weight_decay_at(step))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model, task


def final_loss(corpus: Corpus, width: int, weights: int, order: int, fields: dict[str, Any]) -> float:
    """The held-out loss of one training."""
    model, task = trained(corpus, width, weights, order, fields)
    return task.evaluate(model)["loss"].value


def run(row: Row, corpus: Corpus) -> dict[str, Any]:
    change = dict(row.change)
    what = change.pop("seeds", "both")
    seeds = [(0 if what == "order" else seed, 0 if what == "weights" else seed) for seed in range(row.seeds)]
    losses = np.array([final_loss(corpus, row.width, *pair, row.usual | change) for pair in seeds])
    sd = losses.std(ddof=1) / losses.mean()
    return row.key | {"mean": round(losses.mean(), 4), "sd": round(sd, 5), "losses": losses.round(4).tolist()}


def table() -> str:
    lines = ["| text | tokens | width | changed | seeds | mean | standard deviation |", "|---|---|---|---|---|---|---|"]
    for row in RESULTS.read():
        lines.append(
            f"| {row['text']} | {row['tokens'] / 1e6:g} M | {row['width']} | {row['changed']} | {len(row['losses'])} | "
            f"{row['mean']:.4f} | {row['sd']:.2%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--long", action="store_true", help="2 M tokens of the texts whose runs scatter most")
    kind.add_argument("--wired", action="store_true", help="as a study trains, for the noise that its law is told")
    options = parse_options(parser, table)
    torch.set_num_threads(1)
    for row in (wired_rows if options.wired else long_rows if options.long else short_rows)():
        if not RESULTS.has(row.key):
            RESULTS.add(run(row, read_corpus(source(Entry(row.text), options.folder))))


if __name__ == "__main__":
    main()
