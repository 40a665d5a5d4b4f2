"""Read the texts of files, one document after another: plain text, JSONL or Parquet, compressed or not."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ..errors import UserError
from ..files import parse_json
from .documents import BOM, PIECE, Item, NoField, clean, is_corpus, no_field_message, piece_end, pieces, text_of_row

LARGE = 16 * 1024**2  # a text file of more bytes is read in pieces
LONGEST_ROW = 256 * 1024**2
_SKIPPED = frozenset({"site-packages", "dist-packages", "__pycache__", ".git", ".venv", "node_modules"})
_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


class FileReader:
    """Reads the items of files, in the order given. ``alone``: there is one file only, so its faults are errors."""

    def __init__(self, paths: list[Path], text_field: str, alone: bool):
        self.paths, self.text_field, self.alone = paths, text_field, alone

    def __call__(self, part: int = 0, row: int = 0) -> Iterator[Item]:
        for number in range(part, len(self.paths)):
            yield from self._file(number, row if number == part else 0)

    def _file(self, number: int, skip: int) -> Iterator[Item]:
        path = self.paths[number]
        try:
            for row, (text, why, unified) in enumerate(self._read(path, skip), skip + 1):
                yield Item(number, row, text, why, unified)
        except NoField as error:
            if self.alone:
                raise
            yield Item(number + 1, 0, None, str(error))
        except OSError as error:
            if path.suffix in _COMPRESSED or path.suffix in _ROWS:
                raise UserError(f"{path}: damaged or incomplete ({_reason(error)}); fetch or write it again") from None
            if self.alone:
                raise UserError(f"{path}: {_reason(error)}") from None
            yield Item(number + 1, 0, None, f"{path}: {_reason(error)}")

    def _read(self, path: Path, skip: int) -> Iterator[tuple[bytes | None, str, bool]]:
        """Each document after the first ``skip``: text or None, reason, and whether line ends were unified."""
        suffix = Path(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix
        if suffix in _ROWS:
            for text in _ROWS[suffix](path, self.text_field, skip):
                raw = text.encode("utf-8", "surrogatepass")
                yield *clean(raw), b"\r\n" in raw
            return
        yield from islice(_texts(path), skip, None)


def _open(path: Path) -> BinaryIO:
    """Open a file to read bytes, decompressed if its suffix is that of a compressed file."""
    if path.suffix not in _COMPRESSED:
        return path.open("rb")
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), _COMPRESSED[path.suffix]), 1 << 20)


def _texts(path: Path) -> Iterator[tuple[bytes | None, str, bool]]:
    """The one document of a text file, or the pieces of a large one."""
    with _open(path) as file:
        head = file.read(8192)  # first, so that a large binary file is not loaded
        raw = head if b"\0" in head else head + file.read(LARGE)
    if len(raw) <= LARGE:
        text, why = clean(raw)
        yield text, why and f"{path}: {why}", b"\r\n" in raw
    elif why := _why_not_text(path):
        yield None, f"{path}: {why}", False
    else:
        yield from _large_text(path)


def _why_not_text(path: Path) -> str:
    """Why a large file is not text; empty if it is text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _open(path) as file:
        try:
            while chunk := file.read(1 << 22):
                if b"\0" in chunk:
                    return "binary: it contains NUL bytes"
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            return f"not UTF-8: byte {error.object[error.start]:#04x} near {file.tell()}; `iconv -t UTF-8` converts"
    return ""


def _large_text(path: Path) -> Iterator[tuple[bytes, str, bool]]:
    """The same pieces as :func:`pieces` of the clean text, with no more than a few megabytes of it in memory."""
    begun = unified = False
    held = bytearray()
    with _open(path) as file:
        for portion in _portions(file):
            unified |= b"\r\n" in portion
            held += portion.replace(b"\r\n", b"\n")
            if not begun:
                held = held.lstrip(b"\n")
                begun = bool(held)
            start, length = 0, len(held.rstrip(b"\n"))
            while start + 2 * PIECE <= length:
                end = piece_end(held, start, PIECE)
                yield bytes(held[start:end]), "", unified
                start = end
            del held[:start]
    for piece in pieces(bytes(held.rstrip(b"\n")), PIECE):
        yield piece, "", unified


def _portions(file: BinaryIO) -> Iterator[bytes]:
    """A file in portions without its byte order mark; no portion ends between CR and LF."""
    portion = file.read(len(BOM))
    if portion == BOM:
        portion = file.read(1 << 22)
    while portion:
        while portion.endswith(b"\r") and (following := file.read(1)):
            portion += following
        yield portion
        portion = file.read(1 << 22)


def _json_rows(path: Path, field: str, skip: int) -> Iterator[str]:
    """The texts of a JSON-lines file; empty lines are skipped."""
    with _open(path) as file:
        number = seen = 0
        while line := file.readline(LONGEST_ROW):
            number += 1
            if len(line) >= LONGEST_ROW:
                raise UserError(f"{path}: line {number} is longer than {LONGEST_ROW >> 20} MB; is this JSONL?")
            if line.isspace():
                continue
            seen += 1
            if seen <= skip:
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                raise UserError(f"{path}: line {number} is not a JSON value ({error})") from None
            yield text_of_row(row, field, f"{path}: line {number}", seen == 1)


def _parquet_rows(path: Path, field: str, skip: int) -> Iterator[str]:
    """The texts in one column of a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    if path.suffix in _COMPRESSED:
        raise UserError(f"{path}: decompress it first; Parquet is compressed internally")
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise NoField(no_field_message(f"{path}", field, names))
            kind = file.schema_arrow.field(field).type
            if "string" not in str(kind):
                raise UserError(f"{path}: column {field!r} holds {kind}, not text; --text-field names another")
            for batch in file.iter_batches(batch_size=512, columns=[field]):
                for text in batch.column(0)[skip:].to_pylist():
                    yield text or ""
                skip = max(0, skip - len(batch))
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a complete Parquet file ({_reason(error)}); fetch or write it again") from None


_ROWS = {".jsonl": _json_rows, ".ndjson": _json_rows, ".parquet": _parquet_rows}


def walk_files(root: Path) -> Iterator[Path]:
    """The files below a folder, in sorted order.

    Hidden files are left out. So are studies and prepared corpora: otherwise a study's report could become part of
    its own corpus.
    """
    for folder, children, names in os.walk(root):
        if "study.json" in names or is_corpus(names):
            children.clear()
            continue
        children[:] = sorted(name for name in children if name not in _SKIPPED and not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def file_facts(path: Path) -> tuple[int, int]:
    """Size and time of the last change; zeros if the file does not exist."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
