"""Train one run: the run of a plan, whose outcome is written, or the run of a TOML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..config.run import RunConfig
from ..extras import require_trainer
from ..planning import Outcome, Plan
from ..runs.engines.contract import Engine
from ..runs.job import Job
from ..runs.record import RunRecord
from ..runs.study import Study
from ..runs.trackers import Trackers, import_trackers
from .choose_engine import for_programs, for_train
from .early_warning import EarlyWarning, saved_law
from .listener import Listener, Note, note_to, silent
from .monitor import Monitor
from .outcome import planned_run, record_outcome
from .prepare import RunFile, begin_run


def train_plan(
    source: Path | str,
    *,
    out: Path | str | None = None,
    device: str = "auto",
    parallel: str = "auto",
    tracker_names: Sequence[str] = (),
    listener: Listener = silent,
) -> Outcome:
    """Train the run of a plan, unless it is recorded already, and compare its loss with the prediction.

    Args:
        source: the plan's file, or the study that has one.
        out: the study; by default the folder that the plan lies in.
        device: auto, cpu, cuda or mps.
        parallel: under torchrun: ddp, fsdp, or auto, by what fits into memory.
        tracker_names: services that receive a copy: tensorboard, wandb or mlflow.
        listener: receives progress, and remarks about the run.

    Raises:
        UserError: there is no plan or it names no run, a library of its trainer is not installed, or the run diverged.
    """
    import_trackers(tracker_names)  # before anything is written
    source = Path(source)
    path = source / "plan.json" if source.is_dir() else source
    plan = Plan.load(path)
    config = planned_run(plan)
    with engine_of(config, device, parallel) as engine:
        study = Study.open(Path(out) if out is not None else path.parent)
        if study.record(config.id) is None:
            require_trainer(config.trainer.name)
        if study.record(config.id) is None and plan.to_json() != study.read("plan.json"):
            # before the training starts, so that the study shows what was predicted
            study.write("plan.json", plan.to_json())
        record = _train_alone(study, config, "target", engine, tracker_names, listener)
        for name, score in record.scores.items():
            listener(Note(f"{name} {score.value:.4g} ± {score.error:.2g}"))
        return record_outcome(study, plan, record)


def engine_of(config: RunConfig, device: str, parallel: str) -> Engine:
    """What trains a single run: a process that starts its program, or one of the built-in trainer's, or several."""
    return for_programs(device=device) if config.trainer.name == "script" else for_train(device, parallel)


def train_run(
    source: Path | str,
    *,
    out: Path | str | None = None,
    device: str = "auto",
    parallel: str = "auto",
    tracker_names: Sequence[str] = (),
    listener: Listener = silent,
) -> RunRecord:
    """Train the run of a TOML file, unless it is recorded already; arguments as :func:`train_plan`.

    ``out`` is the folder of the study; by default it stands next to the file, with the file's name.

    Raises:
        UserError: the file or its corpus cannot be used, or ``out`` holds something else.
    """
    import_trackers(tracker_names)  # before anything is written
    source = Path(source)
    with for_train(device, parallel) as engine:
        folder = Path(out) if out is not None else source.with_suffix("")
        study, config = begin_run(RunFile.read(source), folder, listener)
        return _train_alone(study, config, "run", engine, tracker_names, listener)


def _train_alone(
    study: Study, config: RunConfig, kind: str, engine: Engine, tracker_names: Sequence[str], listener: Listener
) -> RunRecord:
    """Train one run of a study with no other runs at the same time."""
    with study.session(), Trackers(study, tracker_names, note_to(listener)) as trackers:
        return train_one(study, config, kind, engine, listener=listener, trackers=trackers)


def train_one(
    study: Study,
    config: RunConfig,
    kind: str,
    engine: Engine,
    *,
    seconds: float | None = None,
    listener: Listener = silent,
    trackers: Trackers | None = None,
) -> RunRecord:
    """Train one run, unless it is recorded already; ``seconds`` is what it is expected to take.

    Returns:
        its record.
    """
    expected = {} if seconds is None else {config.id: seconds}
    early = EarlyWarning(study, saved_law(study)) if config.trainer.schedules else None
    monitor = Monitor(study, kind, [config], listener, seconds=expected, early=early, trackers=trackers)
    record = study.record(config.id)
    if record is not None:
        return record
    with monitor:
        engine.train(study, [Job((config,), kind)], monitor)
    return study.ended(config.id)
