"""Several models of one shape as one: their weights side by side, every operation done once for all of them.

A model of the ladder's small sizes waits for the dispatch of its operations, not for their arithmetic. K models side
by side dispatch once what K models one after another dispatch K times. No value of one depends on another's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ... import nn
from ...nn import functional as F
from ...nn.layers.transformer import Rotation
from ...nn.ops.activations import gated_halves
from ...nn.ops.products import Factors, over_rows
from ...nn.ops.scale import scale
from ..compiled.step import Pass, check, weights_in_order
from ..decoder import LanguageModel

Onto = tuple[Tensor, float, float]  # what a branch is added onto, and the weights of the two


class Stack:
    """The models' weights moved into stacked tensors; each model goes on working, on its slice of them.

    Optimisers of the single models find their gradients where they look for them, and what is copied into a model or
    out of it is copied into or out of the stack.
    """

    def __init__(self, models: Sequence[LanguageModel]):
        self.models = tuple(models)
        self.weights: dict[str, Tensor] = {}
        self.grads: dict[str, Tensor] = {}  # of which the models' gradients are slices
        for name, _ in self.models[0].named_parameters():
            own = [model.get_parameter(name) for model in self.models]
            stacked = torch.stack([parameter.detach() for parameter in own]).requires_grad_()
            stacked.grad = grads = torch.zeros_like(stacked)
            self.weights[name], self.grads[name] = stacked, grads
            for parameter, value, grad in zip(own, stacked.detach().unbind(), grads.unbind(), strict=True):
                parameter.data, parameter.grad = value, grad

        self._kernels: _Pass | None = None

    def backward(self, tokens: Tensor, targets: Tensor) -> list[float]:
        """Each model's mean loss of its own batch, from (models, batch, length); adds to the gradients, from zero."""
        if self.models[0].step is None or tokens.device.type != "cpu":
            losses = self.losses(tokens, targets)
            losses.sum().backward()
            return losses.detach().mean(1).tolist()
        signature = (*tokens.shape, over_rows(1))
        if self._kernels is None or self._kernels.key != signature:
            self._kernels = None  # before the new one exists
            self._kernels = _Pass(self, tokens.shape, signature)
        return self._kernels.step(tokens, targets)

    def zero_grad(self) -> None:
        """Gradients to zero, in place: the models hold views of them."""
        torch._foreach_zero_(  # pyright: ignore[reportPrivateImportUsage]  # torch exports it without saying so
            [*self.grads.values()]
        )

    def losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The loss of every token, (models, rows), from tokens (models, batch, length); backward from their *sum*.

        A row's gradient is then what it is under each model's own mean loss, see
        :func:`~allometry.nn.functional.cross_entropy`.
        """
        logits = self._logits(tokens).float()
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return each.view(len(self.models), -1)

    def _logits(self, tokens: Tensor) -> Tensor:
        """(models, batch, length) → (models, batch·length, vocab)."""
        model = self.models[0]
        count, batch, length = tokens.shape
        x = self._embedding(tokens).view(count, batch * length, -1)
        if model.compute is not None:
            x = x.to(model.compute)
        blocks = model.stack.layers
        rotation = blocks[0].attention.rotation(length, x)
        for i, block in enumerate(blocks):
            (eps,) = block.eps()
            for name, run, (keep, share) in (
                ("attention", self._attention, block.weights[0]()),
                ("mlp", self._mlp, block.weights[1]()),
            ):
                branch = getattr(block, name)
                y, skip = F.residual_split(x, keep, share / branch.backward_ratio, norm=True, eps=eps)
                x = run(f"stack.blocks.{i}.{name}", branch, y, (skip, keep, share), rotation)
        x = F.rms_norm(x, eps=model.norm.eps()[0])
        return _linear(x, self.weights["readout.weight"], model.readout.factors())

    def _embedding(self, tokens: Tensor) -> Tensor:
        table = self.weights["embedding.weight"]
        count, vocab, _ = table.shape
        first = torch.arange(0, count * vocab, vocab, device=tokens.device)
        rows = torch.nn.functional.embedding(tokens + first[:, None, None], table.flatten(0, 1))
        return scale(rows, 1.0, vocab**0.5 * over_rows(tokens[0].numel()))

    def _attention(self, name: str, attention: nn.Attention, x: Tensor, onto: Onto, rotation: Rotation) -> Tensor:
        heads = _linear(x, self.weights[f"{name}.qkv.weight"], attention.qkv.factors())
        heads = heads.view(-1, len(rotation[0]), 3 * attention.heads, attention.head_dim).transpose(1, 2)
        qk, v = heads.split((2 * attention.heads, attention.heads), 1)
        q, k = F.rope(qk, *rotation).chunk(2, 1)
        y = F.attention(q, k, v, scaled=False).transpose(1, 2).reshape(x.shape)
        assert attention.norm is not None  # a plain decoder has it
        y = F.rms_norm(y, eps=attention.norm.eps()[0])
        return _linear(y, self.weights[f"{name}.out.weight"], attention.out.factors(), onto)

    def _mlp(self, name: str, mlp: nn.MLP, x: Tensor, onto: Onto, _: Rotation) -> Tensor:
        y = _linear(x, self.weights[f"{name}.up.weight"], mlp.up.factors())
        y = gated_halves(mlp.activation, y, *mlp.factor())
        return _linear(y, self.weights[f"{name}.down.weight"], mlp.down.factors(), onto)


class _Pass(Pass):
    """The calls of a step for stacked weights: the kernels see more rows, the GEMMs are batched."""

    def __init__(self, stack: Stack, shape: tuple[int, ...], key: tuple):
        self.stack, self.key = stack, key
        self.models, batch, length = shape
        model = stack.models[0]
        assert model.step is not None  # without kernels a stack takes no pass
        super().__init__(model, (self.models * batch, length), model.step.dtype, training=True)

    def step(self, tokens: Tensor, targets: Tensor) -> list[float]:
        check(self.stack.models[0], tokens.flatten(0, 1), targets.flatten(0, 1))
        vocab = self.table.shape[0] // self.models
        first = torch.arange(0, self.models * vocab, vocab)[:, None, None]
        self.forward((tokens + first).flatten(0, 1), targets.flatten(0, 1))
        losses = self.losses.view(self.models, -1).mean(1, dtype=torch.float64).tolist()
        for name, grad in zip(self._names(), self.backward(1.0), strict=True):
            sums = self.stack.grads[name]
            sums.add_(grad.view(sums.shape))
        return losses

    def _names(self) -> list[str]:
        """Of the weights, in the order of :func:`..compiled.step.weights_in_order`."""
        model = self.stack.models[0]
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return [names[id(weight)] for weight in weights_in_order(model)]

    def _masters(self, model: LanguageModel) -> list[Tensor]:
        table, *weights = (self.stack.weights[name].detach() for name in self._names())
        return [table.flatten(0, 1), *weights]

    def _product(self, a: Tensor, b: Tensor, alpha: float, out: Tensor, beta: float = 0.0) -> Callable[[], Tensor]:
        a, out = self._each(a), self._each(out)
        return partial(torch.baddbmm, out, a, b, beta=beta, alpha=alpha, out=out)

    def _gradient(self, upper: Tensor, lower: Tensor, alpha: float) -> Callable[[], Tensor]:
        upper, lower = self._each(upper), self._each(lower)
        return partial(torch.baddbmm, upper.new_zeros(1, 1, 1), upper.mT, lower, beta=0, alpha=alpha)

    def _each(self, rows: Tensor) -> Tensor:
        """(models·rows, columns) as (models, rows, columns)."""
        return rows.view(self.models, -1, rows.shape[1])


class _Linear(torch.autograd.Function):
    """β·addend + α·x·wᵀ for each of several models: the nn package's product with a dimension in front."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, addend: Tensor | None, beta: float, factors: Factors) -> Tensor:
        ctx.factors, ctx.adds = factors, addend is not None
        ctx.save_for_backward(x, weight)
        return _product(x, weight.mT, factors.output, addend, beta)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        grad_weight = _product(grad.mT, x, ctx.factors.grad_weight * over_rows(grad.shape[1]))
        grad_x = _product(grad, weight, ctx.factors.grad_input)
        return grad_x, grad_weight, grad if ctx.adds else None, None, None


def _product(a: Tensor, b: Tensor, alpha: float, addend: Tensor | None = None, beta: float = 0.0) -> Tensor:
    """β·addend + α·a·b for each model in one batched GEMM."""
    return torch.baddbmm(a.new_empty(1, 1, 1) if addend is None else addend, a, b, beta=beta, alpha=alpha)


def _linear(x: Tensor, weight: Tensor, factors: Factors, onto: Onto | None = None) -> Tensor:
    """(models, rows, fan_in), (models, fan_out, fan_in) → (models, rows, fan_out)."""
    skip, keep, share = onto or (None, 0.0, 1.0)
    return _Linear.apply(x, weight.to(x.dtype), skip, keep, factors._replace(output=share * factors.output))
