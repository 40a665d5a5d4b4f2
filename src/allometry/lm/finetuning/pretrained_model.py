"""A pretrained language model and its tokenizer from a folder, or from the local cache of Hugging Face."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ...errors import UserError


def load_pretrained(name: str) -> tuple[Any, Any]:
    """The model in float32 and its tokenizer; nothing is fetched, and no code of the model's own is run.

    ``name`` is a folder as ``save_pretrained`` writes it, a GGUF file, or a name on the hub that is in the local cache.

    Raises:
        UserError: there is no such model here, or it cannot be read.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import (  # pyright: ignore[reportMissingImports]
        AutoModelForCausalLM,
        AutoTokenizer,
    )
    from transformers.utils import logging  # pyright: ignore[reportMissingImports]

    logging.disable_progress_bar()
    path = Path(name)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if path.is_file():
        name, options["gguf_file"] = str(path.parent), path.name
    elif not path.is_dir() and (path.is_absolute() or name.startswith(".") or name.count("/") > 1):
        raise UserError(f"{name}: no such folder")
    elif path.is_dir() and not (path / "config.json").is_file():
        raise UserError(f"{name}: no config.json in it; give a folder that save_pretrained or allometry export wrote")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **options)
    except Exception as error:  # transformers and what it calls raise any class
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if not path.exists():
            raise UserError(
                f"{name}: no such folder, and not in the local cache of Hugging Face; on a machine with a network run "
                f"`hf download {name} --local-dir DIR`, and give that folder"
            ) from None
        raise UserError(f"{name}: cannot be read as a language model: {first}") from None
    if "gguf_file" in options:  # it is plain float32 now, and may be saved as such
        model.hf_quantizer = None
        model.config.__dict__.pop("quantization_config", None)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"{name}: its tokenizer has {tokenizer.vocab_size} entries, but its model {model.config.vocab_size}"
        )
    return model, tokenizer


def context_of(model: Any, most: int) -> int:
    """The tokens of an example: ``most``, or the model's positions if they are fewer."""
    return min(most, getattr(model.config, "max_position_embeddings", None) or most)
