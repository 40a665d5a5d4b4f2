"""``train``: the run of a plan, or of a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal.command import use_of_run
from .terminal.options import Device, Json, TrackerNames

EXAMPLES = (
    "allometry train quickstart/plan.json",
    "allometry train run.toml --out study",
    "torchrun --nproc-per-node 8 -m allometry train study/plan.json",
)


def train(
    source: Annotated[Path, typer.Argument(help="plan.json of a study, or a run's TOML.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the study; by default the one the plan lies in.")] = None,
    device: Device = "auto",
    parallel: Annotated[
        str, typer.Option(help="Under torchrun: ddp, fsdp, or auto, by what fits into memory.")
    ] = "auto",
    tracker: TrackerNames = None,
    json: Json = False,
) -> list[str]:
    """Train a plan or a single run, also under torchrun. A plan is then compared with what came out."""
    from .. import workflow
    from ..quantities import format_seconds
    from ..report import outcome_lines
    from ..runs.study import Study
    from .terminal.output import answer, answer_json
    from .terminal.progress import Terminal

    listener, tracker_names = Terminal(as_json=json), tracker or []
    if source.is_dir() or source.suffix == ".json":
        outcome = workflow.train_plan(
            source, out=out, device=device, parallel=parallel, tracker_names=tracker_names, listener=listener
        )
        answer_json(outcome.to_json()) if json else answer("\n".join(outcome_lines(outcome)))
        return ["allometry", "report", str(out or (source if source.is_dir() else source.parent))]
    out = out or source.with_suffix("")
    record = workflow.train_run(
        source, out=out, device=device, parallel=parallel, tracker_names=tracker_names, listener=listener
    )
    if json:
        answer_json(record.to_json())
    else:
        loss = f"loss {record.loss:.4f} ± {record.loss_se:.4f}" if record.status == "finished" else record.note
        answer(f"{out}/{record.id}: {record.status}, {loss}, {format_seconds(record.seconds)}")
    return use_of_run(Study.open(out), record)
