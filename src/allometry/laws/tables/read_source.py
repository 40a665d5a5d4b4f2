"""Read: a study, a file, a frame or records become a table, and a match if the source names its own fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...quantities import plural
from ..field_names import COUNTED, KNOWN
from ..run_files.find_runs import holds_runs
from ..run_files.from_study import study_rows
from ..run_files.run_table import curve_arrays, read_run_table
from .columns import Match, check_counted
from .curves import Curves
from .raw_table import RawTable, from_records
from .readers import read_table


@dataclass(frozen=True)
class RunSource:
    """A table as it was read.

    Attributes:
        table: its cells.
        match: what its columns hold, for records and studies, whose columns have the names of fields. None: the usual
            names must be searched, and units checked.
        curves: the loss along the runs, where the source has it.
    """

    table: RawTable
    match: Match | None = None
    curves: Curves | None = None


def read_source(source: Any, columns: Mapping[str, str | float | None] | None, counted: str | None) -> RunSource:
    """The table of a study's folder, of a folder or file that a tool left, of a file or a frame.

    Raises:
        UserError: no such source, empty, unreadable; columns of a study.
    """
    if isinstance(source, str | Path) and (Path(source) / "study.json").is_file():
        return _of_study(Path(source), columns, counted)
    if isinstance(source, str | Path) and holds_runs(Path(source)):
        return _of_runs(Path(source), columns, counted)
    return RunSource(read_table(source))


def of_records(rows: Iterable[Mapping], counted: str) -> RunSource:
    """Dicts whose keys are fields.

    Raises:
        UserError: no rows, a key missing.
    """
    table = from_records(rows)
    if not len(table):
        raise UserError("no runs to read: the table is empty; give at least one row with num_params, tokens, loss")
    if counted != "unknown":
        check_counted(counted)
    missing = [name for name in ("num_params", "loss") if name not in table.columns]
    if not {"tokens", "flops"} & set(table.columns):
        missing.append("tokens")
    if missing:
        raise UserError(f"records lack {', '.join(missing)}; found: {', '.join(sorted(table.columns))}")
    return RunSource(table, Match(_own_names(table), counted))


def _of_study(path: Path, columns: Mapping[str, str | float | None] | None, counted: str | None) -> RunSource:
    """The ladder of a study: its loss in nats a token, or in bits a byte."""
    if columns and dict(columns) != {"loss": "bits_per_byte"}:
        raise UserError(
            f"{path} is a study, whose columns have their names: leave columns= out, or take "
            "columns={'loss': 'bits_per_byte'}"
        )
    table = from_records(study_rows(path), "records")
    taken = _own_names(table)
    if columns:
        taken |= {"loss": "bits_per_byte", "loss_se": "bits_per_byte_se"}
    counted = counted or _what_is_counted(table)
    if counted != "unknown":
        check_counted(counted)
    if f"num_params_{counted}" in table.columns:
        taken["num_params"] = f"num_params_{counted}"
    return RunSource(table, Match(taken, counted))


def _of_runs(path: Path, given: Mapping[str, str | float | None] | None, counted: str | None) -> RunSource:
    """The finished runs that tools left in a folder or file, with their curves."""
    if counted is not None:
        check_counted(counted)
    runs = read_run_table(path, {name: value for name, value in (given or {}).items() if value is not None}, counted)
    table = from_records(runs.rows, path.name)
    names, points = curve_arrays(
        runs.runs, [row["label"] for row in runs.rows], [row["num_params"] for row in runs.rows]
    )
    notes = (f"{plural(len(runs.rows), 'run')} of {', '.join(sorted({run.tool for run in runs.runs}))}", *runs.notes)
    match = Match(_own_names(table), runs.counted, notes=notes)
    return RunSource(table, match, Curves(names=tuple(names), notes=(), **points) if names else None)


def _what_is_counted(table: RawTable) -> str:
    """Which parameters the sizes of a study count, where all its runs count the same."""
    kinds = {str(kind) for kind in table.columns["counted"].cells}
    return kinds.pop() if len(kinds) == 1 and kinds <= COUNTED.keys() else "unknown"


def _own_names(table: RawTable) -> dict[str, str | float]:
    return {name: name for name in KNOWN if name in table.columns}
