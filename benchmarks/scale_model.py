"""Measured scaling on two tasks that are not text: digits by one hidden layer, tones and chirps by a 1-D convolution.

    python benchmarks/scale_model.py --out results.json

Each network is trained in FP32, with every operand of its products rounded to a format (simulated), and with the same
rounding after ``nn.scale_model`` has scaled the operands. Data, initial weights, batches, learning rate and steps are
the same in all. The learning rates are those of ``finetune_groups``: in exact arithmetic all would take the same steps.
Reported: accuracy on data not trained on, by seed, and the exponent bits that each operand needs before and after.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allometry.nn.conversion.measured.measured_modules import finetune_groups
from allometry.nn.conversion.measured.operand_ranges import range_report
from allometry.nn.conversion.scale_model import scale_model
from allometry.nn.precision.formats import E3M2, E4M3FN, E5M2

Data = tuple[Tensor, Tensor, Tensor, Tensor]  # inputs and targets to train on, inputs and targets to test on
# Formats of weights and activations, and of gradients. E4M3 for all is FP8 with one format; E3M2 has six bits.
RECIPES = {"E4M3, gradients E5M2": (E4M3FN, E5M2), "E4M3": (E4M3FN, E4M3FN), "E3M2": (E3M2, E3M2)}


def digits(seed: int) -> Data:
    """scikit-learn's 1797 images of 8 × 8 pixels from 0 to 16, as they come; a quarter held out."""
    from sklearn.datasets import load_digits

    x, y = (torch.tensor(array) for array in load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y, cut = x[order].float(), y[order].long(), len(x) // 4
    return x[cut:], y[cut:], x[:cut], y[:cut]


def sounds(seed: int, count: int = 1600, length: int = 256, loudness: float = 0.003) -> Data:
    """Four kinds of sound in noise: a low tone, a high tone, a rising and a falling chirp.

    ``loudness`` is the amplitude; 0.003 is 50 dB below full scale, a quiet recording.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform = lambda low, high: low + (high - low) * torch.rand(count, 1, generator=generator)
    kind = torch.randint(4, (count,), generator=generator)
    time_ = torch.arange(length) / length
    low, high = uniform(8, 16), uniform(32, 64)
    start = torch.where((kind == 1) | (kind == 3), 1.0, 0.0)[:, None] * (high - low) + low
    end = torch.where((kind == 1) | (kind == 2), 1.0, 0.0)[:, None] * (high - low) + low
    phase = 2 * math.pi * (start * time_ + (end - start) * time_**2 / 2 + uniform(0, 1))
    wave = uniform(0.5, 1) * phase.sin() + 0.5 * torch.randn(count, length, generator=generator)
    x, cut = loudness * wave[:, None], count // 4
    return x[cut:], kind[cut:], x[:cut], kind[:cut]


def digits_net() -> nn.Module:
    """One hidden layer of 64."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def sounds_net() -> nn.Module:
    """Two convolutions and a mean over time."""
    return nn.Sequential(
        nn.Conv1d(1, 16, 17, stride=4, padding=8, bias=False),
        nn.BatchNorm1d(16, eps=1e-10),
        nn.ReLU(),
        nn.Conv1d(16, 32, 9, stride=2, padding=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(4),
        nn.Flatten(),
        nn.Linear(128, 4),
    )


TASKS = {"digits": (digits, digits_net), "sounds": (sounds, sounds_net)}


def train(model: nn.Module, data: Data, seed: int, epochs: int, lr: float = 3e-3, batch: int = 128) -> nn.Module:
    """AdamW on mean cross-entropy, no loss scaling."""
    x, y = data[:2]
    optimizer = torch.optim.AdamW(finetune_groups(model, lr, weight_decay=0.01))
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """The share of held-out examples put in the right class."""
    return float((model(data[2]).argmax(-1) == data[3]).float().mean())


def variants(plain: nn.Module, example: tuple[Tensor, Tensor]):
    """The networks to compare, by name; ``parts=()`` rounds the operands as they are."""
    yield "fp32", lambda: copy.deepcopy(plain)
    make = lambda **options: lambda: scale_model(plain, example, loss=F.cross_entropy, **options)
    for name, formats in RECIPES.items():
        yield f"plain, {name}", make(rule="absmax", format=formats, parts=())
        for rule in ("absmax", "rms"):
            yield f"{rule}, {name}", make(rule=rule, format=formats, running=True)


def run(task: str, seeds: int, epochs: int) -> dict:
    """All variants of one task on all seeds, and the exponent bits at the start and after training in fp32."""
    load, make = TASKS[task]
    scores: dict[str, list[float]] = {}
    reports = {}
    for seed in range(seeds):
        data = load(seed)
        torch.manual_seed(seed)
        plain, example = make(), (data[0][:128], data[1][:128])
        for name, build in variants(plain, example):
            scores.setdefault(name, []).append(accuracy(train(build(), data, seed, epochs), data))
        if seed == 0:
            trained = train(copy.deepcopy(plain), data, seed, epochs)
            for when, model in (("at the start", plain), ("after training", trained)):
                for rule in ("absmax", "rms"):
                    scaled = scale_model(model, example, rule, F.cross_entropy)
                    reports[f"{rule}, {when}"] = range_report(scaled, example, F.cross_entropy)
    print(f"\n{task}: accuracy, mean over {seeds} seeds (least)")
    for name, values in scores.items():
        print(f"  {name:32s} {sum(values) / len(values):.3f} ({min(values):.3f})")
    for name, report in reports.items():
        print(f"\n{name}: {report}")
    return {"accuracy": scores, "exponent_bits": {name: report.to_dict() for name, report in reports.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    results = {task: run(task, options.seeds, options.epochs) for task in TASKS}
    record = {
        "command": f"python benchmarks/scale_model.py --seeds {options.seeds} --epochs {options.epochs}",
        "machine": f"{platform.machine()}, 1 thread, CPU",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "cpu_seconds": round(time.process_time() - began, 1),
        "results": results,
    }
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{record['cpu_seconds']} s of one core")


if __name__ == "__main__":
    main()
