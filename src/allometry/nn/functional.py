"""The unit-scaled operations, with the names and the arguments of ``torch.nn.functional`` where that has them.

A port is a change of import; what has no unit scale is refused by name. Arguments of ours are by keyword.

For unit-normal inputs and upstream gradients every output and every gradient has root mean square 1. By default each
direction has its own factor, so the gradient that an operation passes on is the true one times a constant: harmless
on a chain, where everything below sees the same constant. If a tensor has several uses, ask for the true gradient
with ``constraint="output"``, or use :func:`residual_split` and :func:`residual_add`, which take it into account.

No factor depends on the length of the running sequence, so the logits of a prefix do not change when text follows it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .ops.activations import activation, dropout, gated
from .ops.attention import attention, scaled_dot_product_attention, softmax
from .ops.losses import cross_entropy, distillation_loss, mse_loss
from .ops.products import Factors, accumulation, conv1d, conv2d, embedding, linear
from .ops.residual import add, layer_norm, residual_add, residual_split, rms_norm
from .ops.rotary import rope, rope_tables

__all__ = [
    "Factors",
    "accumulation",
    "add",
    "attention",
    "conv1d",
    "conv2d",
    "cross_entropy",
    "distillation_loss",
    "dropout",
    "embedding",
    "geglu",
    "gelu",
    "layer_norm",
    "linear",
    "mse_loss",
    "relu",
    "relu2",
    "residual_add",
    "residual_split",
    "rms_norm",
    "rope",
    "rope_tables",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "swiglu",
    "tanh",
]


def relu(input: Tensor, inplace: bool = False, *, constraint: str | None = None) -> Tensor:
    """√2·max(input, 0). ``inplace`` has no effect, here and below."""
    return activation("relu", input, constraint)


def relu2(input: Tensor, *, constraint: str | None = None) -> Tensor:
    """max(input, 0)² at unit scale (arXiv 2109.08668)."""
    return activation("relu2", input, constraint)


def gelu(input: Tensor, approximate: str = "none", *, constraint: str | None = None) -> Tensor:
    """``F.gelu`` at unit scale; ``approximate`` is "none" or "tanh".

    Raises:
        ValueError: another approximation.
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate: {approximate!r} is unknown; there are 'none' and 'tanh'")
    return activation("gelu" if approximate == "none" else "gelu_tanh", input, constraint)


def silu(input: Tensor, inplace: bool = False, *, constraint: str | None = None) -> Tensor:
    """``F.silu`` at unit scale."""
    return activation("silu", input, constraint)


def tanh(input: Tensor, *, constraint: str | None = None) -> Tensor:
    """``torch.tanh`` at unit scale."""
    return activation("tanh", input, constraint)


def sigmoid(input: Tensor, *, constraint: str | None = None) -> Tensor:
    """``torch.sigmoid`` at unit scale: root mean square 1, so values are near 0.9, not about 0."""
    return activation("sigmoid", input, constraint)


def softplus(input: Tensor, beta: float = 1, threshold: float = 20, *, constraint: str | None = None) -> Tensor:
    """``F.softplus`` at unit scale.

    Raises:
        ValueError: ``beta`` or ``threshold`` other than PyTorch's defaults, for which the constants are.
    """
    if (beta, threshold) != (1, 20):
        raise ValueError(f"beta: {beta}, threshold: {threshold}; the constants are those of 1 and 20")
    return activation("softplus", input, constraint)


def swiglu(gate: Tensor, up: Tensor, *, constraint: str | None = None) -> Tensor:
    """``silu(gate) · up`` at unit scale (arXiv 2002.05202)."""
    return gated("swiglu", gate, up, constraint)


def geglu(gate: Tensor, up: Tensor, *, constraint: str | None = None) -> Tensor:
    """``gelu(gate) · up`` at unit scale (arXiv 2002.05202)."""
    return gated("geglu", gate, up, constraint)


def __getattr__(name: str):
    """Raise an error that says what to do, for names of torch.nn.functional without a unit-scaled counterpart."""
    if hasattr(torch.nn.functional, name):
        raise AttributeError(
            f"allometry.nn.functional has no unit-scaled {name}; torch.nn.functional.{name} with allometry.nn.scale "
            "has the constants that you give it"
        )
    raise AttributeError(f"module 'allometry.nn.functional' has no attribute {name!r}")
