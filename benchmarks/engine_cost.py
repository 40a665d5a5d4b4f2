"""What the engine adds to a plain PyTorch loop: the same module, images, optimiser and schedule, trained both ways.

    OMP_NUM_THREADS=1 python benchmarks/engine_cost.py [--repeats 7] [--only conv] [--output FILE]

A small vision transformer and a convolutional net on scikit-learn's digits. Each repeat trains one seed by the engine
(claims, saved states, curve and record included) and by a loop written by hand (batches by index, AdamW, the same
learning rate at every step, the same evaluation at the end), in turn; the ratio is that of the medians, of the time
that passed and of the processor's, which what else the machine does hardly changes. Both start within one process whose
first repeat is not counted. The results of each model are written as soon as they are known.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from allometry import workflow
from allometry.config.run import RunConfig
from allometry.files import write_json
from allometry.lm.modules.module_code import offer
from allometry.runs.job import Job
from allometry.runs.study import Study
from allometry.trainers.built_in import BuiltIn

MODELS = '''
import torch
from torch import nn


class Vit(nn.Module):
    """A vision transformer on patches of two by two."""

    def __init__(self, width, shape, classes):
        super().__init__()
        patches = (shape[1] // 2) * (shape[2] // 2)
        self.patches = nn.Conv2d(shape[0], width, 2, 2)
        self.place = nn.Parameter(0.02 * torch.randn(1, patches, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.blocks(x).mean(1))


def vit(width, shape, classes):
    return Vit(width, shape, classes)


def conv(width, shape, classes):
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(2 * width, classes),
    )
'''
WIDTHS = {"vit": (32, 64), "conv": (16, 32)}
IMAGES = {"vit": 60_000, "conv": 30_000}  # of each run: some seconds of one core
BATCH = 128
Seconds = tuple[float, float]  # that passed; of the processor


@dataclass(frozen=True)
class Ground:
    """A study whose runs can be trained: its folder, its runs by seed, and the engine's trainer."""

    study: Study
    run: RunConfig
    trainer: BuiltIn

    def seed(self, seed: int) -> RunConfig:
        return self.run.model_copy(update={"train": self.run.train.model_copy(update={"seed": seed})})


@contextmanager
def ground(folder: Path, family: str, images: int) -> Iterator[Ground]:
    """A study of two widths, of which the larger is measured; nothing is trained yet."""
    (folder / "models.py").write_text(MODELS)
    config = workflow.StudyConfig(
        task="images",
        data="digits",
        family=f"{folder / 'models.py'}:{family}",
        widths=WIDTHS[family],
        tokens=(images // 2, images),
        sweep=False,
        lr=1e-3,
        batch_tokens=BATCH,
    )
    with workflow.open_study(config, folder / "study") as session:
        offer(session.study.path)
        yield Ground(session.study, max(session.design.rungs, key=lambda one: one.flops), BuiltIn())


def clocks() -> Seconds:
    return time.perf_counter(), time.process_time()


def since(begin: Seconds) -> Seconds:
    wall, processor = (now - then for now, then in zip(clocks(), begin, strict=True))
    return wall, processor


def by_engine(place: Ground, seed: int) -> Seconds:
    run = place.seed(seed)
    begin = clocks()
    place.trainer.train(Job((run,), "run", seed), place.study)
    return since(begin)


def by_hand(place: Ground, seed: int, model: nn.Module) -> Seconds:
    """The same run as people write it; the data are in memory, as the engine has them."""
    run = place.seed(seed)
    task = next(iter(place.trainer._tasks.values()))(run)
    (x, y), (test_x, test_y) = task.train, task.held_out  # type: ignore[attr-defined]
    places = [(run.schedule.batch_at(step), run.schedule.lr_factor_at(step)) for step in range(run.schedule.steps)]
    begin = clocks()
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(len(x)) for _ in range(run.tokens // len(x) + 1)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.train.lr, weight_decay=0.0, fused=True)
    model.train()
    for step, ((first, rows), factor) in enumerate(places):
        optimizer.param_groups[0]["lr"] = run.train.lr * factor
        chosen = torch.from_numpy(order[first : first + rows])
        loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            loss.item()
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(part) for part in test_x.split(256)])
        nn.functional.cross_entropy(logits, test_y).item()
    return since(begin)


def compare(place: Ground, family: str, repeats: int) -> dict[str, Any]:
    """Median seconds of both, in turn; the first of each is not counted."""
    names: dict[str, Any] = {}
    exec(MODELS, names)
    times: dict[str, list[Seconds]] = {"engine": [], "by hand": []}
    for seed in range(repeats + 1):
        engine = by_engine(place, seed)
        torch.manual_seed(seed)
        hand = by_hand(place, seed, names[family](WIDTHS[family][-1], (1, 8, 8), 10))
        if seed:
            times["engine"].append(engine)
            times["by hand"].append(hand)
    result: dict[str, Any] = {"parameters": place.run.num_params, "steps": place.run.schedule.steps}
    for clock, name in enumerate(("wall", "processor")):
        medians = {way: statistics.median(one[clock] for one in values) for way, values in times.items()}
        result[name] = medians | {"ratio": medians["engine"] / medians["by hand"]}
    return result | {"runs": times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=WIDTHS, nargs="*", default=[*WIDTHS])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    results = json.loads(args.output.read_text()) if args.output and args.output.exists() else {}
    for family in args.only:
        with tempfile.TemporaryDirectory() as name, ground(Path(name), family, IMAGES[family]) as place:
            results[family] = one = compare(place, family, args.repeats)
        print(f"{family}: {one['parameters']} parameters, {one['steps']} steps", flush=True)
        for clock in ("wall", "processor"):
            shown = "engine {engine:.3f} s, by hand {by hand:.3f} s, ratio {ratio:.3f}".format(**one[clock])
            print(f"  {clock}: {shown}", flush=True)
        if args.output:
            write_json(args.output, results)


if __name__ == "__main__":
    main()
