"""``ladder``: train the ladder of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal.options import Device, DryRun, Engine, Gpus, Json, Out, TrackerNames, Yes

EXAMPLES = (
    "allometry ladder study.toml --out study --dry-run",
    "allometry ladder study.toml --out study --yes",
    "allometry ladder study",
)


def ladder(
    study: Annotated[Path, typer.Argument(help="What to train: a TOML file, or a study, which then goes on.")],
    out: Out = Path("study"),
    engine: Engine = "local",
    device: Device = "auto",
    gpus: Gpus = 0.0,
    dry_run: DryRun = False,
    yes: Yes = False,
    tracker: TrackerNames = None,
    json: Json = False,
) -> list[str]:
    """Train a ladder of small models. The cost is shown first. The same command again continues."""
    from .. import workflow
    from ..quantities import plural
    from .terminal.output import answer, answer_json
    from .terminal.progress import Terminal
    from .terminal.show_cost import confirmation

    options: dict[str, Any] = {
        "engine": engine,
        "device": device,
        "gpus": gpus,
        "tracker_names": tracker or [],
        "confirm": confirmation(dry_run=dry_run, yes=yes, as_json=json),
        "listener": Terminal(as_json=json),
    }
    if study.is_dir():  # a study: it goes on by the settings that are in it
        out = study
    if (program := workflow.read_script_study(study)) is not None:
        trained = workflow.train_script_ladder(program, out, **options)
    else:
        trained = workflow.train_ladder(workflow.read_study(study), out, **options)
    rows = trained.rows("sweep", "ladder")
    answer_json(rows) if json else answer(f"{plural(len(rows), 'run')} in {out}{_lost(trained)}")
    return ["allometry", "fit", str(out)]


def _lost(trained: Any) -> str:
    """How many rungs diverged, if any did."""
    from ..quantities import plural

    lost = sum(record.status != "finished" for record in trained.records("sweep", "ladder"))
    return f", {plural(lost, 'run')} diverged: a lower lr in the study's file trains them again" if lost else ""
