"""The tokenizer of a run as a ``tokenizer.json`` that gives the same tokens by default."""

from __future__ import annotations

import json
from typing import Any

from ...data.tokenizer import Bytes, Tokenizer

_PROBE = "The quick (brown) fox\n\n  42 — naïve 日本 <|endoftext|>"


def byte_characters() -> list[str]:
    """GPT-2's printable character for each byte, in the order of the bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(rest)}
    return [characters[byte] for byte in range(256)]


def tokenizer_json(tokenizer: Tokenizer) -> bytes:
    """The content of ``tokenizer.json``: bytes as a BPE without merges; anything else as it was packed with.

    Tokens that a published tokenizer adds around every text are left out, as they are in training.
    """
    if isinstance(tokenizer, Bytes):
        return _bytes_json()
    import tokenizers

    value = json.loads(tokenizer.content)
    value["truncation"] = value["padding"] = None
    library = tokenizers.Tokenizer.from_str(json.dumps(value))
    if library.encode(_PROBE).ids != library.encode(_PROBE, add_special_tokens=False).ids:
        value["post_processor"] = None
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


def tokenizer_config(tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    """``tokenizer_config.json``: text that looks like a special token is text, as in training."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        "add_bos_token": False,
        "add_eos_token": False,
    }
    end = end_token(tokenizer)
    return config if end is None else config | {"eos_token": end_text(tokenizer, end)}


def end_token(tokenizer: Tokenizer) -> int | None:
    """The token that ends a document, or None."""
    return getattr(tokenizer, "end", None)


def end_text(tokenizer: Tokenizer, end: int) -> str:
    return tokenizer.decode([end])


def _bytes_json() -> bytes:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
    library = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    return library.to_str(pretty=True).encode()
