"""``runs``: what is in a study: list, show, drop."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal.command import use_of_run
from .terminal.complete import one_of
from .terminal.options import Json

KINDS = ("ladder", "sweep", "target", "run", "probe")
EXAMPLES = (
    "allometry runs quickstart",
    "allometry runs quickstart 3f2a",
    "allometry runs quickstart --kind ladder --json",
    "allometry runs quickstart --drop 3f2a",
)


def runs(
    study: Annotated[Path, typer.Argument(help="Folder of a study.")],
    run: Annotated[list[str] | None, typer.Argument(help="Show these runs; the beginning of an id is enough.")] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Delete a run; its ladder trains it again. May be given several times.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help=f"Only these: {', '.join(KINDS)}.", autocompletion=one_of(*KINDS))
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before runs are deleted.")] = False,
    json: Json = False,
) -> list[str] | None:
    """List the runs of a study, show one in full, or delete some."""
    from ..runs.next_step import next_step
    from ..runs.run_folders import find_folder, run_folders
    from ..runs.study import Study
    from .terminal.output import answer, answer_json

    _check_kinds(kind or [])
    there = Study.open(study)
    if drop:
        dropped = [find_folder(there, prefix) for prefix in drop]
        _drop(there, dropped, yes, json)
        return next_step(study)
    if run:
        shown = [_in_full(there, find_folder(there, prefix)) for prefix in run]
        answer_json(shown) if json else [answer(_lines(one)) for one in shown]
        return use_of_run(there, there.record(shown[0]["id"])) or next_step(study) or ["allometry", "runs", str(study)]
    folders = [each for each in run_folders(there) if not kind or (each.record and each.record.kind in kind)]
    if json:
        answer_json([_row(each) for each in folders])
        return None
    _list(there, folders)
    return next_step(study) or ["allometry", "runs", str(study), *(each.id for each in folders[:1])]


def _check_kinds(kinds: list[str]) -> None:
    from ..errors import UserError

    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UserError(f"--kind {unknown[0]}: unknown; there are {', '.join(KINDS)}")


def _list(study: Any, folders: list[Any]) -> None:
    from ..quantities import format_flops, format_seconds, plural
    from ..report import tables
    from .terminal.output import answer, note

    records = [each.record for each in folders if each.record is not None]
    if records:
        table = tables.runs(records)
        answer(_aligned([list(table.columns), *([cell.text for cell in row.cells] for row in table.rows)]))
    for each in folders:
        if each.record is None:
            note(f"{each.id}: not recorded ({each.last_event or 'nothing logged'})")
    spent, seconds = sum(r.flops_spent for r in records), sum(r.seconds for r in records)
    failed = sum(record.status != "finished" for record in records)
    words = f", {failed} not finished" if failed else ""
    if not records:
        note("no such run has ended")
        return
    note(f"{plural(len(records), 'run')}{words}: {format_flops(spent)} FLOPs, {format_seconds(seconds)} of processes")


def _aligned(rows: list[list[str]]) -> str:
    """Rows under each other, whatever the width of the terminal: an id that is cut is of no use."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(each: Any) -> dict[str, Any]:
    if each.record is not None:
        return each.record.row()
    return {"label": each.id, "status": "not recorded", "last_event": each.last_event}


def _in_full(study: Any, each: Any) -> dict[str, Any]:
    record = {} if each.record is None else each.record.to_json()
    files = sorted(path.name for path in study.run_path(each.id).iterdir())
    return {"id": each.id, **record, "attempts": study.attempts(each.id), "files": files}


def _lines(value: dict[str, Any], prefix: str = "") -> str:
    """A nested value, a line for each entry."""
    lines = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            lines.append(_lines(inner, f"{prefix}{key}."))
        elif isinstance(inner, list):
            lines += [f"{prefix}{key}  {_in_words(item)}" for item in inner]
        else:
            lines.append(f"{prefix}{key}  {'–' if inner is None else inner}")
    return "\n".join(lines)


def _in_words(item: Any) -> str:
    """An entry of a list; names and values of an entry that has them."""
    return ", ".join(f"{name} {value}" for name, value in item.items()) if isinstance(item, dict) else str(item)


def _drop(study: Any, folders: list[Any], yes: bool, as_json: bool) -> None:
    from ..errors import UserError
    from ..quantities import plural
    from ..runs.run_folders import drop_run
    from .terminal.output import answer, answer_json, note

    many = plural(len(folders), "run")
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"drops {many} for good; add --yes to say that this is meant")
        if not typer.confirm(f"Delete {many} for good?", default=False, err=True):
            note("nothing was dropped")
            return
    derived: list[str] = []
    for each in folders:
        derived = drop_run(study, each)
    if derived:
        note(f"{', '.join(derived)} of this study were made before, with what was dropped; make them again")
    ids = [each.id for each in folders]
    answer_json({"dropped": ids}) if as_json else answer(f"dropped {', '.join(ids)}")
