"""The training step of a language model on a CPU by compiled kernels: losses and gradients without autograd's work.

The same function as ``nn.Decoder`` and its loss, equal to rounding. A step is one call (:mod:`.whole_step`). In BF16 on
a processor with a matrix unit, that of a wide model is made of PyTorch's GEMMs instead (:mod:`.between_gemms`).
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ... import nn
from .between_gemms import Pass, signature
from .build import available, matrix_unit
from .whole_step import WholeStep, check, refuse, weights_in_order

WIDE = 128  # from which width on products are large enough for a matrix unit


class Step:
    """Loss and gradients of a model, by kernels. ``whole``: by one call."""

    def __init__(self, dtype: torch.dtype, whole: bool):
        self.dtype, self.whole = dtype, whole
        self._passes: dict[bool, Pass] = {}
        self._wholes: dict[str, WholeStep] = {}

    def __reduce__(self):  # a copy makes its own passes, for its own weights
        return Step, (self.dtype, self.whole)

    def loss(self, model: nn.Decoder, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean loss in nats a token, with a backward pass."""
        if not torch.is_grad_enabled():
            return self.token_losses(model, tokens, targets).mean(dtype=torch.float64).float()
        check(tokens, targets)
        if self.whole:
            whole = self._whole("loss", [model], (1, *tokens.shape))
            return _WholeLoss.apply(whole, tokens, targets, *weights_in_order(model))
        return _Loss.apply(self._pass(model, tokens, targets, training=True), tokens, targets, *weights_in_order(model))

    def token_losses(self, model: nn.Decoder, tokens: Tensor, targets: Tensor) -> Tensor:
        """Loss of every token, without one: (batch, length)."""
        check(tokens, targets)
        if self.whole:
            whole = self._whole("token_losses", [model], (1, *tokens.shape))
            whole(tokens, targets)
            return whole.losses[0].clone()
        step_pass = self._pass(model, tokens, targets, training=False)
        step_pass.forward(tokens, targets)
        return step_pass.losses.clone().view(targets.shape)

    def gradients(self, models: Sequence[nn.Decoder], tokens: Tensor, targets: Tensor, add: bool = True) -> list[float]:
        """The gradients of each model's mean loss, of (models, batch, length), to its weights'; the losses.

        A target of :data:`.whole_step.LEFT_OUT` has no gradient, and counts as zero in the mean. Without autograd, and
        without copies: what it leaves as gradients are its own tensors, which its next call
        overwrites unless it adds to them. ``add``: to the gradients that the weights have; else in their place.
        ``models`` are of one shape; :attr:`whole` only.
        """
        check(tokens.flatten(0, 1), targets.flatten(0, 1))
        whole = self._whole("gradients", models, tuple(tokens.shape))
        before = [weight.grad for weight in whole.weights]
        if all(map(operator.is_, before, whole.flat_grads)):
            whole(tokens, targets, add)
            return whole.mean_losses()
        others = [None if grad is None or not add else grad.clone() for grad in before]
        whole(tokens, targets)
        for weight, grad, other in zip(whole.weights, whole.flat_grads, others, strict=True):
            weight.grad = grad if other is None else other.add_(grad)
        return whole.mean_losses()

    def _whole(self, use: str, models: Sequence[nn.Decoder], shape: tuple[int, ...]) -> WholeStep:
        """The step for these models and this shape (models, sequences, length), the last one if it still fits."""
        whole = self._wholes.get(use)
        if whole is None or not whole.fits(models, shape):
            self._wholes.pop(use, None)  # before the new one exists
            _, sequences, length = shape
            training = use != "token_losses"
            whole = self._wholes[use] = WholeStep(models, (sequences, length), self.dtype, training)
        return whole

    def _pass(self, model: nn.Decoder, tokens: Tensor, targets: Tensor, training: bool) -> Pass:
        """The pass for these tokens, the last one if it still fits."""
        refuse(tokens, targets, model.readout.out_features)
        step_pass = self._passes.get(training)
        if step_pass is None or step_pass.signature != signature(model, tokens.shape):
            self._passes.pop(training, None)  # before the new one exists
            batch, length = tokens.shape
            step_pass = self._passes[training] = Pass(model, (batch, length), training)
        return step_pass


def step(dtype: torch.dtype, width: int) -> Step | None:
    """A step by kernels; None, with one line on standard error, on a machine that has none."""
    if _unavailable():
        return None
    return Step(dtype, whole=dtype == torch.float32 or width < WIDE or not matrix_unit())


@lru_cache
def _unavailable() -> str:
    why = available()
    if why:
        print(f"no compiled kernels ({why}): training goes on without, several times slower", file=sys.stderr)
    return why


class _WholeLoss(torch.autograd.Function):
    """Gradients are there with the loss; the backward pass hands them on."""

    @staticmethod
    def forward(ctx, whole: WholeStep, tokens: Tensor, targets: Tensor, *weights: Tensor) -> Tensor:
        whole(tokens, targets)
        ctx.whole, ctx.stamp = whole, whole.stamp
        return whole.losses.mean(dtype=torch.float64).float()

    @staticmethod
    def backward(ctx, grad: Tensor):
        if ctx.stamp != ctx.whole.stamp:
            raise RuntimeError("backward: another loss was computed since")
        [grads], upstream = ctx.whole.grads, grad.item()
        return None, None, None, *(one * upstream for one in grads)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, step_pass: Pass, tokens: Tensor, targets: Tensor, *weights: Tensor) -> Tensor:
        step_pass.forward(tokens, targets)
        ctx.step_pass, ctx.stamp = step_pass, step_pass.stamp
        return step_pass.losses.mean(dtype=torch.float64).float()

    @staticmethod
    def backward(ctx, grad: Tensor):
        if ctx.stamp != ctx.step_pass.stamp:
            raise RuntimeError("backward: another loss was computed since, or this one's backward pass was taken")
        return None, None, None, *ctx.step_pass.backward(grad.item())
