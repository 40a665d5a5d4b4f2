"""Several models of one shape as one: their weights side by side, every operation done once for all of them.

By its layers, a model of the ladder's small sizes waits for the dispatch of its operations, not for their arithmetic.
K models side by side dispatch once what K models one after another dispatch K times. No value of one depends on
another's. Compiled kernels need no stack: they take several models in one call (:mod:`..compiled.whole_step`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ... import nn
from ...nn import functional as F
from ...nn.layers.transformer import Rotation
from ...nn.ops.activations import gated_halves
from ...nn.ops.products import Factors, over_rows
from ...nn.ops.scale import scale
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

    def backward(self, tokens: Tensor, targets: Tensor) -> list[float]:
        """Each model's mean loss of its own batch, from (models, batch, length); adds to the gradients, from zero."""
        losses = self.losses(tokens, targets)
        losses.sum().backward()
        return losses.detach().mean(1).tolist()

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
        x = F.rms_norm(x, x.shape[-1:], eps=model.norm.eps()[0])
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
        y = F.rms_norm(y, y.shape[-1:], eps=attention.norm.eps()[0])
        return _linear(y, self.weights[f"{name}.out.weight"], attention.out.factors(), onto)

    def _mlp(self, name: str, mlp: nn.MLP, x: Tensor, onto: Onto, _: Rotation) -> Tensor:
        y = _linear(x, self.weights[f"{name}.up.weight"], mlp.up.factors())
        y = gated_halves(mlp.activation, y, *mlp.factor())
        return _linear(y, self.weights[f"{name}.down.weight"], mlp.down.factors(), onto)


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
