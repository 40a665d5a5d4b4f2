"""``train`` and ``generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config import TRAINER_VERSION, Config, ModelConfig, RunConfig, TrainConfig
from ..errors import UserError
from ..planning import Plan
from ..quantities import format_seconds
from ..report import outcome_lines
from ..runs import corpus as corpora
from ..runs.engine import Job
from ..runs.mirrors import Mirrors, modules
from ..runs.outcome import planned_run, settle
from ..runs.prepare import check_version
from ..runs.record import RunRecord
from ..runs.store import Study
from .early import Early, law_of
from .engines import for_train
from .live import Board
from .output import answer, answer_json, note


class RunFile(Config):
    """A run as a person writes it: the text's place instead of its fingerprint."""

    data: str
    model: ModelConfig
    train: TrainConfig


def train(source: Path, *, out: Path | None, device: str, parallel: str, mirror: list[str], as_json: bool) -> None:
    """Train a plan, or the run of a TOML file; all processes together where torchrun started them."""
    modules(mirror)  # before anything is written
    with for_train(device, parallel) as engine:
        if source.is_dir() or source.suffix == ".json":
            _train_plan(source / "plan.json" if source.is_dir() else source, out, engine, mirror, as_json)
        else:
            _train_run(source, out, engine, mirror, as_json)


def _train_run(source: Path, out: Path | None, engine: Any, mirror: list[str], as_json: bool) -> None:
    study, config = _begin(RunFile.read(source), out or source.with_suffix(""))
    record = _train_alone(study, config, "run", engine, mirror)
    if as_json:
        answer_json(record.to_json())
    else:
        loss = f"loss {record.loss:.4f} ± {record.loss_se:.4f}" if record.status == "finished" else record.note
        answer(f"{study.path}/{record.id}: {record.status}, {loss}, {format_seconds(record.seconds)}")


def _train_plan(path: Path, out: Path | None, engine: Any, mirror: list[str], as_json: bool) -> None:
    plan = Plan.load(path).to_json()
    study = Study.open(out or path.parent)
    config = planned_run(plan)
    if study.record(config.id) is None and plan != study.read("plan.json"):
        study.write("plan.json", plan)  # before the training starts, so that the study shows what was predicted
    outcome = settle(study, plan, _train_alone(study, config, "target", engine, mirror))
    answer_json(outcome) if as_json else answer("\n".join(outcome_lines(outcome)))


def _train_alone(study: Study, config: RunConfig, kind: str, engine: Any, mirror: list[str]) -> RunRecord:
    """Train one run with nothing beside it."""
    with study.session(), Mirrors(study, mirror, note) as mirrors:
        return train_one(study, config, kind, engine, mirrors=mirrors)


def train_one(
    study: Study,
    config: RunConfig,
    kind: str,
    engine: Any,
    seconds: float | None = None,
    mirrors: Mirrors | None = None,
) -> RunRecord:
    """Train one run, unless it is recorded already; its record. ``seconds``: what it is expected to take."""
    expected = {} if seconds is None else {config.id: seconds}
    early = Early(study, law_of(study))
    board = Board(study, kind, expected, early=early, mirrors=mirrors).show([config])
    found = study.record(config.id)
    if found is not None:
        return found
    with board:
        engine.train(study, [Job((config,), kind)], board)
    return study.record(config.id)


def generate(run: str, *, prompt: str, tokens: int, temperature: float, seed: int, as_json: bool) -> None:
    """Text from a run, which is named by its study's folder and the beginning of its id."""
    if temperature < 0:
        raise UserError(f"--temperature {temperature:g}: must be 0 or more")
    study, record = find_run(Path(run))
    from ..lm.generate import generate as write

    text = write(study, record, prompt, tokens=tokens, temperature=temperature, seed=seed)
    answer_json({"run": record.id, "prompt": prompt, "text": text}) if as_json else answer(text)


def best_run(study: Study) -> RunRecord:
    """The finished run of lowest loss."""
    finished = [record for record in study.records() if record.status == "finished"]
    if not finished:
        raise UserError(f"{study.path}: no finished run in it yet")
    return min(finished, key=lambda record: record.loss)


def find_run(path: Path) -> tuple[Study, RunRecord]:
    """The study and the run that STUDY (its best) or STUDY/RUN names."""
    if Study(path).settings_path.is_file():
        study = Study(path)
        return study, best_run(study)
    if Study(path.parent).settings_path.is_file():
        study = Study(path.parent)
        return study, study.find(path.name)
    raise UserError(f"{path}: neither a study nor a run of one; write STUDY or STUDY/RUN")


def _begin(file: RunFile, out: Path) -> tuple[Study, RunConfig]:
    corpus = corpora.read_corpus(file.data)
    check_version(out)
    settings = {"data": file.data, "fingerprint": corpus.fingerprint, "trainer": TRAINER_VERSION}
    model = file.model
    if "vocab_size" not in model.model_fields_set:
        model = model.model_copy(update={"vocab_size": corpus.vocab_size})
    corpus.check(model.context, model.vocab_size)
    config = RunConfig(model=model, data=corpus.data(file.data), train=file.train)
    study = Study.create(out, settings)
    with study.lock(note):
        if not (study.corpus_path / "manifest.json").exists():
            corpora.save_corpus(corpus, study.corpus_path)
    note(corpus.describe())
    return study, config
