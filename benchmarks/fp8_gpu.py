"""How fast is FP8 with static unit scale? Compared with BF16, with torchao's dynamic scaling, and with the GEMM alone.

Two measurements, each interleaved (one round of every contender after the other, medians over rounds):

- layers: forward and backward of one linear layer of Llama-8B's shapes, and the three products alone (``_scaled_mm``
  on operands cast beforehand), which are the floor of any FP8 layer;
- step: one training step (forward, loss, backward, AdamW) of a decoder of ours.

    python benchmarks/fp8_gpu.py --out fp8_gpu.json          # on an FP8-capable GPU (capability 8.9 and above)
    python benchmarks/fp8_gpu.py --device cpu --small        # seconds: checks the script, is no measure of speed

torchao takes part if it is installed. It replaces ``torch.nn.Linear``, so in the step it works on a copy of our decoder
whose hidden layers are plain, with their forward factors multiplied into the weights; "bf16" is that copy too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch

from allometry import nn
from allometry.nn.precision import fp8

# (fan_out, fan_in) of Llama-3-8B.
LAYERS = {"q, o": (4096, 4096), "k, v": (1024, 4096), "gate, up": (14336, 4096), "down": (4096, 14336)}
SMALL_LAYERS = {"square": (64, 64), "wide": (160, 64)}
TORCHAO = {"torchao tensorwise": "tensorwise", "torchao rowwise": "rowwise"}


class Plain(torch.nn.Linear):
    """``torch.nn.Linear`` at unit scale and with our Linear's arguments, for torchao to replace its product."""

    @classmethod
    def of(cls, layer: nn.Linear) -> Plain:
        plain = cls(layer.in_features, layer.out_features, bias=False, device="meta")
        factor = layer.factors().output
        plain.weight = torch.nn.Parameter(layer.weight.detach() * factor)
        return plain


class Onto(torch.nn.Module):
    """A plain layer where ours adds onto the residual stream."""

    def __init__(self, inner: torch.nn.Module):
        super().__init__()
        self.inner, self.backward_ratio = inner, 1.0

    def forward(self, x, onto=None, keep=1.0, share=1.0):
        y = self.inner(x)
        return y if onto is None else nn.functional.residual_add(y, onto, keep, share)


def plain_copy(model: torch.nn.Module) -> torch.nn.Module:
    """``model`` with every hidden layer of ours replaced by a plain one of the same output."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, Onto(Plain.of(child)))
    return model


def torchao_convert(model: torch.nn.Module, recipe: str) -> torch.nn.Module:
    """torchao's dynamic scaling in every plain linear layer."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    return convert_to_float8_training(
        model,
        config=Float8LinearConfig.from_recipe_name(recipe),
        module_filter_fn=lambda module, name: type(module) in (Plain, torch.nn.Linear),
    )


def torchao_version() -> str | None:
    try:
        import torchao.float8  # noqa: F401

        return importlib.metadata.version("torchao")
    except ImportError:
        return None


class Bench:
    """Where and how often to measure."""

    def __init__(self, device: str, rounds: int, inner: int, compiled: bool):
        self.device, self.rounds, self.inner, self.compiled = device, rounds, inner, compiled

    def compile(self, function: Callable) -> Callable:
        return torch.compile(function, dynamic=False) if self.compiled else function

    def once(self, function: Callable) -> float:
        """Milliseconds of one call, from ``inner`` of them in a row."""
        if self.device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(self.inner):
                function()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / self.inner
        begin = time.perf_counter()
        for _ in range(self.inner):
            function()
        return (time.perf_counter() - begin) * 1e3 / self.inner

    def interleaved(self, contenders: dict[str, Callable]) -> dict[str, dict[str, float]]:
        """A B C A B C …: median, least and greatest milliseconds of each. What fails is left out with its reason."""
        times: dict[str, list[float]] = {}
        failed: dict[str, str] = {}
        for name, function in contenders.items():
            try:
                for _ in range(3):
                    function()
                times[name] = []
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        for _ in range(self.rounds):
            for name in times:
                times[name].append(self.once(contenders[name]))
        rows = {
            name: {"median_ms": statistics.median(t), "min_ms": min(t), "max_ms": max(t)} for name, t in times.items()
        }
        base = rows.get("bf16", {}).get("median_ms")
        for row in rows.values():
            row["speedup_over_bf16"] = base / row["median_ms"] if base else None
        return rows | {name: {"failed": reason} for name, reason in failed.items()}


def products_alone(x, weight, grad) -> Callable[[], None]:
    """The three FP8 products of a layer on operands that are cast and laid out already."""
    e4m3, e5m2 = nn.formats.E4M3FN, nn.formats.E5M2
    x8, w8, g8 = fp8.to_fp8(x, e4m3), fp8.to_fp8(weight, e4m3), fp8.to_fp8(grad, e5m2)
    column_major = lambda a: a.t().contiguous().t()
    pairs = [(x8, w8.t(), True), (g8, column_major(w8), False), (g8.t().contiguous(), column_major(x8), False)]

    def scales(a, b):
        shapes = ((a.shape[0], 1), (1, b.shape[1])) if x.device.type == "cpu" else ((), ())
        return [torch.ones(shape, device=x.device) for shape in shapes]

    ready = [(a, b, *scales(a, b), fast) for a, b, fast in pairs]

    def run():
        for a, b, scale_a, scale_b, fast in ready:
            torch._scaled_mm(a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16, use_fast_accum=fast)

    return run


def bf16_products_alone(x, weight, grad) -> Callable[[], None]:
    def run():
        x @ weight.t()
        grad @ weight
        grad.t() @ x

    return run


def bench_layer(bench: Bench, fan_out: int, fan_in: int, tokens: int) -> dict:
    """One layer, BF16 weights and activations, forward and backward."""
    options = {"device": bench.device, "dtype": torch.bfloat16}
    x = torch.randn(tokens, fan_in, **options, requires_grad=True)
    grad = torch.randn(tokens, fan_out, **options)
    layers = {
        "bf16": torch.nn.Linear(fan_in, fan_out, bias=False, **options),
        "ours bf16": nn.Linear(fan_in, fan_out, **options),
        "ours fp8": fp8.FP8Linear(fan_in, fan_out, **options),
    }
    if torchao_version():
        for name, recipe in TORCHAO.items():
            holder = torch.nn.Sequential(torch.nn.Linear(fan_in, fan_out, bias=False, **options))
            layers[name] = torchao_convert(holder, recipe)

    def forward_backward(layer):
        run = bench.compile(layer)

        def step():
            x.grad = None
            layer.zero_grad(set_to_none=True)
            run(x).backward(grad)

        return step

    weight = layers["bf16"].weight.detach()
    contenders = {name: forward_backward(layer) for name, layer in layers.items()}
    contenders["products alone, bf16"] = bf16_products_alone(x.detach(), weight, grad)
    contenders["products alone, fp8"] = products_alone(x.detach(), weight, grad)
    return bench.interleaved(contenders)


def bench_step(bench: Bench, size: dict, batch: int, length: int) -> dict:
    """A whole training step; weights, activations and the optimiser's state are BF16 for everyone."""
    tokens = torch.randint(0, size["vocab_size"], (batch, length + 1), device=bench.device)

    def make(change: Callable[[torch.nn.Module], torch.nn.Module]) -> Callable[[], None]:
        torch.manual_seed(0)
        model = change(nn.Decoder(**size)).to(bench.device, torch.bfloat16)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        run = bench.compile(model)

        def step():
            logits = run(tokens[:, :-1]).flatten(0, 1)
            torch.nn.functional.cross_entropy(logits.float(), tokens[:, 1:].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    contenders = {
        "bf16": make(plain_copy),
        "ours bf16": make(lambda model: model),
        "ours fp8": make(fp8.convert),
    }
    if torchao_version():
        for name, recipe in TORCHAO.items():
            contenders[name] = make(lambda model, recipe=recipe: torchao_convert(plain_copy(model), recipe))
    rows = bench.interleaved(contenders)
    for row in rows.values():
        if "median_ms" in row:
            row["tokens_per_second"] = batch * length / row["median_ms"] * 1e3
    return rows


def machine(device: str) -> dict:
    """What was measured on: kind of device and versions, nothing that identifies a machine."""
    environment = {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "torchao": torchao_version(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "real_fp8": fp8.supported(device),
    }
    if device == "cuda":
        environment |= {
            "cuda": torch.version.cuda,
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        }
    return environment


def show(title: str, rows: dict) -> None:
    print(f"\n{title}", file=sys.stderr)
    for name, row in rows.items():
        if "failed" in row:
            print(f"  {name:24} failed: {row['failed']}", file=sys.stderr)
            continue
        ratio = row["speedup_over_bf16"]
        print(
            f"  {name:24} {row['median_ms']:9.3f} ms  [{row['min_ms']:.3f}, {row['max_ms']:.3f}]"
            + (f"  {ratio:5.2f}× bf16" if ratio else ""),
            file=sys.stderr,
        )


def main(arguments: list[str] | None = None) -> dict:
    """Measure, show a table on standard error, and give the JSON: to --out or standard output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="tiny sizes, not compiled, few rounds")
    parser.add_argument("--rounds", type=int, help="rounds of the interleaving (20; small 3)")
    parser.add_argument("--tokens", type=int, default=8192, help="rows of a layer's input (small: 64)")
    parser.add_argument("--only", choices=("layers", "step"), help="one of the two measurements")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--out", help="file for the JSON")
    options = parser.parse_args(arguments)
    torch._dynamo.config.recompile_limit = 64  # one entry for each contender, all of them kept
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here; --device cpu --small checks the script")
    small = options.small
    rounds = options.rounds or (3 if small else 20)
    bench = Bench(options.device, rounds, 1 if small else 5, not (small or options.eager))
    shapes, tokens = (SMALL_LAYERS, 64) if small else (LAYERS, options.tokens)
    size = {"vocab_size": 32768, "layers": 8, "width": 2048, "heads": 16, "hidden": 5632}
    batch, length = 4, 2048
    if small:
        size, batch, length = {"vocab_size": 64, "layers": 2, "width": 64, "heads": 2, "hidden": 96}, 2, 32
    notes = [] if torchao_version() else ["torchao is not installed: its dynamic scaling was not compared"]
    if not fp8.supported(options.device):
        notes.append("no FP8 product on this device: ours fp8 is simulated")
    print("\n".join(notes), file=sys.stderr)
    result = {"machine": machine(options.device), "notes": notes, "rounds": rounds, "compiled": bench.compiled}
    if options.only != "step":
        result["layers"] = {"tokens": tokens}
        for name, (fan_out, fan_in) in shapes.items():
            rows = bench_layer(bench, fan_out, fan_in, tokens)
            result["layers"][name] = {"fan_out": fan_out, "fan_in": fan_in, "results": rows}
            show(f"{name}: {fan_in} → {fan_out}, {tokens} tokens, forward and backward", rows)
            torch._dynamo.reset()
    if options.only != "layers":
        rows = bench_step(bench, size, batch, length)
        result["step"] = {"model": size, "batch": batch, "length": length, "results": rows}
        show(f"training step of {size}, {batch} × {length} tokens", rows)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    if options.out:
        with open(options.out, "w", encoding="utf-8") as handle:
            handle.write(text + "\n")
    else:
        print(text)
    return result


if __name__ == "__main__":
    main()
