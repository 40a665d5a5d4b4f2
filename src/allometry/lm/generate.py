"""Text from a trained run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config.model import DecoderConfig
from ..config.run import RunConfig
from ..data.corpus import load_tokenizer
from ..data.shards import read_manifest
from ..data.tokenizer import Bytes, Tokenizer
from ..errors import UserError
from ..runs.record import RunRecord
from ..runs.study import Study
from . import checkpoint
from .decoder import LanguageModel, build
from .inference.write_texts import Writing, WrittenText, write_texts


def load_model(study: Study, record: RunRecord, precision: str | None = None) -> LanguageModel:
    """The model of a finished run, which computes in ``precision``, by default that of its training.

    Raises:
        UserError: its weights are missing or damaged, or it is not of the built-in family.
    """
    return model_in(study.weights_path(record.id), f"run {record.id}", precision)


def model_in(path: Path, name: str, precision: str | None = None) -> LanguageModel:
    """The model whose weights are in a file that a training wrote; ``name`` is what messages call it.

    Raises:
        UserError: as :func:`load_model`.
    """
    tensors, meta = checkpoint.read(path)
    config = RunConfig.parse(meta["config"], name)
    if not isinstance(config.model, DecoderConfig):
        raise UserError(f"{name} trained a model of family {config.model.family}; this needs the built-in decoder")
    model = build(config.model, config.train.seed, precision or config.train.precision)
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise UserError(f"{path}: its tensors are not those of this version's model; train the run again") from None
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


def generate(study: Study, record: RunRecord, prompts: Sequence[str], writing: Writing) -> list[WrittenText]:
    """Texts that a finished run writes after ``prompts``, which stand before them; computed in FP32.

    Raises:
        UserError: its weights or its tokenizer are missing, damaged or others; or as :func:`write_texts`.
    """
    tokenizer = tokenizer_of(study, record)
    return write_texts(load_model(study, record, precision="fp32"), tokenizer, prompts, writing)
