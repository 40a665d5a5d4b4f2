"""From a configuration to a study that is ready to train: its corpus, the machine's speed, the ladder's design.

Each step is written to the study when it is done, and read back when the same study is opened again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config.base import Config
from ..config.model import DecoderConfig, ModelConfig
from ..config.run import RunConfig
from ..config.study import StudyConfig
from ..config.task import AudioConfig, Pairs, TaskConfig, TextConfig
from ..config.training import TRAINER_VERSION, TrainConfig, TrainerConfig
from ..data.corpus import Corpus, load_corpus, read_corpus, save_corpus
from ..data.documents import STDLIB
from ..data.repeats import limited
from ..data.task_data.image_files import read_images
from ..data.task_data.sample_set import MANIFEST as SAMPLES_MANIFEST
from ..data.task_data.sample_set import Samples
from ..data.task_data.sound_files import read_speech
from ..data.task_data.text_pairs import read_pairs
from ..errors import UserError
from ..extras import require_trainer
from ..ladder.design import Design, design_members, with_seconds
from ..ladder.fill_minutes import make_design
from ..ladder.shape import shape
from ..ladder.speed import Speed, measure_runs, measure_speed
from ..runs.engines.contract import LadderEngine
from ..runs.machine import compiler
from ..runs.study import Study
from .listener import Listener, Note, note_to, silent

Data = Corpus | Samples


class RunFile(Config):
    """A single run as a person writes it in a TOML file: the corpus by its place instead of its fingerprint."""

    data: str
    model: DecoderConfig
    train: TrainConfig


def read_study(path: Path) -> StudyConfig:
    """The settings of a ladder: from a TOML file, or from a study that goes on by those that are in it.

    Raises:
        UserError: the file cannot be read, or the study is no such ladder.
    """
    if not path.is_dir():
        return StudyConfig.read(path)
    settings = Study.open(path).settings()
    if "study" not in settings:
        raise UserError(f"{path}: holds no ladder that could go on; give the TOML file of one")
    return StudyConfig.parse(settings["study"], f"{path}/study.json")


def begin_study(config: StudyConfig, out: Path, listener: Listener = silent) -> tuple[Study, Data]:
    """Read the data, and open the study at ``out`` or begin it; a wait for another process is noted.

    Raises:
        UserError: there are no such data or they are too few, the family's code does not run, or ``out`` holds
            something else; nothing is written then.
    """
    data = read_data(config, out)
    settings: dict[str, Any] = {"study": config.to_dict()}
    if config.family == "decoder":
        members_of(config, task_of(config, data), config.widths or (), out)  # refuses a width that cannot be
        return open_or_begin(out, settings, data, listener), data
    from ..lm.modules.module_code import code_of, keep  # torch

    code = code_of(config.family, out)
    members_of(config, task_of(config, data), config.widths or (), out, check=True)  # before anything is written
    study = open_or_begin(out, settings | {"code": code.fingerprint}, data, listener)
    with study.lock(note_to(listener)):
        keep(code, study.path)
    return study, data


def read_data(config: StudyConfig, out: Path) -> Data:
    """The data of a study's task; of a text that is gone, those inside the study, which may have been copied here.

    Raises:
        UserError: there are none, they are too few, or the task is unknown.
    """
    if config.task == "text" or config.task == "audio":
        inside = Study(out).corpus_path
        corpus = _corpus_of(config.data, out, read_corpus if config.task == "text" else read_speech)
        kept = corpus.folder == inside  # and limited when the study began
        if not kept and (config.unique_tokens is not None or config.mix is not None):
            other = None if config.mix is None else read_corpus(config.mix)
            corpus = limited(corpus, config.unique_tokens, other, 0.0 if other is None else config.mix_share)
        corpus.check(config.context, corpus.vocab_size)
        return corpus
    inside = Study(out).corpus_path
    if not Path(config.data).exists() and (inside / SAMPLES_MANIFEST).is_file():
        return Samples.load(inside)
    if config.task == "images":
        return read_images(config.data)
    if config.task in ("translation", "summaries", "questions"):
        return read_pairs(config.task, config.data, config.context)
    known = ", ".join(kind for kind in TaskConfig.kinds if kind not in ("distilled_text", "script"))
    raise UserError(f"task {config.task!r}: unknown; there are {known}")


def _corpus_of(data: str, out: Path, read: Callable[[str], Corpus]) -> Corpus:
    inside = Study(out).corpus_path
    if data != STDLIB and not Path(data).exists() and (inside / "manifest.json").is_file():
        return load_corpus(inside)
    return read(data)


def task_of(config: StudyConfig, data: Data) -> TaskConfig:
    """The task of a study's runs on its data."""
    if isinstance(data, Samples):
        return data.task(config.context if data.task_name != "images" else 1)
    if config.task == "audio":
        return AudioConfig(source=config.data, fingerprint=data.fingerprint, train_tokens=len(data.train))
    return data.task(config.data)


def members_of(
    config: StudyConfig, task: TaskConfig, widths: Sequence[int], out: Path, check: bool = False
) -> dict[int, ModelConfig]:
    """The members of a study's family by width.

    Raises:
        UserError: a member cannot be made, or the family is none (``check``).
    """
    if config.family == "decoder":
        if not isinstance(task, TextConfig | Pairs):
            raise UserError(f'task {task.name}: the built-in decoder reads tokens; give family = "model.py:Net"')
        return {width: shape(width, config.context, task.vocab_size, config.decoder) for width in widths}
    from ..lm.modules.count_member import check_members, member
    from ..lm.modules.module_code import code_of  # torch

    code = code_of(config.family, out)
    members: dict[int, ModelConfig] = {
        width: member(code, width, task, config.context, dict(config.fields), config.parametrization)
        for width in sorted(set(widths))
    }
    if check:
        check_members([*members.values()])
    return members


def sizes_between(config: StudyConfig, task: TaskConfig, out: Path) -> list[ModelConfig]:
    """Members of a module family that a plan may choose: widths from the ladder's least to eight times its widest."""
    given = sorted(set(config.widths or ()))
    step = math.gcd(*given)
    grid = np.unique(np.round(np.geomspace(given[0], 8 * given[-1], 48) / step).astype(int) * step).tolist()
    sizes: dict[int, ModelConfig] = {}
    for width in sorted({*given, *grid}):
        with contextlib.suppress(UserError):  # a width that the module cannot have
            sizes |= members_of(config, task, [width], out)
    return [*sizes.values()]


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
    train = file.train
    if "compile" not in train.model_fields_set and model.plain and compiler() is not None:
        train = train.model_copy(update={"compile": True})  # as a ladder is trained
    config = RunConfig(model=model, task=corpus.task(file.data), train=train)
    study = open_or_begin(out, {"data": file.data}, corpus, listener)
    listener(Note(corpus.describe()))
    return study, config


def open_or_begin(out: Path, settings: dict[str, Any], data: Data, listener: Listener) -> Study:
    """The study with these settings, its data saved."""
    check_version(out)
    study = Study.create(out, settings | {"fingerprint": data.fingerprint, "trainer": TRAINER_VERSION})
    with study.lock(note_to(listener)):
        if isinstance(data, Samples):
            if not (study.corpus_path / SAMPLES_MANIFEST).exists():
                data.save(study.corpus_path)
        elif not (study.corpus_path / "manifest.json").exists():
            save_corpus(data, study.corpus_path)
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


def speed_of(
    study: Study,
    ladder: LadderEngine,
    target: LadderEngine,
    config: StudyConfig,
    vocab_size: int,
    given: Speed | None = None,
) -> Speed:
    """The machine's speed as the study recorded it, or as ``given``, else as measured now, and recorded."""
    value = study.read("calibration.json")
    if value is not None:
        return Speed.from_json(value)
    speed = given or measure_speed(ladder, target, config.context, vocab_size, config.decoder)
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
    task = task_of(config, corpus)
    assert isinstance(task, TextConfig)  # a corpus is text, or speech as text
    design = make_design(config, task, len(corpus.train), speed)
    study.write("ladder.json", design.to_json())
    return design


def design_any(
    study: Study,
    config: StudyConfig,
    data: Data,
    ladder: LadderEngine,
    target: LadderEngine,
    given: Speed | None = None,
    listener: Listener = silent,
) -> tuple[Design, Speed]:
    """The design of any family on any task, and the speed of its own runs: as recorded, or made now and recorded.

    A speed that is ``given`` is not measured.

    The coordinate check of a module comes first, as a note.

    Raises:
        UserError: a member cannot be made or measured.
    """
    value, calibration = study.read("ladder.json"), study.read("calibration.json")
    if value is not None and calibration is not None:
        return Design.from_json(value), Speed.from_json(calibration)
    task = task_of(config, data)
    members = members_of(config, task, config.widths or (), study.path)
    if config.family != "decoder":
        from ..lm.modules.count_member import transfer_note  # torch

        listener(Note(transfer_note([*members.values()], task)))
    design = design_members(config, task, members)
    speed = given or measure_runs(ladder, target, design.rungs)
    design = with_seconds(design, speed)
    if config.family != "decoder":
        study.write("members.json", {"members": [model.to_dict() for model in sizes_between(config, task, study.path)]})
    study.write("calibration.json", speed.to_json())
    study.write("ladder.json", design.to_json())
    return design, speed
