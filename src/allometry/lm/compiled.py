"""The training step of a :class:`~allometry.lm.model.LanguageModel` on a CPU without autograd: GEMMs and compiled kernels.

The same function as ``nn.Decoder`` and its loss, equal to rounding, forward and backward written out. Between two
GEMMs runs one kernel (:mod:`allometry.lm.kernels`), working memory is kept from step to step, and the backward pass
overwrites what the forward pass kept. In BF16 weights are cast once a step, and only GEMMs round to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import nn
from ..nn.gemm import over_rows
from .kernels import kernels

_ZERO = {dtype: torch.zeros(1, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}


@dataclass
class _Layer:
    """What a layer keeps for its backward pass: rows are tokens, norms are outputs with inverse root mean squares."""

    norms: list[Tensor]  # before attention, after attention, before the MLP
    inverses: list[Tensor]
    qkv: Tensor  # becomes its gradient
    mixed: Tensor  # what attention gives
    lse: Tensor
    up: Tensor  # becomes its gradient
    gated: Tensor


class _Memory:
    """Working memory for one shape of batch; with ``training`` each layer has its own."""

    def __init__(self, model: nn.Decoder, shape: tuple[int, int], dtype: torch.dtype, training: bool):
        batch, length = shape
        rows, attention, mlp = batch * length, model.stack.blocks[0].attention, model.stack.blocks[0].mlp
        width, hidden = attention.width, mlp.down.in_features
        new = lambda *size: torch.empty(size, dtype=dtype)
        statistic = lambda *size: torch.empty(size)

        def layer() -> _Layer:
            return _Layer(
                norms=[new(rows, width) for _ in range(3)],
                inverses=[statistic(rows) for _ in range(3)],
                qkv=new(rows, 3 * width),
                mixed=new(rows, width),
                lse=statistic(batch * attention.heads * length),
                up=new(rows, 2 * hidden),
                gated=new(rows, hidden),
            )

        count = len(model.stack.blocks)
        self.shape = shape
        self.layers = [layer() for _ in range(count)] if training else [layer()] * count
        self.stream, self.norm, self.inverse = new(rows, width), new(rows, width), statistic(rows)
        self.branch, self.grad_gated = new(rows, width), new(rows, hidden) if training else None
        self.logits = new(rows, model.readout.out_features)
        self.losses = statistic(rows)
        self.cos, self.sin = nn.functional.rope_tables(length, attention.head_dim)
        self.stamp = 0  # of the forward pass that it holds


class Step:
    """Loss and gradients of a model, by kernels."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self._memories: dict[bool, _Memory] = {}
        self._weights: list[Tensor] = []
        kernels(dtype)

    def loss(self, model: nn.Decoder, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean loss in nats a token, with a backward pass."""
        return _Loss.apply(self, model, tokens, targets, *_weights(model))

    def token_losses(self, model: nn.Decoder, tokens: Tensor, targets: Tensor) -> Tensor:
        """Loss of every token, without one: (batch, length)."""
        return self._forward(model, tokens, targets, training=False).losses.clone().view(targets.shape)

    def _memory(self, model: nn.Decoder, tokens: Tensor, training: bool) -> _Memory:
        memory = self._memories.get(training)
        if memory is None or memory.shape != tokens.shape:
            self._memories.pop(training, None)  # before the new one is made
            memory = self._memories[training] = _Memory(model, tuple(tokens.shape), self.dtype, training)
        return memory

    def _cast(self, weights: list[Tensor]) -> list[Tensor]:
        """The weights in the type of the GEMMs."""
        if self.dtype == torch.float32:
            return [weight.detach() for weight in weights]
        if len(self._weights) != len(weights):
            self._weights = [weight.detach().to(self.dtype) for weight in weights]
        else:
            torch._foreach_copy_(self._weights, [weight.detach() for weight in weights])
        return self._weights

    def _forward(self, model: nn.Decoder, tokens: Tensor, targets: Tensor, training: bool) -> _Memory:
        tokens, targets = tokens.contiguous(), targets.contiguous()
        _check(model, tokens, targets)
        run, threads = kernels(self.dtype), torch.get_num_threads()
        memory = self._memory(model, tokens, training)
        table, *weights = _weights(model)
        weights = iter(self._cast(weights))
        rows, x = tokens.numel(), memory.stream
        width = x.shape[1]
        run.embedding_forward(tokens.data_ptr(), table.data_ptr(), x.data_ptr(), rows, width, threads)
        for block, kept in zip(model.stack.blocks, memory.layers, strict=True):
            (eps,), attention, mlp = block.eps(), block.attention, block.mlp
            norm = lambda source, i, eps, kept=kept: run.norm_forward(
                source.data_ptr(), kept.norms[i].data_ptr(), kept.inverses[i].data_ptr(), rows, width, eps, threads
            )
            norm(x, 0, eps)
            _product(kept.norms[0], next(weights).t(), attention.qkv.factors().output, kept.qkv)
            run.attention_forward(
                *(kept.qkv.data_ptr(), memory.cos.data_ptr(), memory.sin.data_ptr(), kept.mixed.data_ptr()),
                *(kept.lse.data_ptr(), *tokens.shape, attention.heads, attention.head_dim),
                *(attention.multiplier()[0] / math.sqrt(attention.head_dim), threads),
            )
            norm(kept.mixed, 1, *attention.norm.eps())
            keep, share = block.weights[0]()
            x.addmm_(kept.norms[1], next(weights).t(), beta=keep, alpha=share * attention.out.factors().output)
            norm(x, 2, eps)
            _product(kept.norms[2], next(weights).t(), mlp.up.factors().output, kept.up)
            run.gate_forward(
                kept.up.data_ptr(), kept.gated.data_ptr(), rows, kept.gated.shape[1], mlp.factor()[0], threads
            )
            keep, share = block.weights[1]()
            x.addmm_(kept.gated, next(weights).t(), beta=keep, alpha=share * mlp.down.factors().output)
        (eps,) = model.norm.eps()
        run.norm_forward(
            x.data_ptr(), memory.norm.data_ptr(), memory.inverse.data_ptr(), rows, width, eps, threads
        )
        _product(memory.norm, next(weights).t(), model.readout.factors().output, memory.logits)
        classes = memory.logits.shape[1]
        run.cross_entropy(
            *(memory.logits.data_ptr(), targets.data_ptr(), memory.losses.data_ptr(), rows, classes),
            *(classes / (classes - 1) ** 0.5, threads),
        )
        memory.stamp += 1
        return memory

    def _backward(self, model: nn.Decoder, memory: _Memory, tokens: Tensor, upstream: float) -> list[Tensor]:
        """The gradient of every weight, in the order of :func:`_weights`."""
        run, threads = kernels(self.dtype), torch.get_num_threads()
        table, *weights = _weights(model)
        weights = self._weights if self.dtype != torch.float32 else [weight.detach() for weight in weights]
        grads: list[Tensor] = []
        rows, grad, branch = tokens.numel(), memory.stream, memory.branch
        width, per_row = grad.shape[1], over_rows(rows)
        position = len(weights)

        def linear(layer: nn.Linear, upper: Tensor, lower: Tensor, result: Tensor) -> None:
            """The gradients of a linear map's weight and input."""
            nonlocal position
            position -= 1
            factors = layer.factors()
            found = torch.addmm(_ZERO[self.dtype], upper.t(), lower, beta=0, alpha=factors.grad_weight * per_row)
            grads.append(found if found.dtype == torch.float32 else found.float())
            _product(upper, weights[position], factors.grad_input, result)

        def norm(output: Tensor, inverse: Tensor, skip: Tensor | None, result: Tensor, share=1.0, keep=0.0) -> None:
            run.norm_backward(
                *(branch.data_ptr(), output.data_ptr(), inverse.data_ptr(), skip.data_ptr() if skip is not None else 0),
                *(result.data_ptr(), rows, width, share, keep, threads),
            )

        if upstream != 1.0:
            memory.logits.mul_(upstream)
        linear(model.readout, memory.logits, memory.norm, branch)
        norm(memory.norm, memory.inverse, None, grad)
        for block, kept in zip(reversed(model.stack.blocks), reversed(memory.layers), strict=True):
            attention, mlp = block.attention, block.mlp
            linear(mlp.down, grad, kept.gated, memory.grad_gated)
            hidden = kept.gated.shape[1]
            run.gate_backward(
                memory.grad_gated.data_ptr(), kept.up.data_ptr(), rows, hidden, mlp.factor()[0], threads
            )
            linear(mlp.up, kept.up, kept.norms[2], branch)
            keep, share = block.weights[1]()
            norm(kept.norms[2], kept.inverses[2], grad, grad, share / mlp.backward_ratio, keep)
            linear(attention.out, grad, kept.norms[1], branch)
            norm(kept.norms[1], kept.inverses[1], None, branch)
            run.attention_backward(
                *(branch.data_ptr(), kept.mixed.data_ptr(), kept.lse.data_ptr(), memory.cos.data_ptr()),
                *(memory.sin.data_ptr(), kept.qkv.data_ptr(), *tokens.shape, attention.heads, attention.head_dim),
                *(attention.multiplier()[0] / math.sqrt(attention.head_dim), threads),
            )
            linear(attention.qkv, kept.qkv, kept.norms[0], branch)
            keep, share = block.weights[0]()
            norm(kept.norms[0], kept.inverses[0], grad, grad, share / attention.backward_ratio, keep)
        embedding = torch.zeros_like(table)
        run.embedding_backward(
            *(tokens.data_ptr(), grad.data_ptr(), embedding.data_ptr(), rows, width),
            table.shape[0] ** 0.5 * per_row,
        )
        return [embedding, *reversed(grads)]


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, step: Step, model: nn.Decoder, tokens: Tensor, targets: Tensor, *weights: Tensor) -> Tensor:
        ctx.memory = step._forward(model, tokens, targets, training=True)
        ctx.step, ctx.model, ctx.tokens, ctx.stamp = step, model, tokens.contiguous(), ctx.memory.stamp
        return ctx.memory.losses.double().mean().float()

    @staticmethod
    def backward(ctx, grad: Tensor):
        if ctx.stamp != ctx.memory.stamp:
            raise RuntimeError("backward: another loss was computed since, or this one's backward pass was taken")
        ctx.memory.stamp += 1
        return None, None, None, None, *ctx.step._backward(ctx.model, ctx.memory, ctx.tokens, grad.item())


def _weights(model: nn.Decoder) -> list[Tensor]:
    """All weights in the order in which the forward pass meets them."""
    found = [model.embedding.weight]
    for block in model.stack.blocks:
        found += [layer.weight for layer in (block.attention.qkv, block.attention.out, block.mlp.up, block.mlp.down)]
    return [*found, model.readout.weight]


def _product(a: Tensor, b: Tensor, alpha: float, out: Tensor) -> None:
    torch.addmm(_ZERO[a.dtype], a, b, beta=0, alpha=alpha, out=out)


def _check(model: nn.Decoder, tokens: Tensor, targets: Tensor) -> None:
    """A kernel reads where it is told to."""
    classes = model.readout.out_features
    for name, values in (("tokens", tokens), ("targets", targets)):
        if values.dtype != torch.int64 or values.shape != tokens.shape or values.dim() != 2:
            raise ValueError(f"{name}: {values.dtype} of shape {tuple(values.shape)}; integers of (batch, length)")
        low, high = torch.aminmax(values)
        if low < 0 or high >= classes:
            raise IndexError(f"{name}: from {low.item()} to {high.item()}, but there are {classes} tokens")
