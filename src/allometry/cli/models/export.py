"""``export``: a run as transformers or llama.cpp read it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal.command import free_name
from ..terminal.options import Json, Run

EXAMPLES = (
    "allometry export quickstart --to model",
    "allometry export quickstart/3f2a --to model --format gguf --dtype q8_0",
)


def export(
    run: Run,
    to: Annotated[Path, typer.Option(help="The folder to write; new or empty.")],
    format: Annotated[str, typer.Option(help="hf (Hugging Face's transformers) or gguf (llama.cpp).")] = "hf",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16; with gguf also q8_0.")] = "float32",
    json: Json = False,
) -> list[str]:
    """Write a run as a model of transformers or llama.cpp, with its tokenizer and a model card."""
    from ...workflow.models.export_model import export as write
    from ..terminal.output import answer, answer_json, note

    exported = write(run, to, format=format, dtype=dtype)
    for line in exported.notes:
        note(line)
    answer_json(exported.to_json()) if json else answer(f"{exported.path}: {exported.architecture}, {exported.dtype}")
    if format == "gguf":
        return ["llama-cli", "-m", str(exported.path)]
    return ["allometry", "export", run, "--to", free_name("model-gguf"), "--format", "gguf"]
