"""Softmax and attention at unit scale, at every length and position.

A softmax row and an attention output shrink as more entries share the total probability of 1. For independent
unit-normal inputs the exact amount is known (:mod:`allometry.nn.ops.moments`). It depends only on the number of keys
that the row may see, never on the length of the running sequence: a prefix keeps its outputs when text follows it, and
a cache may be used.

In a trained or deep model values are similar, and their averages shrink less, by an amount that no constant can know.
There, put a norm after attention and pass ``scaled=False``.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import moments
from .arguments import check_constraint, check_float
from .autograd import Constants
from .scale import scale


@torch.compiler.assume_constant_result
def _softmax_polynomials(multiplier: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return moments.softmax_polynomials(multiplier)


@torch.compiler.assume_constant_result
def _gain_polynomial(head_dim: int, multiplier: float, qk_norm: bool) -> tuple[float, ...]:
    return moments.gain_polynomial(head_dim, multiplier, qk_norm)


def softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
    *,
    multiplier: float = 1.0,
    constraint: str | None = None,
) -> Tensor:
    """Softmax of ``multiplier · input`` along ``dim`` (None: the last), times the constant that makes its RMS 1.

    The output is 1/√E[p²] times the probabilities, so it does not sum to 1. The gradient has a factor of its own
    that brings it to unit scale; with ``constraint="output"`` it is the true gradient of the output. The constants
    are exact (:func:`~allometry.nn.ops.moments.softmax_scale`); a compiled graph with a dynamic length computes them by
    a polynomial that agrees to 1e-5.

    Raises:
        TypeError: ``input`` is not a floating-point tensor.
        ValueError: ``input`` has no elements, ``multiplier`` is beyond ±16, ``constraint`` is not None or "output".
    """
    check_float(input=input)
    check_constraint(constraint)
    multiplier = _multiplier(multiplier)
    x, dim = input if dtype is None else input.to(dtype), -1 if dim is None else dim
    forward, backward = _softmax_factors(x, dim, multiplier)
    # The factor of the output multiplies the gradient too; this factor before it compensates.
    before = multiplier if constraint else multiplier * backward / forward
    return F.softmax(scale(x, multiplier, before), dim) * forward


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    multiplier: float = 1.0,
    window: int | None = None,
    scaled: bool = True,
    qk_norm: bool = False,
) -> Tensor:
    """Softmax attention with logits ``multiplier · q·k / √head_dim``, each row times its gain.

    Shapes: q (batch, heads, length, head_dim); k and v (batch, kv_heads, keys, head_dim), where kv_heads divides heads
    (each is shared by heads / kv_heads neighbours) and v may have another head_dim. When ``causal``, the last row
    of q stands at the last key, so that with a cache q holds the new rows only; ``window`` limits each row to that many
    keys, itself included.

    A row that sees n keys is multiplied by 1/√E[Σp²] over n independent logits, which makes its root mean square 1
    at every position (:func:`~allometry.nn.ops.moments.attention_gain`; evaluated by a polynomial, relative error below
    1e-4). The gain is part of the function: gradients are the true ones. ``qk_norm`` states that q and k have been
    normalised to root mean square 1; it does not normalise them, it only changes the gain, by some percent.
    ``scaled=False`` omits the gain, for use before a norm, which would remove it.

    Raises:
        TypeError: q, k or v is not a floating-point tensor.
        ValueError: shapes that do not fit, more causal rows than keys, ``window`` below 1 or without ``causal``, or,
            when ``scaled``, a ``multiplier`` beyond ±16.
    """
    _check(q, k, v, causal, window)
    length, keys, head_dim = q.shape[2], k.shape[2], q.shape[3]
    if scaled:
        multiplier, head_dim = _multiplier(multiplier), operator.index(head_dim)
    first = keys - length  # the position of the first row
    if window is not None and keys >= window + length:  # keys that no row sees
        k, v = k[:, :, 1 - window - length :], v[:, :, 1 - window - length :]
    y = _attend(q, k, v, causal, window, multiplier / math.sqrt(head_dim))
    if not scaled:
        return y
    polynomial = _gain_polynomial(head_dim, multiplier, bool(qk_norm))
    return y * _gains(polynomial, first if causal else keys - 1, length if causal else 1, window, y)


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

    A boolean ``attn_mask`` (True: is seen), of a shape that broadcasts to (batch, heads, length, keys), gives each row
    the gain of the keys that it sees. ``dropout_p`` of the probabilities brings √(1 − p). Under ``is_causal`` row i
    sees keys 0 to i, as PyTorch's does; :func:`attention` puts the last row at the last key instead.

    Raises:
        ValueError: a mask that is added to the logits, whose constants are not known; a mask and ``is_causal``; fewer
            heads of keys without ``enable_gqa``; what :func:`attention` refuses.
    """
    if attn_mask is not None and (attn_mask.dtype != torch.bool or is_causal):
        raise ValueError(
            f"attn_mask: {attn_mask.dtype}{' with is_causal' if is_causal else ''}; give a boolean mask alone: no "
            "constants are known for one that is added to the logits"
        )
    if not 0 <= dropout_p < 1:
        raise ValueError(f"dropout_p: {dropout_p} is not a share of entries to drop; give 0 ≤ p < 1")
    if query.dim() == 4 and key.dim() == 4 and query.shape[1] != key.shape[1] and not enable_gqa:
        raise ValueError(f"enable_gqa: False, but {query.shape[1]} heads of queries and {key.shape[1]} of keys")
    _check(query, key, value, False, None)
    length, keys, head_dim = query.shape[2], key.shape[2], operator.index(query.shape[3])
    multiplier = _multiplier(1.0 if scale is None else scale * head_dim**0.5)
    if attn_mask is None and not dropout_p and (not is_causal or length == keys):
        return attention(query, key, value, causal=is_causal, multiplier=multiplier)
    seen = attn_mask
    if seen is None:
        seen = torch.ones(length, keys, dtype=torch.bool, device=query.device)
        seen = seen.tril() if is_causal else seen
    options: dict[str, Any] = {"scale": multiplier / math.sqrt(head_dim), "enable_gqa": enable_gqa}
    y = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout_p, **options)
    counts = seen.expand(*seen.shape[:-1], keys).sum(-1).clamp(min=1).to(torch.promote_types(y.dtype, torch.float32))
    gains = _exp_polynomial(_gain_polynomial(head_dim, multiplier, False), counts) * counts.sqrt()
    return y * ((1 - dropout_p) ** 0.5 * gains).to(y.dtype)[..., None]


_HALVES = (torch.bfloat16, torch.float16)


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None, factor: float) -> Tensor:
    """Attention without a gain, by the fastest way that fits."""
    length, keys = q.shape[2], k.shape[2]
    limited = window is not None and keys > window
    options: dict[str, Any] = {"scale": factor}
    if q.shape[1] != k.shape[1]:
        options["enable_gqa"] = True
    if causal and not limited and length == keys:
        options["is_causal"] = True
    elif causal and (limited or length > 1):
        options["attn_mask"] = _mask(length, keys, window if limited else None, q.device)
    if q.device.type == "cpu" and q.dtype in _HALVES and torch.is_grad_enabled():
        # PyTorch's backward kernel for these takes five to ten times as long as that for FP32.
        return _attend(q.float(), k.float(), v.float(), causal, window, factor).to(q.dtype)
    if not torch.compiler.is_compiling() and any(forward_ad.unpack_dual(x).tangent is not None for x in (q, k, v)):
        with sdpa_kernel(SDPBackend.MATH):  # the fast kernels have no forward-mode derivative
            return F.scaled_dot_product_attention(q, k, v, **options)
    return F.scaled_dot_product_attention(q, k, v, **options)


def _mask(length: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Which of the ``keys`` each of the last ``length`` positions may see."""
    back = torch.arange(keys - length, keys, device=device)[:, None] - torch.arange(keys, device=device)
    return back >= 0 if window is None else (back >= 0) & (back < window)


def _gains(polynomial: tuple[float, ...], first: int, rows: int, window: int | None, like: Tensor) -> Tensor:
    """The gains of ``rows`` rows from position ``first`` on: (rows, 1), in the type and place of ``like``."""
    precise = torch.promote_types(like.dtype, torch.float32)
    counts = torch.arange(first + 1, first + rows + 1, device=like.device).to(precise)
    if window is not None:
        counts = counts.clamp(max=window)
    return (_exp_polynomial(polynomial, counts) * counts.sqrt()).to(like.dtype)[:, None]


def _exp_polynomial(coefficients: tuple[float, ...], counts: Tensor) -> Tensor:
    """e to a polynomial in the logarithm of ``counts``, as :mod:`allometry.nn.ops.moments` fits them."""
    x = (counts.log() * (2 / math.log(moments.LARGEST)) - 1).clamp(max=1)
    value = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value.mul_(x).add_(coefficient)
    return value.exp_()


def _softmax_factors(x: Tensor, dim: int, multiplier: float) -> tuple[float, float] | tuple[Tensor, Tensor]:
    """Numbers; while compiling tensors without dimensions, so that a graph serves every length."""
    if not torch.compiler.is_compiling():
        return moments.softmax_scale(x.shape[dim], multiplier)
    precise = torch.promote_types(x.dtype, torch.float32)
    n = torch.full((), x.shape[dim], dtype=precise, device=x.device)
    forward, backward = (_exp_polynomial(c, n) * n for c in _softmax_polynomials(multiplier))
    return forward, backward * (n / (n - 1).clamp(min=1)).sqrt()  # finite for n = 1, where the gradient is zero


_SHARPEST = Constants(moments.SHARPEST)


def _multiplier(value: float) -> float:
    """``value`` as a Python float within the range of the constants."""
    (most,) = _SHARPEST()
    if not -most <= value <= most:
        raise ValueError(f"multiplier: {value} is beyond ±{most:g}, where the constants end")
    numerator, denominator = float(value).as_integer_ratio()  # makes a symbolic number of a compiled graph a plain one
    return numerator / denominator


def _check(q: Tensor, k: Tensor, v: Tensor, causal: bool, window: int | None) -> None:
    for name, value in (("q", q), ("k", k), ("v", v)):
        check_float(**{name: value})
        if value.dim() != 4:
            raise ValueError(f"{name}: shape {tuple(value.shape)}, not (batch, heads, length, head_dim)")
    (batch, heads, length, head_dim), (_, kv_heads, keys, _) = q.shape, k.shape
    if k.shape[0] != batch or k.shape[3] != head_dim:
        raise ValueError(f"k: shape {tuple(k.shape)} does not fit q's {tuple(q.shape)}; batch and head_dim must agree")
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(f"v: shape {tuple(v.shape)} does not fit k's {tuple(k.shape)}; all but the last must agree")
    if heads % kv_heads:
        raise ValueError(f"k: {kv_heads} heads do not divide the {heads} of q; give a divisor of {heads}")
    if causal and length > keys:
        raise ValueError(f"q: {length} causal rows but {keys} keys; give at most as many rows as keys")
    if window is not None and window < 1:
        raise ValueError(f"window: {window} keys; give at least 1, or None for all")
    if window is not None and not causal:
        raise ValueError(f"window: {window} with causal=False; a window looks back, so give causal=True or window=None")
