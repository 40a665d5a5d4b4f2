"""The main job on a program of the user's: cost, sweep, rungs, law, plan, the planned run, prediction and outcome."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import laws, planning
from ...config.base import read_values
from ...config.run import RunConfig
from ...config.script import ScriptStudyConfig
from ...errors import UserError
from ...ladder.climb import missing_jobs
from ...ladder.script_ladder import (
    ProgramSpeed,
    ScriptRecipe,
    Sizes,
    given_recipe,
    measure_script_recipe,
    probe_runs,
    rungs_of,
    sweep_of,
)
from ...planning import Outcome, Plan
from ...planning.optimum.repeated_data import repetition_note
from ...quantities import format_flops, format_seconds, plural
from ...runs.engines.contract import Engine
from ...runs.job import Job
from ...runs.record import RunRecord
from ...runs.study import Study
from ...runs.trackers import Trackers, import_trackers
from ..choose_engine import for_programs
from ..fits.enough_rungs import check_rungs
from ..fits.study_fit import fit_runs
from ..ladder_cost import RunCost
from ..listener import Fitted, Listener, Note, Planned, note_to, silent
from ..monitor import Monitor
from ..outcome import planned_run, record_outcome
from .script_practice import SETTINGS, ScriptPractice, finished_rungs

REPLANS = 3  # how often the planned width is measured and planned again


@dataclass(frozen=True)
class ScriptCost:
    """What the ladder of a program will cost, by its short runs."""

    runs: tuple[RunCost, ...]
    ladder_seconds: float
    target_flops: float
    target_seconds: float
    num_recorded: int
    workers: int

    def notes(self) -> list[str]:
        """Time in words."""
        many = f"{plural(len(self.runs), 'run')}, {plural(self.workers, 'program')} at a time"
        longest = max((run.config for run in self.runs), key=lambda config: config.tokens)
        repeats = repetition_note(longest.epochs, unit=longest.task.unit)
        return [
            f"{many}: about {format_seconds(self.ladder_seconds)}, by short runs of each width",
            *([f"the longest run {repeats}"] if repeats else []),
            f"then a plan for {format_flops(self.target_flops)} FLOPs: about {format_seconds(self.target_seconds)}",
        ]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        names = ("num_params", "tokens", "flops")
        return {
            "runs": [
                {"kind": run.kind, "seconds": run.seconds, "width": run.config.model.width, "lr": run.config.train.lr}
                | {name: getattr(run.config, name) for name in names}
                for run in self.runs
            ],
            "ladder_seconds": self.ladder_seconds,
            "target_flops": self.target_flops,
            "target_seconds": self.target_seconds,
        }


@contextmanager
def open_script_study(
    config: ScriptStudyConfig,
    out: Path | str,
    *,
    engine: str = "local",
    device: str = "auto",
    gpus: float = 0.0,
    tracker_names: Sequence[str] = (),
    listener: Listener = silent,
) -> Iterator[ScriptSession]:
    """Open the study of a program at ``out``, or begin it: each width has run once, briefly, and engines are up.

    Arguments as for :func:`~allometry.workflow.session.open_study`. If nothing but short runs came of a new study,
    because the user did not go on, its folder is deleted.

    Raises:
        UserError: the program failed, or ``out`` holds something else.
    """
    import_trackers(tracker_names)
    path = Path(out)
    is_new = not path.exists()
    plain = config.to_dict()
    # How many units there are decides no run: it may be stated later.
    decide = {name: value for name, value in plain.items() if name != "unique_tokens"}
    study = Study.create(path, {SETTINGS: decide | {"trainer": config.trainer.identity()}})
    try:
        with study.session(), for_programs(engine, device, gpus) as ladder_engine:
            with study.lock(note_to(listener)):
                study.write("program.json", plain)
            records = _probe(study, config, config.widths, ladder_engine, listener)
            sizes, speed = Sizes.of(config, records), ProgramSpeed.of(records, ladder_engine.workers)
            rungs = rungs_of(config, given_recipe(config), sizes)
            sweep = sweep_of(config, sizes)
            with study.lock(note_to(listener)):
                design = {"rungs": [run.to_dict() for run in rungs], "sweep": [run.to_dict() for run in sweep]}
                study.write("ladder.json", design)
            with Trackers(study, tracker_names, note_to(listener)) as trackers:
                yield ScriptSession(study, config, sizes, speed, tuple(sweep), ladder_engine, trackers, listener)
    finally:
        if is_new and not [record for record in study.records() if record.kind != "probe"] and not _begun(study):
            shutil.rmtree(path, ignore_errors=True)


def _begun(study: Study) -> bool:
    """Whether a program other than that of a short run has left something, such as its output."""
    probes = {record.id for record in study.records("probe")}
    folder = study.path / "runs"
    return folder.is_dir() and any(entry.name not in probes for entry in folder.iterdir())


def _probe(
    study: Study, config: ScriptStudyConfig, widths: Sequence[int], engine: Engine, listener: Listener
) -> list[RunRecord]:
    """The short runs of some widths, trained where they are missing."""
    runs = probe_runs(config, sorted(set(widths)))
    jobs = [Job((run,), "probe", run.model.width) for run in runs if study.record(run.id) is None]
    if jobs:
        many = plural(len(jobs), "short run")
        listener(Note(f"measuring sizes and speed by {many} of {config.short} {config.unit}s …"))
        engine.train(study, jobs)
    return [study.ended(run.id) for run in runs]


@dataclass(frozen=True)
class ScriptSession:
    """The study of a program at work, made by :func:`open_script_study`; its methods are the steps, in their order."""

    study: Study
    config: ScriptStudyConfig
    sizes: Sizes
    speed: ProgramSpeed
    sweep: tuple[RunConfig, ...]
    engine: Engine
    trackers: Trackers
    listener: Listener

    def cost(self) -> ScriptCost:
        """What sweep, rungs and target will cost."""
        rungs = rungs_of(self.config, given_recipe(self.config), self.sizes)
        runs = [RunCost("sweep", run, self.speed.seconds(run)) for run in self.sweep]
        runs += [RunCost("ladder", run, self.speed.seconds(run)) for run in rungs]
        flops = self.config.target * max(run.flops for run in rungs)
        seconds = self.speed.total(self.sweep) + self.speed.total(rungs) if self.sweep else self.speed.total(rungs)
        recorded = len(self.study.records("sweep", "ladder", "target"))
        target = self.speed.start + self.speed.per_flop * flops
        return ScriptCost(tuple(runs), seconds, flops, target, recorded, self.speed.workers)

    def run_sweep(self) -> ScriptRecipe:
        """Train what is missing of the sweep, and measure the rate."""
        recipe, evidence = given_recipe(self.config), {}
        if self.sweep:
            self._train("sweep", self.sweep)
            recipe, evidence = measure_script_recipe(self.config, [self.study.ended(run.id) for run in self.sweep])
        self.study.write("recipe.json", recipe.to_json() | {"evidence": evidence})
        law = f"{recipe.lr:g}·(width/{min(self.config.widths)})^{-recipe.lr_exponent:g}"
        self.listener(Note(f"learning rate {law if recipe.lr_exponent else f'{recipe.lr:g}'} ({recipe.measured})"))
        if evidence.get("at_edge"):
            self.listener(Note("the best rate lies at the edge of the sweep: give another lr and another --out"))
        return recipe

    def train_rungs(self, recipe: ScriptRecipe) -> list[RunRecord]:
        """Train what is missing of the rungs; the records of the ladder, smallest first.

        Raises:
            UserError: no rung finished.
        """
        rungs = rungs_of(self.config, recipe, self.sizes)
        self._train("ladder", rungs)
        for run in rungs:  # a run of the sweep that happens to be a rung is one
            record = self.study.ended(run.id)
            if record.kind != "ladder":
                self.study.promote(record, "ladder")
        return finished_rungs(self.study)

    def fit(self) -> laws.Fit | laws.Forecast:
        """The law from the ladder's records, written to the study."""
        predictor = fit_runs(self.study.path, listener=self.listener)
        self.listener(Fitted(predictor))
        return predictor

    def plan(self) -> Plan:
        """The plan by the law, written before its run starts; the planned width has run briefly, so its size is known.

        A plan that the study has already stays.
        """
        path = self.study.path / "plan.json"
        if path.is_file():
            self.listener(Note("the plan was written before; it stays"))
            return Plan.load(path)
        predictor, widths = self.fit(), list(self.config.widths)
        budget = planning.Budget(flops=self.cost().target_flops)
        for _ in range(REPLANS):
            practice = ScriptPractice(self.study)
            plan = practice.plan(predictor, budget)
            width = planned_run(plan).model.width
            if width in widths:
                break
            widths.append(width)
            _probe(self.study, self.config, [width], self.engine, self.listener)
        with self.study.lock(note_to(self.listener)):
            self.study.write("plan.json", plan.to_json())
        self.listener(Planned(plan))
        return plan

    def train(self, plan: Plan) -> RunRecord:
        """Train the run of a plan, unless it is recorded already; its record."""
        run = planned_run(plan)
        self._train("target", [run])
        return self.study.ended(run.id)

    def _train(self, kind: str, runs: Sequence[RunConfig]) -> None:
        seconds = {run.id: self.speed.seconds(run) for run in runs}
        workers, trackers = self.speed.workers, self.trackers
        with Monitor(
            self.study, kind, runs, self.listener, seconds=seconds, workers=workers, trackers=trackers
        ) as monitor:
            self.engine.train(self.study, missing_jobs(self.study, runs, kind), monitor)


def quickstart_script(
    config: ScriptStudyConfig,
    *,
    out: Path | str = "study",
    confirm: Callable[[ScriptCost], None] = lambda cost: None,
    **options: Any,
) -> Outcome:
    """Train the ladder of a program, fit the law, plan a larger run, train it and compare; arguments as ``quickstart``.

    Raises:
        UserError: the program failed, or the planned run diverged.
    """
    with open_script_study(config, out, **options) as session:
        check_rungs(rungs_of(config, given_recipe(config), session.sizes))
        confirm(session.cost())
        session.train_rungs(session.run_sweep())
        plan = session.plan()
        record = session.train(plan)
    return conclude_script(session.study, plan, record)


def conclude_script(study: Study, plan: Plan, record: RunRecord) -> Outcome:
    """Compare the planned run with its prediction, and write outcome and report to the study."""
    from ...report import write_report

    outcome = record_outcome(study, plan, record) if record.status == "finished" else None
    page = write_report(study)
    if outcome is None:
        raise UserError(f"the planned run diverged ({record.note}): no loss to compare; the report is {page}")
    return outcome


def train_script_ladder(
    config: ScriptStudyConfig,
    out: Path | str = "study",
    *,
    confirm: Callable[[ScriptCost], None] = lambda cost: None,
    **options: Any,
) -> Study:
    """Train the ladder of a program: short runs, sweep and rungs; arguments as for :func:`quickstart_script`."""
    with open_script_study(config, out, **options) as session:
        confirm(session.cost())
        session.train_rungs(session.run_sweep())
    return session.study


def read_script_study(path: Path) -> ScriptStudyConfig | None:
    """The settings in a TOML file whose ``[trainer]`` names a command, which runs in the folder of the file; else None.

    From a study of a program those that are in it.

    Raises:
        UserError: the file cannot be read, or a key is unknown or missing, or has a bad value.
    """
    if path.is_dir():
        program = Study(path).table("program.json")
        return None if program is None else ScriptStudyConfig.parse(program, f"{path}/program.json")
    values = read_values(path)
    trainer = values.get("trainer")
    if not isinstance(trainer, Mapping) or "command" not in trainer:
        return None
    defaults = {"name": "script", "folder": str(path.absolute().parent)}
    return ScriptStudyConfig.parse({**values, "trainer": defaults | dict(trainer)}, str(path))
