"""From a configuration to a study that is ready to train: its corpus, the machine's speed, the ladder's design.

Each step is written to the study when it is done, and read back when the same study is opened again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config.base import Config
from ..config.model import DecoderConfig
from ..config.run import RunConfig
from ..config.study import StudyConfig
from ..config.training import TRAINER_VERSION, TrainConfig, TrainerConfig
from ..data.corpus import Corpus, read_corpus, save_corpus
from ..errors import UserError
from ..extras import require_trainer
from ..ladder.design import Design, make_design
from ..ladder.speed import Speed, measure_speed
from ..runs.engines.contract import LadderEngine
from ..runs.study import Study
from .listener import Listener, Note, note_to, silent


class RunFile(Config):
    """A single run as a person writes it in a TOML file: the corpus by its place instead of its fingerprint."""

    data: str
    model: DecoderConfig
    train: TrainConfig


def begin_study(config: StudyConfig, out: Path, listener: Listener = silent) -> tuple[Study, Corpus]:
    """Read the corpus, and open the study at ``out`` or begin it; a wait for another process is noted.

    Raises:
        UserError: there is no such corpus or it is too short, or ``out`` holds something else; nothing is written then.
    """
    corpus = read_corpus(config.data)
    corpus.check(config.context, corpus.vocab_size)
    return _open_or_begin(out, {"study": config.to_dict()}, corpus, listener), corpus


def begin_run(file: RunFile, out: Path, listener: Listener = silent) -> tuple[Study, RunConfig]:
    """Read the corpus of a single run, and open the study at ``out`` or begin it.

    Raises:
        UserError: as :func:`begin_study`, or a library of the trainer is not installed.
    """
    require_trainer(TrainerConfig.default_kind)  # which trains the run of every file
    corpus = read_corpus(file.data)
    model = file.model
    if "vocab_size" not in model.model_fields_set:
        model = model.model_copy(update={"vocab_size": corpus.vocab_size})
    corpus.check(model.context, model.vocab_size)
    config = RunConfig(model=model, task=corpus.task(file.data), train=file.train)
    study = _open_or_begin(out, {"data": file.data}, corpus, listener)
    listener(Note(corpus.describe()))
    return study, config


def _open_or_begin(out: Path, settings: dict[str, Any], corpus: Corpus, listener: Listener) -> Study:
    """The study with these settings, its corpus saved."""
    check_version(out)
    study = Study.create(out, settings | {"fingerprint": corpus.fingerprint, "trainer": TRAINER_VERSION})
    with study.lock(note_to(listener)):
        if not (study.corpus_path / "manifest.json").exists():
            save_corpus(corpus, study.corpus_path)
    return study


def check_version(out: Path) -> None:
    """Check that this version of the trainer trained the runs of the study at ``out``, if there are any.

    Raises:
        UserError: another version trained them.
    """
    study = Study(out)
    version = study.settings().get("trainer", TRAINER_VERSION)
    if version != TRAINER_VERSION and study.begun():
        raise UserError(
            f"{out}: its runs are of version {version} of the trainer, and this is {TRAINER_VERSION}: they would not "
            "compare; go on with the allometry that began it, or give another --out"
        )


def speed_of(study: Study, ladder: LadderEngine, target: LadderEngine, config: StudyConfig, vocab_size: int) -> Speed:
    """The machine's speed as the study recorded it, or measured now and recorded."""
    value = study.read("calibration.json")
    if value is not None:
        return Speed.from_json(value)
    speed = measure_speed(ladder, target, config.context, vocab_size, config.decoder)
    study.write("calibration.json", speed.to_json())
    return speed


def design_of(study: Study, config: StudyConfig, corpus: Corpus, speed: Speed | None) -> Design:
    """The study's design as recorded, or made now and recorded.

    Raises:
        UserError: the minutes are too few for any ladder, or the corpus is too short.
    """
    value = study.read("ladder.json")
    if value is not None:
        return Design.from_json(value)
    design = make_design(config, corpus.task(config.data), len(corpus.train), speed)
    study.write("ladder.json", design.to_json())
    return design
