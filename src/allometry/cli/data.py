"""``data``: text to packed tokens."""

from __future__ import annotations

from pathlib import Path

from ..data.packing import prepare
from ..data.shards import read_manifest
from ..data.sources import open_source
from .output import answer, answer_json, note


def data(
    source: str,
    *,
    out: Path,
    tokenizer: str,
    text_field: str,
    config: str | None,
    split: str | None,
    as_json: bool,
) -> None:
    """Prepare a corpus, and say what it holds."""
    text = open_source(source, text_field=text_field, config=config, split=split)
    corpus = prepare(text, out, tokenizer, note)
    for line in corpus.notes:
        note(f"note: {line}")
    if as_json:
        counts = {"train_tokens": len(corpus.train), "held_out_tokens": len(corpus.held_out)}
        answer_json(read_manifest(out) | counts | {"bytes_per_token": corpus.bytes_per_token})
    else:
        answer(f"{out}: {corpus.describe()}")
