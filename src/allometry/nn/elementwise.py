"""Activations, gates and dropout at unit scale.

Each is PyTorch's function times its exact constants (:func:`~allometry.nn.exact_scale`). The constants are of the
root mean square and not of the deviation about the mean, for that is what the next matrix product sums.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .autograd import Function, call
from .gemm import check_constraint, check_float
from .scale import Scale, exact_scale, scale


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)², not scaled: the plain function of :func:`~allometry.nn.functional.relu2`."""
    return F.relu(x).square()


# What an activation is called, and what it computes.
ACTIVATIONS = {
    "relu": F.relu,
    "relu2": relu2,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
}
# Gated: act(gate) · up. For independent unit normals E[(u·f(g))²] = E[f(g)²], so the constants are those of f.
GATES = {"swiglu": F.silu, "geglu": F.gelu}


@torch.compiler.assume_constant_result
def activation_scale(name: str, constraint: str | None = None) -> Scale:
    """The constants of an activation or gate by name, the backward one equal to the forward under a constraint."""
    check_constraint(constraint)
    factors = exact_scale((ACTIVATIONS | GATES)[name])
    return Scale(factors.forward, factors.forward) if constraint else factors


def activation(name: str, x: Tensor, constraint: str | None = None) -> Tensor:
    """The activation called ``name``, output and gradient at unit scale for unit-normal ``x``.

    ``constraint="output"`` makes the gradient the true one, as it must be where ``x`` has other uses.
    """
    check_float(x=x)
    return scale(ACTIVATIONS[name](x), *activation_scale(name, constraint))


def gated(name: str, gate: Tensor, up: Tensor, constraint: str | None = None) -> Tensor:
    """``act(gate) · up``, the output and both gradients at unit scale for independent unit normals."""
    check_float(gate=gate, up=up)
    forward, backward = activation_scale(name, constraint)
    return scale(GATES[name](scale(gate, 1.0, backward / forward)) * up, forward, forward)


# silu_backward(g, x) is g·silu'(x), and likewise for gelu.
_GATE_BACKWARD = {"swiglu": torch.ops.aten.silu_backward, "geglu": torch.ops.aten.gelu_backward}


class _GatedHalves(Function):
    """factor · act(first half) · second half, in as many passes as without the factor."""

    @staticmethod
    def forward(x: Tensor, name: str, factor: float) -> tuple[Tensor, Tensor]:
        gate, up = x.chunk(2, -1)
        activated = GATES[name](gate)
        return torch.addcmul(x.new_zeros(()), activated, up, value=factor), activated

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, ctx.name, ctx.factor = inputs
        ctx.save_for_backward(x, output[1])
        ctx.save_for_forward(x, output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable  # ``activated`` carries no graph
    def backward(ctx, grad: Tensor, _):
        x, activated = ctx.saved_tensors
        gate, up = x.chunk(2, -1)
        zero = x.new_zeros(())
        grad_gate = _GATE_BACKWARD[ctx.name](torch.addcmul(zero, grad, up, value=ctx.factor), gate)
        return torch.cat((grad_gate, torch.addcmul(zero, grad, activated, value=ctx.factor)), -1), None, None

    @staticmethod
    def tangent(ctx, tangent: Tensor, *_):
        x, activated = ctx.saved_tensors
        (gate, up), (gate_t, up_t) = x.chunk(2, -1), tangent.chunk(2, -1)
        return ctx.factor * (_GATE_BACKWARD[ctx.name](gate_t, gate) * up + activated * up_t), None


def gated_halves(name: str, x: Tensor, factor: float) -> Tensor:
    """``factor · act(gate) · up`` of ``x`` = (gate, up) side by side: (…, 2n) → (…, n), the true gradient.

    The two halves come of one GEMM and meet in it again, so that both must carry the one factor.
    """
    if torch.compiler.is_compiling():
        gate, up = x.chunk(2, -1)
        return GATES[name](gate) * up * factor
    return call(_GatedHalves, x, name, factor)[0]


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """``F.dropout`` times √(1 − p): zeros entries with probability ``p`` and keeps the root mean square."""
    check_float(x=x)
    if not 0 <= p < 1:
        raise ValueError(f"p: {p} is no share of entries to drop; give 0 ≤ p < 1")
    if not training or p == 0:
        return x
    keep = (1 - p) ** 0.5
    return scale(F.dropout(x, p, training), keep, keep)
