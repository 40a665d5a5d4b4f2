"""JSON as a table: records, lines, columns, pandas' shapes, runs under a key or by their names; mappings flattened."""

from __future__ import annotations

import json
from ast import literal_eval
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ....errors import UserError
from ...field_names import is_known
from ...from_record import RECORDS
from ..raw_table import RawTable, from_records
from .limits import open_unpacked

MOST_BYTES_OF_JSON = 1 << 28
# Keys under which people keep their rows, the likeliest first.
ROWS = ("runs", "results", "trials", "records", "rows", "data", "experiments", "log_history", "history", "items")
MOST_NESTED = 4
MOST_PRINTED = 1_000_000
LONGEST_CELL = 100_000
RUN = '{"N": 1e6, "D": 2e7, "loss": 3.1}'  # as people would write one
USUAL = f"give a list of objects such as [{RUN}], one object a line, or an object of columns"
LONGEST_SHOWN = 40


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
        value = _parse(text, path)
        if _is_nothing(value) or not isinstance(value, list | dict):
            raise UserError(f"{path} holds no runs, only {_shown(value)}; {USUAL}")
        if isinstance(value, dict) and isinstance(kind := value.get("kind"), str) and kind in RECORDS:
            raise UserError(f"{path} is a {kind} that allometry wrote: give the table of runs that it came from")
        rows, notes = rows_of(value, str(path))
    except RecursionError:
        raise UserError(f"{path}: nested too deeply for a table; give one flat object a line") from None
    return flat_records(rows, path.name, notes)


def flat_records(rows: Iterable[Mapping[str, Any]], name: str, notes: Iterable[str] = ()) -> RawTable:
    """A table of records whose mappings are flattened; what is a list, or nested too deeply, is named in the notes."""
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
        raise UserError(f"{where}: {_shown(value)} stands where runs belong; {USUAL}")
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return _of_rows(value["columns"], value["data"], where), []
    if len(value) == 1 and isinstance(inside := next(iter(value.values())), dict) and not _is_run(inside):
        rows, notes = rows_of(inside, where)
        return rows, [f"rows taken from the key {next(iter(value))!r}", *notes]
    if (kinds := _of_kinds(value)) is not None:
        return kinds, ["each key is taken to be a kind of runs"]
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
        if (objects := _one_after_the_other(text)) is not None:
            return objects
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


def _one_after_the_other(text: str) -> list[Any] | None:
    """Objects that follow each other over several lines, as a program prints them; None if it is something else."""
    decoder, place, values = json.JSONDecoder(), 0, []
    while place < len(text) and len(values) < MOST_PRINTED:
        if text[place] in " \t\r\n,":
            place += 1
            continue
        if text[place] != "{":
            return None
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError:
            return None
        values.append(value)
    return values if len(values) > 1 and place >= len(text) else None


def _of_list(rows: list[Any], where: str) -> list[Mapping[str, Any]]:
    if rows and all(isinstance(row, list) for row in rows) and all(isinstance(name, str) for name in rows[0]):
        return _of_rows(rows[0], rows[1:], where)
    if not all(isinstance(row, dict) for row in rows):
        place, row = next((place, row) for place, row in enumerate(rows, start=1) if not isinstance(row, dict))
        raise UserError(f"{where}: entry {place} is {_shown(row)}; every entry must be an object such as {RUN}")
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
    # An object of plain numbers is the part of one run, not runs.
    held = {key: value[key] for key in ROWS if isinstance(value.get(key), dict)}
    known = [key for key, one in held.items() if any(isinstance(inner, dict | list) for inner in one.values())]
    return known[0] if known and not any(is_known(key) for key in value if key not in ROWS) else None


def _of_mappings(value: Mapping[str, Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """An object of objects: columns by their names if those are fields, else rows by theirs."""
    inner = list(dict.fromkeys(key for one in value.values() for key in one))
    if sum(map(is_known, value)) > sum(map(is_known, inner)):
        return [{name: column.get(key) for name, column in value.items()} for key in inner], []
    label = next((name for name in ("label", "run", "name", "key") if name not in inner), "label of the row")
    return [{label: name, **row} for name, row in value.items()], ["each key is taken to name a run"]


def _of_kinds(value: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The runs of several kinds, each under its name, as a list or by names of their own; None for anything else."""
    if len(value) < 2:
        return None
    if all(_are_runs(one) for one in value.values()) and not set(value) & set(ROWS):
        return [{"kind": key, **row} for key, rows in value.items() for row in rows]
    if all(_are_named_runs(one) for one in value.values()):
        return [{"kind": key, "label": name, **row} for key, runs in value.items() for name, row in runs.items()]
    return None


def _is_run(value: Mapping[str, Any]) -> bool:
    """Whether an object is one run: fields by their names, and no objects that could be runs themselves."""
    return any(map(is_known, _flat(value, {}))) and not any(isinstance(one, dict | list) for one in value.values())


def _are_runs(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _are_named_runs(value: Any) -> bool:
    """Whether an object holds runs by their names, each with a loss: settings alone are the part of a run."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(
            isinstance(one, dict) and _is_run(one) and any("loss" in key.lower() for key in one)
            for one in value.values()
        )
    )


def _share_keys(inner: list[Mapping[str, Any]]) -> bool:
    """Whether objects are alike, as runs are; the parts of one run (settings, results) have keys of their own."""
    keys = [key for one in inner for key in one]
    return len(inner) == 1 or len(set(keys)) < len(keys)


def _flat(row: Mapping[str, Any], left: dict[str, None], above: str = "", depth: int = 0) -> dict[str, Any]:
    """A record with its mappings flattened; the keys that hold lists, or are nested too deeply, go into ``left``."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        name, value = f"{above}{key}", _plain_value(value)
        if isinstance(value, Mapping) and depth < MOST_NESTED:
            for inner, cell in _flat(value, left, f"{name}.", depth + 1).items():
                flat.setdefault(inner, cell)
        elif isinstance(value, Mapping | list | tuple):
            left[name] = None
        else:
            flat.setdefault(name, value)
    return flat


def _plain_value(value: Any) -> Any:
    """A value without what trackers wrap it in: ``{"value": 3, "desc": null}``, a list of one, a list of named values,
    or a mapping that was written as text."""
    if isinstance(value, str):
        return as_mapping(value) or value
    if isinstance(value, Mapping):
        return value["value"] if _is_wrapped(value) else value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], int | float | str):
        return value[0]
    if isinstance(value, list) and value and all(isinstance(one, Mapping) and "value" in one for one in value):
        names = [one.get("key", one.get("name")) for one in value]  # MLflow's answers
        if all(isinstance(name, str) for name in names):
            return {name: one["value"] for name, one in zip(names, value, strict=True)}
    return value


def flattened(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its mappings flattened; lists are left out."""
    return _flat(row, {})


def as_mapping(text: str) -> dict[str, Any] | None:
    """A mapping that was written into one cell, as JSON or as Python prints it; None for any other text."""
    text = text.strip()
    if not (text.startswith("{") and text.endswith("}")) or len(text) > LONGEST_CELL:
        return None
    for parse in (json.loads, literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(value, dict):
            return {str(key): one for key, one in value.items()}
    return None


def _is_wrapped(value: Mapping[str, Any]) -> bool:
    """What W&B writes for a value: ``{"value": 3, "desc": null}``."""
    return "value" in value and value.keys() <= {"value", "desc"}


def _is_nothing(value: Any) -> bool:
    """Whether a JSON value holds no number and no word, at any depth: ``{}``, ``[]``, ``null``, ``{"runs": []}``."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return value is None or value == "" if inner is None else all(map(_is_nothing, inner))


def _shown(value: Any) -> str:
    """A JSON value in a message, cut off where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} …"


def _is_blank(cells: Any) -> bool:
    return all(cell is None for cell in cells)
