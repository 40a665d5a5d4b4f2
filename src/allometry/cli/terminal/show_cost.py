"""What a ladder will cost, shown before it is trained, and the question whether to go on."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer
from rich.table import Table

from ...quantities import format_count, format_flops, plural
from ...workflow import LadderCost, ScriptCost
from .output import answer, answer_json, note, notes, questions


def confirmation(*, dry_run: bool, yes: bool, as_json: bool) -> Callable[[LadderCost | ScriptCost], None]:
    """A function that shows the cost, and leaves the command where nothing is to be trained."""

    asked = not yes and not dry_run and sys.stdin.isatty()  # a question shows its cost also with --quiet

    def confirm(cost: LadderCost | ScriptCost) -> None:
        if dry_run and as_json:
            answer_json(cost.to_json())
            raise typer.Exit
        if dry_run:
            answer(cost_table(cost))
        elif cost.num_recorded:
            note(f"{plural(cost.num_recorded, 'run')} recorded already; going on")
        else:
            (questions if asked else notes).print(cost_table(cost))
        for line in cost.notes():
            note(line)
        if dry_run:
            raise typer.Exit
        if asked and not typer.confirm("Train these?", default=True, err=True):
            note("nothing was trained")
            raise typer.Exit

    return confirm


def cost_table(cost: LadderCost | ScriptCost) -> Table:
    """Every run of a ladder, what it is for and the seconds it will take, before anything is spent."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    units = f"{cost.runs[0].config.task.unit}s" if cost.runs else "tokens"
    for name in ("kind", "params", "total", units, "epochs", "batch", "lr", "FLOPs", "seconds"):
        table.add_column(name, justify="left" if name == "kind" else "right", no_wrap=True)
    for run in cost.runs:
        config = run.config
        table.add_row(
            run.kind,
            format_count(config.num_params),
            format_count(config.model.num_params_total),
            format_count(config.tokens),
            "" if config.epochs is None else f"{config.epochs:.2g}",
            format_count(config.last_batch_tokens),
            f"{config.train.lr:.3g}",
            format_flops(config.flops),
            f"{run.seconds:.1f}",
        )
    return table
