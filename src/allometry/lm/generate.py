"""Text from a trained run."""

from __future__ import annotations

import torch

from ..config.run import RunConfig
from ..data.corpus import load_tokenizer
from ..data.shards import read_manifest
from ..data.tokenizer import Bytes, Tokenizer
from ..errors import UserError
from ..runs.record import RunRecord
from ..runs.study import Study
from . import checkpoint
from .decoder import LanguageModel, build


def load_model(study: Study, record: RunRecord) -> LanguageModel:
    """The model of a finished run.

    Raises:
        UserError: its weights are missing or damaged.
    """
    tensors, meta = checkpoint.read(study.weights_path(record.id))
    config = RunConfig.parse(meta["config"], f"run {record.id}")
    model = build(config.decoder, config.train.seed, config.train.precision)
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise UserError(
            f"{study.weights_path(record.id)}: its tensors are not those of this version's model; train the run again"
        ) from None
    return model.eval()


def tokenizer_of(study: Study, record: RunRecord) -> Tokenizer:
    """The tokenizer that a run was trained by.

    Raises:
        UserError: it is not in the study, or what is there is another one.
    """
    task = record.config.text
    if task.tokenizer == "bytes":
        return Bytes()
    tokenizer = load_tokenizer(study.corpus_path)
    if read_manifest(study.corpus_path)["fingerprint"] != task.fingerprint or tokenizer.name != task.tokenizer:
        raise UserError(
            f"{study.corpus_path}: not the text and the tokenizer that run {record.id} was trained on "
            f"({task.tokenizer}, text {task.fingerprint}); put that corpus back"
        )
    return tokenizer


def generate(study: Study, record: RunRecord, prompt: str, *, tokens: int, temperature: float, seed: int) -> str:
    """Text that a finished run writes after ``prompt``, which stands before it.

    Raises:
        UserError: its weights or its tokenizer are missing, damaged or others.
    """
    tokenizer = tokenizer_of(study, record)
    return write_text(load_model(study, record), tokenizer, prompt, tokens, temperature, seed)


def write_text(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str, tokens: int, temperature: float, seed: int
) -> str:
    """``prompt`` and ``tokens`` more tokens, sampled at ``temperature`` (0: the likeliest), as text.

    The model sees the last ``context`` tokens; invalid UTF-8 becomes the replacement character. An empty prompt
    stands for the end of a line.
    """
    generator = torch.Generator().manual_seed(seed)
    written = tokenizer.encode(prompt) or tokenizer.encode("\n") or [0]
    context = model.config.context
    with torch.no_grad():
        for _ in range(tokens):
            # A vocabulary may be wider than its tokenizer's, for the machine's sake; the rest means nothing.
            logits = model(torch.tensor([written[-context:]]))[0, -1, : tokenizer.vocab_size]
            if temperature == 0:
                written.append(int(logits.argmax()))
            else:
                odds = torch.softmax(logits.double() / temperature, -1)
                written.append(int(torch.multinomial(odds, 1, generator=generator)))
    return tokenizer.decode(written)
