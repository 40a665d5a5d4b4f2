"""Norms and the residual stream at unit scale.

In a residual addition ``keep·skip + share·branch`` with a small ``share`` the gradient of the branch would be as small.
:func:`residual_add` passes the gradient on unchanged to both sides, at unit scale. :func:`residual_split`, where the
branch leaves the stream, multiplies the two gradients by ``keep`` and ``share`` before they are summed: the sum is the
true gradient (Blake et al., 2023, arXiv 2303.11257, section 5). With a norm at the start of the branch, as is usual,
the split costs nothing: it is two constants in the norm's backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .arguments import check_float, check_shape
from .autograd import Function, call
from .products import over_rows
from .scale import scale


class _RMSNorm(Function):
    """RMSNorm with its own backward pass: five elementwise operations, while autograd needs about ten."""

    @staticmethod
    def forward(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        inverse = (x.square().mean(-1, keepdim=True) + eps).rsqrt_()
        return x * inverse, inverse

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable  # ``inverse`` carries no graph, so a second derivative would be silently wrong
    def backward(ctx, grad: Tensor | None, _):
        if grad is None:
            return None, None
        y, inverse = ctx.saved_tensors
        return _norm_backward(grad, y).mul_(inverse), None

    @staticmethod
    def tangent(ctx, tangent: Tensor, _):
        y, inverse = ctx.saved_tensors
        return _norm_backward(tangent, y) * inverse, None


def _norm_backward(grad: Tensor, y: Tensor) -> Tensor:
    """``grad`` less its part along ``y``, row by row."""
    return torch.addcmul(grad, y, (grad * y).mean(-1, keepdim=True), value=-1)


class _NormSplit(Function):
    """A norm at the start of a branch, and the stream; backward: keep·(stream's gradient) + share·(branch's)."""

    @staticmethod
    def forward(x: Tensor, eps: float, keep: float, share: float) -> tuple[Tensor, Tensor, Tensor]:
        inverse = (x.square().mean(-1, keepdim=True) + eps).rsqrt_()
        return x * inverse, x.view_as(x), inverse

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, _, ctx.keep, ctx.share = inputs
        ctx.save_for_backward(output[0], output[2])
        ctx.save_for_forward(output[0], output[2])
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, grad_skip: Tensor, _):
        y, inverse = ctx.saved_tensors
        return _norm_backward(grad, y).mul_(inverse * ctx.share).add_(grad_skip, alpha=ctx.keep), None, None, None

    @staticmethod
    def tangent(ctx, tangent: Tensor, *_):
        y, inverse = ctx.saved_tensors
        return _norm_backward(tangent, y) * inverse, tangent.view_as(tangent), None


def rms_norm(
    input: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Each row over its root mean square: (…, *normalized_shape) → the same shape, at unit scale for any input.

    A ``weight`` (normalized_shape) multiplies the columns; its gradient carries rows^-½. ``eps`` None is 1e-6.
    Differentiable once.

    Raises:
        ValueError: the last dimensions are not ``normalized_shape``, or the weight's are not.
    """
    check_float(input=input)
    eps = 1e-6 if eps is None else eps
    if normalized_shape == input.shape[-1:]:
        return _gain(call(_RMSNorm, input, eps)[0], weight, None)
    rows, shape = _rows(input, normalized_shape)
    y = call(_RMSNorm, rows, eps)[0]
    return _gain(y, _flat("weight", weight, shape), None).reshape(input.shape)


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Each row less its mean, over its standard deviation: (…, *normalized_shape) → the same shape.

    The gradients of ``weight`` and ``bias`` (normalized_shape) carry rows^-½.

    Raises:
        ValueError: as :func:`rms_norm`.
    """
    check_float(input=input)
    rows, shape = _rows(input, normalized_shape)
    y = F.layer_norm(rows, rows.shape[-1:], eps=eps)
    return _gain(y, _flat("weight", weight, shape), _flat("bias", bias, shape)).reshape(input.shape)


def _rows(x: Tensor, normalized_shape: int | Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
    """``x`` with what is normalised together in one last dimension, and the shape of that."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or tuple(x.shape[-len(shape) :]) != shape:
        raise ValueError(f"normalized_shape: {shape}, but the input's shape is {tuple(x.shape)}")
    return x.flatten(-len(shape)), shape


def _flat(name: str, parameter: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    if parameter is None:
        return None
    check_shape(name, parameter, shape, "the norm")
    return parameter.flatten()


def _gain(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    rows = y.numel() // y.shape[-1]
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None:
            check_shape(name, parameter, y.shape[-1:], "the norm")
    if weight is not None:
        y = y * scale(weight.to(y.dtype), 1.0, over_rows(rows))
    if bias is not None:
        y = y + scale(bias.to(y.dtype), 1.0, over_rows(rows))
    return y


def residual_split(
    x: Tensor, keep: float, share: float, *, norm: bool = False, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """The stream ``x`` as (branch, skip), the branch after an RMSNorm if ``norm``: the start of a residual branch.

    Backward: ``keep`` times the gradient of the skip plus ``share`` times that of the branch. If the
    branch's operations change the gradient by a constant (their forward and backward factors differ), divide ``share``
    by that constant; modules have it as ``backward_ratio``.
    """
    check_float(x=x)
    if norm:
        return call(_NormSplit, x, eps, keep, share)[:2]
    return scale(x, 1.0, share), scale(x, 1.0, keep)


def residual_add(branch: Tensor, skip: Tensor, keep: float, share: float) -> Tensor:
    """``keep·skip + share·branch``: the end of a residual branch begun by :func:`residual_split`.

    Unit scale in, unit scale out if keep² + share² = 1. In the backward pass both sides receive the gradient unchanged.
    Where a linear map ends the branch, :func:`linear` does this in its GEMM (``onto=``).
    """
    check_float(branch=branch)
    check_shape("skip", skip, branch.shape, "the branch")
    return call(_ResidualAdd, branch, skip, keep, share)


class _ResidualAdd(Function):
    @staticmethod
    def forward(branch: Tensor, skip: Tensor, keep: float, share: float) -> Tensor:
        return torch.add(skip * keep, branch, alpha=share)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        *_, ctx.keep, ctx.share = inputs

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, grad, None, None

    @staticmethod
    def tangent(ctx, branch_t, skip_t, *_):
        branch_t = 0 if branch_t is None else ctx.share * branch_t
        return branch_t if skip_t is None else branch_t + ctx.keep * skip_t


def add(a: Tensor, b: Tensor) -> Tensor:
    """(a + b)/√2: unit scale for independent unit normals. The gradients are the true ones."""
    check_float(a=a, b=b)
    return (a + b) * 0.5**0.5
