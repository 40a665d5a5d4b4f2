"""Text from a trained run."""

from __future__ import annotations

import torch

from ..config import RunConfig
from ..errors import UserError
from ..runs.record import RunRecord
from ..runs.store import Study
from . import checkpoint
from .model import LanguageModel, build


def load_model(study: Study, record: RunRecord) -> LanguageModel:
    """The model of a finished run.

    Raises:
        UserError: its weights are missing or damaged.
    """
    tensors, meta = checkpoint.read(study.weights_path(record.id))
    config = RunConfig.parse(meta["config"], f"run {record.id}")
    model = build(config.model, config.train.seed, config.train.precision)
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise UserError(
            f"{study.weights_path(record.id)}: its tensors are not those of this version's model; train the run again"
        ) from None
    return model.eval()


def write_text(model: LanguageModel, prompt: str, tokens: int, temperature: float, seed: int) -> str:
    """``prompt`` and ``tokens`` more bytes, sampled at ``temperature`` (0: the likeliest), as text.

    The model sees the last ``context`` bytes; invalid UTF-8 becomes the replacement character.
    """
    generator = torch.Generator().manual_seed(seed)
    written = list(prompt.encode(errors="surrogateescape") or b"\n")
    context = model.config.context
    with torch.no_grad():
        for _ in range(tokens):
            logits = model(torch.tensor([written[-context:]]))[0, -1]
            if temperature == 0:
                written.append(int(logits.argmax()))
            else:
                odds = torch.softmax(logits.double() / temperature, -1)
                written.append(int(torch.multinomial(odds, 1, generator=generator)))
    return bytes(written).decode("utf-8", errors="replace")
