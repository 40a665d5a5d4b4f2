"""Parameters of the usual decoders from their shape, where no weights tell: GPT-2's form, and Llama's with a gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .logged_run import Fact, number

HOW = "the shape in the settings ({})"


def counts_of_shape(settings: Mapping[str, Any]) -> dict[str, Fact]:
    """What is counted → parameters; nothing for a shape that is not known. "in_flos" is what Trainer's FLOPs count."""
    shape = {key.rsplit(".", 1)[-1]: value for key, value in settings.items()}
    if "num_experts" in shape or "num_local_experts" in shape or "n_routed_experts" in shape:
        return {}
    if shape.get("model_type") == "gpt2" or {"n_embd", "n_layer"} <= shape.keys():
        return _gpt2(shape)
    if {"hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"} <= shape.keys():
        return _llama(shape)
    hidden = next((value for key, value in settings.items() if key.endswith("feed_forward.hidden_size")), None)
    if hidden is not None and {"d_model", "n_layers", "n_heads"} <= shape.keys():
        return _olmo(shape, number(hidden))
    return {}


def _olmo(shape: Mapping[str, Any], hidden: float) -> dict[str, Fact]:
    """Blocks of OLMo-core: as Llama's, by other names, and without the gains of norms on queries and keys."""
    renamed = {"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
    llama = {name: shape[own] for name, own in renamed.items()} | {"intermediate_size": hidden}
    llama |= {"num_key_value_heads": shape.get("n_kv_heads"), "vocab_size": shape.get("vocab_size")}
    how = HOW.format("d_model, n_layers, feed_forward.hidden_size; norms of queries and keys left out")
    return {name: Fact(fact.value, how) for name, fact in _llama(llama).items()}


def _gpt2(shape: Mapping[str, Any]) -> dict[str, Fact]:
    """Blocks of attention and a plain MLP with biases and norms, embeddings of words and positions, a tied head."""
    width, layers, words = (number(shape.get(name)) for name in ("n_embd", "n_layer", "vocab_size"))
    hidden = number(shape.get("n_inner"))
    hidden = hidden if hidden > 0 else 4 * width
    blocks = layers * (4 * width**2 + 2 * width * hidden + 9 * width + hidden) + 2 * width
    positions = number(shape.get("n_positions") or shape.get("block_size"))
    how = HOW.format("n_embd, n_layer")
    counts = {"non_embedding": Fact(blocks, how), "matmul": Fact(blocks + words * width, how)}
    return _known(counts | {"total": Fact(blocks + (words + positions) * width, how), "in_flos": Fact(blocks, how)})


def _llama(shape: Mapping[str, Any]) -> dict[str, Fact]:
    """Blocks of attention with grouped keys and a gated MLP, norms without biases."""
    width, layers, hidden, heads = (
        number(shape[name]) for name in ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")
    )
    if heads <= 0:
        return {}
    per_head = number(shape.get("head_dim"))
    per_head = per_head if per_head > 0 else width / heads
    groups = number(shape.get("num_key_value_heads"))
    groups = groups if groups > 0 else heads
    attention = 2 * width * heads * per_head + 2 * width * groups * per_head
    blocks = layers * (attention + 3 * width * hidden + 2 * width) + width
    how = HOW.format("hidden_size, num_hidden_layers, intermediate_size")
    counts = {"non_embedding": Fact(blocks, how)}
    words = number(shape.get("vocab_size")) * width
    tied = shape.get("tie_word_embeddings") in (True, "True")
    counts |= {"matmul": Fact(blocks + words, how), "in_flos": Fact(blocks + (0 if tied else words), how)}
    return _known(counts | {"total": Fact(blocks + words * (1 if tied else 2), how)})


def _known(counts: dict[str, Fact]) -> dict[str, Fact]:
    return {name: fact for name, fact in counts.items() if fact.value > 0}
