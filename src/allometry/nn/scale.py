"""The one primitive of unit scaling: a factor forward, another factor backward.

A tensor whose entries have standard deviation 1 sits in the middle of every floating-point format. Unit scaling
(Blake et al., 2023, arXiv 2303.11257) keeps all of them there at initialisation, by constants known before training:
each operation multiplies its output by one constant and the gradient it passes on by another. Everything else in
this package is that primitive, folded into the operation wherever the operation can take a factor for free.

The constants of elementwise functions are integrals over a unit normal; :func:`exact_scale` computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Scale(NamedTuple):
    """The factors that bring an operation back to unit scale."""

    forward: float
    backward: float


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, forward: float, backward: float) -> Tensor:
        ctx.factor = backward
        return x * forward

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad * ctx.factor, None, None


def scale(x: Tensor, forward: float = 1.0, backward: float = 1.0) -> Tensor:
    """``x`` times ``forward``; its gradient times ``backward``.

    Where the two differ the gradient is off by the constant ``backward / forward``. That is harmless on a cut edge
    of the graph, where everything below sees the same constant (arXiv 2303.11257, section 4); where a tensor has
    other uses too, they must agree.
    """
    if forward == backward == 1.0:
        return x
    return _Scale.apply(x, forward, backward)


@lru_cache(maxsize=256)
def exact_scale(function: Callable[[Tensor], Tensor], centred: bool = False) -> Scale:
    """The factors of an elementwise ``function``: E[f(z)²]^-½ and E[f'(z)²]^-½ for z ~ N(0, 1).

    With ``centred`` the forward factor is the inverse standard deviation instead, E[(f(z) − E f(z))²]^-½.

    Computed by the trapezoid rule on [−12, 12] in float64; relative error below 1e-7, kinks at 0 included.
    """
    # Midpoints, so that no node falls on a kink at the origin, where the derivative has no value.
    nodes, step = 400_000, 24.0 / 400_000
    z = (-12.0 + step * (torch.arange(nodes, dtype=torch.float64, device="cpu") + 0.5)).requires_grad_()
    density = torch.exp(-z.detach().square() / 2) * (step / math.sqrt(2 * math.pi))
    with torch.enable_grad():
        y = function(z)
        (slope,) = torch.autograd.grad(y.sum(), z)
    y = y.detach()
    if centred:
        y = y - (density * y).sum()
    return Scale(
        forward=float((density * y.square()).sum()) ** -0.5,
        backward=float((density * slope.square()).sum()) ** -0.5,
    )


def residual_taus(branches: int, alpha_res: float = 1.0, alpha_ratio: float = 1.0) -> list[float]:
    """The weight τ of each residual branch, attention first, so that every branch adds its due share.

    Branch i enters as ``τ/√(1+τ²)·branch + 1/√(1+τ²)·skip``. ``branches`` is twice the number of layers;
    ``alpha_res`` weighs all branches against the embedding, ``alpha_ratio`` attention against the MLP.
    Source: u-μP (arXiv 2407.17465), eqs. 10–14 and appendix G.2.
    """
    alpha_mlp = alpha_res * math.sqrt(2 / (1 + alpha_ratio**2))
    alpha_attention = alpha_ratio * alpha_mlp
    layers = branches / 2
    taus = []
    for i in range(branches):
        own = alpha_attention if i % 2 == 0 else alpha_mlp
        before = ((i + 1) // 2) * alpha_attention**2 + (i // 2) * alpha_mlp**2
        taus.append(math.sqrt(own**2 / (layers + before)))
    return taus
