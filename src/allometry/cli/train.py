"""``train``: the run of a plan, or of a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal.options import Device, Json, TrackerNames


def train(
    source: Annotated[Path, typer.Argument(help="plan.json of a study, or a run's TOML.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the study; by default the one the plan lies in.")] = None,
    device: Device = "auto",
    parallel: Annotated[
        str, typer.Option(help="Under torchrun: ddp, fsdp, or auto, by what fits into memory.")
    ] = "auto",
    tracker: TrackerNames = None,
    json: Json = False,
) -> None:
    """Train a plan or one run, also under torchrun; with a plan, report how close the prediction came."""
    from .. import workflow
    from ..quantities import format_seconds
    from ..report import outcome_lines
    from .terminal.output import answer, answer_json
    from .terminal.progress import Terminal

    listener, tracker_names = Terminal(as_json=json), tracker or []
    if source.is_dir() or source.suffix == ".json":
        outcome = workflow.train_plan(
            source, out=out, device=device, parallel=parallel, tracker_names=tracker_names, listener=listener
        )
        answer_json(outcome.to_json()) if json else answer("\n".join(outcome_lines(outcome)))
        return
    out = out or source.with_suffix("")
    record = workflow.train_run(
        source, out=out, device=device, parallel=parallel, tracker_names=tracker_names, listener=listener
    )
    if json:
        answer_json(record.to_json())
    else:
        loss = f"loss {record.loss:.4f} ± {record.loss_se:.4f}" if record.status == "finished" else record.note
        answer(f"{out}/{record.id}: {record.status}, {loss}, {format_seconds(record.seconds)}")
