"""The teacher of a study: a trained model that its students learn from, kept in the folder ``teacher``.

It is a run of this package (its weights as the training wrote them), or a language model of transformers (as
``save_pretrained`` writes it). ``teacher.json`` says which, and is written last.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ...config.task import HELD_OUT_WINDOWS, TextConfig
from ...data.corpus import Corpus, load_tokenizer
from ...data.shards import read_manifest
from ...data.tokenizer import Bytes, Tokenizer
from ...errors import UserError
from ...extras import require
from ...files import parse_json, sync, write_json
from ...runs.study import Study, find_run
from ...tasks.text import evaluate_windows
from ...tasks.windows import held_out_windows
from .. import checkpoint
from ..finetuning.pretrained_model import fingerprint_of, is_hub_name, load_pretrained
from ..generate import model_in, tokenizer_of

FOLDER, MANIFEST, WEIGHTS = "teacher", "teacher.json", "model.safetensors"
RUN, STOCK = "run", "transformers"
COMPARED_TOKENS = 4096  # of the held-out text, which a foreign tokenizer must cut as the study's does


@dataclass(frozen=True)
class TeacherFacts:
    """What is recorded of a teacher: which kind, a hash of its weights, its size, and what it was asked for as.

    ``num_params`` is non-embedding for a run, all parameters for a model of transformers. ``flops_per_token`` are those
    of a forward pass. ``loss`` is that on the held-out text of the study, in windows of its students' context.
    """

    kind: str
    fingerprint: str
    source: str
    num_params: int
    flops_per_token: float
    loss: float | None = None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What stands in a teacher's folder.

        Raises:
            UserError: no teacher there, or what is there cannot be read.
        """
        try:
            return cls(**parse_json((folder / MANIFEST).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"{folder}: the teacher is missing; run the same `allometry distill` again") from None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{folder / MANIFEST}: not readable ({error}); {_anew(folder)}") from None


class StockModel(nn.Module):
    """A language model of transformers as a function from tokens to logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, use_cache=False).logits.float()


@dataclass(frozen=True)
class Teacher:
    """A model from tokens to logits, the facts of it, and the most tokens that it reads at once."""

    model: nn.Module
    facts: TeacherFacts
    context: float

    def logits(self, tokens: Tensor, vocab_size: int) -> Tensor:
        """Logits of the first ``vocab_size`` tokens (the others belong to no text), without gradients."""
        if next(self.model.parameters()).device != tokens.device:
            self.model.to(tokens.device)
        with torch.no_grad():
            return self.model(tokens)[..., :vocab_size]


def find_teacher(source: str, corpus: Corpus, context: int, vocab_size: int) -> tuple[Teacher, Any]:
    """The teacher that ``source`` names, and what :func:`keep_teacher` needs of it beside.

    ``source`` is STUDY/RUN, STUDY for its best run, a folder of transformers, a GGUF file, or a hub name that is in the
    local cache. ``context`` and ``vocab_size`` are the students', ``corpus`` what they learn.

    Raises:
        UserError: no such model, its tokenizer is not the corpus's, or its context or vocabulary is too small.
    """
    path = Path(source)
    stock = path.is_file() or (path / "config.json").is_file()  # it may stand in a study's folder
    if not stock and any(Study(folder).settings_path.is_file() for folder in (path, path.parent)):
        study, record = find_run(path)
        teacher = teacher_in(study.weights_path(record.id), source)
        _check_same_tokenizer(record.config.text, tokenizer_of(study, record), corpus, source)
        own = study.weights_path(record.id)
    else:
        if not path.exists() and not is_hub_name(source):
            raise UserError(f"--teacher {source}: no such run and no such folder")
        require("transformers")
        model, tokenizer = load_pretrained(source)
        teacher = _of_stock(model, source)
        _check_same_tokens(tokenizer, corpus, source)
        own = model, tokenizer
    if teacher.context < context:
        raise UserError(f"--teacher {source}: reads {teacher.context:.0f} tokens, but the students read {context}")
    with torch.no_grad():
        entries = teacher.model(torch.zeros(1, 2, dtype=torch.long)).shape[-1]
    if entries < vocab_size:
        raise UserError(
            f"--teacher {source}: its vocabulary has {entries} entries, and the students' {vocab_size}; "
            "give a teacher of the same tokenizer"
        )
    return teacher, own


def keep_teacher(teacher: Teacher, own: Any, study: Study, corpus: Corpus, context: int, vocab_size: int) -> Teacher:
    """Copy a teacher that was found into a study, unless it is there, and measure its held-out loss."""
    folder = study.path / FOLDER
    if (folder / MANIFEST).is_file():
        return open_teacher(study.path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if teacher.facts.kind == RUN:
        shutil.copyfile(own, folder / WEIGHTS)
    else:
        model, tokenizer = own
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        sync(file)
    windows = held_out_windows(corpus.held_out, context, HELD_OUT_WINDOWS)
    loss = evaluate_windows(_Cut(teacher, vocab_size), windows).value
    facts = replace(teacher.facts, loss=loss)
    if not math.isfinite(loss):
        raise UserError(f"--teacher {facts.source}: its held-out loss is not finite: its weights are damaged")
    write_json(folder / MANIFEST, asdict(facts))
    return Teacher(teacher.model, facts, teacher.context)


def open_teacher(study: Path) -> Teacher:
    """The teacher that a study holds.

    Raises:
        UserError: there is none, it cannot be read, or its weights are others than those that were kept.
    """
    folder = study / FOLDER
    facts = TeacherFacts.read(folder)
    if facts.kind == STOCK:
        require("transformers")
    try:
        teacher = (
            teacher_in(folder / WEIGHTS, facts.source)
            if facts.kind == RUN
            else _of_stock(load_pretrained(str(folder))[0], facts.source)
        )
    except UserError as error:  # which advises what is right for a run's own weights
        raise UserError(f"{str(error).partition(';')[0]}; {_anew(folder)}") from None
    if teacher.facts.fingerprint != facts.fingerprint:
        raise UserError(f"{folder}: not the weights that its students began with; {_anew(folder)}")
    return Teacher(teacher.model, facts, teacher.context)


def _anew(folder: Path) -> str:
    return f"delete {folder} and run the same `allometry distill` again, which copies the teacher anew"


class _Cut(nn.Module):
    """A teacher's logits over the students' vocabulary."""

    def __init__(self, teacher: Teacher, vocab_size: int):
        super().__init__()
        self.model, self.teacher, self.vocab_size = teacher.model, teacher, vocab_size

    def forward(self, tokens: Tensor) -> Tensor:
        return self.teacher.logits(tokens, self.vocab_size)


def teacher_in(path: Path, source: str) -> Teacher:
    """The teacher whose weights a training wrote to a file; ``source`` is what messages call it.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    model = model_in(path, f"teacher {source}", precision="fp32").requires_grad_(False)
    config = model.config
    hashed = checkpoint.digest(dict(model.state_dict()), repr(config))[:16]
    facts = TeacherFacts(RUN, hashed, source, config.num_params, config.flops_per_token / 3)
    return Teacher(model, facts, config.context)


def _of_stock(model: nn.Module, source: str) -> Teacher:
    stock = StockModel(model).eval().requires_grad_(False)
    config: Any = model.config
    num_params = sum(parameter.numel() for parameter in model.parameters())
    facts = TeacherFacts(STOCK, fingerprint_of(model), source, num_params, 2.0 * num_params)
    return Teacher(stock, facts, getattr(config, "max_position_embeddings", None) or math.inf)


def _check_same_tokenizer(task: TextConfig, tokenizer: Tokenizer, corpus: Corpus, source: str) -> None:
    """Check that a run's tokenizer is that of the corpus."""
    wanted = "" if corpus.folder is None else read_manifest(corpus.folder)["tokenizer"]["sha256"]
    if (task.tokenizer, tokenizer.sha256) != (corpus.tokenizer, wanted):
        same_name = " of the same name but other entries" if task.tokenizer == corpus.tokenizer else ""
        raise UserError(
            f"--teacher {source}: its tokenizer is {task.tokenizer}{same_name}, and that of the students is "
            f"{corpus.tokenizer}: their vocabularies differ; give a teacher of the same tokenizer"
        )


def _check_same_tokens(tokenizer: Any, corpus: Corpus, source: str) -> None:
    """Check that a tokenizer of transformers cuts held-out text into the tokens that the corpus has."""
    own = Bytes() if corpus.folder is None else load_tokenizer(corpus.folder)
    end = getattr(own, "end", None)  # which a text may hold as a mark, and another library reads as one
    text = own.decode([token for token in corpus.held_out[:COMPARED_TOKENS].tolist() if token != end])
    if tokenizer.encode(text, add_special_tokens=False) != own.encode(text):
        raise UserError(
            f"--teacher {source}: its tokenizer cuts the text into other tokens than {corpus.tokenizer}, that of the "
            "students: their vocabularies differ; give a teacher of the same tokenizer"
        )
