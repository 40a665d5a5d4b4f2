"""The next token of one text in as few operations as there are, which is what a small model's speed depends on.

For one row of a small model an operation's own overhead is most of its time. So a norm is one dot product whose result
goes into the next product as a factor, the rotation of all heads is one product, and nothing is checked twice. The
function is that of :meth:`~allometry.nn.Decoder.forward` with a cache, to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import nn
from ...nn.ops.activations import ACTIVATIONS, GATES

_NOTHING = torch.zeros(1)  # an addend that is not read
_PLAIN = (nn.Linear, nn.Readout)


class OneRowStep:
    """Reads one token after those in a cache of one row, and returns the logits of the next: (vocab_size).

    The weights are those of the model, not a copy. Make one for models that :func:`can_step` accepts.
    """

    def __init__(self, model: nn.Decoder, cache: nn.KVCache):
        self.cache = cache
        first = model.stack.layers[0].attention
        self.embedding, self.width = model.embedding.weight.detach(), first.width
        self.rotation = _Rotation(first, cache.context) if first.rope else None
        self.layers = [_layer(block, cache, i, self.rotation) for i, block in enumerate(model.stack.layers)]
        self.readout, self.head_factor = model.readout.weight.detach(), model.readout.factors().output
        (self.eps,) = model.norm.eps()

    def __call__(self, token: int) -> Tensor:
        (position,) = self.cache.lengths
        if self.rotation is not None:
            self.rotation.turn_to(position)
        x = self.embedding[token].clone()
        for layer in self.layers:
            layer(x, position)
        self.cache.advance()
        return torch.addmv(_NOTHING, self.readout, x, beta=0, alpha=self.head_factor * _inverse_rms(x, self.eps))


def can_step(model: nn.Decoder) -> bool:
    """Whether :class:`OneRowStep` knows every operation of a model: on the CPU, in FP32, of our plain layers."""
    if model.embedding.weight.device.type != "cpu" or model.embedding.weight.dtype != torch.float32:
        return False
    if model.compute not in (None, torch.float32) or type(model.readout) not in _PLAIN or not _is_plain(model.norm):
        return False
    return all(_can_step_block(block) for block in model.stack.layers)


def _can_step_block(block: Any) -> bool:
    if type(block) is not nn.TransformerBlock or block.norm != "pre":
        return False
    attention, mlp = block.attention, block.mlp
    if type(attention) is not nn.Attention or type(mlp) is not nn.MLP or attention.qk_norm or not attention.causal:
        return False
    linears = (attention.qkv, attention.out, mlp.up, mlp.down)
    if any(type(linear) not in _PLAIN or linear.bias is not None for linear in linears):
        return False
    return attention.norm is None or _is_plain(attention.norm)


def _is_plain(norm: Any) -> bool:
    return type(norm) is nn.RMSNorm and norm.weight is None


def _inverse_rms(x: Tensor, eps: float) -> float:
    return 1 / math.sqrt(torch.dot(x, x).item() / x.shape[0] + eps)


class _Rotation:
    """The rotary embedding of one position as a matrix: heads (n, head_dim) @ matrix."""

    def __init__(self, attention: nn.Attention, context: int):
        self.cos, self.sin = attention.rotation(context, attention.qkv.weight.detach())
        half = attention.head_dim // 2
        self.matrix = torch.zeros(attention.head_dim, attention.head_dim)
        self.half, self.parts = half, [self.matrix.diagonal(offset) for offset in (0, half, -half)]

    def turn_to(self, position: int) -> None:
        same, later, earlier = self.parts
        sin = self.sin[position]
        same.copy_(self.cos[position])
        later.copy_(sin[self.half :])
        earlier.copy_(sin[: self.half])


def _layer(
    block: nn.TransformerBlock, cache: nn.KVCache, index: int, rotation: _Rotation | None
) -> Callable[[Tensor, int], None]:
    """A function that adds both branches of a block to the stream x (width), in place, at a position."""
    (eps,), ((keep_a, share_a), (keep_m, share_m)) = block.eps(), (weights() for weights in block.weights)
    attend = _attention(block.attention, cache, index, rotation, eps, keep_a, share_a)
    mlp = block.mlp
    up, down = mlp.up.weight.detach(), mlp.down.weight.detach()
    up_factor, down_factor = mlp.up.factors().output, mlp.down.factors().output * share_m
    if mlp.gated:
        down_factor *= mlp.factor()[0]
    inner = torch.empty(up.shape[0])
    gate, rest = inner.chunk(2) if mlp.gated else (inner, None)
    function = (GATES if mlp.gated else ACTIVATIONS)[mlp.activation]

    def layer(x: Tensor, position: int) -> None:
        attend(x, position)
        torch.addmv(_NOTHING, up, x, beta=0, alpha=up_factor * _inverse_rms(x, eps), out=inner)
        y = function(gate)
        if rest is not None:
            y *= rest
        torch.addmv(x, down, y, beta=keep_m, alpha=down_factor, out=x)

    return layer


def _attention(
    attention: nn.Attention,
    cache: nn.KVCache,
    index: int,
    rotation: _Rotation | None,
    eps: float,
    keep: float,
    share: float,
) -> Callable[[Tensor, int], None]:
    qkv, out = attention.qkv.weight.detach(), attention.out.weight.detach()
    qkv_factor, out_factor = attention.qkv.factors().output, attention.out.factors().output * share
    scale = attention.multiplier()[0] / math.sqrt(attention.head_dim)
    window, norm = attention.window, attention.norm
    heads, kv_heads = attention.heads, attention.kv_heads
    keys, values = (side[0] for side in cache.layer(index))
    keys_across = keys.transpose(1, 2)
    product = torch.empty(qkv.shape[0])
    rows = product.view(-1, attention.head_dim)
    before, v = rows.split((heads + kv_heads, kv_heads))
    turned = torch.empty_like(before) if rotation is not None else before
    q = turned[:heads].view(kv_heads, heads // kv_heads, attention.head_dim)
    k = turned[heads:]

    def attend(x: Tensor, position: int) -> None:
        torch.addmv(_NOTHING, qkv, x, beta=0, alpha=qkv_factor * _inverse_rms(x, eps), out=product)
        if rotation is not None:
            torch.mm(before, rotation.matrix, out=turned)
        keys[:, position], values[:, position] = k, v
        last = position + 1
        first = 0 if window is None else max(0, last - window)
        logits = torch.baddbmm(_NOTHING, q, keys_across[:, :, first:last], beta=0, alpha=scale)
        y = torch.bmm(torch.softmax(logits, -1), values[:, first:last]).view(-1)
        factor = out_factor if norm is None else out_factor * _inverse_rms(y, *norm.eps())
        torch.addmv(x, out, y, beta=keep, alpha=factor, out=x)

    return attend
