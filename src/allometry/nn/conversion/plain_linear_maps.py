"""``torch.nn``'s attention and transformer encoder in terms of plain linear maps, for whoever converts a model.

``nn.MultiheadAttention`` keeps three maps in one parameter and ``nn.TransformerEncoderLayer`` reads its children's
weights past them in evaluation; both must go before modules can be exchanged. The function stays the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


def merge_masks(attn_mask: Tensor | None, key_padding_mask: Tensor | None, batch: int, heads: int) -> Tensor | None:
    """What is added to the logits, from ``nn.MultiheadAttention``'s two masks: booleans mean "do not look"."""
    if attn_mask is not None and attn_mask.dim() == 3:
        attn_mask = attn_mask.view(batch, heads, *attn_mask.shape[1:])
    if key_padding_mask is not None:
        key_padding_mask = _additive(key_padding_mask).view(batch, 1, 1, -1)
    if attn_mask is None:
        return key_padding_mask
    attn_mask = _additive(attn_mask)
    return attn_mask if key_padding_mask is None else attn_mask + key_padding_mask


def _additive(mask: Tensor) -> Tensor:
    return (
        torch.zeros_like(mask, dtype=torch.get_default_dtype()).masked_fill_(mask, float("-inf"))
        if (mask.dtype == torch.bool)
        else mask
    )


fx.wrap("merge_masks")


class MultiheadAttention(nn.Module):
    """``nn.MultiheadAttention`` on batches, as four linear maps; it returns no attention weights."""

    def __init__(self, plain: nn.MultiheadAttention):
        super().__init__()
        if plain.bias_k is not None or plain.add_zero_attn:
            raise ValueError("MultiheadAttention: add_bias_kv and add_zero_attn are not supported")
        self.embed_dim, self.num_heads, self.head_dim = plain.embed_dim, plain.num_heads, plain.head_dim
        self.dropout, self.batch_first, self.training = plain.dropout, plain.batch_first, plain.training
        weights = (
            plain.in_proj_weight.chunk(3)
            if plain._qkv_same_embed_dim
            else (plain.q_proj_weight, plain.k_proj_weight, plain.v_proj_weight)
        )
        biases = (None,) * 3 if plain.in_proj_bias is None else plain.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = map(_linear, weights, biases)
        self.out_proj = _linear(plain.out_proj.weight, plain.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        if not self.batch_first:
            q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
        batch, length = q.shape[0], q.shape[1]
        q, k, v = (t.reshape(batch, -1, self.num_heads, self.head_dim).transpose(1, 2) for t in (q, k, v))
        mask = None
        if attn_mask is not None or key_padding_mask is not None:
            mask = merge_masks(attn_mask, key_padding_mask, batch, self.num_heads)
        dropout = self.dropout if self.training else 0.0
        # As torch.nn has it, is_causal is a hint about a mask that is given; alone it means the mask.
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=bool(is_causal) and mask is None)
        y = y.transpose(1, 2).reshape(batch, length, self.embed_dim)
        y = self.out_proj(y)
        return (y if self.batch_first else y.transpose(0, 1)), None


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    layer.weight.requires_grad_(weight.requires_grad)
    return layer


class EncoderLayer(nn.TransformerEncoderLayer):
    """``nn.TransformerEncoderLayer`` without its short cut."""

    def forward(self, src, src_mask=None, src_key_padding_mask=None, is_causal=False) -> Tensor:
        x = src
        if self.norm_first:
            x = x + self._sa_block(self.norm1(x), src_mask, src_key_padding_mask, is_causal)
            return x + self._ff_block(self.norm2(x))
        x = self.norm1(x + self._sa_block(x, src_mask, src_key_padding_mask, is_causal))
        return self.norm2(x + self._ff_block(x))


class Encoder(nn.TransformerEncoder):
    """``nn.TransformerEncoder`` without nested tensors, and without a look at the mask for whether it is causal."""

    def forward(self, src, mask=None, src_key_padding_mask=None, is_causal=None) -> Tensor:
        x = src
        for layer in self.layers:
            x = layer(x, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=bool(is_causal))
        return x if self.norm is None else self.norm(x)


LOWERED = {nn.TransformerEncoderLayer: EncoderLayer, nn.TransformerEncoder: Encoder}


def lower(model: nn.Module) -> nn.Module:
    """Put the plain forms in the place of the others, in place; returns the model (or what replaces it)."""
    if type(model) is nn.MultiheadAttention:
        return MultiheadAttention(model)
    done: dict[int, nn.Module] = {}
    for module in list(model.modules()):
        if type(module) in LOWERED:
            module.__class__ = LOWERED[type(module)]
        for name, child in list(module._modules.items()):
            if type(child) is nn.MultiheadAttention:
                module._modules[name] = done.setdefault(id(child), MultiheadAttention(child))
    return model
