"""Clean: the rows that ended with a loss, under their labels, and their cells as numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ...quantities import plural
from .columns import EXTRA, FIELDS, KNOWN, Match, convert
from .raw_table import RawTable, cell_text

FINISHED = frozenset({"", "finished", "done", "complete", "completed", "ok", "success", "succeeded"})


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
    columns = {name: convert(kept, name, match.taken[name]) for name in (*FIELDS, *EXTRA) if name in match.taken}
    return Cleaned(kept, labels, columns, _own_columns(kept, match), notes)


def _finished(table: RawTable, match: Match) -> tuple[RawTable, list[str], list[str]]:
    """The rows that ended with a finite loss, their labels, and notes on the others."""
    labels = [text or table.place(row) for row, text in enumerate(_texts(table, match, "label"))]
    reasons = np.zeros(len(table), dtype=object)
    if "status" in match.taken:
        status = np.array([text.lower() for text in _texts(table, match, "status")], dtype=object)
        unfinished = ~np.isin(status, list(FINISHED))
        reasons[unfinished] = "status " + status[unfinished]
    ended = np.flatnonzero(reasons == 0)
    finite = np.isfinite(convert(table.where(ended), "loss", match.taken["loss"]))
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
