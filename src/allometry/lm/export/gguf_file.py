"""A GGUF file, which llama.cpp and what is built on it read: model, tokenizer and context in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ...config.model import DecoderConfig
from ...data.tokenizer import Bytes, Tokenizer
from ...errors import UserError
from ...quantities import plural
from ..decoder import LanguageModel
from .new_folder import new_folder
from .stock_tokenizer import byte_characters, end_token
from .stock_weights import BITNET, EPS, LLAMA, QWEN3, THETA, stock_architecture, stock_weights

TYPES = ("float32", "bfloat16", "q8_0")
Q8_BLOCK = 32  # consecutive numbers of a row that share one scale
_ARCHITECTURES = {BITNET: "bitnet", LLAMA: "llama", QWEN3: "qwen3"}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.attn_sub_norm": "attn_sub_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.ffn_sub_norm": "ffn_sub_norm",
}


def write_gguf(
    model: LanguageModel, tokenizer: Tokenizer, path: Path, *, dtype: str = "float32", name: str, card: str = ""
) -> list[str]:
    """Write ``model.gguf`` and the card to a new folder; returns what a user must know.

    ``dtype`` "q8_0" stores 8-bit integers with a scale for each 32 of a row; what it cannot hold stays in BF16.

    Raises:
        UserError: llama.cpp has no such model or tokenizer, an unknown ``dtype``, or the folder is not empty.
    """
    import gguf  # pyright: ignore[reportMissingImports]

    if dtype not in TYPES:
        raise UserError(f"--dtype {dtype}: a GGUF file has {', '.join(TYPES)}")
    architecture = gguf_architecture(model.config)
    vocabulary = _vocabulary(tokenizer, model.config.vocab_size)
    kinds = gguf.GGMLQuantizationType
    kind = {"float32": kinds.F32, "bfloat16": kinds.BF16, "q8_0": kinds.Q8_0}[dtype]
    notes: list[str] = []
    with new_folder(path) as folder:
        writer = gguf.GGUFWriter(folder / "model.gguf", architecture)
        _describe(writer, model.config, name, vocabulary, end_token(tokenizer))
        in_bf16 = 0
        for stock_name, weight in stock_weights(model):
            tensor, stored = _of_llama(architecture, model.config, stock_name, weight).float().numpy(), kind
            if tensor.ndim == 1:
                stored = kinds.F32
            elif kind == kinds.Q8_0 and (tensor.shape[1] % Q8_BLOCK or _too_small(architecture, stock_name)):
                stored, in_bf16 = kinds.BF16, in_bf16 + 1
            data = tensor if stored == kinds.F32 else gguf.quants.quantize(tensor, stored)
            writer.add_tensor(_name(stock_name), data, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        (folder / "README.md").write_text(card, encoding="utf-8")
        if in_bf16:
            notes.append(
                f"{plural(in_bf16, 'tensor')} in BF16: rows that are no multiple of {Q8_BLOCK}, or BitNet's small "
                "up-projections, which q8_0 cannot hold"
            )
    return notes


def gguf_architecture(config: DecoderConfig) -> str:
    """The architecture of llama.cpp that computes what a decoder of this configuration computes.

    Raises:
        UserError: there is none; names the option that would do.
    """
    stock = stock_architecture(config)
    if config.activation != "swiglu":
        raise UserError(
            f'activation = "{config.activation}": llama.cpp computes these models with SiLU alone; '
            '--format hf keeps it, and models of activation = "swiglu" can be written as GGUF'
        )
    if stock == BITNET and not config.tied:
        raise UserError(
            'norms = "pre+out" with a head of its own: llama.cpp\'s BitNet has its head tied to the embedding; '
            '--format hf keeps it, and models of norms = "pre" or tied = true can be written as GGUF'
        )
    return _ARCHITECTURES[stock]


def _too_small(architecture: str, name: str) -> bool:
    """Whether the scales of a tensor would vanish in the float16 in which q8_0 stores them."""
    return architecture == "bitnet" and name.endswith("up_proj.weight")


def _describe(
    writer: Any, config: DecoderConfig, name: str, vocabulary: tuple[list[str], list[int], list[str]], end: int | None
) -> None:
    tokens, types, merges = vocabulary
    writer.add_name(name)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads or config.heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_freq_base(THETA)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    if end is not None:
        writer.add_eos_token_id(end)


def _vocabulary(tokenizer: Tokenizer, size: int) -> tuple[list[str], list[int], list[str]]:
    """Tokens, their types and merges; a vocabulary wider than its tokenizer's is filled with tokens never used."""
    import gguf  # pyright: ignore[reportMissingImports]

    kinds = gguf.TokenType
    if isinstance(tokenizer, Bytes):
        tokens, types = byte_characters(), [kinds.NORMAL] * 256
        merges = [f"{tokens[0]} {tokens[0]}"]  # llama.cpp needs one; its result is no token, so it is never applied
    else:
        tokens, types, merges = _byte_level(tokenizer)
    unused = [f"[unused{i}]" for i in range(len(tokens), size)]
    return tokens + unused, [int(t) for t in types] + [int(kinds.UNUSED)] * len(unused), merges


def _byte_level(tokenizer: Tokenizer) -> tuple[list[str], list[Any], list[str]]:
    import gguf  # pyright: ignore[reportMissingImports]

    value = json.loads(tokenizer.content)
    model, before = value["model"], value.get("pre_tokenizer") or {}
    plain = before.get("type") == "ByteLevel" and before.get("use_regex", True) and not before.get("add_prefix_space")
    if model.get("type") != "BPE" or not plain or value.get("normalizer"):
        raise UserError(
            f"tokenizer {tokenizer.name}: GGUF is written for bytes and for byte-level BPE with GPT-2's pre-tokenizer; "
            "--format hf keeps this one"
        )
    by_id = {number: token for token, number in model["vocab"].items()}
    types = {number: gguf.TokenType.NORMAL for number in by_id}
    for added in value.get("added_tokens", []):
        by_id[added["id"]] = added["content"]
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    size = tokenizer.vocab_size
    tokens = [by_id.get(number, f"[unused{number}]") for number in range(size)]
    kinds = [types.get(number, gguf.TokenType.UNUSED) for number in range(size)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return tokens, kinds, merges


def _name(stock: str) -> str:
    """The name of a tensor here: ``model.layers.3.mlp.up_proj.weight`` is ``blk.3.ffn_up.weight``."""
    stem = stock.removesuffix(".weight")
    if stem.startswith("model.layers."):
        number, _, part = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{number}.{_NAMES[part]}.weight"
    return f"{_NAMES[stem]}.weight"


def _of_llama(architecture: str, config: DecoderConfig, name: str, weight: Tensor) -> Tensor:
    """For the architecture "llama" pairs that rotate together stand side by side, not half a head apart."""
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads or config.heads}
    part = name.removesuffix(".weight").rpartition(".")[2]
    if architecture != "llama" or part not in heads:
        return weight
    return weight.view(heads[part], 2, config.head_dim // 2, -1).transpose(1, 2).reshape(weight.shape).contiguous()
