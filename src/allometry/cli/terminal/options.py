"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print a machine's answer (JSON) on standard output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps; xla is experimental.")]
Engine = Annotated[str, typer.Option(help="Where the ladder is trained: local, ray or slurm.")]
Gpus = Annotated[float, typer.Option(min=0, help="On a cluster: GPUs of each worker; 0.5 is half of one.")]
Level = Annotated[float, typer.Option(help="Level of the interval.")]
Out = Annotated[Path, typer.Option(help="Folder of the study.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be trained and its cost; stop.")]
Run = Annotated[str, typer.Argument(help="STUDY/RUN, as quickstart/3f2a; or STUDY alone for its best run.")]
Counted = Annotated[str | None, typer.Option(help="Which parameters to take: non_embedding, total, matmul or active.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before training.")]
TrackerNames = Annotated[
    list[str] | None,
    typer.Option(help="Log to a tracker as well: tensorboard, wandb (offline) or mlflow; in trackers/ of the study."),
]


def pairs(options: list[str] | None, flag: str) -> dict[str, str]:
    """``name=value`` of an option that may be repeated."""
    from ...errors import UserError

    chosen = {}
    for option in options or []:
        name, equals, value = option.partition("=")
        if not (equals and name and value):
            raise UserError(f"{flag} wants name=value, not {option!r}")
        chosen[name] = value
    return chosen
