"""``train`` and ``generate``."""

from __future__ import annotations

from pathlib import Path

from ..config.run import RunConfig
from ..errors import UserError
from ..planning import Plan
from ..quantities import format_seconds
from ..report import outcome_lines
from ..runs.engines.contract import Engine
from ..runs.job import Job
from ..runs.record import RunRecord
from ..runs.study import Study, find_run
from ..runs.trackers import Trackers, import_trackers
from ..workflow.early_warning import Early, law_of
from ..workflow.outcome import planned_run, record_outcome
from ..workflow.prepare import RunFile, _begin
from .choose_engine import for_train
from .output import answer, answer_json, note
from .progress import Board


def train(
    source: Path, *, out: Path | None, device: str, parallel: str, tracker_names: list[str], as_json: bool
) -> None:
    """Train a plan, or the run of a TOML file; all processes together where torchrun started them."""
    import_trackers(tracker_names)  # before anything is written
    with for_train(device, parallel) as engine:
        if source.is_dir() or source.suffix == ".json":
            _train_plan(source / "plan.json" if source.is_dir() else source, out, engine, tracker_names, as_json)
        else:
            _train_run(source, out, engine, tracker_names, as_json)


def _train_run(source: Path, out: Path | None, engine: Engine, tracker_names: list[str], as_json: bool) -> None:
    study, config = _begin(RunFile.read(source), out or source.with_suffix(""))
    record = _train_alone(study, config, "run", engine, tracker_names)
    if as_json:
        answer_json(record.to_json())
    else:
        loss = f"loss {record.loss:.4f} ± {record.loss_se:.4f}" if record.status == "finished" else record.note
        answer(f"{study.path}/{record.id}: {record.status}, {loss}, {format_seconds(record.seconds)}")


def _train_plan(path: Path, out: Path | None, engine: Engine, tracker_names: list[str], as_json: bool) -> None:
    plan = Plan.load(path)
    study = Study.open(out or path.parent)
    config = planned_run(plan)
    if study.record(config.id) is None and plan.to_json() != study.read("plan.json"):
        study.write(
            "plan.json", plan.to_json()
        )  # before the training starts, so that the study shows what was predicted
    outcome = record_outcome(study, plan, _train_alone(study, config, "target", engine, tracker_names))
    answer_json(outcome.to_json()) if as_json else answer("\n".join(outcome_lines(outcome)))


def _train_alone(study: Study, config: RunConfig, kind: str, engine: Engine, tracker_names: list[str]) -> RunRecord:
    """Train one run with nothing beside it."""
    with study.session(), Trackers(study, tracker_names, note) as trackers:
        return train_one(study, config, kind, engine, trackers=trackers)


def train_one(
    study: Study,
    config: RunConfig,
    kind: str,
    engine: Engine,
    seconds: float | None = None,
    trackers: Trackers | None = None,
) -> RunRecord:
    """Train one run, unless it is recorded already; its record. ``seconds``: what it is expected to take."""
    expected = {} if seconds is None else {config.id: seconds}
    early = Early(study, law_of(study))
    board = Board(study, kind, expected, early=early, trackers=trackers).show([config])
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
