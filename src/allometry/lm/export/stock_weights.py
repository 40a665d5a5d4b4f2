"""A unit-scaled decoder as a stock architecture of Hugging Face: the same function, every factor inside a weight.

Our residual stream is ``keep·x + share·branch``; a stock one is ``x + branch``. Over the product of all ``keep`` so far
our stream is a stock one, and the norms, at the head of every branch, do not see the difference but for their epsilon.
So each out-projection is multiplied by its ``share`` over that product, and each norm gets a weight that gives epsilon
the effect that it has here (to first order). Products are taken in float64.

A decoder with a norm before attention's out-projection is BitNet's, which has a second norm before the MLP's. That one
is a constant factor 1/√eps for an input far below √eps: the up-projection carries 2^-24, and the norm's weight takes
both back. In float16 that would underflow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import nn
from ...config.model import DecoderConfig
from ...errors import UserError
from ..decoder import LanguageModel

BITNET, LLAMA, QWEN3 = "BitNetForCausalLM", "LlamaForCausalLM", "Qwen3ForCausalLM"
_TYPES = {BITNET: "bitnet", LLAMA: "llama", QWEN3: "qwen3"}
_ACTIVATIONS = {"swiglu": "silu", "geglu": "gelu"}
_TINY = 2.0**-24  # on what enters BitNet's second norm
EPS, THETA = 1e-6, 10000.0


def stock_architecture(config: DecoderConfig) -> str:
    """The stock class that computes what a decoder of this configuration computes.

    Raises:
        UserError: there is none; names the option that would do.
    """
    if config.activation not in _ACTIVATIONS:
        raise UserError(
            f'activation = "{config.activation}": no stock architecture has this MLP with our norms; '
            'models of activation = "swiglu" or "geglu" can be exported'
        )
    if config.norms == "pre":
        return QWEN3 if config.qk_norm else LLAMA
    if config.qk_norm:
        raise UserError(
            'qk_norm = true with norms = "pre+out": no stock architecture has both; models of norms = "pre" can be '
            "exported"
        )
    return BITNET


def stock_config(config: DecoderConfig, dtype: str, end: int | None) -> dict[str, Any]:
    """The ``config.json`` of that class. ``end``: the token that ends a document."""
    architecture = stock_architecture(config)
    return {
        "architectures": [architecture],
        "model_type": _TYPES[architecture],
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads or config.heads,
        "head_dim": config.head_dim,
        "hidden_act": _ACTIVATIONS[config.activation],
        "max_position_embeddings": config.context,
        "rms_norm_eps": EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": THETA},
        "rope_theta": THETA,
        "tie_word_embeddings": config.tied,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": None,
        "torch_dtype": dtype,
        "use_cache": True,
    }


def stock_weights(model: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """The weights of that class by name, in float64, one after another.

    Raises:
        UserError: as :func:`stock_architecture`.
    """
    config, architecture = model.config, stock_architecture(model.config)
    yield "model.embed_tokens.weight", _exact(model.embedding.weight)
    kept = 1.0
    for index, block in enumerate(model.stack.layers):
        name = f"model.layers.{index}."
        (eps,), ((keep_a, share_a), (keep_m, share_m)) = block.eps(), (weights() for weights in block.weights)
        yield name + "input_layernorm.weight", _norm(config.width, eps, kept)
        kept *= keep_a
        yield from _attention(block.attention, name + "self_attn.", architecture, share_a / kept)
        yield name + "post_attention_layernorm.weight", _norm(config.width, eps, kept)
        kept *= keep_m
        yield from _mlp(block.mlp, name + "mlp.", architecture, share_m / kept)
    (eps,), factor = model.norm.eps(), model.readout.factors().output
    if config.tied:  # the table is the embedding's; the norm before it takes the factor of the head
        yield "model.norm.weight", _norm(config.width, eps, kept) * factor
    else:
        yield "model.norm.weight", _norm(config.width, eps, kept)
        yield "lm_head.weight", _exact(model.readout.weight) * factor


def _attention(attention: nn.Attention, name: str, architecture: str, share: float) -> Iterator[tuple[str, Tensor]]:
    heads, kv_heads, size = attention.heads, attention.kv_heads, attention.head_dim
    qkv = _exact(attention.qkv.weight) * attention.qkv.factors().output
    q, k, v = qkv.split((heads * size, kv_heads * size, kv_heads * size))
    (multiplier,) = attention.multiplier()
    if architecture == QWEN3:
        yield name + "q_norm.weight", torch.full((size,), multiplier, dtype=torch.float64)
        yield name + "k_norm.weight", torch.ones(size, dtype=torch.float64)
    else:
        q = q * multiplier
    yield name + "q_proj.weight", q
    yield name + "k_proj.weight", k
    yield name + "v_proj.weight", v
    if architecture == BITNET:
        yield name + "attn_sub_norm.weight", torch.ones(attention.width, dtype=torch.float64)
    yield name + "o_proj.weight", _exact(attention.out.weight) * (attention.out.factors().output * share)


def _mlp(mlp: nn.MLP, name: str, architecture: str, share: float) -> Iterator[tuple[str, Tensor]]:
    gate, up = (_exact(mlp.up.weight) * mlp.up.factors().output).chunk(2)
    tiny = _TINY if architecture == BITNET else 1.0
    yield name + "gate_proj.weight", gate
    yield name + "up_proj.weight", up * tiny
    if architecture == BITNET:
        yield name + "ffn_sub_norm.weight", torch.full((up.shape[0],), math.sqrt(EPS) / tiny, dtype=torch.float64)
    factor = mlp.down.factors().output * mlp.factor()[0] * share
    yield name + "down_proj.weight", _exact(mlp.down.weight) * factor


def _norm(width: int, eps: float, kept: float) -> Tensor:
    """The weight of a norm that reads our stream over ``kept``: eps there acts on kept² times the mean square."""
    return torch.full((width,), 1 - eps * (1 - kept**2) / 2, dtype=torch.float64)


def _exact(weight: Tensor) -> Tensor:
    return weight.detach().to("cpu", torch.float64)
