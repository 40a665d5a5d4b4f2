"""The main job: a ladder on a corpus, the law, a plan, the plan trained, and prediction against outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..config.study import StudyConfig
from ..errors import UserError
from ..planning import Outcome, Plan
from ..runs.record import RunRecord
from ..runs.study import Study
from .fits.enough_rungs import check_rungs
from .ladder_cost import LadderCost
from .listener import Listener, silent
from .outcome import record_outcome
from .programs.script_practice import finished_rungs
from .session import open_study

PROMPT = "def "  # what the sample in the report begins with
SAMPLE_TOKENS = 600


def go_on(cost: LadderCost) -> None:
    """The confirmation that is always given."""


def quickstart(
    data: str | Path = "stdlib",
    *,
    minutes: float = 3.0,
    out: Path | str = "quickstart",
    seed: int = 0,
    engine: str = "local",
    device: str = "auto",
    gpus: float = 0.0,
    tracker_names: Sequence[str] = (),
    confirm: Callable[[LadderCost], None] = go_on,
    listener: Listener = silent,
) -> Outcome:
    """Train a ladder on a corpus, fit the law, plan a run of eight times its compute, train it and compare.

    The same call again goes on where it stopped. The study at ``out`` also gets a report, ``report.html``.

    Args:
        data: a text file, a folder of them, a folder that ``allometry data`` wrote, or "stdlib": Python's own sources.
        minutes: what the whole may take on this machine.
        out: folder of the study.
        seed: of initial weights and of the order of the text.
        engine, device, gpus, tracker_names: as for :func:`~allometry.workflow.session.open_study`.
        confirm: called with the cost before anything is trained; it may raise to stop.
        listener: receives all that happens.

    Raises:
        UserError: the corpus or the options cannot be used, the minutes are too few, or the planned run diverged.
    """
    config = StudyConfig.parse({"data": str(data), "minutes": minutes, "seed": seed}, "quickstart")
    given = {"engine": engine, "device": device, "gpus": gpus, "tracker_names": tracker_names}
    return quickstart_study(config, out=out, confirm=confirm, listener=listener, **given)


def quickstart_study(
    config: StudyConfig,
    *,
    out: Path | str = "study",
    confirm: Callable[[LadderCost], None] = go_on,
    **options: Any,
) -> Outcome:
    """The same for any study: of images, sounds, pairs, a module, or a text with settings of its own.

    Raises:
        UserError: the data or the options cannot be used, the runs would tell no law, or the planned run diverged.
    """
    with open_study(config, out, **options) as session:
        if session.design.top_flops is None:
            check_rungs(session.design.rungs)
        confirm(session.cost())
        session.train_rungs(session.run_sweep())
        finished_rungs(session.study)
        plan = session.plan()
        record = session.train(plan)
    return conclude(session.study, plan, record)


def train_ladder(
    config: StudyConfig,
    out: Path | str = "study",
    *,
    engine: str = "local",
    device: str = "auto",
    gpus: float = 0.0,
    tracker_names: Sequence[str] = (),
    confirm: Callable[[LadderCost], None] = go_on,
    listener: Listener = silent,
) -> Study:
    """Train the ladder of a study: sweep and rungs; arguments as for :func:`quickstart`.

    Raises:
        UserError: the corpus or the options cannot be used, the minutes are too few, or no rung finished.
    """
    with open_study(
        config, out, engine=engine, device=device, gpus=gpus, tracker_names=tracker_names, listener=listener
    ) as session:
        confirm(session.cost())
        session.train_rungs(session.run_sweep())
    finished_rungs(session.study)
    return session.study


def conclude(study: Study, plan: Plan, record: RunRecord) -> Outcome:
    """Compare the planned run with its prediction, and write outcome, sample and report to the study.

    Raises:
        UserError: the run diverged; the report is written all the same.
    """
    from ..report import write_report  # pictures and templates, which nothing else here needs

    write_sample(study)
    outcome = record_outcome(study, plan, record) if record.status == "finished" else None
    page = write_report(study)
    if outcome is None:
        raise UserError(f"the planned run diverged ({record.note}): no loss to compare; the report is {page}")
    return outcome


def write_sample(study: Study) -> None:
    """What the best model of the study writes, kept in ``sample.json`` for the report; a sample that stands stays."""
    if study.read("sample.json") is not None:
        return
    from ..lm.generate import Writing, generate  # torch
    from ..lm.inference.sampling import Sampling

    record = study.best_run()
    if record.config.task.name != "text" or record.config.model.family != "decoder":
        return  # only a language model writes
    (written,) = generate(study, record, [PROMPT], Writing(SAMPLE_TOKENS, Sampling(temperature=0.6)))
    study.write("sample.json", {"run": record.id, "prompt": PROMPT, "text": written.text})
