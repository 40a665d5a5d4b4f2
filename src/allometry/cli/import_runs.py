"""``import``: finished runs of other tools become a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal.command import the_same_with
from .terminal.options import Counted, Json

SHOWN = 40

EXAMPLES = (
    "allometry import checkpoints/ --out study",
    "allometry import wandb/ --out study --column sequence_length=1024 --dry-run",
)


def import_runs(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder of runs (Trainer's checkpoints, TensorBoard, W&B, MLflow, Lightning, Optuna, nanoGPT, "
            "nanochat, torchtitan, Lingua, OLMo-core), or one of their files."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the study; runs that it has already are not added again.")],
    column: Annotated[
        list[str] | None,
        typer.Option(help="What holds for all runs and no file says: processes=8, sequence_length=1024, num_params=…."),
    ] = None,
    counted: Counted = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be added; write nothing.")] = False,
    json: Json = False,
) -> list[str] | None:
    """Import finished runs of other tools into a study."""
    from .. import workflow
    from ..quantities import plural
    from .terminal.options import pairs
    from .terminal.output import answer, answer_json, note
    from .terminal.progress import Terminal

    imported = workflow.import_runs(
        source,
        out,
        given=pairs(column, "--column"),
        counted=counted,
        dry_run=dry_run,
        listener=Terminal(as_json=json),
    )
    if json:
        answer_json(imported.to_json())
        return None
    if imported.added:
        answer(_table(imported.added[:SHOWN]))
    if len(imported.added) > SHOWN:
        note(f"and {len(imported.added) - SHOWN} more")
    verb = "would be added" if dry_run else "added"
    known = f", {plural(len(imported.known), 'run')} known before" if imported.known else ""
    note(f"{plural(len(imported.added), 'run')} {verb}{known}")
    return [part for part in the_same_with() if part != "--dry-run"] if dry_run else ["allometry", "fit", str(out)]


def _table(records: Any) -> Any:
    """A row a run: what is known of it."""
    from rich.table import Table

    from ..config.external import ExternalRun
    from ..quantities import format_count

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "params", "tokens", "batch", "lr", "loss"):
        table.add_column(name, justify="left" if name == "run" else "right", no_wrap=True)
    for record in records:
        batch = "–" if record.batch_tokens is None else format_count(record.batch_tokens)
        rate = "–" if record.lr is None else f"{record.lr:.3g}"
        loss = "–" if record.loss is None else f"{record.loss:.4f}"
        name = record.run.name if isinstance(record.run, ExternalRun) else record.id
        table.add_row(name, format_count(record.num_params), format_count(record.tokens), batch, rate, loss)
    return table
