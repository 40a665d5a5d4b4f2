"""Matrix products and convolutions at unit scale, with their factors inside the product.

A linear map has three products: forward, gradient of the input, gradient of the weight. Unit scaling puts a factor on
each. ``addmm(c, a, b, beta=β, alpha=α)`` computes β·c + α·a·b at the price of a·b, so all three are free;
so is a bias, and so is the residual addition at the end of a branch (``onto``).
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import check_constraint, check_float, check_left_out, check_shape
from .autograd import Constants, Function, call
from .scale import scale

_parts = Constants(1.0)  # the number of backward passes of one batch; see accumulation()


class Factors(NamedTuple):
    """The factors of the three products; the gradient of the weight carries rows^-½ in addition."""

    output: float
    grad_input: float
    grad_weight: float = 1.0


class _Pieces:
    """The sums over rows of the backward passes of the batch under way, by which unequal pieces are noticed.

    Passes with another number of sums belong to another model or loss, and are a batch of their own.
    """

    def __init__(self) -> None:
        self.batches: dict[tuple[float, int], tuple[list[int], int]] = {}

    def check(self, parts: float, passes: dict[int, list[int]]) -> None:
        """Compare the backward passes of one context with each other, and with those of the contexts before it.

        Raises:
            ValueError: they sum over different numbers of rows.
        """
        for sums in map(sorted, passes.values()):
            first, count = self.batches.get((parts, len(sums)), (sums, 0))
            if count >= parts:  # another batch begins
                first, count = sums, 0
            if first != sums:
                self.batches.clear()
                raise ValueError(
                    f"accumulation: parts={parts:g} is for equal pieces, and these sum over {first[-1]} rows and over "
                    f"{sums[-1]}; give each piece its size and that of the whole: accumulation(rows=…, of=…)"
                )
            self.batches[parts, len(sums)] = first, count + 1


_pieces = _Pieces()
_passes: dict[int, list[int]] | None = None  # of the context that is open, by the number of autograd's pass


@contextmanager
def accumulation(parts: float | None = None, *, rows: int | None = None, of: int | None = None):
    """Context in which each backward pass is a piece of a batch; the gradients of the pieces are summed.

    Either one of ``parts`` equal pieces, or ``rows`` rows (sequences, samples) ``of`` a whole batch, for pieces of any
    size. The gradient of a weight carries rows^-½, so the plain sum of k pieces would be √k times the gradient of the
    whole. In this context the sum is the gradient of the whole. Put forward and backward inside, and do not divide the
    loss: each piece's own mean is right.

    Raises:
        ValueError: fewer than one part, more rows than the whole; at the end of the context, pieces that were said to
            be equal and are not.
    """
    if (parts is None) == (rows is None) or (rows is None) != (of is None):
        raise ValueError("accumulation: give either parts, for equal pieces, or rows and of, for pieces of any size")
    if parts is not None and parts < 1:
        raise ValueError(f"parts: {parts} pieces of a batch; there must be at least 1")
    if rows is not None and of is not None and not 1 <= rows <= of:
        raise ValueError(f"rows: a piece of {rows} rows of a batch of {of}; give 1 to {of}")
    share = float(parts or 1.0) if rows is None or of is None else of / rows
    global _parts, _passes
    before, _parts = _parts, Constants(_parts.values[0] * share)
    outer, _passes = _passes, {} if parts is not None and _passes is None else None
    try:
        yield
        if _passes is not None:
            _pieces.check(share, _passes)
    except BaseException:
        _pieces.batches.clear()  # the batch under way is given up
        raise
    finally:
        _parts, _passes = before, outer


def over_rows(rows: int) -> float:
    """rows^-½, the factor of a gradient that sums over ``rows`` rows of independent terms."""
    if not torch.compiler.is_compiling() and _passes is not None:
        number = torch._C._current_graph_task_id()
        if number >= 0:
            _passes.setdefault(number, []).append(rows)
    return (rows * _parts()[0]) ** -0.5


def over_rows_of(grad: Tensor) -> float:
    """The same for a gradient whose second dimension holds features or channels; all other dimensions are rows."""
    return over_rows(grad.numel() // grad.shape[1])


def linear_factors(fan_in: int, fan_out: int, constraint: str | None = None) -> Factors:
    """fan_in^-½ forward; fan_out^-½ backward, or the forward one again under ``constraint="output"``."""
    check_constraint(constraint)
    output = fan_in**-0.5
    return Factors(output, output if constraint else fan_out**-0.5)


class _LinearFunction(Function):
    """β·addend + α·x·wᵀ on two dimensions; the addend is a bias (columns) or a tensor to add onto (rows, columns)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, addend: Tensor | None, beta: float, output: float, *grads: float) -> Tensor:
        return _product(x, weight.t(), output, addend, beta)

    @staticmethod
    def setup_context(ctx, inputs, _) -> None:
        x, weight, addend, ctx.beta, ctx.output, ctx.grad_input, ctx.grad_weight = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)
        ctx.bias = addend is not None and addend.dim() == 1

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_addend, *_ = ctx.needs_input_grad
        rows = over_rows(grad.shape[0])
        grad_x = grad_weight = grad_addend = None
        if needs_weight:  # first, since it needs working memory
            grad_weight = _product(grad.t(), x, ctx.grad_weight * rows)
        if needs_x:
            grad_x = _product(grad, weight, ctx.grad_input)
        if needs_addend:
            # ``onto`` takes the gradient unchanged: its weight β is applied where the branch split off.
            grad_addend = grad.sum(0) * rows if ctx.bias else grad
        return grad_x, grad_weight, grad_addend, None, None, None, None

    @staticmethod
    def tangent(ctx, x_t, weight_t, addend_t, *_):
        x, weight = ctx.saved_tensors
        terms = []
        if x_t is not None:
            terms.append(ctx.output * (x_t @ weight.t()))
        if weight_t is not None:
            terms.append(ctx.output * (x @ weight_t.t()))
        if addend_t is not None:
            terms.append((ctx.beta * addend_t).expand(x.shape[0], weight.shape[0]))
        return sum(terms[1:], terms[0])


def _product(a: Tensor, b: Tensor, alpha: float, addend: Tensor | None = None, beta: float = 0.0) -> Tensor:
    """β·addend + α·a·b in one GEMM."""
    if addend is None:  # also while compiling: as a pass of its own, α would be a kernel more to build and to run
        return torch.addmm(_nothing(a), a, b, beta=0, alpha=alpha)
    if torch.compiler.is_compiling():  # which fuses both factors with the addition
        return torch.mm(a, b) * alpha + beta * addend
    return torch.addmm(addend, a, b, beta=beta, alpha=alpha)


def _nothing(like: Tensor) -> Tensor:
    """An addend for β = 0. It is not read, except under vmap, which multiplies it by β; so it must be finite."""
    if like.is_cpu and type(like) in _PLAIN:
        return _ZEROS[like.dtype]
    return like.new_zeros(1)


_PLAIN = (Tensor, torch.nn.Parameter)
_ZEROS = {dtype: torch.zeros(1, dtype=dtype) for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)}


def linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    constraint: str | None = None,
    factors: Factors | None = None,
    onto: Tensor | None = None,
    keep: float = 1.0,
    share: float = 1.0,
) -> Tensor:
    """``input @ weight.T + bias`` at unit scale: (…, fan_in), (fan_out, fan_in) → (…, fan_out).

    The output carries fan_in^-½, the gradient of ``input`` fan_out^-½, those of weight and bias rows^-½; a bias itself
    carries no factor. With ``constraint="output"`` the gradient of ``input`` carries fan_in^-½ and is the true one, as
    it must be if ``input`` has other uses too. ``factors`` replaces these by any others.

    With ``onto`` the result is ``keep·onto + share·(…)``, in the same GEMM: the end of a residual branch. Backward,
    both sides receive the gradient unchanged, at unit scale; ``keep`` and ``share`` are applied where the branch
    split off, see :func:`~allometry.nn.functional.residual_split`.

    The GEMMs run in the type of ``input`` (or autocast's); a weight of another type is cast, its gradient back.

    Raises:
        TypeError: an integer or complex tensor. ValueError: a dimension of size 0, or shapes that do not match.
    Source: arXiv 2303.11257, table A.2.
    """
    _check_linear(input, weight, bias, onto)
    if factors is not None and constraint is not None:
        raise ValueError(f"constraint: {constraint!r} cannot be combined with factors; give one of the two")
    fan_out, fan_in = weight.shape
    output, grad_input, grad_weight = factors or linear_factors(fan_in, fan_out, constraint)
    dtype = _compute_dtype(input)
    if input.dtype != dtype:
        input = input.to(dtype)
    if weight.dtype != dtype:
        weight = weight.to(dtype)
    flat = input if input.dim() == 2 else input.reshape(-1, fan_in)
    addend, beta = None, 0.0
    if onto is not None:
        addend, beta, output = onto.to(dtype).reshape(-1, fan_out), keep, share * output
    elif bias is not None:
        addend, beta = bias.to(dtype), 1.0
    y = call(_LinearFunction, flat, weight, addend, beta, output, grad_input, grad_weight)
    if onto is not None and bias is not None:
        y = y + scale(bias.to(dtype), share, over_rows(flat.shape[0]))
    return y if input.dim() == 2 else y.view(*input.shape[:-1], fan_out)


def _check_linear(input: Tensor, weight: Tensor, bias: Tensor | None, onto: Tensor | None) -> None:
    check_float(input=input, weight=weight)
    if weight.dim() != 2:
        raise ValueError(f"weight: shape {tuple(weight.shape)}; a linear map has one of (fan_out, fan_in)")
    if input.dim() == 0 or input.shape[-1] != weight.shape[1]:
        raise ValueError(f"input: shape {tuple(input.shape)}, but the weight reads {weight.shape[1]} features last")
    if bias is not None:
        check_shape("bias", bias, weight.shape[:1], "the weight")
    if onto is not None:
        check_shape("onto", onto, (*input.shape[:-1], weight.shape[0]), "the result")


def _compute_dtype(input: Tensor) -> torch.dtype:
    """The type of the product: autocast's if it is on, else that of ``input``."""
    device = input.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return input.dtype


class _ConvolutionFunction(Function):
    """A convolution whose factors multiply the weight, which is by far the smaller operand."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, geometry: tuple, output: float, *grads: float) -> Tensor:
        return _convolve(x, weight * output, geometry)

    @staticmethod
    def setup_context(ctx, inputs, _) -> None:
        x, weight, ctx.geometry, ctx.output, ctx.grad_input, ctx.grad_weight = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        rest = (None, stride, padding, dilation, False, [0] * len(stride), groups)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            scaled = weight * ctx.grad_input
            grad_x = torch.ops.aten.convolution_backward(grad, x, scaled, *rest, [True, False, False])[0]
        if ctx.needs_input_grad[1]:
            grad_weight = torch.ops.aten.convolution_backward(grad, x, weight, *rest, [False, True, False])[1]
            grad_weight = grad_weight * (ctx.grad_weight * over_rows_of(grad))
        return grad_x, grad_weight, None, None, None, None

    @staticmethod
    def tangent(ctx, x_t, weight_t, *_):
        x, weight = ctx.saved_tensors
        terms = []
        if x_t is not None:
            terms.append(_convolve(x_t, weight * ctx.output, ctx.geometry))
        if weight_t is not None:
            terms.append(_convolve(x, weight_t * ctx.output, ctx.geometry))
        return sum(terms[1:], terms[0])


def _convolve(x: Tensor, weight: Tensor, geometry: tuple) -> Tensor:
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution(x, weight, None, stride, padding, dilation, False, [0] * len(stride), groups)


def conv_factors(
    in_channels: int, out_channels: int, taps: int, groups: int, stride: int, constraint: str | None = None
) -> Factors:
    """(fan_in·k/g)^-½ forward; (s·g/(fan_out·k))^½ backward: an input meets k/s taps. ``stride`` is over all axes."""
    check_constraint(constraint)
    output = (in_channels // groups * taps) ** -0.5
    return Factors(output, output if constraint else (stride / (out_channels // groups * taps)) ** 0.5)


def _conv(input, weight, bias, stride, padding, dilation, groups, constraint, factors) -> Tensor:
    """A convolution over the last axes of ``input``, as many as ``weight`` has taps for."""
    check_float(input=input, weight=weight)
    axes = weight.dim() - 2
    if weight.shape[0] % groups:
        raise ValueError(f"groups: {groups} does not divide the {weight.shape[0]} channels out")
    if input.dim() not in (axes + 1, axes + 2) or input.shape[-axes - 1] != weight.shape[1] * groups:
        raise ValueError(f"input: shape {tuple(input.shape)}, but the weight reads {weight.shape[1] * groups} channels")
    if bias is not None:
        check_shape("bias", bias, weight.shape[:1], "the weight")
    if isinstance(padding, str):
        raise ValueError(f"padding: {padding!r}; give the number of zeros at each end")
    stride, padding, dilation = (
        tuple(value) if isinstance(value, tuple | list) else (value,) * axes for value in (stride, padding, dilation)
    )
    taps = math.prod(weight.shape[2:])
    if factors is None:
        fan = (weight.shape[1] * groups, weight.shape[0], taps, groups, math.prod(stride))
        factors = conv_factors(*fan, constraint)
    batched = input if input.dim() == axes + 2 else input.unsqueeze(0)
    y = call(_ConvolutionFunction, batched, weight.to(input.dtype), (stride, padding, dilation, groups), *factors)
    if bias is not None:
        bias = scale(bias.to(input.dtype), 1.0, over_rows(y.numel() // y.shape[1]))
        y = y + bias.view(-1, *(1,) * axes)
    return y if input.dim() == axes + 2 else y.squeeze(0)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple = 1,
    padding: int | tuple = 0,
    dilation: int | tuple = 1,
    groups: int = 1,
    *,
    constraint: str | None = None,
    factors: Factors | None = None,
) -> Tensor:
    """``F.conv1d`` at unit scale: (batch, channels, length), (out, channels/groups, taps) → (batch, out, length').

    Factors (fan_in·k/g)^-½ on the output, (s·g/(fan_out·k))^½ on the gradient of ``input``, (batch·length')^-½ on that
    of the weight; a padded border reads zeros and is weaker. ``constraint="output"`` as in :func:`linear`.
    """
    return _conv(input, weight, bias, stride, padding, dilation, groups, constraint, factors)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple = 1,
    padding: int | tuple = 0,
    dilation: int | tuple = 1,
    groups: int = 1,
    *,
    constraint: str | None = None,
    factors: Factors | None = None,
) -> Tensor:
    """``F.conv2d`` at unit scale: (batch, channels, height, width) → (batch, out, height', width'); see conv1d."""
    return _conv(input, weight, bias, stride, padding, dilation, groups, constraint, factors)


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of ``weight`` (vocab, width) by index: (…) → (…, width).

    Unit-normal rows need no factor; their gradient carries √(vocab/tokens), so that over the whole table it is at unit
    scale when the tokens are spread evenly. The factor is put on the incoming gradient, the smaller of the two.

    Raises:
        ValueError: ``max_norm``, ``scale_grad_by_freq`` or ``sparse``: they change rows or gradients by no constant.
    """
    left_out = {"scale_grad_by_freq": scale_grad_by_freq or None, "sparse": sparse or None}
    check_left_out("embedding", max_norm=max_norm, **left_out)
    if input.is_floating_point() or input.is_complex():
        raise TypeError(f"input: {input.dtype} cannot index a table; give integers")
    check_float(weight=weight)
    if 0 in input.shape:
        raise ValueError(f"input: shape {tuple(input.shape)} has a dimension of size 0; every size must be ≥ 1")
    rows = F.embedding(input, weight, padding_idx)
    return scale(rows, 1.0, weight.shape[0] ** 0.5 * over_rows(input.numel()))
