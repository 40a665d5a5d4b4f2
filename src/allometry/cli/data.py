"""``data``: text to packed tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal.options import Json

EXAMPLES = (
    "allometry data my_texts/ --out corpus --tokenizer bpe:8192",
    "allometry data texts.jsonl --out corpus --text-field body",
    "allometry data roneneldan/TinyStories --out corpus --split train",
)


def data(
    source: Annotated[
        str,
        typer.Argument(
            help="A file or folder of text, JSONL or Parquet (also .gz, .bz2, .zst), stdlib, or a Hugging Face name."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the corpus; studies take it as their data.")],
    tokenizer: Annotated[
        str, typer.Option(help="bytes; bpe:8192, trained on this text; gpt2; or the path of a tokenizer.json.")
    ] = "bytes",
    text_field: Annotated[str, typer.Option(help="Field or column of the text, in JSONL and Parquet.")] = "text",
    config: Annotated[str | None, typer.Option(help="Configuration of a Hugging Face data set.")] = None,
    split: Annotated[str | None, typer.Option(help="Its split; train by default.")] = None,
    json: Json = False,
) -> list[str]:
    """Pack text into token shards, split into training and held-out text. The same command again continues."""
    from ..data.packing import prepare
    from ..data.shards import read_manifest
    from ..data.sources import open_source
    from .terminal.output import answer, answer_json, note

    text = open_source(source, text_field=text_field, config=config, split=split)
    corpus = prepare(text, out, tokenizer, note)
    for line in corpus.notes:
        note(f"note: {line}")
    if json:
        counts = {"train_tokens": len(corpus.train), "held_out_tokens": len(corpus.held_out)}
        answer_json(read_manifest(out) | counts | {"bytes_per_token": corpus.bytes_per_token})
    else:
        answer(f"{out}: {corpus.describe()}")
    return ["allometry", "quickstart", "--data", str(out), "--minutes", "30", "--dry-run"]
