"""Unit-scaled operations, their factors folded into the arithmetic that is done anyway.

Names and argument order follow ``torch.nn.functional``. A factor costs nothing where a GEMM or an addition takes
one: ``addmm(beta=0, alpha=s)`` and ``add(alpha=s)``. No factor depends on the length of the running sequence, so the
logits of a prefix do not change when text follows it, and a cache may be used.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .scale import exact_scale, scale

SWIGLU_SCALE = exact_scale(F.silu).forward  # E[(u·silu(g))²] = E[u²]·E[silu(g)²] for independent u and g


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, output: float, grad_input: float, grad_weight: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.grad_input, ctx.grad_weight = grad_input, grad_weight
        return _scaled_mm(x, weight.t(), output)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        grad_x = _scaled_mm(grad, weight, ctx.grad_input) if ctx.needs_input_grad[0] else None
        grad_w = _scaled_mm(grad.t(), x, ctx.grad_weight) if ctx.needs_input_grad[1] else None
        return grad_x, grad_w, None, None, None


def _scaled_mm(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """α·a·b in one GEMM. With β = 0 the first argument is never read; its one element only gives the type."""
    return torch.addmm(a.new_empty(1), a, b, beta=0, alpha=alpha)


def linear(x: Tensor, weight: Tensor, *, gain: float = 1.0, backward_gain: float | None = None) -> Tensor:
    """``x @ weight.T`` at unit scale: (…, fan_in), (fan_out, fan_in) → (…, fan_out).

    The output and the gradient of ``x`` carry fan_in^-½, so that the gradient is the true one and ``x`` may have
    other uses; the gradient of the weight carries rows^-½, on which nothing else depends. ``gain`` multiplies the
    output (the factor of the operation before, say) and ``backward_gain``, by default the same, both gradients: that
    of the weight is a product with ``x``, which is at unit scale only with the factor that was folded away.
    The GEMMs run in the type of ``x``; a weight of another type is cast, and its gradient cast back.
    Source: arXiv 2303.11257, table A.2.
    """
    fan_in = weight.shape[1]
    rows = x.numel() // fan_in
    back = gain if backward_gain is None else backward_gain
    factors = gain / math.sqrt(fan_in), back / math.sqrt(fan_in), back / math.sqrt(rows)
    flat = _Linear.apply(x.reshape(rows, fan_in), weight.to(x.dtype), *factors)
    return flat.view(*x.shape[:-1], weight.shape[0])


def embedding(tokens: Tensor, weight: Tensor) -> Tensor:
    """Rows of ``weight`` (vocab, width) by index: (…) → (…, width). Unit-normal rows need no factor."""
    return F.embedding(tokens, weight)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, eps: float) -> Tensor:
        inverse = (x.square().mean(-1, keepdim=True) + eps).rsqrt_()
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    @once_differentiable  # ``inverse`` carries no graph, so a second derivative would be wrong without a word
    def backward(ctx, grad: Tensor):
        y, inverse = ctx.saved_tensors
        along = (grad * y).mean(-1, keepdim=True)
        return torch.addcmul(grad, y, along, value=-1).mul_(inverse), None


def rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Each row over its root mean square, no gain: (…, width) → (…, width), at unit scale whatever came in.

    Its own backward pass, five elementwise operations where autograd's needs about ten.
    """
    return _RMSNorm.apply(x, eps)


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)

    @staticmethod
    def backward(ctx, grad: Tensor):
        cos, sin = ctx.saved_tensors
        return (grad * cos).addcmul_(grad.roll(grad.shape[-1] // 2, -1), sin, value=-1), None, None


def rope_tables(positions: int, head_dim: int, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine of the rotary embedding, each (positions, head_dim). Source: arXiv 2104.09864."""
    half = head_dim // 2
    frequency = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.outer(torch.arange(positions, dtype=torch.float64), frequency)
    cos = torch.cat((angle.cos(), angle.cos()), -1)
    sin = torch.cat((-angle.sin(), angle.sin()), -1)
    return cos.float(), sin.float()


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of each head by its position: (…, positions, head_dim). A rotation keeps the scale."""
    return _Rope.apply(x, cos, sin)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, multiplier: float = 1.0) -> Tensor:
    """Causal softmax attention with logits ``multiplier · q·k / √head_dim``: (batch, heads, length, head_dim).

    The output is an average of values, hence below unit scale by an amount that depends on how alike they are. No
    factor can know that in advance: a norm after it restores the scale at every position and depth (see
    :class:`~allometry.nn.Attention`).
    """
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=multiplier / math.sqrt(q.shape[-1]))


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) · up``, *unscaled*: give :data:`SWIGLU_SCALE` to the GEMM that follows as its ``gain``."""
    return F.silu(gate) * up


def residual_add(skip: Tensor, branch: Tensor, tau: float) -> Tensor:
    """``τ/√(1+τ²)·branch + 1/√(1+τ²)·skip``: unit scale in, unit scale out.

    The gradients are the true ones: the branch's is ``τ/√(1+τ²)``, and where it joins the skip's again, unit scale.
    """
    keep = 1 / math.sqrt(1 + tau**2)
    return torch.add(skip * keep, branch, alpha=tau * keep)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of (rows, classes) logits; each row's gradient at unit scale.

    The value carries no factor. The gradient of a mean over rows has entries near √(V−1)/V/rows, so it is
    multiplied by rows·V/√(V−1). Source: arXiv 2303.11257, table A.2.
    """
    rows, classes = logits.shape
    return F.cross_entropy(scale(logits, 1.0, rows * classes / math.sqrt(classes - 1)), targets)
