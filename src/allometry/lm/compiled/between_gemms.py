"""A training step by the GEMMs of PyTorch in BF16, and one compiled kernel between them: for processors with tiles.

A matrix unit (AMX) multiplies BF16 several times as fast as the vectors by which :mod:`.whole_step` does, once the
matrices are large; PyTorch's GEMMs use it. The same function as ``nn.Decoder`` and its loss, equal to rounding, forward
and backward written out. Working memory is kept from step to step, and the backward pass overwrites what the forward
pass kept. Weights are cast once a step; arithmetic between GEMMs is FP32.

A pass is put together once, for a shape of batch, as a list of calls whose arguments are all known, and then only run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ... import nn
from ...nn.ops.products import over_rows
from .build import kernels
from .whole_step import weights_in_order

_SHARED = 1 << 17  # entries from which threads gain more than waking them costs
_ZERO = torch.zeros(1, dtype=torch.bfloat16)


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


class Pass:
    """Working memory and calls of a step for one shape of batch; with ``training`` each layer has memory of its own."""

    def __init__(self, model: nn.Decoder, shape: tuple[int, int], training: bool):
        batch, length = shape
        rows, first_block = batch * length, model.stack.layers[0]
        attention, mlp = first_block.attention, first_block.mlp
        width, hidden = attention.width, mlp.down.in_features
        new = lambda *size: torch.empty(size, dtype=torch.bfloat16)
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
        self.batch, self.length, self.rows, self.width = batch, length, rows, width
        self.run, self.threads = kernels(), torch.get_num_threads()
        self.layers = [layer() for _ in range(count)] if training else [layer()] * count
        self.tokens, self.targets = (torch.empty(shape, dtype=torch.int64) for _ in range(2))
        self.stream, self.norm, self.inverse = (new(rows, width), new(rows, width), statistic(rows))
        self.branch, self.grad_gated = (new(rows, width), new(rows, hidden) if training else None)
        self.logits = new(rows, model.readout.out_features)
        self.losses = statistic(rows)
        self.cos, self.sin = nn.functional.rope_tables(length, attention.head_dim)
        self.table, *self.masters = [weight.detach() for weight in weights_in_order(model)]
        self.weights = [weight.to(torch.bfloat16) for weight in self.masters]
        self.signature = signature(model, shape)
        self.stamp = 0  # of the forward pass whose values the memory holds
        self.forward_calls = self._forward(model)
        self.backward_calls = self._backward(model) if training else []

    def forward(self, tokens: Tensor, targets: Tensor) -> None:
        """Leaves the losses, and instead of logits their gradients."""
        self.stamp += 1
        self.tokens.copy_(tokens)
        self.targets.copy_(targets)
        torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]  # torch exports it without saying so
            self.weights, self.masters
        )
        for call in self.forward_calls:
            call()

    def backward(self, upstream: float) -> list[Tensor]:
        """The gradient of every weight, in the order of :func:`weights_in_order`."""
        self.stamp += 1
        if upstream != 1.0:
            self.logits.mul_(upstream)
        grads: list[Tensor | None] = [None] * (len(self.weights) + 1)
        for call, place in self.backward_calls:
            result = call()
            if place is not None:
                grads[place] = result.float()
        table = torch.zeros_like(self.table)
        self.run.embedding_backward(
            *(self.tokens.data_ptr(), self.stream.data_ptr(), table.data_ptr(), self.rows, self.width),
            self.table.shape[0] ** 0.5 * over_rows(self.rows),
        )
        grads[0] = table
        return grads  # pyright: ignore[reportReturnType]  # the calls have filled every place

    def _kernel(self, name: str, *arguments: Tensor | float | None) -> Callable[[], None]:
        """A call of a kernel: a tensor goes as its address, which working memory and weights keep."""
        values = [a.data_ptr() if isinstance(a, Tensor) else 0 if a is None else a for a in arguments]
        size = max(a.numel() for a in arguments if isinstance(a, Tensor))
        threads = self.threads if size >= _SHARED or name.startswith("attention") else 1
        return partial(getattr(self.run, name), *values, threads)

    def _product(self, a: Tensor, b: Tensor, alpha: float, out: Tensor, beta: float = 0.0) -> Callable[[], Tensor]:
        """β·out + α·a·b, into ``out``."""
        addend = out if beta else _ZERO
        return partial(torch.addmm, addend, a, b, beta=beta, alpha=alpha, out=out)

    def _gradient(self, upper: Tensor, lower: Tensor, alpha: float) -> Callable[[], Tensor]:
        """α·upperᵀ·lower, the gradient of a weight."""
        return partial(torch.addmm, _ZERO, upper.t(), lower, beta=0, alpha=alpha)

    def _attention(self, block: nn.TransformerBlock) -> tuple[float, ...]:
        """What attention's kernels ask for beside tensors."""
        attention = block.attention
        factor = attention.multiplier()[0] / math.sqrt(attention.head_dim)
        return self.batch, self.length, attention.heads, attention.head_dim, factor

    def _forward(self, model: nn.Decoder) -> list[Callable]:
        x, rows, width = self.stream, self.rows, self.width
        weights = iter([weight.mT for weight in self.weights])
        calls: list[Callable] = [self._kernel("embedding_forward", self.tokens, self.table, x, rows, width)]

        def norm(source: Tensor, output: Tensor, inverse: Tensor, eps: float) -> None:
            calls.append(self._kernel("norm_forward", source, output, inverse, rows, width, eps))

        def onto(lower: Tensor, layer: nn.Linear, weights_of: Callable) -> None:
            keep, share = weights_of()
            alpha = share * layer.factors().output
            calls.append(self._product(lower, next(weights), alpha, x, keep))

        for block, kept in zip(model.stack.layers, self.layers, strict=True):
            (eps,), attention, mlp = block.eps(), block.attention, block.mlp
            assert attention.norm is not None  # a plain decoder has it
            norm(x, kept.norms[0], kept.inverses[0], eps)
            calls.append(self._product(kept.norms[0], next(weights), attention.qkv.factors().output, kept.qkv))
            tensors = kept.qkv, self.cos, self.sin, kept.mixed, kept.lse
            calls.append(self._kernel("attention_forward", *tensors, *self._attention(block)))
            norm(kept.mixed, kept.norms[1], kept.inverses[1], *attention.norm.eps())
            onto(kept.norms[1], attention.out, block.weights[0])
            norm(x, kept.norms[2], kept.inverses[2], eps)
            calls.append(self._product(kept.norms[2], next(weights), mlp.up.factors().output, kept.up))
            hidden = kept.gated.shape[1]
            calls.append(self._kernel("gate_forward", kept.up, kept.gated, rows, hidden, mlp.factor()[0]))
            onto(kept.gated, mlp.down, block.weights[1])
        norm(x, self.norm, self.inverse, *model.norm.eps())
        calls.append(self._product(self.norm, next(weights), model.readout.factors().output, self.logits))
        classes = self.logits.shape[1]
        factor = classes / (classes - 1) ** 0.5
        calls.append(self._kernel("cross_entropy", self.logits, self.targets, self.losses, rows, classes, factor))
        return calls

    def _backward(self, model: nn.Decoder) -> list[tuple[Callable, int | None]]:
        """Calls, and of which weight they give the gradient, if of any."""
        grad, branch, rows, width = self.stream, self.branch, self.rows, self.width
        grad_gated = self.grad_gated
        assert grad_gated is not None  # a pass for training has it
        per_row, position = over_rows(rows), len(self.weights)
        calls: list[tuple[Callable, int | None]] = []

        def kernel(name: str, *arguments: Tensor | float | None) -> None:
            calls.append((self._kernel(name, *arguments), None))

        def linear(layer: nn.Linear, upper: Tensor, lower: Tensor, result: Tensor) -> None:
            """The gradients of a linear map's weight and input."""
            nonlocal position
            factors = layer.factors()
            alpha = factors.grad_weight * per_row
            calls.append((self._gradient(upper, lower, alpha), position))
            position -= 1
            calls.append((self._product(upper, self.weights[position], factors.grad_input, result), None))

        def join(kept: _Layer, i: int, weights_of: Callable, ratio: float) -> None:
            """Where a branch left the stream: its gradient through the norm, and the stream's."""
            keep, share = weights_of()
            tensors = branch, kept.norms[i], kept.inverses[i], grad, grad
            kernel("norm_backward", *tensors, rows, width, share / ratio, keep)

        linear(model.readout, self.logits, self.norm, branch)
        kernel("norm_backward", branch, self.norm, self.inverse, None, grad, rows, width, 1.0, 0.0)
        for block, kept in zip(reversed(model.stack.layers), reversed(self.layers), strict=True):
            attention, mlp, hidden = block.attention, block.mlp, kept.gated.shape[1]
            linear(mlp.down, grad, kept.gated, grad_gated)
            kernel("gate_backward", grad_gated, kept.up, rows, hidden, *mlp.factor())
            linear(mlp.up, kept.up, kept.norms[2], branch)
            join(kept, 2, block.weights[1], mlp.backward_ratio)
            linear(attention.out, grad, kept.norms[1], branch)
            kernel("norm_backward", branch, kept.norms[1], kept.inverses[1], None, branch, rows, width, 1.0, 0.0)
            tensors = branch, kept.mixed, kept.lse, self.cos, self.sin, kept.qkv
            kernel("attention_backward", *tensors, *self._attention(block))
            linear(attention.qkv, kept.qkv, kept.norms[0], branch)
            join(kept, 0, block.weights[0], attention.backward_ratio)
        return calls


def signature(model: nn.Decoder, shape: tuple[int, ...]) -> tuple:
    """What the calls of a pass hold as it is: shape, threads, pieces of a batch, where the weights lie."""
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    return (*shape, torch.get_num_threads(), over_rows(1), *addresses)
