"""A pretrained model and its tokenizer from a folder, or from the local cache of Hugging Face."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import UserError
from .. import checkpoint

TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")  # of which a folder has one at least


def load_pretrained(name: str, labels: Sequence[str] = (), seed: int = 0) -> tuple[Any, Any]:
    """The model in float32 and its tokenizer; nothing is fetched, and no code of the model's own is run.

    ``name`` is a folder as ``save_pretrained`` writes it, a GGUF file, or a name on the hub that is in the local cache.
    With ``labels`` it is a classifier of texts, whose head, if it is none yet, is drawn by ``seed``; else a language
    model.

    Raises:
        UserError: there is no such model here, or it cannot be read.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import (  # pyright: ignore[reportMissingImports]
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )
    from transformers.utils import logging  # pyright: ignore[reportMissingImports]

    logging.disable_progress_bar()
    where, options = _place(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        if labels:
            options |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
            options["num_labels"] = len(labels)
        kind = AutoModelForSequenceClassification if labels else AutoModelForCausalLM
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = kind.from_pretrained(where, dtype=torch.float32, **options)
    except Exception as error:  # transformers and what it calls raise any class
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if not Path(name).exists():
            raise UserError(
                f"{name}: no such folder, and not in the local cache of Hugging Face; on a machine with a network run "
                f"`hf download {name} --local-dir DIR`, and give that folder"
            ) from None
        what = "a classifier" if labels else "a language model"
        raise UserError(f"{name}: cannot be read as {what}: {first}") from None
    if "gguf_file" in options:  # it is plain float32 now, and may be saved as such
        model.hf_quantizer = None
        model.config.__dict__.pop("quantization_config", None)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"{name}: its tokenizer has {tokenizer.vocab_size} entries, but its model {model.config.vocab_size}"
        )
    if labels and tokenizer.pad_token_id is None:
        raise UserError(
            f"{name}: its tokenizer has no token to fill texts up with; give an encoder, as BERT, for labels"
        )
    return model, tokenizer


def _place(name: str) -> tuple[str, dict[str, Any]]:
    """What transformers loads a model from, and how.

    Raises:
        UserError: there is no such model here, or a part of it is missing.
    """
    path = Path(name)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if path.is_file():
        return str(path.parent), options | {"gguf_file": path.name}
    if not path.is_dir():
        if not is_hub_name(name):
            raise UserError(f"{name}: no such folder")
    elif not (path / "config.json").is_file():
        raise UserError(f"{name}: no config.json in it; give a folder that save_pretrained or allometry export wrote")
    elif not any(file for pattern in TOKENIZER_FILES for file in path.glob(pattern)):
        raise UserError(f"{name}: no tokenizer in it; save the model's there by tokenizer.save_pretrained({name!r})")
    return name, options


def fingerprint_of(model: Any) -> str:
    """A hash of a model's class and weights."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return checkpoint.digest(weights, type(model).__name__)[:16]


def is_hub_name(name: str) -> bool:
    """Whether a name could be one on the hub: OWNER/MODEL, or a model of the early days."""
    return not (Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1)


def context_of(model: Any, most: int) -> int:
    """The tokens of an example: ``most``, or the model's positions if they are fewer."""
    return min(most, getattr(model.config, "max_position_embeddings", None) or most)
