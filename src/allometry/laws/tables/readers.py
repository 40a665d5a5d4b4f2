"""Tables from files and frames: columns of numbers and text, before their columns are matched to fields.

Every source becomes a :class:`RawTable`. Files are judged by their first bytes as well as by their names; pickles and
spreadsheets are never opened. CSV and Parquet go through Arrow in blocks, so that a file too large is refused after
the first of them and not when memory ends.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from .raw_table import RawTable, from_arrow, from_records, objects

# More cells than this are no table of runs. A table of curves this large still fits into the memory of a laptop.
MOST_CELLS = 100_000_000
MOST_BYTES_OF_JSON = 1 << 28
MOST_COLUMNS = 10_000
BLOCK = 1 << 23
HEAD = 1 << 20
PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".dill"})
SPREADSHEETS = frozenset({".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"})
SUFFIXES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet"})
PACKINGS = frozenset({".gz", ".bz2", ".zst", ".xz"})
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}


def read_table(source: Any, needed: Callable[[list[str]], list[str]] | None = None) -> RawTable:
    """Read a CSV, TSV, JSONL, JSON or Parquet file, or take a frame, a mapping of columns or a list of records.

    Args:
        source: a path, or a pandas or polars frame, an Arrow table, a mapping of columns, a list of dicts.
        needed: names of the columns → those that are needed; all if None.

    Raises:
        UserError: not such a source, empty, unreadable, too large.
    """
    if isinstance(source, str | Path):
        return _read_file(Path(source), needed)
    if isinstance(source, Mapping) or hasattr(source, "columns") or hasattr(source, "column_names"):
        return _from_frame(source, needed)
    if isinstance(source, Iterable):
        return from_records(source)
    raise UserError(f"cannot read runs from a {type(source).__name__}; give a path or a frame with named columns")


def table_suffix(path: Path) -> str:
    """The suffix of a file's format, in lower case: ``.csv`` of ``runs.csv.gz``."""
    return Path(_unpacked(path)).suffix.lower()


def table_stem(path: Path) -> str:
    """A file's name without its format: ``lr_0.01`` of ``lr_0.01.csv.gz``."""
    return Path(_unpacked(path)).stem


def _unpacked(path: Path) -> str:
    return path.stem if path.suffix.lower() in PACKINGS else path.name


def _read_file(path: Path, needed: Callable[[list[str]], list[str]] | None) -> RawTable:
    if not path.exists():
        raise UserError(f"no such file: {path}")
    if not path.is_file():
        raise UserError(f"{path} is not a file: give a CSV, TSV, JSONL or Parquet file, or the folder of a study")
    kind = _kind(path)
    reader = {"parquet": _read_parquet, "json": _read_json, "csv": _read_csv}[kind]
    with _reading(path):
        table = reader(path, needed)
    if not len(table):
        raise UserError(f"{path} has a header but no runs below it")
    return table


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside a reader is one line about the file."""
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{path} does not fit into memory; export only the columns and rows that are needed") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: give a CSV or JSONL file in UTF-8, or Parquet") from None
    except Exception as error:
        if "utf8" in str(error).lower().replace("-", ""):
            raise UserError(f"{path} is not text in UTF-8: give a CSV or JSONL file in UTF-8, or Parquet") from None
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path} cannot be read ({reason}); export it again as CSV or Parquet") from None


def _kind(path: Path) -> str:
    """ "csv", "json" or "parquet"; everything else is refused by name or by first bytes, unopened."""
    suffix = table_suffix(path)
    with _reading(path), path.open("rb") as file:
        head = file.read(8)
    pickled = head[:1] == b"\x80" and head[1:2] <= b"\x05" and len(head) > 1
    if pickled or suffix in PICKLES:
        raise UserError(f"{path} is a pickle, which runs code when it is opened: export it as CSV or Parquet")
    if suffix in SPREADSHEETS:
        raise UserError(f"{path} is a spreadsheet: save the sheet as CSV")
    if head[:2] == b"PK" or head[:6] == b"\xfd7zXZ\x00" or head[:6] == b"7z\xbc\xaf\x27\x1c":
        raise UserError(f"{path} is an archive: unpack it and give the CSV, JSONL or Parquet file in it")
    if head[:4] == b"PAR1" or suffix == ".parquet":
        return "parquet"
    return "json" if suffix in (".json", ".jsonl", ".ndjson") else "csv"


def _open(path: Path) -> Any:
    """The bytes of a file, unpacked if gzip, bzip2 or Zstandard packed it."""
    import pyarrow as pa

    with path.open("rb") as file:
        head = file.read(4)
    packing = next((name for magic, name in COMPRESSED.items() if head.startswith(magic)), None)
    return pa.input_stream(str(path), compression=packing)


def _header(path: Path) -> tuple[list[str], str]:
    """The cells of a CSV's first line, and what stands between them."""
    with _open(path) as stream:
        head = stream.read(HEAD)
    if not head.strip():
        raise UserError(f"{path} is empty: it needs a header and at least one run")
    if b"\x00" in head:
        raise UserError(f"{path} is not text: give a CSV, JSONL or Parquet file")
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: give a CSV or JSONL file in UTF-8, or Parquet") from None
    text = text.lstrip("\r\n")
    delimiter = max(",\t;|", key=text.split("\n", 1)[0].count)
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)), delimiter
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV table ({error}); give a header and one run a line") from None


def _names(header: Sequence[str], path: Path | str) -> list[str]:
    """Names without blanks around them.

    Raises:
        UserError: two columns of one name, or far too many.
    """
    if len(header) > MOST_COLUMNS:
        raise UserError(f"{path} has {len(header):,} columns, which is no table of runs: export those that are needed")
    names = [str(name).strip() for name in header]
    twice = [name for name, times in Counter(names).items() if name and times > 1]
    if twice:
        raise UserError(
            f"{path}: more than one column is named {', '.join(map(repr, twice[:8]))}; rename or remove one"
        )
    return names


def _read_csv(path: Path, needed: Callable[[list[str]], list[str]] | None) -> RawTable:
    """Blocks of text cells; columns without a name (an index that was written along) are not read."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    header, delimiter = _header(path)
    names = _names(header, path)
    by_name = {name: raw for name, raw in zip(names, header, strict=True) if name}
    chosen = [name for name in (needed(list(by_name)) if needed else by_name) if name in by_name]
    ragged: list[Any] = []
    convert = arrow_csv.ConvertOptions(
        column_types={by_name[name]: pa.string() for name in chosen}, include_columns=[by_name[name] for name in chosen]
    )
    parse = arrow_csv.ParseOptions(
        delimiter=delimiter, newlines_in_values=True, invalid_row_handler=lambda row: ragged.append(row) or "error"
    )
    options = arrow_csv.ReadOptions(use_threads=False, block_size=BLOCK)
    try:
        with _open(path) as stream, arrow_csv.open_csv(stream, options, parse, convert) as reader:
            batches = _within_limit(reader, len(chosen), path)
    except pa.ArrowInvalid:
        if not ragged:
            raise
        row = ragged[0]
        raise UserError(
            f"{path}, line {row.number}: {row.actual_columns} cells where the header has {row.expected_columns}; "
            "correct the line"
        ) from None
    table = pa.Table.from_batches(batches, schema=reader.schema)
    return RawTable.of(path.name, {name: table.column(position) for position, name in enumerate(chosen)})


def _within_limit(batches: Iterable[Any], columns: int, path: Path) -> list[Any]:
    """All batches, unless they hold more cells than a table of runs can have."""
    kept, cells = [], 0
    for batch in batches:
        cells += batch.num_rows * max(columns, 1)
        if cells > MOST_CELLS:
            _refuse_size(path)
        kept.append(batch)
    return kept


def _refuse_size(path: Path) -> None:
    raise UserError(
        f"{path} has more than {MOST_CELLS:,} cells, which is no table of runs: export the columns needed, one row a "
        "run (curves: one row in ten)"
    )


def _read_json(path: Path, needed: Callable[[list[str]], list[str]] | None) -> RawTable:
    """A JSON array of objects, or one object a line."""
    with _open(path) as stream:
        content = stream.read(MOST_BYTES_OF_JSON + 1)
    if len(content) > MOST_BYTES_OF_JSON:
        raise UserError(f"{path} holds more than {MOST_BYTES_OF_JSON >> 20} MiB of JSON; export it as CSV or Parquet")
    text = content.decode("utf-8-sig")
    if not text.strip():
        raise UserError(f"{path} is empty: it needs a header and at least one run")
    line = 1
    try:
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            rows = []
            for line, one in enumerate(text.split("\n"), start=1):  # noqa: B007  an error names it
                if one.strip():
                    rows.append(json.loads(one))
    except json.JSONDecodeError as error:
        where = max(line, error.lineno)
        raise UserError(f"{path}, line {where}: not JSON ({error.msg}); give one object a line") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply for a table; give one flat object a line") from None
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: every line must be an object such as {{'N': 1e6, 'D': 2e7, 'loss': 3.1}}")
    return from_records(rows, path.name)


def _read_parquet(path: Path, needed: Callable[[list[str]], list[str]] | None) -> RawTable:
    """The flat columns of numbers and text; nested ones are left, and named in the notes."""
    import pyarrow as pa
    from pyarrow import parquet

    strings = (pa.types.is_string, pa.types.is_large_string)
    with parquet.ParquetFile(str(path)) as probe:
        schema, size = probe.schema_arrow, probe.metadata.num_rows
    names = _names(schema.names, path)
    flat = [name for name, column in zip(names, schema, strict=True) if name and _is_flat(column.type)]
    chosen = [name for name in (needed(flat) if needed else flat) if name in flat]
    if size * max(len(chosen), 1) > MOST_CELLS:
        _refuse_size(path)
    raw = {name: schema.names[names.index(name)] for name in chosen}
    # Text stays in dictionaries: a few long words repeated a million times would not fit into memory otherwise.
    words = [raw[name] for name in chosen if any(check(schema.field(raw[name]).type) for check in strings)]
    with parquet.ParquetFile(str(path), read_dictionary=words) as file:
        batches = _within_limit(file.iter_batches(1 << 16, columns=list(raw.values())), len(chosen), path)
    columns = {}
    for name in chosen:
        parts = [batch.column(raw[name]) for batch in batches]
        columns[name] = _from_arrow(parts)
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


def _from_arrow(parts: list[Any]) -> Any:
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


def _from_frame(frame: Any, needed: Callable[[list[str]], list[str]] | None) -> RawTable:
    """A frame with named columns: pandas, polars, an Arrow table, or a plain mapping of columns."""
    keys = list(frame if isinstance(frame, Mapping) else getattr(frame, "column_names", None) or frame.columns)
    names = _names(keys, "frame")
    chosen = needed(names) if needed else names
    table = RawTable.of("frame", {n: _series(frame[k], n) for n, k in zip(names, keys, strict=True) if n in chosen})
    if not len(table):
        raise UserError("no runs to read: the frame is empty; give at least one row with num_params, tokens, loss")
    return table


def _series(values: Any, name: str) -> np.ndarray:
    """A column of a frame as float64 or objects."""
    array = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
    if array.ndim != 1:
        raise UserError(f"frame: column {name!r} is not one value a row; give plain columns of numbers or text")
    if array.dtype.kind in "iuf":
        return array.astype(np.float64)
    if array.dtype.kind in "mM":
        array = array.astype(str)
    return objects(array.tolist())
