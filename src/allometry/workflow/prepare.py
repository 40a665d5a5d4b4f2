"""From what was asked to a study that is ready to climb: its text, the machine's speed, the ladder's design.

Each step is written down when it is done and read back when the same command comes again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..cli.output import note
from ..config.base import Config
from ..config.model import DecoderConfig
from ..config.run import RunConfig
from ..config.study import StudyConfig
from ..config.training import TRAINER_VERSION, TrainConfig
from ..data import corpus as corpora
from ..data.corpus import Corpus
from ..errors import UserError
from ..ladder.design import Design, make_design
from ..ladder.speed import Speed, measure_speed
from ..runs.engines.contract import LadderEngine
from ..runs.study import Study


class RunFile(Config):
    """A run as a person writes it: the text's place instead of its fingerprint."""

    data: str
    model: DecoderConfig
    train: TrainConfig


def _begin(file: RunFile, out: Path) -> tuple[Study, RunConfig]:
    corpus = corpora.read_corpus(file.data)
    check_version(out)
    settings = {"data": file.data, "fingerprint": corpus.fingerprint, "trainer": TRAINER_VERSION}
    model = file.model
    if "vocab_size" not in model.model_fields_set:
        model = model.model_copy(update={"vocab_size": corpus.vocab_size})
    corpus.check(model.context, model.vocab_size)
    config = RunConfig(model=model, task=corpus.task(file.data), train=file.train)
    study = Study.create(out, settings)
    with study.lock(note):
        if not (study.corpus_path / "manifest.json").exists():
            corpora.save_corpus(corpus, study.corpus_path)
    note(corpus.describe())
    return study, config


def begin(config: StudyConfig, out: Path, say: Callable[[str], None] = lambda text: None) -> tuple[Study, Corpus]:
    """Read the text and open the study at ``out``, or begin it; ``say`` hears when another process is at that.

    Raises:
        UserError: no such text or too little of it, or ``out`` holds something else; then nothing is written.
    """
    corpus = corpora.read_corpus(config.data)
    corpus.check(config.context, corpus.vocab_size)
    check_version(out)
    settings = {"study": config.to_dict(), "fingerprint": corpus.fingerprint, "trainer": TRAINER_VERSION}
    study = Study.create(out, settings)
    with study.lock(say):
        if not (study.corpus_path / "manifest.json").exists():
            corpora.save_corpus(corpus, study.corpus_path)
    return study, corpus


def check_version(out: Path) -> None:
    """Whether the runs of a study, if there is one, are such as this version trains.

    Raises:
        UserError: another version trained them.
    """
    study = Study(out)
    there = study.settings().get("trainer", TRAINER_VERSION)
    if there != TRAINER_VERSION and study.begun():
        raise UserError(
            f"{out}: its runs are of version {there} of the trainer, and this is {TRAINER_VERSION}: they would not "
            "compare; go on with the allometry that began it, or give another --out"
        )


def speed_of(study: Study, ladder: LadderEngine, target: LadderEngine, context: int, vocab_size: int) -> Speed:
    """The machine's speed as the study recorded it, or measured now and recorded."""
    value = study.read("calibration.json")
    if value is not None:
        return Speed.from_json(value)
    speed = measure_speed(ladder, target, context, vocab_size)
    study.write("calibration.json", speed.to_json())
    return speed


def design_of(study: Study, config: StudyConfig, corpus: Corpus, speed: Speed | None) -> Design:
    """The study's design as recorded, or made now and recorded.

    Raises:
        UserError: the minutes are too few for any ladder, or the text is too short.
    """
    value = study.read("ladder.json")
    if value is not None:
        return Design.from_json(value)
    made = make_design(config, corpus.task(config.data), len(corpus.train), speed)
    study.write("ladder.json", made.to_json())
    return made
