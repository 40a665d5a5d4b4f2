"""``quickstart``: the main job."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .terminal.options import Device, DryRun, Engine, Gpus, Json, Out, TrackerNames, Yes


def quickstart(
    data: Annotated[
        str,
        typer.Option(help="A text file, a folder of them, one that `data` wrote, or stdlib: Python's own sources."),
    ] = "stdlib",
    minutes: Annotated[float, typer.Option(help="What the whole may take on this machine.")] = 3.0,
    out: Out = Path("quickstart"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of initial weights and of the order of the text.")] = 0,
    engine: Engine = "local",
    device: Device = "auto",
    gpus: Gpus = 0.0,
    dry_run: DryRun = False,
    yes: Yes = False,
    tracker: TrackerNames = None,
    json: Json = False,
) -> None:
    """Real text to a plan that comes true: ladder, law, plan, prediction, proof, report."""
    from .. import workflow
    from ..quantities import format_seconds
    from ..report import outcome_lines
    from .terminal.output import answer, answer_json
    from .terminal.progress import Terminal
    from .terminal.show_cost import confirmation

    begun = time.monotonic()
    outcome = workflow.quickstart(
        data,
        minutes=minutes,
        out=out,
        seed=seed,
        engine=engine,
        device=device,
        gpus=gpus,
        tracker_names=tracker or [],
        confirm=confirmation(dry_run=dry_run, yes=yes, as_json=json),
        listener=Terminal(as_json=json),
    )
    if json:
        answer_json(outcome.to_json())
        return
    answer("\n" + "\n".join(outcome_lines(outcome)))
    answer(f"report     {out / 'report.html'}   ({format_seconds(time.monotonic() - begun)} in all)")
