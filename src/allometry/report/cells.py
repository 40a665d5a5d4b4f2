"""Cells, rows and tables of the report, and how values become cells.

A cell keeps the exact value next to the rounded one that people read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..quantities import format_count, format_flops, format_seconds

NONE = "–"


@dataclass(frozen=True)
class ReportCell:
    """The text of a cell, and the exact value if the text is rounded."""

    text: str
    exact: str = ""


@dataclass(frozen=True)
class ReportRow:
    """Cells, and a mark if the row is special: "diverged" or "target"."""

    cells: tuple[ReportCell, ...]
    mark: str = ""


@dataclass(frozen=True)
class ReportTable:
    """Column names and rows; ``words`` are the columns of words, which are aligned to the left."""

    columns: tuple[str, ...]
    rows: tuple[ReportRow, ...]
    words: frozenset[str] = frozenset()


def row(*values: str | ReportCell) -> ReportRow:
    return ReportRow(tuple(value if isinstance(value, ReportCell) else ReportCell(value) for value in values))


def optional(value: float | None, form: str) -> ReportCell:
    """A number in the given format, or a dash."""
    return ReportCell(NONE) if value is None else ReportCell(form.format(value), repr(value))


def count(value: float | None) -> ReportCell:
    return ReportCell(NONE) if value is None else ReportCell(format_count(value), f"{value:,.15g}")


def flops(value: float) -> ReportCell:
    return ReportCell(format_flops(value), f"{value:.15g}")


def loss(value: float) -> ReportCell:
    return ReportCell(f"{value:.4f}", repr(value))


def number(value: float) -> ReportCell:
    return ReportCell(f"{value:.5g}", repr(value))


def interval(low: float | None, high: float | None) -> ReportCell:
    if low is None or high is None:
        return ReportCell("no interval")
    return ReportCell(f"[{low:.4f}, {high:.4f}]", f"{low!r} to {high!r}")


def span(ends: tuple[float, float]) -> ReportCell:
    """A range of counts."""
    return ReportCell(" to ".join(map(format_count, ends)), f"{ends[0]!r} to {ends[1]!r}")


def seconds(value: float) -> ReportCell:
    return ReportCell(format_seconds(value), repr(value))


def moment(text: str) -> ReportCell:
    """A date and time of ISO 8601 to the minute, in UTC; any other text as it is."""
    try:
        return ReportCell(datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"), text)
    except ValueError:
        return ReportCell(text)


def value_of(value: Any) -> ReportCell:
    """A value of a record about which only its type is known."""
    if isinstance(value, bool):
        return ReportCell("yes" if value else "no")
    if isinstance(value, int):
        return ReportCell(f"{value:,}")
    return ReportCell(f"{value:.4g}", repr(value)) if isinstance(value, float) else ReportCell(str(value))
