"""A run as other programs read it: a folder for Hugging Face's transformers, or for llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...extras import require
from ...runs.study import find_run
from .model_card import model_card, title_of

FORMATS = ("hf", "gguf")


@dataclass(frozen=True)
class Exported:
    """What was written, of which run, as which class or architecture; ``notes`` are for people."""

    path: Path
    run: str
    format: str
    architecture: str
    dtype: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "run": self.run,
            "format": self.format,
            "architecture": self.architecture,
            "dtype": self.dtype,
            "notes": list(self.notes),
        }


def export(run: Path | str, to: Path | str, *, format: str = "hf", dtype: str = "float32") -> Exported:
    """Write a finished run to the new folder ``to``.

    Args:
        run: STUDY/RUN, or STUDY for its best run.
        format: "hf", a stock class of transformers with a stock tokenizer; or "gguf", for llama.cpp.
        dtype: "float32" or "bfloat16", for Hugging Face also "float16" where that holds the weights, for GGUF "q8_0".

    Raises:
        UserError: no such run, no stock architecture computes its model, or ``to`` is not empty.
    """
    if format not in FORMATS:
        raise UserError(f"--format {format}: unknown; there are {', '.join(FORMATS)}")
    require("torch", "safetensors", "tokenizers", *(["gguf"] if format == "gguf" else []))
    study, record = find_run(Path(run))
    from ...lm.export.gguf_file import gguf_architecture, write_gguf
    from ...lm.export.hugging_face_folder import write_hugging_face
    from ...lm.export.stock_weights import stock_architecture
    from ...lm.generate import load_model, tokenizer_of

    model, tokenizer = load_model(study, record, precision="fp32"), tokenizer_of(study, record)
    of_format = gguf_architecture if format == "gguf" else stock_architecture
    architecture = of_format(model.config)
    card = model_card(study, record, architecture=architecture, dtype=dtype, gguf=format == "gguf")
    if format == "gguf":
        notes = write_gguf(model, tokenizer, Path(to), dtype=dtype, name=title_of(record), card=card)
    else:
        write_hugging_face(model, tokenizer, Path(to), dtype=dtype, card=card)
        notes = []
    return Exported(Path(to), record.id, format, architecture, dtype, tuple(notes))
