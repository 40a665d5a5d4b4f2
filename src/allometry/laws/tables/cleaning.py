"""Clean: the rows that ended with a loss, under their labels, and their cells as numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ...quantities import plural
from ..field_names import KNOWN
from .columns import COUNTS, EXTRA, FIELDS, Match, convert
from .raw_table import RawTable, cell_text

FINISHED = frozenset({"", "finished", "done", "complete", "completed", "ok", "success", "succeeded"})
# Rows that somebody wrote below the runs: what a spreadsheet or ``describe`` makes of the rows above.
_WORDS = """mean average avg median std stdev stddev sd sem se min max minimum maximum total totals sum overall count
25% 50% 75% mittelwert moyenne"""
SUMMARIES = frozenset(_WORDS.split())
MOST_LEARNING_RATE = 10.0


class Cleaned(NamedTuple):
    """The finished runs of a table.

    Attributes:
        table: their rows.
        labels: one a row.
        columns: field → its values, nan where a cell is blank.
        own: further columns of numbers, under their own names.
        notes: which rows were left out, and why.
    """

    table: RawTable
    labels: list[str]
    columns: dict[str, np.ndarray]
    own: dict[str, np.ndarray]
    notes: list[str]


def clean(table: RawTable, match: Match) -> Cleaned:
    """Leave out the rows that did not finish, and make numbers of the others.

    Raises:
        UserError: no run has a finite loss, or there is text among the numbers.
    """
    kept, labels, notes = _finished(table, match)
    columns = {name: convert(kept, name, match) for name in (*FIELDS, *EXTRA) if name in match.taken}
    for name in [name for name in columns if match.is_optional(name)]:
        notes += _leave_out_impossible(columns, name, match)
    return Cleaned(kept, labels, columns, _own_columns(kept, match), notes)


def _leave_out_impossible(columns: dict[str, np.ndarray], name: str, match: Match) -> list[str]:
    """Blank the cells of a column that cannot be its field; the table can do without them. What was left out."""
    column, values = match.taken[name], columns[name]
    if name == "lr" and np.isfinite(values).any() and np.nanmedian(values) > MOST_LEARNING_RATE:
        del columns[name]
        middle = f"{np.nanmedian(values):.3g}"
        return [f"lr not taken from {column!r}: its median is {middle}, far above any learning rate"]
    if name not in COUNTS and name not in ("lr", "sequence_length", "loss_se"):
        return []
    wrong = np.isinf(values) | ((values < 0) if name == "loss_se" else (values <= 0))
    if not wrong.any():
        return []
    columns[name] = np.where(wrong, np.nan, values)
    shown = f"{values[int(np.argmax(wrong))]:g}"
    why = ", the last rate of a run and not its peak" if name == "lr" and shown == "0" else ""
    return [f"{name} left out in {plural(int(wrong.sum()), 'row')}: {column!r} is {shown} there{why}"]


def _finished(table: RawTable, match: Match) -> tuple[RawTable, list[str], list[str]]:
    """The rows that ended with a finite loss, their labels, and notes on the others."""
    labels = [text or table.place(row) for row, text in enumerate(_texts(table, match, "label"))]
    reasons = np.zeros(len(table), dtype=object)
    if "status" in match.taken:
        status = np.array([text.lower() for text in _texts(table, match, "status")], dtype=object)
        unfinished = ~np.isin(status, list(FINISHED))
        reasons[unfinished] = "status " + status[unfinished]
    summary = np.array([label.lower().strip(" :*_") in SUMMARIES for label in labels], bool)
    if summary.any() and not summary.all():
        reasons[summary] = "a summary of the rows above"
    ended = np.flatnonzero(reasons == 0)
    finite = np.isfinite(convert(table.where(ended), "loss", match))
    reasons[ended[~finite]] = "loss missing or not finite"
    notes = []
    for reason in dict.fromkeys(reasons[reasons != 0]):
        rows = np.flatnonzero(reasons == reason)
        shown = ", ".join(labels[row] for row in rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        notes.append(f"left out {len(rows)} of {plural(len(table), 'run')}, {reason}: {shown}")
    kept = ended[finite]
    if not len(kept):
        raise UserError(f"{table.name}: no run has a finite loss ({'; '.join(notes)}); nothing to fit")
    return table.where(kept), [labels[row] for row in kept], notes


def _texts(table: RawTable, match: Match, name: str) -> list[str]:
    """A field of words, "" where the table has none."""
    column = match.taken.get(name)
    return table.texts(column) if isinstance(column, str) else [cell_text(column)] * len(table)


def _own_columns(table: RawTable, match: Match) -> dict[str, np.ndarray]:
    """Columns of numbers that are no known field, under their own names."""
    own = {}
    for name, column in table.columns.items():
        if name in match.taken.values() or name in KNOWN or name.startswith("Unnamed:") or column.is_text:
            continue
        values, odd = table.numbers(name)
        if not odd.any():
            own[name] = values
    return own
