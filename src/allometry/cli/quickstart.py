"""``quickstart`` and ``ladder``: a thin sequence of what the other commands do one by one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from .. import laws, planning
from ..config.study import StudyConfig
from ..errors import UserError
from ..ladder.climb import run_sweep, train_rungs
from ..ladder.design import TARGET_RATIO, Design, describe_cost
from ..ladder.recipe import Recipe
from ..ladder.speed import Speed
from ..planning.optimum.repeated_data import repetition_note
from ..quantities import format_count, format_flops, format_seconds
from ..report import outcome_lines, write_report
from ..runs.study import Study
from ..runs.trackers import Trackers, import_trackers
from ..runs.trunks import trunk_costs
from ..workflow.early_warning import Early
from ..workflow.outcome import planned_run, record_outcome
from ..workflow.prepare import begin, design_of, speed_of
from ..workflow.study_plan import study_plan
from .choose_engine import for_ladder, for_one_run
from .output import answer, answer_json, note, notes
from .progress import Board, cost_table
from .train import train_one

PROMPT = "def "
SHORT_TOKENS = 500_000  # a ladder whose longest run is shorter has missed by 7 % (docs/log.md)
SLACK = 1.3  # the target may take so many times what the design set aside for it


@dataclass
class _Session:
    """A study with its machine: what every step of the sequence needs."""

    study: Study
    config: StudyConfig
    design: Design
    speed: Speed
    ladder: Any
    target: Any
    trackers: Trackers


def quickstart(
    *,
    data: str,
    minutes: float,
    out: Path,
    seed: int,
    where: dict[str, Any],
    dry_run: bool,
    yes: bool,
    tracker_names: list[str],
    as_json: bool,
) -> None:
    """Corpus, cost, ladder, law, plan, proof, report."""
    begun = time.monotonic()
    config = StudyConfig.parse({"data": data, "minutes": minutes, "seed": seed}, "quickstart")
    with _open(config, out, where, tracker_names) as session:
        if not _confirm(session, dry_run=dry_run, yes=yes, as_json=as_json):
            return
        study = session.study
        _climb(session)
        say = note if as_json else answer
        with study.lock(note):
            plan = _plan(session, say)
        record = train_one(study, planned_run(plan), "target", session.target, plan.seconds, session.trackers)
    _sample(study)
    if record.status == "finished":
        outcome = record_outcome(study, plan, record)
    page = write_report(study)
    if record.status != "finished":
        raise UserError(f"the planned run diverged ({record.note}): no loss to compare; the report is {page}")
    if as_json:
        answer_json(outcome.to_json())
        return
    answer("\n" + "\n".join(outcome_lines(outcome)))
    answer(f"report     {page}   ({format_seconds(time.monotonic() - begun)} in all)")


def ladder(
    path: Path, *, out: Path, where: dict[str, Any], dry_run: bool, yes: bool, tracker_names: list[str], as_json: bool
) -> None:
    """Train the ladder of a TOML file."""
    with _open(StudyConfig.read(path), out, where, tracker_names) as session:
        if not _confirm(session, dry_run=dry_run, yes=yes, as_json=as_json):
            return
        _climb(session)
    rows = session.study.rows("sweep", "ladder")
    if as_json:
        answer_json(rows)
    else:
        answer(f"{len(rows)} runs in {out}; `allometry fit {out}` fits the law")


@contextmanager
def _open(config: StudyConfig, out: Path, where: dict[str, Any], tracker_names: list[str]) -> Iterator[_Session]:
    """The study with its engines up and its design made, by this process or by another at work on it."""
    import_trackers(tracker_names)  # before anything is written
    study, corpus = begin(config, out, note)
    note(f"{config.data}: {corpus.describe()}")
    for line in corpus.notes if study.read("calibration.json") is None else ():  # said once
        note(f"note: {line}")
    with study.session(), for_ladder(**where) as ladder, for_one_run(where["device"]) as target:
        with study.lock(note):
            if study.read("calibration.json") is None:
                note("measuring this machine's speed …")
            speed = speed_of(study, ladder, target, config.context, corpus.vocab_size)
            made = design_of(study, config, corpus, speed)
        with Trackers(study, tracker_names, note) as trackers:
            yield _Session(study, config, made, speed, ladder, target, trackers)


def _confirm(session: _Session, *, dry_run: bool, yes: bool, as_json: bool) -> bool:
    """Show what it will cost; whether to go on."""
    made = session.design
    rows = [
        (kind, run, seconds[run.id])
        for kind, runs in (("sweep", made.sweep), ("ladder", made.rungs))
        for seconds in [trunk_costs(session.speed.ladder, runs)]
        for run in runs
    ]
    if dry_run and as_json:
        names = ("num_params", "tokens", "flops", "epochs")
        answer_json(
            {
                "runs": [
                    {"kind": kind, "seconds": seconds, "lr": run.train.lr, "batch_tokens": run.train.batch_tokens}
                    | {name: getattr(run, name) for name in names}
                    for kind, run, seconds in rows
                ],
                "ladder_seconds": made.ladder_seconds,
                "target_seconds": made.target_seconds,
                "target_flops": made.target_flops,
            }
        )
        return False
    if dry_run:
        answer(cost_table(rows))
    elif session.study.records():
        note(f"{len(session.study.records())} runs are recorded already; going on")
    else:
        notes.print(cost_table(rows))
    note(describe_cost(made))
    longest = max(made.rungs, key=lambda run: run.tokens)
    if repeats := repetition_note(longest.epochs):
        note(f"the longest run {repeats}")
    if session.config.minutes is not None:
        note(
            f"then the plan: {format_flops(made.target_flops)} FLOPs, {TARGET_RATIO:g}× the largest rung, "
            f"{format_seconds(made.target_seconds)}"
        )
        if longest.tokens < SHORT_TOKENS:
            note(
                f"these runs are short, at most {format_count(longest.tokens)} tokens: a law bends there, and its "
                "interval cannot know; give more --minutes, or a machine with nothing else to do"
            )
    if dry_run:
        return False
    if yes or not sys.stdin.isatty() or typer.confirm("Train these?", default=True, err=True):
        return True
    note("nothing was trained")
    return False


def _climb(session: _Session) -> Recipe:
    """Sweep and rungs, with a board for each."""
    made, study, workers = session.design, session.study, session.speed.workers

    def board(title: str, configs, early: Early | None = None) -> Board:
        costs = trunk_costs(session.speed.ladder, configs)
        return Board(study, title, costs, workers, early=early, trackers=session.trackers).show(configs)

    with board("sweep", made.sweep) as listener:
        recipe = run_sweep(study, made, session.ladder, listener)
    note(f"recipe: rate {recipe.lr:g}, batch {recipe.batch_tokens} tokens at 1M tokens seen ({recipe.measured})")
    chosen = made.rungs_by(recipe)
    with board("ladder", chosen, Early(study)) as listener:
        train_rungs(study, made, recipe, session.ladder, listener)
    return recipe


def _fit(study: Study, say: Callable[[str], None]) -> laws.Forecast:
    """The forecast from the ladder's records, written to the study."""
    observations = laws.Observations.read(study.path)
    for text in observations.notes:
        note(f"note: {text}")
    forecast = laws.forecast(observations)
    study.write("fit.json", forecast.to_json())
    say(forecast.summary())
    return forecast


def _plan(session: _Session, say: Callable[[str], None]) -> planning.Plan:
    """The law, and the plan for the target, written before its training starts; what stands already stays."""
    study = session.study
    if study.read("plan.json") is not None:
        note("the plan was written before; it stays")
        return planning.Plan.load(study.path / "plan.json")
    forecast = _fit(study, say)
    budget = planning.Budget(flops=session.design.target_flops)
    throughput = session.speed.target
    # A small model spends the same FLOPs more slowly: of the sizes that the law finds as good, one that fits the time.
    made = study_plan(
        forecast,
        budget,
        study,
        seconds=lambda run: throughput.seconds_between(run, 0, run.schedule.steps),
        within=SLACK * session.design.target_seconds,
    )
    study.write("plan.json", made.to_json())
    say("\n" + made.summary())
    return made


def _sample(study: Study) -> None:
    """What the best model writes, kept for the report."""
    if study.read("sample.json") is None:
        from ..lm.generate import generate

        record = study.best_run()
        text = generate(study, record, PROMPT, tokens=600, temperature=0.6, seed=0)
        study.write("sample.json", {"run": record.id, "prompt": PROMPT, "text": text})
