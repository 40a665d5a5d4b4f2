"""A folder that ``transformers`` loads by ``from_pretrained``: stock class, stock tokenizer, no code of ours."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from ...data.tokenizer import Tokenizer
from ...errors import UserError
from ...files import write_json
from ..decoder import LanguageModel
from .new_folder import new_folder
from .stock_tokenizer import end_token, tokenizer_config, tokenizer_json
from .stock_weights import BITNET, stock_architecture, stock_config, stock_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def write_hugging_face(
    model: LanguageModel, tokenizer: Tokenizer, path: Path, *, dtype: str = "float32", card: str = ""
) -> str:
    """Write a model and its tokenizer to a new folder; returns the name of the class.

    Raises:
        UserError: no stock class computes this model, an unknown or unfit ``dtype``, or the folder is not empty.
    """
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: unknown; there are float32, bfloat16, float16")
    architecture = stock_architecture(model.config)
    if architecture == BITNET and dtype == "float16":
        raise UserError(
            "--dtype float16: BitNet's second norm is made a constant by an up-projection of 2^-24, which float16 "
            "loses; give float32 or bfloat16"
        )
    with new_folder(path) as folder:
        # One layer at a time is in float64; together they are in the type of the file.
        tensors = {name: weight.to(DTYPES[dtype]).contiguous() for name, weight in stock_weights(model)}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        end = end_token(tokenizer)
        write_json(folder / "config.json", stock_config(model.config, dtype, end))
        write_json(folder / "generation_config.json", {} if end is None else {"eos_token_id": end})
        (folder / "tokenizer.json").write_bytes(tokenizer_json(tokenizer))
        write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer, model.config.context))
        (folder / "README.md").write_text(card, encoding="utf-8")
    return architecture
