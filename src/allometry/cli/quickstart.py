"""``quickstart``: the main job."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal.options import Device, DryRun, Engine, Gpus, Json, Out, TrackerNames, Yes

EXAMPLES = (
    "allometry quickstart",
    "allometry quickstart --data my_texts/ --minutes 30 --dry-run",
    "allometry quickstart --study program.toml",
)


def quickstart(
    data: Annotated[
        str | None,
        typer.Option(
            help="A text file, a folder of them, one that `data` wrote, or stdlib: Python's own sources.",
            show_default="stdlib",
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="What the whole may take on this machine.", show_default="3")
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(help="Instead of a text: a study.toml, of a program, images, sounds, pairs, a module …"),
    ] = None,
    out: Out = Path("quickstart"),
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of initial weights and of the order of the text.", show_default="0"),
    ] = None,
    engine: Engine = "local",
    device: Device = "auto",
    gpus: Gpus = 0.0,
    dry_run: DryRun = False,
    yes: Yes = False,
    tracker: TrackerNames = None,
    json: Json = False,
) -> list[str] | None:
    """Train small models on a text, predict a larger one, train it, and report how close the prediction came."""
    from .. import workflow
    from ..errors import UserError
    from ..quantities import format_seconds
    from ..report import outcome_lines
    from .terminal.output import answer, answer_json
    from .terminal.progress import Terminal
    from .terminal.show_cost import confirmation

    begun = time.monotonic()
    options: dict[str, Any] = {
        "out": out,
        "engine": engine,
        "device": device,
        "gpus": gpus,
        "tracker_names": tracker or [],
        "confirm": confirmation(dry_run=dry_run, yes=yes, as_json=json),
        "listener": Terminal(as_json=json),
    }
    of_a_text = {"data": data, "minutes": minutes, "seed": seed}
    given = {name: value for name, value in of_a_text.items() if value is not None}
    if study is not None and given:
        flags = ", ".join(f"--{name}" for name in given)
        raise UserError(f"{flags}: a study says this itself; leave it out, or write it into {study}")
    if study is None:
        outcome = workflow.quickstart(**given, **options)
    elif (program := workflow.read_script_study(study)) is not None:
        outcome = workflow.quickstart_script(program, **options)
    else:
        outcome = workflow.quickstart_study(workflow.read_study(study), **options)
    if json:
        answer_json(outcome.to_json())
        return None
    answer("\n" + "\n".join(outcome_lines(outcome)))
    answer(f"report     {out / 'report.html'}   ({format_seconds(time.monotonic() - begun)} in all)")
    return ["allometry", "plan", str(out), "--hours", "1", "--dry-run"]
