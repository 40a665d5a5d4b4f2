"""Tables from files and frames: columns of numbers and text, before their columns are matched to fields.

Every source becomes a :class:`RawTable`. Files are judged by their first bytes as well as by their names; pickles and
spreadsheets are never opened. CSV and Parquet go through Arrow in blocks, so that a file too large is refused after
the first of them and not when memory ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from .file_formats import limits
from .file_formats.delimited import read_delimited
from .file_formats.json_shapes import flat_records, read_json
from .file_formats.parquet_columns import read_parquet
from .raw_table import RawTable, objects

PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".dill"})
SPREADSHEETS = frozenset({".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"})
MARKUP = (b"<!doctype", b"<html", b"<head", b"<table", b"<?xml", b"<svg")
SUFFIXES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet"})
PACKINGS = frozenset({".gz", ".bz2", ".zst", ".xz"})


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
        return flat_records(source, "records")
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
    with _reading(path):
        if kind == "json":
            table = read_json(path)
        else:
            table = {"parquet": read_parquet, "csv": read_delimited}[kind](path, needed)
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
        head = file.read(64)
    pickled = head[:1] == b"\x80" and head[1:2] <= b"\x05" and len(head) > 1
    if pickled or suffix in PICKLES:
        raise UserError(f"{path} is a pickle, which runs code when it is opened: export it as CSV or Parquet")
    if suffix in SPREADSHEETS:
        raise UserError(f"{path} is a spreadsheet: save the sheet as CSV")
    if head[:2] == b"PK" or head[:6] == b"\xfd7zXZ\x00" or head[:6] == b"7z\xbc\xaf\x27\x1c":
        raise UserError(f"{path} is an archive: unpack it and give the CSV, JSONL or Parquet file in it")
    if head.lstrip().lower().startswith(MARKUP):
        raise UserError(f"{path} is a page of HTML or XML: export the table itself as CSV or JSONL")
    if head[:4] == b"PAR1" or suffix == ".parquet":
        return "parquet"
    return "json" if suffix in (".json", ".jsonl", ".ndjson") else "csv"


def _from_frame(frame: Any, needed: Callable[[list[str]], list[str]] | None) -> RawTable:
    """A frame with named columns: pandas, polars, an Arrow table, or a plain mapping of columns."""
    keys = list(frame if isinstance(frame, Mapping) else getattr(frame, "column_names", None) or frame.columns)
    names = limits.check_names(keys, "frame")
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
