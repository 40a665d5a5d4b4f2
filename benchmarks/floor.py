"""How close a training step is to the time of its bare matrix products, and where the rest of the time goes.

    python benchmarks/floor.py [--widths 24 32 64 128 256 352] [--threads 1] [--precisions fp32 bf16]

For each width, with the recipe's shape and batch and compiled kernels, it measures the seconds of a step, the seconds
of its bare GEMMs (PyTorch's, each product of the forward and backward pass alone, at its shape and in its type), and
their ratio: at 1 the step takes as long as PyTorch's products alone. Each is the least of several, by the processor's
time if there is one thread, since a busy machine only adds time. FLOP/s follow from `flops_per_token`, which counts
attention too. The parts are measured with one thread, by kernels that are compiled with a clock around each; `rest` is
Python and memory. `layers` is the same step by PyTorch's layers (nn.Decoder in eager mode). With --torch-compile,
`torch.compile` is those layers compiled by PyTorch, with the seconds of its first three steps.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import torch

from allometry.config.model import DecoderConfig
from allometry.config.training import TrainConfig
from allometry.files import write_json
from allometry.ladder.shape import shape
from allometry.lm.compiled import build as kernels
from allometry.lm.decoder import DECODER, PRECISIONS, build
from allometry.runs.machine import compiler

RESULTS = Path(__file__).parent / "results" / "floor.json"
BATCHES = {8: 4, 16: 4, 24: 4, 32: 8, 48: 8, 64: 8, 96: 16, 128: 16, 256: 16, 352: 32}  # sequences
PARTS = ("products", "attention", "norms", "gate", "loss", "embedding", "sums of gradients")  # as cpp/clock.h has them


def processor() -> str:
    """Its name, and the vectors that it has beyond the usual."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "")
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in text.split()]
    return ", ".join(filter(None, [platform.machine(), name, *flags]))


clock = time.thread_time  # with several threads, the time on the wall


def best(call: Callable[[], object], seconds: float) -> float:
    """The least seconds of a call."""
    call(), call()
    times, begin = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - begin < seconds:
        start = clock()
        call()
        times.append(clock() - start)
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


class ClockedKernels:
    """Kernels that are compiled with a clock around each part of a step, in place of the usual ones."""

    def __init__(self, folder: Path):
        path = compiler()
        assert path is not None
        self.library = ctypes.CDLL(str(kernels.compile_into(folder / "clocked.so", path, "-DCLOCKED")))
        self.seconds = (ctypes.c_double * len(PARTS)).in_dll(self.library, "part_seconds")

    def __enter__(self) -> ClockedKernels:
        self.usual = kernels._library
        kernels._library = lambda: self.library
        kernels.decoder_functions.cache_clear()
        return self

    def __exit__(self, *_: object) -> None:
        kernels._library = self.usual
        kernels.decoder_functions.cache_clear()

    def shares(self, model: DecoderConfig, precision: str, batch: int, seconds: float) -> dict[str, float]:
        """Percentages of a step's time, by part."""
        step, optimiser = stepper(model, precision, batch, "ours")
        step(), optimiser()
        for i in range(len(PARTS)):
            self.seconds[i] = 0.0
        spent = count = 0
        begin = time.perf_counter()
        while count < 3 or time.perf_counter() - begin < seconds:
            step()
            start = time.perf_counter()
            optimiser()
            spent += time.perf_counter() - start
            count += 1
        whole = time.perf_counter() - begin
        parts = dict(zip(PARTS, self.seconds, strict=True)) | {"optimiser": spent}
        parts["rest"] = whole - sum(parts.values())
        return {part: round(100 * value / whole, 1) for part, value in parts.items()}


def stepper(
    model: DecoderConfig, precision: str, batch: int, way: str
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The two halves of a step: gradients, and what the optimiser makes of them."""
    language_model = build(model, 0, precision, way == "ours")
    optimizer = DECODER.optimizer(language_model, TrainConfig(tokens=1, batch_tokens=1, lr=1e-3))
    tokens = torch.randint(model.vocab_size, (batch, model.context))
    loss_of = torch.compile(language_model.loss) if way == "torch.compile" else language_model.loss

    def gradients() -> None:
        step = language_model.whole_step
        if step is not None:
            step.gradients([language_model], tokens[None], tokens[None])
            return
        loss = loss_of(tokens, tokens)
        loss.backward()
        loss.item()

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return gradients, update


def measure(
    clocked: ClockedKernels, width: int, precision: str, threads: int, seconds: float, others: list[str]
) -> dict[str, object]:
    model, batch = shape(width), BATCHES[width]
    rows = batch * model.context
    steps = {way: stepper(model, precision, batch, way) for way in ("ours", *others)}
    times: dict[str, list[float]] = {way: [] for way in steps}
    ready = {}
    for way, halves in steps.items():
        begin = time.perf_counter()
        for half in 3 * halves:
            half()
        ready[way] = time.perf_counter() - begin
    begin = time.perf_counter()
    while len(times["ours"]) < 5 or time.perf_counter() - begin < seconds:
        for way, (gradients, update) in steps.items():
            for _ in range(4 if way == "ours" else 1):
                start = clock()
                gradients(), update()
                times[way].append(clock() - start)
    floor = gemm_seconds(model, rows, PRECISIONS[precision])
    step, flops = min(times["ours"]), model.flops_per_token * rows
    with clocked:
        shares = clocked.shares(model, precision, batch, seconds / 2) if threads == 1 else {}
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
        "shares, %": shares,
        **{f"{way}/ours": round(min(times[way]) / step, 2) for way in others},
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
    global clock
    torch.set_num_threads(given.threads)
    if given.threads > 1:
        clock = time.perf_counter
    others = ["layers", "torch.compile"] if given.torch_compile else ["layers"]
    with tempfile.TemporaryDirectory() as folder:
        clocked = ClockedKernels(Path(folder))
    for width in given.widths:
        for precision in given.precisions:
            row = measure(clocked, width, precision, given.threads, given.seconds, others)
            print(width, precision, json.dumps(row), flush=True)
            result = json.loads(given.output.read_text()) if given.output.exists() else {}
            result["machine"] = f"{processor()}, {os.cpu_count()} cores, PyTorch {torch.__version__}"
            key = f"width {width}, {precision}, {given.threads} threads"
            result[key] = result.get(key, {}) | row
            write_json(given.output, result)


if __name__ == "__main__":
    main()
