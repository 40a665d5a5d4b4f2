"""The primitive of unit scaling: one factor forward, another factor backward.

A tensor whose entries have standard deviation 1 is in the middle of every floating-point format. Unit scaling (Blake et
al., 2023, arXiv 2303.11257) keeps all tensors there at initialisation, by constants known before training: each
operation multiplies its output by one constant and the gradient that it passes on by another. All operations of this
package use this primitive, inside the operation if it can take a factor at no cost.

The constants of elementwise functions are integrals over a unit normal; :func:`exact_scale` computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .autograd import Function, call


class Scale(NamedTuple):
    """The factors that bring an operation back to unit scale."""

    forward: float
    backward: float


class _Scale(Function):
    @staticmethod
    def forward(x: Tensor, forward: float, backward: float) -> Tensor:
        return x.view_as(x) if forward == 1.0 else x * forward

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, ctx.forward_factor, ctx.backward_factor = inputs

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad * ctx.backward_factor, None, None

    @staticmethod
    def tangent(ctx, tangent: Tensor, *_):
        # Forward mode has one factor only: it differentiates the value.
        return tangent.view_as(tangent) if ctx.forward_factor == 1.0 else tangent * ctx.forward_factor


class _TensorScale(Function):
    """``scale(x, 1, factor)`` for a factor that is known only when the graph runs."""

    @staticmethod
    def forward(x: Tensor, factor: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad * ctx.saved_tensors[0], None

    @staticmethod
    def tangent(ctx, tangent: Tensor, _):
        return tangent.view_as(tangent)


def scale(x: Tensor, forward: float = 1.0, backward: float | Tensor = 1.0) -> Tensor:
    """``x`` times ``forward``; its gradient times ``backward``.

    Where the two differ the gradient is off by the constant ``backward / forward``. That is harmless on a cut edge
    of the graph, where everything below sees the same constant (arXiv 2303.11257, section 4); where a tensor has
    other uses too, they must agree. ``backward`` may be a tensor without dimensions.
    """
    if not x.is_floating_point():
        raise TypeError(f"x: {x.dtype} has no scale; give a real floating-point tensor")
    if isinstance(backward, Tensor):
        y = call(_TensorScale, x, backward / forward)
        return y if forward == 1.0 else y * forward
    # A compiled graph must not compare a factor that depends on a size with 1.
    if not torch.compiler.is_compiling() and forward == backward == 1.0:
        return x
    return call(_Scale, x, forward, backward)


@lru_cache(maxsize=256)
def exact_scale(function: Callable[[Tensor], Tensor], centred: bool = False) -> Scale:
    """The factors of an elementwise ``function``: E[f(z)²]^-½ and E[f'(z)²]^-½ for z ~ N(0, 1).

    With ``centred`` the forward factor is the inverse standard deviation instead, E[(f(z) − E f(z))²]^-½.

    Computed by the midpoint rule on [−12, 12] in float64; relative error below 1e-7 for smooth functions
    and kinks at 0, 1e-4 for kinks elsewhere.

    Raises:
        ValueError: the function is not elementwise, has no finite mean square, or is or has a slope of 0 everywhere
            (with ``centred``, is constant).
    """
    if not callable(function):
        raise TypeError(
            f"function: {type(function).__name__} cannot be called; give an elementwise function of a tensor"
        )
    # Midpoints, so that no node falls on a kink at the origin, where the derivative has no value.
    nodes, step = 400_000, 24.0 / 400_000
    z = -12.0 + step * (torch.arange(nodes, dtype=torch.float64, device="cpu") + 0.5)
    density = torch.exp(-z.square() / 2) * (step / math.sqrt(2 * math.pi))
    with torch.enable_grad():
        y, pull = torch.func.vjp(function, z)[:2]  # unlike requires_grad_, also within a transform of torch.func
        (slope,) = pull(torch.ones_like(y))
    y, slope = y.detach(), slope.detach()
    name = getattr(function, "__name__", function)
    if y.shape != z.shape:
        raise ValueError(f"function: {name} is not elementwise: {tuple(z.shape)} became {tuple(y.shape)}")
    if centred:
        y = y - (density * y).sum()
    squares = float((density * y.square()).sum()), float((density * slope.square()).sum())
    if not all(map(math.isfinite, squares)) or float((density * y.square())[z.abs() > 11].sum()) > 1e-6 * squares[0]:
        raise ValueError(f"function: {name} has no finite mean square over a unit normal")
    if not all(square > 0 for square in squares):
        raise ValueError(f"function: {name} is constant or has no slope anywhere; it has no scale to bring back to 1")
    return Scale(*(square**-0.5 for square in squares))
