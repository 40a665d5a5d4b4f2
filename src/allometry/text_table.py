"""Rows of text as aligned lines."""

from __future__ import annotations

Row = tuple[str, str, str]


def table(rows: list[Row]) -> list[str]:
    """Align rows of (name, value, remark) as lines of text. A value without a remark may be longer than its column."""
    name = max(len(row[0]) for row in rows)
    value = max((len(row[1]) for row in rows if row[2]), default=0)
    return [f"{row[0]:<{name}}  {row[1]:<{value if row[2] else 0}}  {row[2]}".rstrip() for row in rows]
