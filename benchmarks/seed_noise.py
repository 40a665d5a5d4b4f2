"""The noise of a run: one configuration under many seeds, one thing changed at a time.

    python benchmarks/seed_noise.py > benchmarks/results/seed_noise.jsonl

Each row trains eight seeds of a width on the standard library (250 k tokens, context 128) and prints mean and standard
deviation of the held-out loss. One process, one thread; about a minute a row at width 64.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import torch

from allometry import nn
from allometry.config.model import DecoderConfig
from allometry.config.schedule import Schedule
from allometry.config.training import TrainConfig
from allometry.data.corpus import Corpus, read_corpus
from allometry.lm.decoder import build
from allometry.tasks.text import TextTask

SEEDS, TOKENS, CONTEXT = 8, 250_000, 128


def zero_readout(model: torch.nn.Module) -> None:
    model.readout.weight.data.zero_()


# What is changed: fields of the training, of the model, and "seeds" (what the seed sets), "start" (a change of the
# fresh model), "normalized" (every gradient divided by its norm before Adam's moments).
ROWS: tuple[tuple[str, dict], ...] = (
    ("all: the seed sets weights and order of text", {}),
    ("initial weights alone", {"seeds": "weights"}),
    ("order of the text alone", {"seeds": "order"}),
    ("half the learning rate", {"lr": 0.25}),
    ("beta2 0.95", {"beta2": 0.95}),
    ("beta2 0.999", {"beta2": 0.999}),
    ("warmup over 100 k tokens", {"warmup_tokens": 100_000}),
    ("gradients normalized", {"normalized": True}),
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
MODEL = ("head_dim", "layers")


def final_loss(corpus: Corpus, width: int, weights: int, order: int, change: dict) -> float:
    """The held-out loss of one training."""
    change = dict(change)
    start: Callable | None = change.pop("start", None)
    normalized = change.pop("normalized", False)
    shape = {"layers": 4, "head_dim": 16} | {name: change.pop(name) for name in MODEL if name in change}
    config = DecoderConfig(width=width, hidden=3 * width, context=CONTEXT, **shape)
    plain = {"tokens": TOKENS, "batch_tokens": 512, "lr": 0.5, "compile": True}
    train = TrainConfig.parse(plain | change, "seed_noise")
    schedule = Schedule(train, CONTEXT)
    model = build(config, weights, train.precision, train.compile)
    if start is not None:
        start(model)
    task = TextTask(corpus, CONTEXT, order, config.vocab_size)
    optimizer = nn.AdamW(model, train.lr, betas=(train.beta1, train.beta2), weight_decay=train.weight_decay)
    for step in range(schedule.steps):
        task.loss(model, task.batch(*schedule.batch_at(step))).backward()
        if normalized:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.set_schedule(schedule.lr_factor_at(step))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return task.evaluate(model)["loss"].value


def main() -> None:
    torch.set_num_threads(1)
    corpus = read_corpus("stdlib")
    for width in (32, 64, 128):
        for name, change in ROWS if width < 128 else ROWS[:1]:
            change = dict(change)
            what = change.pop("seeds", "both")
            seeds = [(0 if what == "order" else seed, 0 if what == "weights" else seed) for seed in range(SEEDS)]
            losses = np.array([final_loss(corpus, width, *pair, change) for pair in seeds])
            sd = losses.std(ddof=1) / losses.mean()
            row = {"width": width, "changed": name, "mean": round(losses.mean(), 4), "sd": round(sd, 5)}
            print(json.dumps(row | {"losses": losses.round(4).tolist()}), flush=True)


if __name__ == "__main__":
    main()
