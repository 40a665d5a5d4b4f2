"""A study at work: opened with its engines, trained step by step, each step found again when it is done already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from .. import laws, planning
from ..config.run import RunConfig
from ..config.study import StudyConfig
from ..config.training import TrainerConfig
from ..data.corpus import Corpus
from ..extras import require_trainer
from ..ladder.climb import run_sweep, train_rungs
from ..ladder.design import Design
from ..ladder.recipe import Recipe
from ..ladder.speed import Speed
from ..ladder.stages import LadderStage, read_stages, write_stage
from ..planning import Plan
from ..runs.engines.contract import LadderEngine
from ..runs.machine import compiler
from ..runs.record import RunRecord
from ..runs.study import Study
from ..runs.trackers import Trackers, import_trackers
from ..runs.trunks import trunk_costs
from .choose_engine import for_ladder, for_one_run
from .early_warning import EarlyWarning
from .fits.study_fit import fit_runs
from .ladder_cost import LadderCost
from .listener import Fitted, Listener, Note, Planned, note_to, silent
from .monitor import Monitor
from .outcome import planned_run
from .own_ladder.later_rungs import LadderSoFar
from .prepare import Data, begin_study, design_any, design_of, speed_of
from .single_run import train_one
from .study_plan import standing_plan, study_plan

BEYOND = 1.3  # the largest planned size over the largest rung's
TARGET_TIME_MARGIN = 1.3  # the target may take this many times what the design set aside for it


@contextmanager
def open_study(
    config: StudyConfig,
    out: Path | str,
    *,
    engine: str = "local",
    device: str = "auto",
    gpus: float = 0.0,
    speed: Speed | None = None,
    tracker_names: Sequence[str] = (),
    listener: Listener = silent,
) -> Iterator[StudySession]:
    """Open the study at ``out``, or begin it: corpus, speed of the machine and design are ready, engines are up.

    Use as a context manager: leaving it stops the engines, with their trainings saved. Another process may be at work
    on the same study.

    Args:
        config: what the study is asked for.
        out: its folder.
        engine: where the ladder is trained: local, ray or slurm.
        device: auto, cpu, cuda or mps.
        gpus: on a cluster, GPUs of each worker.
        speed: of the machine, on the models that the study trains, for the design of a new study; measured now where
            it is not given.
        tracker_names: services that receive a copy: tensorboard, wandb or mlflow.
        listener: receives all that happens.

    Raises:
        UserError: the corpus or the options cannot be used, ``out`` holds something else, or the minutes are too few.
    """
    import_trackers(tracker_names)  # before anything is written
    require_trainer(TrainerConfig.default_kind)  # which trains every ladder
    engines = for_ladder(engine, device, gpus), for_one_run(device)  # refuses a device that is not there
    is_new = not Path(out).exists()
    study, data = begin_study(config, Path(out), listener)
    with discarded_unless_begun(study) if is_new else nullcontext():
        yield from _at_work(study, config, data, engines, speed, tracker_names, listener)


@contextmanager
def discarded_unless_begun(study: Study) -> Iterator[None]:
    """Delete the folder of a new study that is left before any training, as after a dry run or a refusal."""
    try:
        yield
    finally:
        study.discard()


def _at_work(
    study: Study,
    config: StudyConfig,
    data: Data,
    engines: tuple[LadderEngine, LadderEngine],
    given: Speed | None,
    tracker_names: Sequence[str],
    listener: Listener,
) -> Iterator[StudySession]:
    """The session of a study, its speed measured, unless it is ``given``, and its runs designed."""
    listener(Note(f"{config.data}: {data.describe()}"))
    begun = study.read("calibration.json") is not None
    for line in () if begun else data.notes:  # once in the life of a study
        listener(Note(f"note: {line}"))
    if compiler() is None and not begun:
        listener(Note("no C++ compiler here: training takes several times as long as with g++ or clang++"))
    with study.session(), engines[0] as ladder_engine, engines[1] as target_engine:
        with study.lock(note_to(listener)):
            if given is None and study.read("calibration.json") is None:
                listener(Note("measuring this machine's speed …"))
            if isinstance(data, Corpus) and config.measures_text:
                speed = speed_of(study, ladder_engine, target_engine, config, data.vocab_size, given)
                design = design_of(study, config, data, speed)
            else:
                design, speed = design_any(study, config, data, ladder_engine, target_engine, given, listener)
        with Trackers(study, tracker_names, note_to(listener)) as trackers:
            yield StudySession(study, config, design, speed, ladder_engine, target_engine, trackers, listener)


@dataclass(frozen=True)
class StudySession:
    """A study with its machine, made by :func:`open_study`; its methods are the steps of the work, in their order."""

    study: Study
    config: StudyConfig
    design: Design
    speed: Speed
    ladder_engine: LadderEngine
    target_engine: LadderEngine
    trackers: Trackers
    listener: Listener

    def cost(self) -> LadderCost:
        """What the ladder and the target will cost."""
        return LadderCost.of(self.design, self.speed, self.config.minutes, len(self.study.records()))

    def run_sweep(self) -> Recipe:
        """Train what is missing of the sweep, and measure the recipe."""
        with self._monitor("sweep", self.design.sweep) as monitor:
            recipe = run_sweep(self.study, self.design, self.ladder_engine, monitor)
        batch = f"batch {recipe.batch_tokens} tokens at 1M tokens seen"
        self.listener(Note(f"recipe: learning rate {recipe.lr:g}, {batch} ({recipe.measured})"))
        return recipe

    def train_rungs(self, recipe: Recipe) -> list[RunRecord]:
        """Train what is missing of the rungs, by a recipe; the records of the ladder, smallest first.

        The later rungs are decided on when the ones before have ended; each decision is written to the study before its
        runs are trained, and stands when the study goes on after a crash.
        """
        self._train_rungs(self.design.rungs_by(recipe))
        if self.design.top_flops is not None:
            while (stage := self._next_stage(recipe)).runs:
                self._train_rungs(stage.runs)
        return self.study.records("ladder")

    def _next_stage(self, recipe: Recipe) -> LadderStage:
        """The first decision whose runs are not all recorded; a new one, written down, where there is none."""
        with self.study.lock(note_to(self.listener)):
            stages = read_stages(self.study)
            for stage in stages:
                if not stage.runs or any(self.study.record(config.id) is None for config in stage.runs):
                    return stage
            records = self.study.records("sweep", "ladder")
            stage = LadderSoFar(self.config, self.design, self.speed, recipe, stages, records).decide()
            write_stage(self.study, stage)
        if stage.runs:
            self.listener(Note(f"next rungs: {stage.reason}"))
        return stage

    def _train_rungs(self, rungs: Sequence[RunConfig]) -> None:
        early = EarlyWarning(self.study)
        with self._monitor("ladder", rungs, early) as monitor:
            train_rungs(self.study, rungs, self.ladder_engine, monitor)

    @property
    def target_flops(self) -> float:
        """The FLOPs of the plan that the ladder is to predict: a multiple of those of its largest rung."""
        rungs = self.study.records("ladder")
        return self.design.target_ratio * max(record.flops for record in rungs)

    def fit(self) -> laws.Fit | laws.Forecast:
        """The law from the ladder's records, written to the study."""
        predictor = fit_runs(self.study.path, listener=self.listener)
        self.listener(Fitted(predictor))
        return predictor

    def plan(self, predictor: laws.Fit | laws.Forecast | None = None) -> Plan:
        """The plan of the target by the law (fitted now if not given), written before its training starts.

        A plan that the study has already stays.
        """
        with self.study.lock(note_to(self.listener)):
            standing = standing_plan(self.study)
            if standing is not None:
                self.listener(Note("the plan was written before; it stays"))
                return standing
            throughput, set_aside = self.speed.target, self.design.target_seconds
            # A small model spends the same FLOPs more slowly: of the sizes that the law finds as good, one that fits
            # the time.
            plan = study_plan(
                predictor or self.fit(),
                planning.Budget(flops=self.target_flops),
                self.study,
                **self._searched(),
                seconds=lambda run: throughput.seconds_between(run, 0, run.schedule.steps),
                within=None if set_aside is None else TARGET_TIME_MARGIN * set_aside,
            )
            self.study.write("plan.json", plan.to_json())
        self.listener(Planned(plan))
        return plan

    def _searched(self) -> dict[str, tuple[float, float]]:
        """Tokens per parameter of the sizes that were run, at the target's compute; nothing for a ladder by hand."""
        if self.design.top_flops is None:
            return {}
        sizes = [record.num_params for record in self.study.records("ladder")]
        least, most = (self.target_flops / (6 * size**2) for size in (BEYOND * max(sizes), min(sizes)))
        return {"tokens_per_param_range": (least, most)}

    def train(self, plan: Plan) -> RunRecord:
        """Train the run of a plan, unless it is recorded already; its record."""
        return train_one(
            self.study,
            planned_run(plan),
            "target",
            self.target_engine,
            seconds=plan.seconds,
            listener=self.listener,
            trackers=self.trackers,
        )

    def _monitor(self, title: str, runs: Sequence[RunConfig], early: EarlyWarning | None = None) -> Monitor:
        """A monitor of runs of the ladder."""
        return Monitor(
            self.study,
            title,
            runs,
            self.listener,
            seconds=trunk_costs(self.speed.ladder, runs),
            workers=self.speed.workers,
            early=early,
            trackers=self.trackers,
        )
