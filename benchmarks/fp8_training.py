"""Does FP8 cost loss? A decoder trained in BF16, in simulated and in real FP8, with and without unit scaling.

    python benchmarks/fp8_training.py [--output results/fp8_training.json]     # continues where it stopped

Four layers, width 128, bytes of the Python standard library, the same data and seed for every arm; warmup over a tenth,
then a linear decay to zero. All hidden linear layers are converted. FP8 is E4M3 forward and E5M2 for gradients, without
loss scaling and without maxima. `plain` is the same architecture of torch.nn layers with PyTorch's cross-entropy; its
FP8 casts the tensors in the same way, without unit scaling.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as TF

from allometry import nn
from allometry.data.corpus import read_corpus
from allometry.files import write_json
from allometry.tasks.windows import Windows, held_out_windows
from nn_overhead import PlainBlock, PlainDecoder

CONTEXT, BATCH, STEPS, VOCAB, WIDTH, LAYERS, HEADS = 64, 8, 500, 256, 128, 4, 4
SIMULATED, REAL = nn.fp8.FP8Formats(mode="simulated"), nn.fp8.FP8Formats(mode="real")


class PlainFP8(torch.nn.Linear):
    """A plain linear map whose operands are cast to FP8 as they are."""

    formats = SIMULATED

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.fp8.linear(x, self.weight, factors=nn.Factors(1.0, 1.0), formats=self.formats)


def unit(formats: nn.fp8.FP8Formats | None, lr: float):
    model = nn.Decoder(VOCAB, LAYERS, WIDTH, HEADS, rope=False, compute=torch.bfloat16)
    if formats is not None:
        nn.fp8.convert(model, formats)
    return model, nn.AdamW(model, lr), nn.functional.cross_entropy


def plain(casts: bool, lr: float):
    hidden = nn.MLP(WIDTH).down.in_features
    model = PlainDecoder(WIDTH, lambda: PlainBlock(WIDTH, hidden))
    for block in model.blocks:
        for module in block.modules():
            if casts and type(module) is torch.nn.Linear:
                module.__class__ = PlainFP8
    return model, torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.99), weight_decay=0.0), TF.cross_entropy


ARMS = {
    "unit-scaled, BF16": functools.partial(unit, None, 0.7),
    "unit-scaled, FP8 simulated": functools.partial(unit, SIMULATED, 0.7),
    "unit-scaled, FP8 real": functools.partial(unit, REAL, 0.7),
    "plain, BF16": functools.partial(plain, False, 2.0**-8),
    "plain, FP8 simulated": functools.partial(plain, True, 2.0**-8),
}


def train(name: str, seed: int, steps: int = STEPS) -> dict:
    torch.manual_seed(seed)
    corpus = read_corpus("stdlib")
    model, optimizer, loss_of = ARMS[name]()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=name == "plain, BF16")
    if name == "plain, FP8 simulated":
        model.embedding.register_forward_hook(lambda module, inputs, y: y.bfloat16())
        model.norm.register_forward_hook(lambda module, inputs, y: y.float())
    peaks = [group["lr"] for group in optimizer.param_groups]
    windows = Windows(corpus.train, CONTEXT, seed)

    def loss(inputs, targets):
        with autocast:
            logits = model(inputs)
        return loss_of(logits.float().flatten(0, 1), targets.flatten())

    for step in range(steps):
        shape = min((step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * shape
        loss(*windows.batch(step * BATCH, BATCH)).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        value = loss(*held_out_windows(corpus.held_out, CONTEXT, 512)).item()
    return {"arm": name, "seed": seed, "loss": round(value, 5) if math.isfinite(value) else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "fp8_training.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(arguments.output.read_text())["rows"] if arguments.output.exists() else []
    for seed in arguments.seeds:
        for name in ARMS:
            if not any(row["arm"] == name and row["seed"] == seed for row in rows):
                rows.append(train(name, seed))
                write_json(arguments.output, {"torch": torch.__version__, "steps": STEPS, "rows": rows})
                print(json.dumps(rows[-1]), flush=True)
    for name in ARMS:
        print(f"{name:28s}", *(row["loss"] for row in rows if row["arm"] == name))


if __name__ == "__main__":
    main()
