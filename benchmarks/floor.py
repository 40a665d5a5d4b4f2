"""How close a training step is to the time of its bare matrix products, and where the rest of the time goes.

    python benchmarks/floor.py [--widths 24 32 64 128 256 352] [--threads 1] [--precisions fp32 bf16]

For each width, with the recipe's shape and batch and compiled kernels, it measures the seconds of a step, the seconds
of its bare GEMMs (each product of the forward and backward pass alone, at its shape and in its type, the smallest of
several), and their ratio (1 would be the floor). FLOP/s follow from `flops_per_token`, which counts attention too. The
parts are measured in the step itself, with a clock around each kernel, GEMM and the optimiser; `rest` is Python,
autograd and memory. `layers` is the same step by PyTorch's layers (nn.Decoder in eager mode). With --torch-compile,
`torch.compile` is those layers compiled by PyTorch, with the seconds of its first three steps.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import torch

from allometry import nn
from allometry.config.model import DecoderConfig
from allometry.files import write_json
from allometry.ladder.shape import shape
from allometry.lm.compiled import build as kernels
from allometry.lm.decoder import PRECISIONS, build

RESULTS = Path(__file__).parent / "results" / "floor.json"
BATCHES = {24: 4, 32: 8, 64: 8, 128: 16, 256: 16, 352: 32}  # sequences
KINDS = {"norm": "norms", "gate": "gate", "attention": "attention", "cross": "loss", "embedding": "embedding"}


def best(call: Callable[[], object], seconds: float) -> float:
    """The least seconds of a call."""
    call(), call()
    times, begin = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def gemm_seconds(model: DecoderConfig, rows: int, dtype: torch.dtype) -> float:
    """The bare products of a step: y = x·wᵀ, and the gradients of x and w, of every linear map."""
    maps = [
        (3 * model.width, model.width, model.layers),
        (model.width, model.width, model.layers),
        (2 * model.hidden, model.width, model.layers),
        (model.width, model.hidden, model.layers),
        (model.vocab_size, model.width, 1),
    ]
    total = 0.0
    for fan_out, fan_in, count in maps:
        x, w = torch.randn(rows, fan_in).to(dtype), torch.randn(fan_out, fan_in).to(dtype)
        y, dx, dw = torch.empty(rows, fan_out, dtype=dtype), torch.empty_like(x), torch.empty_like(w)
        y.normal_()
        each = (
            lambda x=x, w=w, y=y: torch.mm(x, w.t(), out=y),
            lambda w=w, y=y, dx=dx: torch.mm(y, w, out=dx),
            lambda x=x, y=y, dw=dw: torch.mm(y.t(), x, out=dw),
        )
        total += count * sum(best(call, 0.05) for call in each)
    return total


class Parts:
    """Seconds inside kernels, GEMMs and optimiser, by a clock put around each."""

    def __init__(self):
        self.seconds: Counter[str] = Counter()

    def clocked(self, kind: str, function: Callable) -> Callable:
        def call(*arguments, **options):
            begin = time.perf_counter()
            result = function(*arguments, **options)
            self.seconds[kind] += time.perf_counter() - begin
            return result

        return call

    def __enter__(self) -> Parts:
        self.before = [(torch, "addmm", torch.addmm), (torch.Tensor, "addmm_", torch.Tensor.addmm_)]
        self.before += [(torch, "_foreach_copy_", torch._foreach_copy_)]
        self.before += [(nn.AdamW, "step", nn.AdamW.step)]
        kinds = ["GEMM", "GEMM", "casts", "optimiser"]
        for dtype in PRECISIONS.values():
            compiled = kernels.kernels(dtype)
            for name in kernels.SIGNATURES:
                self.before.append((compiled, name, getattr(compiled, name)))
                kinds.append(KINDS[name.split("_")[0]])
        for (owner, name, function), kind in zip(self.before, kinds, strict=True):
            setattr(owner, name, self.clocked(kind, function))
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, function in self.before:
            setattr(owner, name, function)


def stepper(model: DecoderConfig, precision: str, batch: int, way: str) -> Callable[[], None]:
    language_model = build(model, 0, precision, way == "ours")
    optimizer = nn.AdamW(language_model, 1e-3)
    tokens = torch.randint(model.vocab_size, (batch, model.context))
    loss_of = torch.compile(language_model.loss) if way == "torch.compile" else language_model.loss

    def step() -> None:
        loss = loss_of(tokens, tokens)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


def measure(width: int, precision: str, threads: int, seconds: float, others: list[str]) -> dict[str, object]:
    model, batch = shape(width), BATCHES[width]
    rows = batch * model.context
    steps = {way: stepper(model, precision, batch, way) for way in ("ours", *others)}
    times: dict[str, list[float]] = {way: [] for way in steps}
    ready = {}
    for way, step in steps.items():
        begin = time.perf_counter()
        step(), step(), step()
        ready[way] = time.perf_counter() - begin
    begin = time.perf_counter()
    while len(times["ours"]) < 5 or time.perf_counter() - begin < seconds:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    count = 0
    with Parts() as parts:
        clocked = stepper(model, precision, batch, "ours")
        clocked(), parts.seconds.clear()
        begin = time.perf_counter()
        while count < 3 or time.perf_counter() - begin < seconds / 2:
            clocked()
            count += 1
        whole = time.perf_counter() - begin
    parts.seconds["rest"] = whole - sum(parts.seconds.values())
    floor = gemm_seconds(model, rows, PRECISIONS[precision])
    step = statistics.median(times["ours"])
    ratio = lambda way: statistics.median(b / a for a, b in zip(times["ours"], times[way], strict=True))
    flops = model.flops_per_token * rows
    return {
        "num_params": model.num_params,
        "batch tokens": rows,
        "threads": threads,
        "step, ms": round(1e3 * step, 2),
        "tokens/s": round(rows / step),
        "GFLOP/s": round(flops / step / 1e9),
        "GEMMs alone, ms": round(1e3 * floor, 2),
        "GEMMs alone, GFLOP/s": round(6 * model.num_params_matmul * rows / floor / 1e9),
        "of the floor": round(floor / step, 2),
        "shares, %": {kind: round(100 * value / whole, 1) for kind, value in parts.seconds.most_common()},
        **{f"{way}/ours": round(ratio(way), 2) for way in others},
        **{f"{way}, first three steps, s": round(ready[way], 1) for way in others if way != "layers"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", choices=BATCHES, default=[*BATCHES])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=[*PRECISIONS])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--torch-compile", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    others = ["layers", "torch.compile"] if given.torch_compile else ["layers"]
    for width in given.widths:
        for precision in given.precisions:
            row = measure(width, precision, given.threads, given.seconds, others)
            print(width, precision, json.dumps(row), flush=True)
            result = json.loads(given.output.read_text()) if given.output.exists() else {}
            result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, PyTorch {torch.__version__}"
            key = f"width {width}, {precision}, {given.threads} threads"
            result[key] = result.get(key, {}) | row
            write_json(given.output, result)


if __name__ == "__main__":
    main()
