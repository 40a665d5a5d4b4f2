"""JSON as a table: records, lines, columns, pandas' shapes, runs under a key or by their names; one level flattened."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ....errors import UserError
from ...field_names import is_known
from ..raw_table import RawTable, from_records
from .limits import open_unpacked

MOST_BYTES_OF_JSON = 1 << 28
# Keys under which people keep their rows, the likeliest first.
ROWS = ("runs", "results", "trials", "records", "rows", "data", "experiments", "log_history", "history", "items")
USUAL = "give a list of objects such as [{'N': 1e6, 'D': 2e7, 'loss': 3.1}], one object a line, or an object of columns"


def read_json(path: Path) -> RawTable:
    """A file of JSON, in whichever of the usual shapes.

    Raises:
        UserError: too large, no JSON, or a shape that holds no rows.
    """
    with open_unpacked(path) as stream:
        content = stream.read(MOST_BYTES_OF_JSON + 1)
    if len(content) > MOST_BYTES_OF_JSON:
        raise UserError(f"{path} holds more than {MOST_BYTES_OF_JSON >> 20} MiB of JSON; export it as CSV or Parquet")
    text = content.decode("utf-8-sig")
    if not text.strip():
        raise UserError(f"{path} is empty: it needs a header and at least one run")
    try:
        rows, notes = rows_of(_parse(text, path), str(path))
    except RecursionError:
        raise UserError(f"{path}: nested too deeply for a table; give one flat object a line") from None
    return flat_records(rows, path.name, notes)


def flat_records(rows: Iterable[Mapping[str, Any]], name: str, notes: Iterable[str] = ()) -> RawTable:
    """A table of records whose mappings are flattened by one level; what is nested deeper is named in the notes."""
    left: dict[str, None] = {}
    table = from_records([_flat(row, left) if isinstance(row, Mapping) else row for row in rows], name)
    if not left:
        return RawTable(table.name, table.columns, table.index, tuple(notes))
    columns = {key: column for key, column in table.columns.items() if key not in left or not _is_blank(column.raw)}
    shown = ", ".join(list(left)[:12])
    note = f"not read, because neither a number nor a word stands there: {shown}"
    return RawTable(table.name, columns, table.index, (*notes, note))


def rows_of(value: Any, where: str) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The rows in a JSON value, and notes on which shape it was taken to have.

    Raises:
        UserError: no shape that is known; the line names what was found.
    """
    if isinstance(value, list):
        return _of_list(value, where), []
    if not isinstance(value, dict):
        raise UserError(f"{where}: every line must be an object; {USUAL}")
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return _of_rows(value["columns"], value["data"], where), []
    if (key := _key_of_rows(value)) is not None:
        rows, notes = rows_of(value[key], where)
        return rows, [f"rows taken from the key {key!r}", *notes]
    inner = list(value.values())
    if len(inner) and all(isinstance(one, list) for one in inner) and len({len(one) for one in inner}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*inner, strict=True)], []
    if len(inner) and all(isinstance(one, dict) for one in inner) and _share_keys(inner):
        return _of_mappings(value)
    if any(isinstance(one, str | int | float) for one in inner) or any(map(is_known, _flat(value, {}))):
        return [value], []
    shown = ", ".join(map(str, list(value)[:12]))
    raise UserError(f"{where}: an object with the keys {shown}, none of which holds rows; {USUAL}")


def _parse(text: str, path: Path) -> Any:
    """One JSON value, or the list of those that stand one a line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data" and error.lineno > 1:
            first = text.lstrip().split("\n", 1)[0].strip()
            if not (first.startswith("{") and first.endswith("}")):
                raise UserError(
                    f"{path}, line {error.lineno}: not JSON ({error.msg}); give one object a line"
                ) from None
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not JSON ({error.msg}); give one object a line") from None
    return rows


def _of_list(rows: list[Any], where: str) -> list[Mapping[str, Any]]:
    if rows and all(isinstance(row, list) for row in rows) and all(isinstance(name, str) for name in rows[0]):
        return _of_rows(rows[0], rows[1:], where)
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{where}: every line must be an object such as {{'N': 1e6, 'D': 2e7, 'loss': 3.1}}")
    return rows


def _of_rows(names: list[Any], rows: list[Any], where: str) -> list[Mapping[str, Any]]:
    """Rows of cells below one list of names: pandas' shape "split"."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, list) or len(row) != len(names):
            raise UserError(f"{where}: row {number} has not one cell for each of the {len(names)} columns")
    return [dict(zip(map(str, names), row, strict=True)) for row in rows]


def _key_of_rows(value: Mapping[str, Any]) -> str | None:
    """The key that holds rows: a list of objects, or an object of objects beside nothing else that could be rows."""
    listed = [key for key, one in value.items() if isinstance(one, list) and one and isinstance(one[0], dict)]
    named = [key for key in ROWS if key in listed]
    if named or len(listed) == 1:
        # An object that has a size and a loss itself is a row, whatever list it carries along.
        return None if not named and sum(map(is_known, value)) >= 2 else (named or listed)[0]
    known = [key for key in ROWS if isinstance(value.get(key), dict) and value[key]]
    return known[0] if known and not any(map(is_known, value)) else None


def _of_mappings(value: Mapping[str, Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """An object of objects: columns by their names if those are fields, else rows by theirs."""
    inner = list(dict.fromkeys(key for one in value.values() for key in one))
    if sum(map(is_known, value)) > sum(map(is_known, inner)):
        return [{name: column.get(key) for name, column in value.items()} for key in inner], []
    label = next((name for name in ("label", "run", "name", "key") if name not in inner), "label of the row")
    return [{label: name, **row} for name, row in value.items()], ["each key is taken to name a run"]


def _share_keys(inner: list[Mapping[str, Any]]) -> bool:
    """Whether objects are alike, as runs are; the parts of one run (settings, results) have keys of their own."""
    keys = [key for one in inner for key in one]
    return len(inner) == 1 or len(set(keys)) < len(keys)


def _flat(row: Mapping[str, Any], left: dict[str, None]) -> dict[str, Any]:
    """A record with its mappings flattened by one level; the keys that hold more go into ``left``."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        cells = {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, Mapping) else {key: value}
        if isinstance(value, Mapping) and _is_wrapped(value):
            cells = {key: value["value"]}
        for name, cell in cells.items():
            cell = cell["value"] if isinstance(cell, Mapping) and _is_wrapped(cell) else cell
            if isinstance(cell, Mapping | list | tuple):
                left[str(name)] = None
                continue
            flat.setdefault(str(name), cell)
    return flat


def _is_wrapped(value: Mapping[str, Any]) -> bool:
    """What W&B writes for a value: ``{"value": 3, "desc": null}``."""
    return "value" in value and value.keys() <= {"value", "desc"}


def _is_blank(cells: Any) -> bool:
    return all(cell is None for cell in cells)
