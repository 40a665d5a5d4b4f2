"""What unit scaling costs: forward + backward, compared with plain torch.nn and with unit-scaling 0.3.5.

    python benchmarks/nn_overhead.py [--compiled] [--seconds 12] [--threads 1] [--output results/nn_overhead.json]

Each library is compared with a plain torch.nn model of its own architecture, in one process, interleaved A B A B; a
figure is the median over rounds of the ratio of neighbours, "least" the ratio of the fastest rounds. With one thread
the clock is the processor's, which a busy machine disturbs less. The other library (`pip install unit-scaling==0.3.5`,
skipped if absent) has no rotary positions, so ours runs without them too. Ours has a norm before attention's output
projection, and so has its plain counterpart; `ours/stock` compares with the plain block without it. Memory is the peak
of what PyTorch's allocator holds in a step, minus what it held before.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

if "--compiled" in sys.argv:  # a first compilation must not find the one before it; read when torch is imported
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch
import torch.nn.functional as F
from torch import Tensor

from allometry import nn
from allometry.files import write_json

BATCH, LENGTH, HEADS, LAYERS, VOCAB = 4, 256, 4, 4, 256


class PlainBlock(torch.nn.Module):
    """Ours with torch.nn: one GEMM for q, k and v, one for gate and up; ``subnorm`` before the output projection."""

    def __init__(self, width: int, hidden: int, subnorm: bool = True):
        super().__init__()
        plain = lambda a, b: torch.nn.Linear(a, b, bias=False)
        self.qkv, self.out, self.up, self.down = (
            plain(width, 3 * width),
            plain(width, width),
            plain(width, 2 * hidden),
            plain(hidden, width),
        )
        norm = lambda: torch.nn.RMSNorm(width, eps=1e-6, elementwise_affine=False)
        self.norm1, self.norm2, self.subnorm = norm(), norm(), norm() if subnorm else torch.nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, -1, width // HEADS).transpose(1, 2)
        y = F.scaled_dot_product_attention(*heads.split(HEADS, 1), is_causal=True)
        x = x + self.out(self.subnorm(y.transpose(1, 2).reshape(batch, length, width)))
        gate, up = self.up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class TheirBlock(torch.nn.Module):
    """unit-scaling's TransformerLayer with torch.nn: its separate gate and up, its rearrangements as views."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        plain = lambda a, b: torch.nn.Linear(a, b, bias=False)
        self.qkv, self.out = plain(width, 3 * width), plain(width, width)
        self.up, self.gate, self.down = plain(width, hidden), plain(width, hidden), plain(hidden, width)
        norm = lambda: torch.nn.RMSNorm(width, eps=1e-6, elementwise_affine=False)
        self.norm1, self.norm2 = norm(), norm()

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*heads.unbind(0), is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class PlainDecoder(torch.nn.Module):
    def __init__(self, width: int, block: Callable[[], torch.nn.Module]):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCAB, width)
        self.blocks = torch.nn.Sequential(*(block() for _ in range(LAYERS)))
        self.norm = torch.nn.RMSNorm(width, eps=1e-6, elementwise_affine=False)
        self.readout = torch.nn.Linear(width, VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.norm(self.blocks(self.embedding(tokens))))


def models(part: str, width: int) -> dict[str, torch.nn.Module]:
    """The contestants by name: "plain" and "stock" for ours, "their plain" for theirs."""
    hidden = nn.MLP(width).down.in_features
    if part == "linear":
        models = {"plain": torch.nn.Linear(width, width, bias=False), "ours": nn.Linear(width, width)}
    elif part == "block":
        models = {
            "plain": PlainBlock(width, hidden),
            "ours": nn.TransformerBlock(width, HEADS, hidden, rope=False),
            "stock": PlainBlock(width, hidden, subnorm=False),
        }
    else:
        models = {
            "plain": PlainDecoder(width, lambda: PlainBlock(width, hidden)),
            "ours": nn.Decoder(VOCAB, LAYERS, width, HEADS, hidden, rope=False),
            "stock": PlainDecoder(width, lambda: PlainBlock(width, hidden, subnorm=False)),
        }
    try:
        import unit_scaling as uu
    except ImportError:
        return models
    if part == "linear":
        return models | {"theirs": uu.Linear(width, width), "their plain": models["plain"]}
    if part == "block":
        theirs = uu.TransformerLayer(width, HEADS, mhsa_tau=0.5, mlp_tau=0.5, is_causal=True)
        hidden = theirs.mlp.linear_1.weight.shape[0]
        return models | {"theirs": theirs, "their plain": TheirBlock(width, hidden)}
    theirs = uu.TransformerDecoder(width, VOCAB, LAYERS, HEADS)
    hidden = next(m for m in theirs.modules() if isinstance(m, uu.TransformerLayer)).mlp.linear_1.weight.shape[0]
    return models | {"theirs": theirs, "their plain": PlainDecoder(width, lambda: TheirBlock(width, hidden))}


PAIRS = {"ours/plain": ("ours", "plain"), "ours/stock": ("ours", "stock"), "theirs/plain": ("theirs", "their plain")}


def stepper(model: torch.nn.Module, part: str, width: int, dtype: torch.dtype) -> Callable[[], None]:
    """One forward and backward pass with a fixed input and upstream gradient."""
    if part == "decoder":
        x = torch.randint(VOCAB, (BATCH, LENGTH))
        upstream = torch.randn(BATCH, LENGTH, VOCAB, dtype=dtype)
    else:
        x = torch.randn(BATCH, LENGTH, width, dtype=dtype, requires_grad=True)
        upstream = torch.randn(BATCH, LENGTH, width, dtype=dtype)
    parameters = list(model.parameters())

    def step() -> None:
        model(x).backward(upstream)
        for parameter in parameters:
            parameter.grad = None
        x.grad = None

    return step


def ratios(steps: dict[str, Callable[[], None]], seconds: float) -> dict[str, float]:
    """The median over rounds of each pair's ratio, and the median milliseconds of each contestant."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step(), step()
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    gc.disable()
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times["plain"]) < 15:
        # Forwards, then backwards, so that no contestant always follows the same one.
        order = list(steps) if len(times["plain"]) % 2 else list(steps)[::-1]
        for name in order:
            start = clock()
            steps[name]()
            times[name].append(clock() - start)
    gc.enable()
    result = {f"{name}, ms": round(1e3 * statistics.median(values), 3) for name, values in times.items()}
    for pair, (a, b) in PAIRS.items():
        if b in times:
            result[pair] = round(statistics.median(x / y for x, y in zip(times[a], times[b], strict=True)), 3)
            result[f"{pair}, least"] = round(min(times[a]) / min(times[b]), 3)
    return result


def _processor_seconds() -> float:
    """Of this process and of the compilers that it has started and waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def peak_memory(step: Callable[[], None]) -> int:
    """The most bytes that one step holds at once beyond what was held before."""
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def measure(part: str, width: int, dtype: torch.dtype, compiled: bool, seconds: float) -> dict:
    torch.manual_seed(0)
    contestants = {name: model.to(dtype) for name, model in models(part, width).items()}
    row: dict = {"part": part, "width": width, "dtype": str(dtype).removeprefix("torch."), "compiled": compiled}
    if compiled:
        first, built = {}, {}
        contestants.pop("stock", None)
        torch.compile(torch.nn.Linear(8, 8))(torch.randn(4, 8)).sum().backward()  # what only the very first one pays
        for name, model in contestants.items():
            torch._dynamo.reset()
            step = stepper(torch.compile(model), part, width, dtype)
            start = _processor_seconds()
            step()
            first[name] = _processor_seconds() - start
            built[name] = step
        row |= {f"first compile {pair}": round(first[a] / first[b], 3) for pair, (a, b) in PAIRS.items() if b in first}
        row |= {f"first compile {name}, s": round(value, 1) for name, value in first.items()}
        return row | ratios(built, seconds)
    steps = {name: stepper(model, part, width, dtype) for name, model in contestants.items()}
    row |= ratios(steps, seconds)
    memory = {name: peak_memory(step) for name, step in steps.items()}
    return row | {f"memory {pair}": round(memory[a] / memory[b], 3) for pair, (a, b) in PAIRS.items() if b in memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiled", action="store_true", help="torch.compile instead of eager; minutes a row")
    parser.add_argument("--seconds", type=float, default=12.0, help="of timing a row")
    parser.add_argument("--parts", nargs="+", default=["linear", "block", "decoder"])
    parser.add_argument("--widths", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, help="default: PyTorch's own choice")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = []
    for part in arguments.parts:
        for dtype in arguments.dtypes:
            for width in arguments.widths:
                row = measure(part, width, getattr(torch, dtype), arguments.compiled, arguments.seconds)
                rows.append(row)
                print(json.dumps(row), flush=True)
                if arguments.output:
                    about = {"command": " ".join(sys.argv), "torch": torch.__version__}
                    about |= {"machine": platform.machine(), "threads": torch.get_num_threads()}
                    write_json(arguments.output, about | {"rows": rows})


if __name__ == "__main__":
    main()
