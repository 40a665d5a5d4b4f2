"""Frames to predict for: any table, or a mapping of single values; sizes and tokens by the fitted table's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import UserError
from ...quantities import parse_number
from .cleaning import Cleaned, clean
from .columns import Match, match_columns
from .deriving import derive
from .raw_table import RawTable, from_records
from .readers import read_table
from .run_arrays import RunArrays

Array = np.ndarray
# What a frame to predict for need not have, and what must not leave out a row of it.
NOT_READ: dict[str, float | None] = {"loss": 1.0, "loss_se": None, "label": None, "status": None}


# From these sizes and tokens are read, or follow.
READ = ("num_params", "tokens", "flops", "batch_tokens", "batch_sequences", "sequence_length", "steps")


def columns_read(match: Match, cleaned: Cleaned, runs: RunArrays) -> dict[str, str | float]:
    """Field → its column, with the unit in which it was read as ``params*1000000``; or a number that holds in all."""
    columns: dict[str, str | float] = {}
    for name in (name for name in READ if name in match.taken):
        column = columns[name] = match.taken[name]
        if isinstance(column, str) and name in ("num_params", "tokens", "flops"):
            with np.errstate(divide="ignore", invalid="ignore"):
                units = runs.column(name) / cleaned.table.numbers(column)[0]
            units = units[np.isfinite(units) & (units > 0)]
            if len(units) and abs(np.log(np.median(units))) > 0.01:
                columns[name] = f"{column}*{np.median(units):.6g}"
    return columns


def sizes_and_tokens(
    frame: Any, columns: Mapping[str, str | float], counted: str
) -> tuple[Array, Array, tuple[int, ...]]:
    """N and D of the rows of a frame, each (rows,), and the shape of the answer.

    Args:
        frame: a path, a pandas or polars frame, an Arrow table, a mapping of columns or of single values, a list of
            dicts.
        columns: field → column of the fitted table, which is taken where the frame has it; else by the usual names.
        counted: which parameters the fitted table counts.

    Raises:
        UserError: sizes or tokens are missing and do not follow from other columns, or are not above zero.
    """
    if np.ndim(frame) == 0 and isinstance(frame, int | float | np.number):
        raise UserError("tokens are missing: give num_params and tokens, or a frame with both")
    given, shape = as_columns(frame)
    table = read_table(given)
    known = {
        name: column
        for name, column in columns.items()
        if not isinstance(column, str) or column in table.columns or column.rpartition("*")[0] in table.columns
    }
    match = match_columns(table, NOT_READ | known, None if counted == "unknown" else counted)
    kept = replace(match, searched=False)  # what looks like a summary of the rows above is a row to predict for
    runs, _ = derive(clean(table, kept), match)
    for name, values in (("num_params", runs.num_params), ("tokens", runs.tokens)):
        wrong = ~(np.isfinite(values) & (values > 0))
        if wrong.any():
            raise UserError(f"{table.place(int(np.argmax(wrong)))}: {name} is missing, or not finite and above zero")
    return runs.num_params, runs.tokens, (len(table),) if shape is None else shape


def numbers(table: RawTable, name: str) -> Array:
    """A column as float64, nan where blank; counts may be written 1.5B."""
    values, odd = table.numbers(name)
    rows = np.flatnonzero(odd)
    if not len(rows):
        return values
    values = values.copy()
    cells = table.columns[name].cells[table.index[rows]]
    for row, cell in zip(rows, cells, strict=True):
        try:
            values[row] = parse_number(str(cell).strip()[:60])
        except UserError:
            raise UserError(
                f"{table.name}, {table.place(int(row))}: {name} is {str(cell).strip()[:60]!r}, not a number; correct "
                f"the cell, or give the column as a group"
            ) from None
    return values


def as_columns(frame: Any) -> tuple[Any, tuple[int, ...] | None]:
    """A frame; a mapping of single values becomes one of one row, whose answer is one number."""
    if isinstance(frame, Mapping):
        sizes = {name: np.ndim(value) for name, value in frame.items()}
        if all(size == 0 for size in sizes.values()):
            return from_rows([frame]), ()
        rows = max(len(np.asarray(value)) for name, value in frame.items() if sizes[name])
        return {name: frame[name] if sizes[name] else [frame[name]] * rows for name in frame}, None
    return frame, None


def from_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Dicts of equal keys as columns."""
    table = from_records(rows)
    return {name: list(column.cells) for name, column in table.columns.items()}
