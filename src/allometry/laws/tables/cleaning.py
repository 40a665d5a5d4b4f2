"""Clean: the rows that ended with a loss, under their labels, and their cells as numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ...quantities import plural
from ..field_names import KNOWN
from .columns import COUNTS, EXTRA, FIELDS, Match, convert
from .raw_table import Column, RawTable, cell_text
from .rows.summaries import summary_rows, unlabelled_summary
from .rows.unfinished import is_unfinished, left_out_by_state, with_error

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
    table, errors = _without_errors(table, match)
    kept, labels, notes = _finished(table, match)
    columns = {name: convert(kept, name, match) for name in (*FIELDS, *EXTRA) if name in match.taken}
    if errors is not None:
        columns.setdefault("loss_se", errors[kept.index])
        notes.append(f"loss_se: what stands behind ± or in brackets in {match.taken['loss']!r}")
    if match.searched and unlabelled_summary(columns):
        notes.append(f"left out 1 of {plural(len(kept), 'run')}, the mean or sum of the rows above: {labels[-1]}")
        kept, labels = kept.where(np.arange(len(kept) - 1)), labels[:-1]
        columns = {name: values[:-1] for name, values in columns.items()}
    for name in [name for name in columns if match.is_optional(name)]:
        notes += _leave_out_impossible(columns, name, match)
    return Cleaned(kept, labels, columns, _own_columns(kept, match), notes)


def _leave_out_impossible(columns: dict[str, np.ndarray], name: str, match: Match) -> list[str]:
    """Blank the cells of a column that cannot be its field; the table can do without them. What was left out."""
    column, values = match.taken.get(name, name), columns[name]
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
    notes = []
    if "status" in match.taken:
        status = np.array([text.lower() for text in _texts(table, match, "status")], dtype=object)
        unfinished = left_out_by_state(status.tolist())
        if unfinished is None:
            notes.append(f"status not taken from {match.taken['status']!r}: its words do not say which runs ended")
        else:
            reasons[unfinished] = "status " + status[unfinished]
    if match.searched:
        fields = [column for name, column in match.taken.items() if name in FIELDS and isinstance(column, str)]
        reasons[summary_rows(table, fields)] = "a summary of the rows above"
        for row in np.flatnonzero((reasons == 0) & _words_of_no_loss(table, match)):
            reasons[row] = f"no loss but {table.texts(str(match.taken['loss']))[row]!r}"
    ended = np.flatnonzero(reasons == 0)
    finite = np.isfinite(convert(table.where(ended), "loss", match))
    reasons[ended[~finite]] = "loss missing or not finite"
    for reason in dict.fromkeys(reasons[reasons != 0]):
        rows = np.flatnonzero(reasons == reason)
        shown = ", ".join(labels[row] for row in rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        notes.append(f"left out {len(rows)} of {plural(len(table), 'run')}, {reason}: {shown}")
    kept = ended[finite]
    if not len(kept):
        raise UserError(f"{table.name}: no run has a finite loss ({'; '.join(notes)}); nothing to fit")
    return table.where(kept), [labels[row] for row in kept], notes


def _words_of_no_loss(table: RawTable, match: Match) -> np.ndarray:
    """Which rows have a word in place of the loss that says that there is none."""
    column, words = match.taken["loss"], np.zeros(len(table), bool)
    if not isinstance(column, str):
        return words
    rows = np.flatnonzero(table.numbers(column)[1])
    cells = table.columns[column].cells[table.index[rows]]
    words[[row for row, cell in zip(rows, cells, strict=True) if is_unfinished(str(cell))]] = True
    return words


def _without_errors(table: RawTable, match: Match) -> tuple[RawTable, np.ndarray | None]:
    """The table with its losses alone, and their standard errors, where one cell holds both: ``2.71 ± 0.01``."""
    column = match.taken["loss"]
    if not isinstance(column, str) or not match.searched or not (odd := table.columns[column].numbers[1]).any():
        return table, None
    cells, errors = table.columns[column].cells.copy(), np.full(len(odd), np.nan)
    for row in np.flatnonzero(odd):
        if (parts := with_error(str(cells[row]))) is not None:
            cells[row], errors[row] = parts
    if np.isnan(errors).all():
        return table, None
    return replace(table, columns={**table.columns, column: Column(cells)}), errors


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
