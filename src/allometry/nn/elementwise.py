"""Activations, gates and dropout at unit scale.

Each is PyTorch's function times its exact constants (:func:`~allometry.nn.exact_scale`). The constants are of the
root mean square and not of the deviation about the mean, for that is what the next matrix product sums.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """``F.dropout`` times √(1 − p): zeros entries with probability ``p`` and keeps the root mean square."""
    check_float(x=x)
    if not 0 <= p < 1:
        raise ValueError(f"p: {p} is no share of entries to drop; give 0 ≤ p < 1")
    if not training or p == 0:
        return x
    keep = (1 - p) ** 0.5
    return scale(F.dropout(x, p, training), keep, keep)
