"""How cost grows: tokens a second and peak memory of training, by context, batch and width.

    python benchmarks/growth.py [--eager] [--output results/growth.json]

Each case runs in a fresh process, on one thread, by the processor's time: a training step of the recipe's shapes, then
the evaluation of 512 windows (of 4096 tokens at most 16). Memory is the growth of the peak resident set after the model
is built; the estimate of `runs.cost.memory_bytes` is given for comparison. Exponents are least-squares slopes in
logarithms. By context, the tokens of a step stay the same, and the share of attention is given: its FLOPs grow as the
context, the others do not grow.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from allometry.config.run import RunConfig
from allometry.config.task import TextConfig
from allometry.files import write_json
from allometry.ladder.recipe import Recipe
from allometry.ladder.shape import shape
from allometry.lm.decoder import DECODER, LanguageModel, build
from allometry.runs.cost import memory_bytes
from allometry.tasks.text import evaluate_windows

# (width, context, sequences)
CASES = {
    "context": [(64, length, 4096 // length) for length in (128, 256, 512, 1024, 2048, 4096)],
    "batch": [(64, 128, sequences) for sequences in (1, 4, 16, 64, 128)],
    "width": [(width, 128, 16) for width in (32, 64, 128, 256, 512)],
}
SECONDS = 1.5


def configuration(width: int, context: int, sequences: int, compiled: bool) -> RunConfig:
    tokens = sequences * context
    recipe = Recipe(batch_tokens=tokens, batch_exponent=0.0, compile=compiled)
    return recipe.run(shape(width, context), TextConfig(source="", fingerprint=""), tokens, 0)


def resident(peak: bool) -> float:
    """Bytes resident now, or the most since :func:`forget_peak` (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM" if peak else "VmRSS"))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def train_step(model: LanguageModel, optimizer: torch.optim.Optimizer, tokens: torch.Tensor, targets: torch.Tensor):
    """As the trainer does it."""
    if model.whole_step is not None:
        model.whole_step.gradients([model], tokens[None], targets[None], add=False)
        optimizer.step()
        return
    model.loss(tokens, targets).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def case(width: int, context: int, sequences: int, compiled: bool) -> dict[str, float]:
    """One case, in this process."""
    torch.set_num_threads(1)
    config = configuration(width, context, sequences, compiled)
    tiny = build(shape(16, 16), 0, compile=compiled)  # what the first use of anything takes
    train_step(tiny, DECODER.optimizer(tiny, config.train), *torch.randint(256, (2, 2, 16)))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free but resident would be used first, and not be seen
    forget_peak()
    before = resident(peak=False)
    model = build(config.model, 0, compile=compiled)
    optimizer = DECODER.optimizer(model, config.train)
    tokens, targets = torch.randint(256, (2, sequences, context))
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        begin = time.thread_time()
        train_step(model, optimizer, tokens, targets)
        times.append(time.thread_time() - begin)
    trained = resident(peak=True)
    windows = torch.randint(256, (2, max(16, min(512, 65536 // context)), context))
    begin = time.thread_time()
    evaluate_windows(model, windows.unbind())
    attention = 12 * config.model.layers * width * (context + 1) / 2
    return {
        "width": width,
        "context": context,
        "sequences": sequences,
        "tokens_per_second": sequences * context / statistics.median(times[1:]),
        "evaluated_tokens_per_second": windows[0].numel() / (time.thread_time() - begin),
        "step_bytes": trained - before,
        "beyond_by_evaluation_bytes": resident(peak=True) - trained,
        "estimated_bytes": memory_bytes(config),
        "attention_share_of_flops": attention / config.model.flops_per_token,
    }


def slope(rows: list[dict], x: str, y: str) -> float:
    """The exponent of y against x."""
    return float(np.polyfit(*(np.log([max(row[key], 1.0) for row in rows]) for key in (x, y)), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eager", action="store_true", help="without compiled kernels")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--case", nargs=3, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(case(*arguments.case, not arguments.eager)))
        return
    result: dict[str, dict] = {}
    for axis, cases in CASES.items():
        rows = []
        for numbers in cases:
            command = [sys.executable, __file__, "--case", *map(str, numbers)]
            command += ["--eager"] if arguments.eager else []
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout))
            print(json.dumps(rows[-1]), flush=True)
        name = {"batch": "sequences"}.get(axis, axis)
        exponents = {key: slope(rows, name, key) for key in ("tokens_per_second", "step_bytes", "estimated_bytes")}
        result[axis] = {"rows": rows, "exponents": exponents}
        print(axis, exponents, flush=True)
    if arguments.output:
        write_json(arguments.output, {"compiled": not arguments.eager, "torch": torch.__version__} | result)


if __name__ == "__main__":
    main()
