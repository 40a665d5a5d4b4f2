"""Measured scaling: weights, activations and gradients divided by what was measured on examples. The three factors.

A linear map has three matrix products and three operands, the weight θ, the input x and the gradient g of its output.
Each is divided by a number of its own before the product and the numbers are put back by the product itself,

    y  = (x/β)·(θ/α)ᵀ · αβ,      dL/dx = (g/γ)·(θ/α) · αγ,      dL/d(θ/α) = (g/γ)ᵀ·(x/β) · αβγ,

so that the operands fit a format of few exponent bits and the function stays the same. The factors are

    α = max|θ|/√d,   β = max|x|/√n,   γ = max|g|/√d     (``absmax``), or the root mean square of the tensor (``rms``),

with d, n the length of the vectors that the tensor consists of: features, or channels of a convolution; fan-in for a
weight. Never the batch, whose size says nothing about the range. For any vector max/√n ≤ RMS ≤ max, so scaled by
``absmax`` no entry exceeds √n, and scaled by ``rms`` the root mean square is 1.

**What is stored** is θ/α, and its gradient is the true one, α·dL/dθ: a step of the optimiser on it is another step
than on θ. :func:`finetune_groups` gives the rates that make the steps the same; :func:`unscale` gives θ back.
Both are in :mod:`.scaled`, with the modules.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

RULES = ("absmax", "rms")
PARTS = ("weight", "activation", "gradient")
Factor = float | Tensor


def check_real(name: str, tensor: Tensor) -> None:
    """Refuse what cannot be measured: integer and complex tensors, empty ones, infinities and NaN."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name}: {tensor.dtype} cannot be scaled; give a real floating-point tensor")
    if tensor.numel() == 0:
        raise ValueError(f"{name}: shape {tuple(tensor.shape)} has no elements to measure")
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise ValueError(f"{name}: {bad} of {tensor.numel()} entries are not finite; give finite examples")


class Scaling(nn.Module):
    """A measured factor, kept in the buffer ``factor`` and saved with the model; ``seen`` counts the entries behind it.

    Fixed (the default): :meth:`observe` measures, over everything it is shown, the maximum or the root mean square.
    Running: every batch in training moves the factor, ``(1 − momentum)·factor + momentum·batch's``, the first sets it;
    a batch that is all zero or not finite is passed over. Until something was measured the factor is 1.
    """

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
        if rule not in RULES:
            raise ValueError(f"rule: {rule!r} is unknown; a measured rule is one of {', '.join(map(repr, RULES))}")
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum: {momentum} is no share; give 0 < momentum ≤ 1")
        self.rule, self.dim, self.running, self.momentum, self.power_of_two = rule, dim, running, momentum, power_of_two
        self.register_buffer("factor", torch.ones((), dtype=torch.float32))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._fixed = 1.0  # the factor as a number, which a GEMM takes for nothing

    def length(self, tensor: Tensor) -> int:
        """The length of the vectors that ``tensor`` consists of."""
        return tensor.shape[self.dim]

    def statistic(self, tensor: Tensor) -> Tensor:
        """max|t|/√n or the root mean square of one tensor, a scalar."""
        tensor = tensor.detach()
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.float()
        if self.rule == "absmax":
            return tensor.abs().amax() / math.sqrt(self.length(tensor))
        return torch.linalg.vector_norm(tensor) / math.sqrt(tensor.numel())

    @torch.no_grad()
    def observe(self, tensor: Tensor) -> None:
        """Measure ``tensor``.

        Raises:
            TypeError: an integer or complex tensor. ValueError: one with entries that are not finite, or with none.
        """
        if self.running:
            return self._observe_running(tensor)
        check_real(type(self).__name__, tensor)
        value, before, entries = float(self.statistic(tensor)), int(self.seen), tensor.numel()
        if value == 0:
            return
        if before and self.rule == "absmax":
            value = max(value, float(self.factor))
        elif before:
            value = math.sqrt((float(self.factor) ** 2 * before + value**2 * entries) / (before + entries))
        self.factor.fill_(value)
        self.seen.add_(entries)
        self._refresh()

    def _observe_running(self, tensor: Tensor) -> None:
        """Without a look at the values from the host, which would wait for the device."""
        now = self.statistic(tensor).to(self.factor.dtype)
        good = torch.isfinite(now) & (now > 0)
        moved = torch.where(self.seen > 0, torch.lerp(self.factor, now, self.momentum), now)
        self.factor.copy_(torch.where(good, moved, self.factor))
        self.seen.add_(good * tensor.numel())

    @property
    def value(self) -> Factor:
        """The factor to divide by: a number if it is fixed, a tensor if it is running."""
        if not self.running:
            return self._fixed
        if self.power_of_two:
            return torch.ldexp(torch.ones_like(self.factor), self.factor.log2().round())
        return self.factor.clone()  # a later batch must not move what this one's backward pass will use

    def _refresh(self) -> None:
        if not self.factor.is_meta:
            value = float(self.factor)
            self._fixed = 2.0 ** round(math.log2(value)) if self.power_of_two else value

    def _apply(self, fn, recurse=True):
        kept = self.factor  # model.half() would turn a factor of 1e-9 into 0
        super()._apply(fn, recurse)
        if not kept.is_meta:
            self.factor = kept.to(self.factor.device)
        return self

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._refresh()

    def extra_repr(self) -> str:
        return f"{self.rule}, factor={float(self.factor):.4g}{', running' * self.running}"


class WeightScaling(Scaling):
    """θ → θ/α, and back by :meth:`restore`. For weights of shape (fan_out, …): d is the fan-in, all but the first."""

    def length(self, tensor: Tensor) -> int:
        return tensor.numel() // tensor.shape[0] if tensor.dim() > 1 else tensor.numel()

    def forward(self, theta: Tensor) -> Tensor:
        if self.running and self.training:
            self.observe(theta)
        return theta / self.value

    def restore(self, scaled: Tensor) -> Tensor:
        """α times ``scaled``: where θ enters linearly, f(θ/α) restored is f(θ)."""
        return scaled * self.value


class ActivationScaling(Scaling):
    """x → x/β, and back by :meth:`restore`; n is the length of dimension ``dim``."""

    def forward(self, x: Tensor) -> Tensor:
        if self.running and self.training:
            self.observe(x)
        return x / self.value

    def restore(self, y: Tensor) -> Tensor:
        """β times ``y``: for a linear f, f(x/β) restored is f(x)."""
        return y * self.value


class GradientScaling(Scaling):
    """The identity forward; backward g → g/γ, and back by :meth:`restore`; d is the length of dimension ``dim``.

    ``scaling(f(scaling.restore(x)))`` is f(x) with the true gradient of ``x``, computed inside f from g/γ. The
    parameters of f receive theirs over γ.
    """

    def forward(self, y: Tensor) -> Tensor:
        return _ScaleGradient.apply(y, self, True)

    def restore(self, x: Tensor) -> Tensor:
        """The identity forward; backward γ times the gradient."""
        return _ScaleGradient.apply(x, self, False)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, scaling: GradientScaling, divide: bool) -> Tensor:
        ctx.scaling, ctx.divide = scaling, divide
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        scaling = ctx.scaling
        if not ctx.divide:
            return grad * scaling.value, None, None
        if scaling.running and scaling.training:
            scaling.observe(grad)
        return grad / scaling.value, None, None
