"""Does the best recipe of short runs stay the best of long ones? Rate, batch and weight decay at two lengths.

    python benchmarks/recipe_exponents.py          # adds what is missing to recipe_exponents.jsonl
    python benchmarks/recipe_exponents.py --table

A recipe is measured on runs of some 100 k tokens and used for runs of ten millions, so what it says of the tokens in
between decides what the target costs: batch as √tokens, a constant rate, weights that fade with the tokens seen. Each
line trains one change of it on one text, and the table gives ln L over that of the recipe unchanged. One thread; a
minute a run of 8 M tokens. Three texts that such runs read once.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import product

import numpy as np
import torch

from allometry.data.corpus import read_corpus
from allometry.ladder.recipe import TEXT_TIMESCALE
from result_rows import ResultRows, parse_options
from seed_noise import CONTEXT, final_loss
from tournament import Entry, source

RESULTS = ResultRows("recipe_exponents")
TEXTS, WIDTH = ("stdlib", "perl", "headers"), 48
USUAL = {"batch_tokens": 512, "lr": 0.5, "compile": True, "weight_decay_timescale": TEXT_TIMESCALE}
CHANGES = {
    "none": {},
    "rate × 0.7": {"lr": 0.35},
    "rate × 1.4": {"lr": 0.7},
    "batch × 0.5": {"batch_tokens": 256},
    "batch × 2": {"batch_tokens": 1024},
    "timescale × 0.5": {"weight_decay_timescale": 0.5 * TEXT_TIMESCALE},
    "timescale × 2": {"weight_decay_timescale": 2 * TEXT_TIMESCALE},
    "no weight decay": {"weight_decay_timescale": None},
    "no weight decay, rate × 0.8": {"weight_decay_timescale": None, "lr": 0.4},
}


def table() -> str:
    """Mean over texts and seeds of ln L over that of the recipe unchanged, with its standard error."""
    losses = {(row["changed"], row["tokens"], row["text"], row["seed"]): row["loss"] for row in RESULTS.read()}
    differences = defaultdict(list)
    for (changed, tokens, text, seed), loss in losses.items():
        if changed != "none" and ("none", tokens, text, seed) in losses:
            differences[changed, tokens].append(np.log(loss / losses["none", tokens, text, seed]))
    lengths = sorted({tokens for _, tokens in differences})
    lines = [f"| changed | {' | '.join(f'{tokens / 1e6:g} M tokens' for tokens in lengths)} |"]
    lines.append("|---" * (1 + len(lengths)) + "|")
    for changed in CHANGES:
        cells = []
        for tokens in lengths:
            values = np.array(differences.get((changed, tokens), []))
            error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
            cells.append(f"{values.mean():+.2%} ± {error:.2%} ({len(values)})" if len(values) else "–")
        if changed != "none":
            lines.append(f"| {changed} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1_000_000, 8_000_000])
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES))
    options = parse_options(parser, table)
    torch.set_num_threads(1)
    corpora = {text: read_corpus(source(Entry(text), options.folder)) for text in TEXTS}
    for seed, tokens, changed, text in product(options.seeds, options.tokens, options.changes, TEXTS):
        key = {"text": text, "tokens": tokens, "width": WIDTH, "changed": changed, "seed": seed}
        if not RESULTS.has(key):
            loss = final_loss(corpora[text], WIDTH, seed, seed, USUAL | {"tokens": tokens} | CHANGES[changed])
            RESULTS.add(key | {"context": CONTEXT, "loss": round(loss, 4)})


if __name__ == "__main__":
    main()
