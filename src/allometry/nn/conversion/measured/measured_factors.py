"""Measured factors: the numbers that weights, activations and gradients are divided by, measured on examples.

A linear map has three matrix products and three operands: the weight θ, the input x and the gradient g of its output.
Each operand is divided by its own number before the product, and the product itself multiplies the numbers back:

    y  = (x/β)·(θ/α)ᵀ · αβ,      dL/dx = (g/γ)·(θ/α) · αγ,      dL/d(θ/α) = (g/γ)ᵀ·(x/β) · αβγ,

The operands then fit a format of few exponent bits, and the function stays the same. The factors are

    α = max|θ|/√d,   β = max|x|/√n,   γ = max|g|/√d     (``absmax``), or the root mean square of the tensor (``rms``),

where d and n are the length of the vectors that the tensor consists of: features, or channels of a convolution; fan-in
for a weight. The batch does not enter, since its size says nothing about the range. For any vector max/√n ≤ RMS ≤ max.
After division by ``absmax`` no entry exceeds √n; after division by ``rms`` the root mean square is 1.

**The stored weight** is θ/α, and its gradient is the true one, α·dL/dθ. An optimiser's step on θ/α differs from a step
on θ: :func:`.finetune_groups` returns the learning rates that make the steps equal; :func:`.unscale` restores θ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...ops.autograd import NamedArguments

MEASURED_RULES = ("absmax", "rms")
PARTS = ("weight", "activation", "gradient")
FactorValue = float | Tensor


def check_real(name: str, tensor: Tensor) -> None:
    """Refuse what cannot be measured: integer and complex tensors, empty ones, infinities and NaN."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: {tensor.dtype} cannot be scaled; give a real floating-point tensor")
    if tensor.numel() == 0:
        raise ValueError(f"{name}: shape {tuple(tensor.shape)} has no elements to measure")
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise ValueError(f"{name}: {bad} of {tensor.numel()} entries are not finite; give finite examples")


class MeasuredFactor(nn.Module):
    """A factor measured on tensors, in the buffer ``measured``; ``seen`` counts the entries that it was measured on.

    Fixed (the default): :meth:`observe` takes the maximum or the root mean square over all tensors that it is given.
    Running: each training batch moves the factor to ``(1 − momentum)·factor + momentum·(the batch's)``; the first batch
    sets it, and a batch that is all zero or not finite is skipped. Before the first measurement the factor is 1.

    Raises:
        ValueError: an unknown rule, or a momentum outside (0, 1].
    """

    measured: Tensor
    seen: Tensor

    def __init__(
        self,
        rule: str = "absmax",
        *,
        dim: int = -1,
        running: bool = False,
        momentum: float = 0.1,
        power_of_two: bool = False,
    ):
        super().__init__()
        if rule not in MEASURED_RULES:
            known = ", ".join(map(repr, MEASURED_RULES))
            raise ValueError(f"rule: {rule!r} is unknown; a measured rule is one of {known}")
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum: {momentum} is not a share; give 0 < momentum ≤ 1")
        self.rule, self.dim, self.running, self.momentum, self.power_of_two = rule, dim, running, momentum, power_of_two
        self.register_buffer("measured", torch.ones((), dtype=torch.float32))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._fixed = 1.0  # the factor as a Python number, which a GEMM applies at no cost

    def length(self, tensor: Tensor) -> int:
        """The length of the vectors that ``tensor`` consists of."""
        return tensor.shape[self.dim]

    def statistic(self, tensor: Tensor) -> Tensor:
        """max|t|/√n or the root mean square of one tensor, as a scalar tensor."""
        tensor = tensor.detach()
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.float()
        if self.rule == "absmax":
            return tensor.abs().amax() / math.sqrt(self.length(tensor))
        return torch.linalg.vector_norm(tensor) / math.sqrt(tensor.numel())

    @torch.no_grad()
    def observe(self, tensor: Tensor) -> None:
        """Measure ``tensor`` and update the factor.

        Raises:
            TypeError: an integer or complex tensor.
            ValueError: an empty tensor, or one with entries that are not finite.
        """
        if self.running:
            return self._observe_running(tensor)
        check_real(type(self).__name__, tensor)
        value, before, entries = float(self.statistic(tensor)), int(self.seen), tensor.numel()
        if value == 0:
            return
        if before and self.rule == "absmax":
            value = max(value, float(self.measured))
        elif before:
            value = math.sqrt((float(self.measured) ** 2 * before + value**2 * entries) / (before + entries))
        self.measured.fill_(value)
        self.seen.add_(entries)
        self._refresh()

    def _observe_running(self, tensor: Tensor) -> None:
        """Update without reading a value on the host, which would wait for the device."""
        now = self.statistic(tensor).to(self.measured.dtype)
        good = torch.isfinite(now) & (now > 0)
        moved = torch.where(self.seen > 0, torch.lerp(self.measured, now, self.momentum), now)
        self.measured.copy_(torch.where(good, moved, self.measured))
        self.seen.add_(good * tensor.numel())

    @property
    def value(self) -> FactorValue:
        """The factor to divide by: a number if it is fixed, a tensor if it is running."""
        if not self.running:
            return self._fixed
        if self.power_of_two:
            return torch.ldexp(torch.ones_like(self.measured), self.measured.log2().round())
        return self.measured.clone()  # a later batch must not move the factor that this backward pass will use

    def _refresh(self) -> None:
        if not self.measured.is_meta:
            value = float(self.measured)
            self._fixed = 2.0 ** round(math.log2(value)) if self.power_of_two else value

    def _apply(self, fn, recurse=True):
        kept = self.measured  # model.half() would turn a factor of 1e-9 into 0
        super()._apply(fn, recurse)
        if not kept.is_meta:
            self.measured = kept.to(self.measured.device)
        return self

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._refresh()

    def extra_repr(self) -> str:
        return f"{self.rule}, measured={float(self.measured):.4g}{', running' * self.running}"


class WeightFactor(MeasuredFactor):
    """Forward: θ → θ/α; :meth:`restore` multiplies by α. d is the fan-in.

    Weights have shape (fan_out, …); (fan_in, fan_out) if ``transposed``.
    """

    transposed = False

    def length(self, tensor: Tensor) -> int:
        if self.transposed:
            return tensor.shape[0]
        return tensor.numel() // tensor.shape[0] if tensor.dim() > 1 else tensor.numel()

    def forward(self, theta: Tensor) -> Tensor:
        if self.running and self.training:
            self.observe(theta)
        return theta / self.value

    def restore(self, divided: Tensor) -> Tensor:
        """α times ``divided``: if θ enters f linearly, f(θ/α) restored is f(θ)."""
        return divided * self.value


class ActivationFactor(MeasuredFactor):
    """Forward: x → x/β; :meth:`restore` multiplies by β. n is the length of dimension ``dim``."""

    def forward(self, x: Tensor) -> Tensor:
        if self.running and self.training:
            self.observe(x)
        return x / self.value

    def restore(self, y: Tensor) -> Tensor:
        """β times ``y``: for a linear f, f(x/β) restored is f(x)."""
        return y * self.value


class GradientFactor(MeasuredFactor):
    """Forward: the identity; backward: g → g/γ. :meth:`restore` multiplies the gradient by γ. d as in ``dim``.

    ``factor(f(factor.restore(x)))`` is f(x) with the true gradient of ``x``, computed inside f from g/γ. The
    parameters of f receive their gradients divided by γ.
    """

    def forward(self, y: Tensor) -> Tensor:
        return _DivideGradient.apply(y, self, True)

    def restore(self, x: Tensor) -> Tensor:
        """Forward: the identity; backward: the gradient times γ."""
        return _DivideGradient.apply(x, self, False)


class _DivideGradient(NamedArguments):
    @staticmethod
    def forward(ctx, x: Tensor, factor: GradientFactor, divide: bool) -> Tensor:
        ctx.factor, ctx.divide = factor, divide
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        factor = ctx.factor
        if not ctx.divide:
            return grad * factor.value, None, None
        if factor.running and factor.training:
            factor.observe(grad)
        return grad / factor.value, None, None
