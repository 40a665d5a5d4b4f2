"""What a decoder gains from heads that are wired to copy, and how much less its seeds differ.

    python benchmarks/induction.py          # adds what is missing to induction.jsonl: 45 s a run, 3 seeds, 2 texts
    python benchmarks/induction.py --table

Width 64, 4 M tokens, trained as a study trains, from random weights and from the wiring of
:mod:`allometry.lm.induction`. Besides the held-out loss: that of bytes that continue three bytes which occurred before
in the window ("copied"), and of those whose three bytes are new. One process, one thread.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import product

import numpy as np
import torch

from allometry.data.corpus import Corpus, read_corpus
from allometry.ladder.recipe import TEXT_TIMESCALE
from result_rows import ResultRows, parse_options
from seed_noise import CONTEXT, trained
from tournament import Entry, source

RESULTS = ResultRows("induction")
TEXTS, STARTS, WIDTH, SEEN = ("stdlib", "vim"), ("random", "wired"), 64, 3
USUAL = {
    "tokens": 4_000_000,
    "batch_tokens": 512,
    "lr": 0.45,
    "compile": True,
    "weight_decay_timescale": TEXT_TIMESCALE,
}


def losses_of(corpus: Corpus, start: str, seed: int) -> dict[str, float]:
    """Losses of one training: of all held-out bytes, of those that are copied, of new ones."""
    model, task = trained(corpus, WIDTH, seed, seed, USUAL | {"wired": start == "wired"})
    tokens, targets = task.held_out
    parts = zip(tokens.split(64), targets.split(64), strict=True)
    losses = torch.cat([model.token_losses(*part).view(-1, CONTEXT) for part in parts]).numpy()
    copied, new = occurrences(tokens.numpy(), targets.numpy())
    means = {"loss": losses.mean(), "copied": losses[copied].mean(), "new": losses[new].mean()}
    return {name: round(float(value), 4) for name, value in means.items()}


def occurrences(tokens: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which targets continue three bytes as these went on before in their window, and whose three bytes are new."""
    copied, new = np.zeros(targets.shape, bool), np.ones(targets.shape, bool)
    for row, (read, wanted) in enumerate(zip(tokens.tolist(), targets.tolist(), strict=True)):
        went_on: dict[tuple[int, ...], int] = {}
        for place in range(SEEN - 1, len(read)):
            key = tuple(read[place - SEEN + 1 : place + 1])
            if key in went_on:
                copied[row, place], new[row, place] = went_on[key] == wanted[place], False
            went_on[key] = wanted[place]
    return copied, new


def table() -> str:
    groups = defaultdict(list)
    for row in RESULTS.read():
        groups[row["text"], row["start"]].append([row["loss"], row["copied"], row["new"]])
    lines = ["| text | start | seeds | loss | standard deviation | copied | new |", "|---|---|---|---|---|---|---|"]
    for (text, start), rows in sorted(groups.items()):
        losses = np.array(rows)
        sd = np.log(losses[:, 0]).std(ddof=1) if len(losses) > 1 else np.nan
        loss, copied, new = losses.mean(0)
        lines.append(f"| {text} | {start} | {len(losses)} | {loss:.4f} | {sd:.2%} | {copied:.3f} | {new:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parse_options(parser, table)
    torch.set_num_threads(1)
    for seed, text, start in product(options.seeds, TEXTS, STARTS):
        key = {"text": text, "start": start, "seed": seed}
        if not RESULTS.has(key):
            RESULTS.add(key | losses_of(read_corpus(source(Entry(text), options.folder)), start, seed))


if __name__ == "__main__":
    main()
