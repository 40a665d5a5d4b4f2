"""Parquet: the flat columns of numbers and text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..raw_table import RawTable, from_arrow, objects
from . import limits


def read_parquet(path: Path, needed: Callable[[list[str]], list[str]] | None) -> RawTable:
    """The flat columns of numbers and text; nested ones are left, and named in the notes."""
    import pyarrow as pa
    from pyarrow import parquet

    strings = (pa.types.is_string, pa.types.is_large_string)
    with parquet.ParquetFile(str(path)) as probe:
        schema, size = probe.schema_arrow, probe.metadata.num_rows
    names = limits.check_names(schema.names, path)
    flat = [name for name, column in zip(names, schema, strict=True) if name and _is_flat(column.type)]
    chosen = [name for name in (needed(flat) if needed else flat) if name in flat]
    if size * max(len(chosen), 1) > limits.MOST_CELLS:
        limits.refuse_size(path)
    raw = {name: schema.names[names.index(name)] for name in chosen}
    # Text stays in dictionaries: a few long words repeated a million times would not fit into memory otherwise.
    words = [raw[name] for name in chosen if any(check(schema.field(raw[name]).type) for check in strings)]
    with parquet.ParquetFile(str(path), read_dictionary=words) as file:
        batches = limits.within_limit(file.iter_batches(1 << 16, columns=list(raw.values())), len(chosen), path)
    columns = {}
    for name in chosen:
        parts = [batch.column(raw[name]) for batch in batches]
        columns[name] = _column(parts)
    left = [name for name in names if name not in flat]
    notes = [f"columns not read, because they hold neither numbers nor text: {', '.join(left[:12])}"] if left else []
    return RawTable.of(path.name, columns, notes)


def _is_flat(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    checks = (types.is_integer, types.is_floating, types.is_boolean, types.is_string, types.is_large_string)
    return any(check(kind) for check in (*checks, types.is_decimal, types.is_temporal, types.is_null))


def _column(parts: list[Any]) -> Any:
    """Chunks of one Parquet column as a raw column."""
    import pyarrow as pa

    if not parts:
        return np.empty(0)
    kind = parts[0].type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return np.concatenate([from_arrow(part.cast(pa.float64(), safe=False), np.nan) for part in parts])
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return pa.chunked_array(parts)
    return objects([cell if cell is None else str(cell) for part in parts for cell in part.to_pylist()])
