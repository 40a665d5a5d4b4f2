"""Activations, gates and dropout at unit scale.

Each is PyTorch's function times its exact constants (:func:`~allometry.nn.exact_scale`). The constants normalise the
root mean square, not the deviation about the mean, because the next matrix product sums squares.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .arguments import check_constraint, check_float, check_shape
from .autograd import Function, call, transforming
from .scale import Scale, exact_scale, scale


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)², not scaled: the plain function of :func:`~allometry.nn.functional.relu2`."""
    return F.relu(x).square()


# The plain function of each activation, by name.
ACTIVATIONS = {
    "relu": F.relu,
    "relu2": relu2,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
}
# What the options of PyTorch's functions choose.
VARIANTS = {"gelu_tanh": partial(F.gelu, approximate="tanh")}
# Gated: act(gate) · up. For independent unit normals E[(u·f(g))²] = E[f(g)²], so the constants are those of f.
GATES = {"swiglu": F.silu, "geglu": F.gelu}


@torch.compiler.assume_constant_result
def activation_scale(name: str, constraint: str | None = None) -> Scale:
    """The constants of an activation or gate by name, the backward one equal to the forward under a constraint."""
    check_constraint(constraint)
    factors = exact_scale((ACTIVATIONS | VARIANTS | GATES)[name])
    return Scale(factors.forward, factors.forward) if constraint else factors


def activation(name: str, x: Tensor, constraint: str | None = None) -> Tensor:
    """The activation called ``name``, output and gradient at unit scale for unit-normal ``x``.

    ``constraint="output"`` makes the gradient the true one, as it must be if ``x`` has other uses.
    """
    check_float(input=x)
    return scale((ACTIVATIONS | VARIANTS)[name](x), *activation_scale(name, constraint))


def gated(name: str, gate: Tensor, up: Tensor, constraint: str | None = None) -> Tensor:
    """``act(gate) · up``, the output and both gradients at unit scale for independent unit normals."""
    check_float(gate=gate)
    check_shape("up", up, gate.shape, "the gate")
    forward, backward = activation_scale(name, constraint)
    return scale(GATES[name](scale(gate, 1.0, backward / forward)) * up, forward, forward)


# silu_backward(g, x) is g·silu'(x), and likewise for gelu.
_GATE_BACKWARD = {"swiglu": torch.ops.aten.silu_backward, "geglu": torch.ops.aten.gelu_backward}


class _GatedHalves(Function):
    """factor · act(first half) · second half, in as many passes as without the factor.

    The backward pass computes the activation again. This costs as much as writing both halves of the gradient in place
    saves, and the forward pass keeps a third less memory.
    """

    @staticmethod
    def forward(x: Tensor, name: str, factor: float) -> Tensor:
        gate, up = x.chunk(2, -1)
        return torch.addcmul(x.new_zeros(()), GATES[name](gate), up, value=factor)

    @staticmethod
    def setup_context(ctx, inputs, _) -> None:
        x, ctx.name, ctx.factor = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        (gate, up), zero = x.chunk(2, -1), x.new_zeros(())
        backward = _GATE_BACKWARD[ctx.name]
        if transforming():
            grad_gate = backward(torch.addcmul(zero, grad, up, value=ctx.factor), gate)
            grad_up = torch.addcmul(zero, grad, GATES[ctx.name](gate), value=ctx.factor)
            return torch.cat((grad_gate, grad_up), -1), None, None
        grad_x = torch.empty_like(x)
        grad_gate, grad_up = grad_x.chunk(2, -1)
        torch.addcmul(zero, grad, up, value=ctx.factor, out=grad_gate)
        backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        torch.addcmul(zero, grad, GATES[ctx.name](gate), value=ctx.factor, out=grad_up)
        return grad_x, None, None

    @staticmethod
    def tangent(ctx, tangent: Tensor, *_):
        (x,) = ctx.saved_tensors
        (gate, up), (gate_t, up_t) = x.chunk(2, -1), tangent.chunk(2, -1)
        return ctx.factor * (_GATE_BACKWARD[ctx.name](gate_t, gate) * up + GATES[ctx.name](gate) * up_t)


def gated_halves(name: str, x: Tensor, factor: float) -> Tensor:
    """``factor · act(gate) · up`` of ``x`` = (gate, up) side by side: (…, 2n) → (…, n), the true gradient.

    The two halves come from one GEMM and return to it in the backward pass, so both must carry the same factor.
    """
    if torch.compiler.is_compiling():
        gate, up = x.chunk(2, -1)
        return GATES[name](gate) * up * factor
    return call(_GatedHalves, x, name, factor)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """``F.dropout`` times √(1 − p): zeros entries with probability ``p`` and keeps the root mean square.

    ``inplace`` has no effect.
    """
    check_float(input=input)
    if not 0 <= p < 1:
        raise ValueError(f"p: {p} is not a share of entries to drop; give 0 ≤ p < 1")
    if not training or p == 0:
        return input
    keep = (1 - p) ** 0.5
    return scale(F.dropout(input, p, training), keep, keep)
