"""The unit-scaled operations, under the names of ``torch.nn.functional``.

For unit-normal inputs and upstream gradients every output and every gradient has root mean square 1. By default each
direction has its own factor, so the gradient that an operation passes on is the true one times a constant: harmless
on a chain, where everything below sees the same constant. If a tensor has several uses, ask for the true gradient
with ``constraint="output"``, or use :func:`residual_split` and :func:`residual_add`, which take it into account.

No factor depends on the length of the running sequence, so the logits of a prefix do not change when text follows it.
"""

from __future__ import annotations

from torch import Tensor

from .ops.activations import activation, dropout, gated
from .ops.attention import attention, softmax
from .ops.losses import cross_entropy, mse_loss
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


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """:func:`attention` with the arguments of ``torch.nn.functional``; each row times its gain.

    Raises:
        ValueError: ``attn_mask`` or ``dropout_p``, which have no constants; more keys than queries under ``is_causal``,
            where PyTorch aligns the first rows and attention with a cache the last; fewer heads of keys without
            ``enable_gqa``.
    """
    if attn_mask is not None:
        raise ValueError("attn_mask: no constants are known for it; give is_causal, or attention(…, window=…)")
    if dropout_p:
        raise ValueError(f"dropout_p: {dropout_p}; attention at unit scale has no dropout, leave it at 0")
    if is_causal and query.shape[-2] != key.shape[-2]:
        raise ValueError(
            f"is_causal: {query.shape[-2]} queries and {key.shape[-2]} keys; attention() puts the last query at the "
            "last key"
        )
    if query.dim() == 4 and key.dim() == 4 and query.shape[1] != key.shape[1] and not enable_gqa:
        raise ValueError(f"enable_gqa: False, but {query.shape[1]} heads of queries and {key.shape[1]} of keys")
    multiplier = 1.0 if scale is None else scale * query.shape[-1] ** 0.5
    return attention(query, key, value, causal=is_causal, multiplier=multiplier)


def relu(x: Tensor, *, constraint: str | None = None) -> Tensor:
    """√2·max(x, 0)."""
    return activation("relu", x, constraint)


def relu2(x: Tensor, *, constraint: str | None = None) -> Tensor:
    """max(x, 0)² at unit scale (arXiv 2109.08668)."""
    return activation("relu2", x, constraint)


def gelu(x: Tensor, *, constraint: str | None = None) -> Tensor:
    """``F.gelu`` at unit scale."""
    return activation("gelu", x, constraint)


def silu(x: Tensor, *, constraint: str | None = None) -> Tensor:
    """``F.silu`` at unit scale."""
    return activation("silu", x, constraint)


def tanh(x: Tensor, *, constraint: str | None = None) -> Tensor:
    """``torch.tanh`` at unit scale."""
    return activation("tanh", x, constraint)


def sigmoid(x: Tensor, *, constraint: str | None = None) -> Tensor:
    """``torch.sigmoid`` at unit scale: root mean square 1, so values are near 0.9, not about 0."""
    return activation("sigmoid", x, constraint)


def softplus(x: Tensor, *, constraint: str | None = None) -> Tensor:
    """``F.softplus`` at unit scale."""
    return activation("softplus", x, constraint)


def swiglu(gate: Tensor, up: Tensor, *, constraint: str | None = None) -> Tensor:
    """``silu(gate) · up`` at unit scale (arXiv 2002.05202)."""
    return gated("swiglu", gate, up, constraint)


def geglu(gate: Tensor, up: Tensor, *, constraint: str | None = None) -> Tensor:
    """``gelu(gate) · up`` at unit scale (arXiv 2002.05202)."""
    return gated("geglu", gate, up, constraint)
