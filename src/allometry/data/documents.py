"""Sources of text (files, folders, rows of tables, Hugging Face data sets) as one stream of documents.

Every source is read in one fixed order, never as a whole, and reading can continue at any place in it. The name of a
file determines how it is read: ``.jsonl``, ``.ndjson`` and ``.parquet`` hold one document in each row; ``.gz``,
``.bz2`` and ``.zst`` are decompressed first; any other file is one document if its content is UTF-8 text. Nothing is
ever unpickled or executed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import UserError

STDLIB = "stdlib"
PIECE = 16 * 1024  # bytes, about; a text that is too long for one document is cut at line ends into such pieces
MANIFEST, PREPARING = "manifest.json", "preparing.json"  # of a finished corpus, and of one that is being prepared
BOM = b"\xef\xbb\xbf"


class Item(NamedTuple):
    """One document, or the place of something that is not text.

    Attributes:
        part, row: where the next item begins.
        text: clean UTF-8 without surrounding line ends; None for something that is not text.
        why: the reason, if ``text`` is None.
        unified: whether line ends were changed from CRLF to LF.
    """

    part: int
    row: int
    text: bytes | None
    why: str = ""
    unified: bool = False


@dataclass(frozen=True)
class Source:
    """A text to be read: ``items(part, row)`` reads it from that place on.

    ``identity`` is a JSON value that differs if the text that would be read differs.
    """

    name: str
    identity: dict[str, Any]
    items: Callable[[int, int], Iterator[Item]]


def is_corpus(names: Collection[str]) -> bool:
    """Whether a folder that holds these files is a corpus, finished or being prepared."""
    shards = any(re.fullmatch(r"train[-\d]*\.bin", name) for name in names)
    return PREPARING in names or (MANIFEST in names and shards)


def clean(raw: bytes) -> tuple[bytes | None, str]:
    """UTF-8 text with unified line ends; or None, and the reason why ``raw`` is not text."""
    if b"\0" in raw:
        return None, "binary: it contains NUL bytes"
    if not raw.isascii():
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return None, f"not UTF-8: byte {raw[error.start]:#04x} at {error.start}; `iconv -t UTF-8` converts"
    return raw.removeprefix(BOM).replace(b"\r\n", b"\n").strip(b"\n"), ""


def pieces(text: bytes, size: int) -> Iterator[bytes]:
    """Cut a document at line ends (a very long line: between characters) into pieces of about ``size`` bytes."""
    start = 0
    while start < len(text):
        end = piece_end(text, start, size)
        yield text[start:end]
        start = end


def piece_end(text: bytes | bytearray, start: int, size: int) -> int:
    """Where the piece of about ``size`` bytes that begins at ``start`` ends."""
    line_end = text.find(b"\n", start + size, start + 2 * size)
    if line_end >= 0:
        return line_end + 1
    end = start + size
    while end < len(text) and text[end] & 0xC0 == 0x80:  # in the middle of a character
        end += 1
    return end


class NoField(UserError):
    """The first row of a table lacks the field: perhaps the table does not hold texts."""


def text_of_row(row: Any, field: str, where: str, first: bool = False) -> str:
    """The text of a row; empty if it is null.

    Raises:
        UserError: the row lacks the field, or the field does not hold text.
    """
    if not isinstance(row, dict) or field not in row:
        names = list(row) if isinstance(row, dict) else None
        raise (NoField if first else UserError)(no_field_message(where, field, names))
    text = row[field]
    if not isinstance(text, str | None):
        raise UserError(f"{where}: {field!r} holds {type(text).__name__}, not text; --text-field names another")
    return text or ""


def no_field_message(where: str, field: str, names: list[str] | None) -> str:
    there = "it is not an object" if names is None else f"there are {', '.join(map(str, names[:12])) or 'none'}"
    return f"{where}: no field {field!r} ({there}); --text-field names the one with the text"
