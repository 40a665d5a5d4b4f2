"""Tables of any inputs that runs are chosen from, or that are to be predicted: numbers, groups, and prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import UserError
from ...laws.tables.raw_table import RawTable
from ...laws.tables.readers import read_table
from ...quantities import plural

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class CandidateRows:
    """Inputs (rows, inputs), and the label of each row's group, with the cells of both by column."""

    points: Array
    labels: Array
    cells: dict[str, list[Any]]

    @classmethod
    def of(cls, source: Any, inputs: Sequence[str], group: str | Sequence[str] | None, word: str) -> CandidateRows:
        """The rows of a frame, a path or a mapping of columns; errors call it ``word``.

        Raises:
            UserError: a column is missing, or an input is no finite number.
        """
        groups = [group] if isinstance(group, str) else list(group or ())
        if not inputs:
            raise UserError("name the columns to predict from: inputs=[…]")
        table = read_table(source) if _has_rows(source) else None
        if table is None or not len(table):
            raise UserError(f"{word} has no rows")
        missing = [name for name in (*inputs, *groups) if name not in table.columns]
        if missing:
            raise UserError(f"{word} has no column {', '.join(missing)}; found: {table.shown}")
        points = np.stack([_numbers(table, name, word) for name in inputs], axis=1)
        cells = {name: points[:, number].tolist() for number, name in enumerate(inputs)}
        cells |= {name: list(table.texts(name)) for name in groups}
        labels = np.array([" / ".join(row) for row in zip(*(cells[name] for name in groups), strict=True)])
        return cls(points, labels if groups else np.full(len(points), ""), cells)

    def where(self, rows: Array) -> CandidateRows:
        """Some of the rows."""
        return CandidateRows(self.points[rows], self.labels[rows], self.columns(rows))

    def columns(self, rows: Array) -> dict[str, list[Any]]:
        """Some rows as a mapping of columns."""
        return {name: [column[row] for row in rows] for name, column in self.cells.items()}


def _has_rows(source: Any) -> bool:
    """Whether a mapping of columns has any; other sources are for their reader to judge."""
    return not isinstance(source, Mapping) or any(np.size(column) for column in source.values())


def _numbers(table: RawTable, name: str, word: str) -> Array:
    values, _ = table.numbers(name)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise UserError(f"{word}: {name} is missing, or no finite number, in row {wrong[0] + 1}")
    return values


def prices_of(cost: Sequence[float] | Array, rows: int) -> Array:
    """What each candidate costs, (rows,).

    Raises:
        UserError: not one number above zero for each.
    """
    try:
        price = np.asarray(cost, float)
    except (TypeError, ValueError):
        raise UserError(f"cost is no row of numbers: give one for each of the {plural(rows, 'candidate')}") from None
    if price.shape != (rows,):
        raise UserError(
            f"cost has the shape {price.shape}; give one number for each of the {plural(rows, 'candidate')}"
        )
    wrong = np.flatnonzero(~(np.isfinite(price) & (price > 0)))
    if len(wrong):
        raise UserError(f"cost must be finite and above zero: in row {wrong[0] + 1} it is {price[wrong[0]]:g}")
    return price
