"""Does the best learning rate carry over from a small model to a large one?

    python benchmarks/transfer.py run [ARM …]       # trains; continues where it stopped; results/transfer.jsonl
    python benchmarks/transfer.py show              # the table of optima, and results/transfer.svg

Decoders (two layers unless the depth varies, heads of 16) are trained on bytes of the Python standard library, 500
steps of 512 tokens, with warmup over a tenth and then a linear decay to zero. An arm is a parametrisation and an
optimiser; its optimum at each size is the vertex of the parabola through the best learning rate and its neighbours.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from allometry import nn
from allometry.data.corpus import read_corpus
from allometry.tasks.windows import Windows, held_out_windows
from result_rows import ResultRows

RESULTS = ResultRows("transfer")
CONTEXT, BATCH, STEPS, VOCAB, HEAD = 64, 8, 500, 256, 16
BASE = nn.Base(width=32, branches=4)
WIDTHS = (32, 64, 128, 256)


def ours(scheme: str, optimizer: Callable = nn.AdamW, **options) -> Callable:
    def prepare(model: nn.Decoder, lr: float) -> list[torch.optim.Optimizer]:
        nn.parametrize(model, scheme, BASE)
        return [optimizer(model, lr, **options)]

    return prepare


def split(model: nn.Decoder, lr: float, other: float, chosen: Callable[[str, nn.Role], bool]) -> list:
    """One AdamW whose base rate is ``other`` for the chosen parameters."""
    factors, roles = nn.learning_rate_factors(model), nn.roles(model)
    factors = {name: f * (other / lr if chosen(name, roles[name]) else 1.0) for name, f in factors.items()}
    return [torch.optim.AdamW(nn.param_groups(model, lr, factors=factors), betas=(0.9, 0.99), eps=1e-12)]


def sp_fixed_embedding(model: nn.Decoder, lr: float) -> list[torch.optim.Optimizer]:
    """Standard parametrisation, but the embedding keeps the rate that is best at width 32."""
    nn.parametrize(model, "sp", BASE)
    return split(model, lr, 2.0**-6, lambda name, role: role.kind == "input")


def umup_plain_embedding(model: nn.Decoder, lr: float) -> list[torch.optim.Optimizer]:
    """u-μP with an embedding's learning rate that does not depend on the width; equal at width 32."""
    nn.parametrize(model, "umup", BASE)
    width = model.embedding.embedding_dim
    return split(model, lr, lr * math.sqrt(width / 32), lambda name, role: role.kind == "input")


def coupled(scheme: str, decay: float) -> Callable:
    """Weight decay as PyTorch has it: λ times the learning rate of the group."""

    def prepare(model: nn.Decoder, lr: float) -> list[torch.optim.Optimizer]:
        nn.parametrize(model, scheme, BASE)
        groups = [group | {"weight_decay": decay} for group in nn.param_groups(model, lr)]
        return [torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-12)]

    return prepare


def common_muon(model: nn.Decoder, lr: float) -> list[torch.optim.Optimizer]:
    """Standard parametrisation under PyTorch's Muon, updates matched to AdamW's size (arXiv 2502.16982)."""
    nn.parametrize(model, "sp", BASE)
    hidden = [p for name, p in model.named_parameters() if nn.roles(model)[name].kind == "hidden"]
    rest = [p for name, p in model.named_parameters() if nn.roles(model)[name].kind != "hidden"]
    muon = torch.optim.Muon(hidden, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(rest, lr=2.0**-6, betas=(0.9, 0.99), eps=1e-12, weight_decay=0.0)]


@dataclass(frozen=True)
class Arm:
    """What is trained: how to create the optimisers, and the learning rates, sizes (width, layers) and seeds."""

    prepare: Callable
    rates: tuple[float, ...]
    sizes: tuple[tuple[int, int], ...] = tuple((width, 2) for width in WIDTHS)
    seeds: tuple[int, ...] = (0, 1)


def grid(low: float, high: float, step: float) -> tuple[float, ...]:
    return tuple(float(2.0**k) for k in np.arange(low, high + step / 2, step))


UMUP, SP = grid(-2.5, 0.5, 0.5), grid(-10, -4, 1)
ENDS = tuple((width, 2) for width in (32, 128))
DEPTHS = tuple((64, layers) for layers in (2, 4, 8))
ARMS = {
    "umup adamw": Arm(ours("umup"), UMUP),
    "sp adamw": Arm(ours("sp"), SP),
    "umup muon": Arm(ours("umup", nn.Muon, adam_lr=0.5), grid(-6, -2.5, 0.5), seeds=(0,)),
    "sp muon": Arm(common_muon, grid(-8, -4, 1), seeds=(0,)),
    "completep depth": Arm(ours("completep"), grid(-7, -3.5, 0.5), DEPTHS),
    "sp depth": Arm(ours("sp"), SP, DEPTHS, seeds=(0,)),
    "umup decay": Arm(ours("umup", weight_decay=2e-3), UMUP, ENDS),
    "sp decay": Arm(ours("sp", weight_decay=2e-3), SP, ENDS),
    "sp coupled decay": Arm(coupled("sp", 0.1), SP, ENDS),
    "sp embedding": Arm(sp_fixed_embedding, SP, ENDS),
    "umup plain embedding": Arm(umup_plain_embedding, UMUP, ENDS),
}

_corpus = None


def train(job: tuple[str, int, int, float, int]) -> dict:
    """One run; its held-out loss in nats a byte, or null where it was not finite."""
    global _corpus
    _corpus = _corpus or read_corpus("stdlib")
    torch.set_num_threads(1)
    name, width, layers, lr, seed = job
    torch.manual_seed(seed)
    model = nn.Decoder(VOCAB, layers, width, width // HEAD)
    optimizers = ARMS[name].prepare(model, lr)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    windows = Windows(_corpus.train, CONTEXT, seed)
    for step in range(STEPS):
        shape = min((step + 1) / (0.1 * STEPS), (STEPS - step) / (0.9 * STEPS))
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * shape
        inputs, targets = windows.batch(step * BATCH, BATCH)
        nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    inputs, targets = held_out_windows(_corpus.held_out, CONTEXT, 512)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()
    loss = round(loss, 5) if math.isfinite(loss) else None
    return {"arm": name, "width": width, "layers": layers, "lr": lr, "seed": seed, "loss": loss}


def run(names: list[str], processes: int) -> None:
    done = {tuple(row[key] for key in ("arm", "width", "layers", "lr", "seed")) for row in RESULTS.read()}
    jobs = [
        (name, width, layers, lr, seed)
        for name in names
        for seed, (width, layers), lr in product(ARMS[name].seeds, ARMS[name].sizes, ARMS[name].rates)
    ]
    jobs = [job for job in jobs if job not in done]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for i, row in enumerate(pool.imap_unordered(train, jobs), 1):
            RESULTS.add(row)
            print(f"{i}/{len(jobs)} {row}", file=sys.stderr)


def optima(rows: list[dict]) -> dict[tuple[str, int, int], dict]:
    """By arm and size: the mean loss at each rate, and the best rate (log2) and loss by parabola, for each seed."""
    losses: dict[tuple, dict[float, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        value = math.inf if row["loss"] is None else row["loss"]
        losses[row["arm"], row["width"], row["layers"]][row["lr"]][row["seed"]] = value
    by_size = {}
    for key, by_rate in losses.items():
        rates = sorted(by_rate)
        seeds = sorted(set.intersection(*(set(by_rate[rate]) for rate in rates)))
        if seeds and len(rates) >= 3:
            vertices = [vertex(rates, [by_rate[rate][seed] for rate in rates]) for seed in seeds]
            curve = {rate: float(np.mean([by_rate[rate][seed] for seed in seeds])) for rate in rates}
            by_size[key] = {"seeds": seeds, "vertices": vertices, "curve": curve}
    return by_size


def vertex(rates: list[float], losses: list[float]) -> tuple[float, float]:
    """log2 of the best rate, and its loss; an end of the grid stands for itself."""
    best = int(np.argmin(losses))
    if best in (0, len(rates) - 1) or not all(map(math.isfinite, losses[best - 1 : best + 2])):
        return math.log2(rates[best]), losses[best]
    a, b, c = np.polyfit(np.log2(rates[best - 1 : best + 2]), losses[best - 1 : best + 2], 2)
    return -b / (2 * a), c - b * b / (4 * a)


def show() -> None:
    by_size = optima(RESULTS.read())
    print(f"{'arm':22s} {'width':>5s} {'layers':>6s} {'best lr':>9s} {'log2, each seed':>20s} {'loss':>8s}")
    for (arm, width, layers), entry in sorted(by_size.items()):
        where = [v[0] for v in entry["vertices"]]
        loss = np.mean([v[1] for v in entry["vertices"]])
        print(
            f"{arm:22s} {width:5d} {layers:6d} {2 ** np.mean(where):9.4g} "
            f"{' '.join(f'{w:+.2f}' for w in where):>20s} {loss:8.4f}"
        )
    draw(by_size)


def draw(by_size: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    arms = [arm for arm in ARMS if any(key[0] == arm for key in by_size)]
    columns = 4
    figure, axes = plt.subplots(
        math.ceil(len(arms) / columns), columns, figsize=(13, 2.9 * math.ceil(len(arms) / columns)), squeeze=False
    )
    for axis, arm in zip(axes.flat, arms, strict=False):
        sizes = sorted(key[1:] for key in by_size if key[0] == arm)
        by_depth = len({layers for _, layers in sizes}) > 1
        for i, size in enumerate(sizes):
            entry = by_size[(arm, *size)]
            color = plt.cm.viridis(i / max(1, len(sizes) - 1) * 0.85)
            axis.plot(entry["curve"].keys(), entry["curve"].values(), ".-", color=color, label=size[int(by_depth)])
            where, loss = np.mean(entry["vertices"], axis=0)
            axis.plot(2**where, loss, "v", color=color)
        axis.set_xscale("log", base=2)
        axis.set_title(arm, fontsize=9)
        lowest = min(min(by_size[(arm, *size)]["curve"].values()) for size in sizes)
        axis.set_ylim(lowest - 0.05, lowest + 0.8)
        axis.legend(fontsize=7, title="layers" if by_depth else "width", title_fontsize=7)
    for axis in axes.flat[len(arms) :]:
        axis.axis("off")
    figure.supxlabel("base learning rate")
    figure.supylabel("held-out loss, nats a byte")
    figure.tight_layout()
    figure.savefig(RESULTS.path.with_suffix(".svg"), metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "show"))
    parser.add_argument("arms", nargs="*", help=f"of {', '.join(ARMS)}; default all")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    if unknown := set(arguments.arms) - set(ARMS):
        parser.error(f"no arm is called {', '.join(sorted(unknown))}")
    if arguments.action == "run":
        run(arguments.arms or list(ARMS), arguments.processes)
    else:
        show()


if __name__ == "__main__":
    main()
