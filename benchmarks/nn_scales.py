"""The scale of every operation, ours and unit-scaling 0.3.5's, for unit-normal inputs and upstream gradients.

    python benchmarks/nn_scales.py [--output results/nn_scales.json]

Root mean squares of the output and of each gradient, averaged over 8 draws; 1 is right. The other library has no entry
if it is not installed (`pip install unit-scaling==0.3.5`) or has no such operation.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from allometry.files import write_json
from allometry.nn import functional as F

try:
    import unit_scaling.functional as U
except ImportError:
    U = None

DRAWS = 8
VOCAB = 256


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


def positions(function: Callable, length: int) -> dict[str, float]:
    """Causal attention: all positions, the first, the last; then the gradients of q, k, v."""
    squares: dict[str, list[float]] = {}
    for _ in range(DRAWS):
        q, k, v = (normal(4, 8, length, 64) for _ in range(3))
        y = function(q, k, v)
        y.backward(torch.randn_like(y))
        parts = {"output": y, "first position": y[:, :, 0], "last position": y[:, :, -1]}
        parts |= {"gradient of q": q.grad, "of k": k.grad, "of v": v.grad}
        for name, part in parts.items():
            squares.setdefault(name, []).append(part.detach().square().mean().item())
    return {name: math.sqrt(sum(values) / len(values)) for name, values in squares.items()}


def scales(function: Callable, *shapes: tuple[int, ...]) -> dict[str, float]:
    """RMS of the output and of the gradient of each argument."""
    squares: dict[str, list[float]] = {}
    for _ in range(DRAWS):
        arguments = [normal(*shape) for shape in shapes]
        y = function(*arguments)
        y.backward(torch.randn_like(y))
        tensors = {"output": y} | {f"gradient {i + 1}": argument.grad for i, argument in enumerate(arguments)}
        for name, part in tensors.items():
            squares.setdefault(name, []).append(part.detach().square().mean().item())
    return {name: math.sqrt(sum(values) / len(values)) for name, values in squares.items()}


def loss_scale(function: Callable) -> dict[str, float]:
    logits = torch.zeros(512, VOCAB, requires_grad=True)
    function(logits, torch.randint(VOCAB, (512,))).backward()
    return {"gradient 1": logits.grad.square().mean().sqrt().item()}


def compare(
    ours: Callable, name: str, *shapes: tuple[int, ...], call: Callable | None = None
) -> tuple[dict, dict | None]:
    """Scales of ours, and of their function of that name if there is one; ``call(theirs, *arguments)`` adapts it."""
    theirs = getattr(U, name, None) if U else None
    if theirs is None:
        return scales(ours, *shapes), None
    return scales(ours, *shapes), scales(partial(call, theirs) if call else theirs, *shapes)


def table() -> list[tuple[str, dict, dict | None]]:
    """(operation, ours, theirs)."""
    shape = (512, 512)
    rows = []
    for name in ("relu", "relu2", "gelu", "silu", "tanh", "sigmoid", "softplus"):
        rows.append((name, *compare(getattr(F, name), name, shape)))
    no_bias = lambda linear, x, weight: linear(x, weight, None)
    for fan_out in (512, 2048):
        sizes = ((1024, 512), (fan_out, 512))
        rows.append((f"linear 512 → {fan_out}", *compare(F.linear, "linear", *sizes, call=no_bias)))
    swapped = lambda glu, gate, up: glu(up, gate)
    rows.append(("swiglu", *compare(F.swiglu, "silu_glu", shape, shape, call=swapped)))
    for n in (16, 256, 4096):
        over_last = lambda softmax, x: softmax(x, -1)
        rows.append((f"softmax over {n}", *compare(F.softmax, "softmax", (64 * 4096 // n, n), call=over_last)))
    rows.append(("cross-entropy, 256 classes", loss_scale(F.cross_entropy), loss_scale(U.cross_entropy) if U else None))
    for length in (16, 256, 2048):
        theirs = positions(partial(U.scaled_dot_product_attention, is_causal=True), length) if U else None
        rows.append((f"causal attention, {length} positions", positions(F.attention, length), theirs))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = table()
    print("| operation | tensor | allometry | unit-scaling 0.3.5 |\n|---|---|---|---|")
    for name, ours, peer in rows:
        for tensor, value in ours.items():
            print(f"| {name} | {tensor} | {value:.3f} | {f'{peer[tensor]:.3f}' if peer else '–'} |")
    if arguments.output:
        entries = [{"operation": name, "ours": ours, "theirs": peer} for name, ours, peer in rows]
        write_json(arguments.output, {"torch": torch.__version__, "draws": DRAWS, "rows": entries})


if __name__ == "__main__":
    main()
