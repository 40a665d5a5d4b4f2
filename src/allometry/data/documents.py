"""Where text comes from: files, folders, rows of tables and Hugging Face data sets, as one stream of documents.

Every source is read in one fixed order and never held at once, and can be taken up again at any place in it. What a
file is follows from its name: ``.jsonl``, ``.ndjson`` and ``.parquet`` hold a document a row, ``.gz``, ``.bz2`` and
``.zst`` are opened first, and anything else is one document if its content is UTF-8 text. Nothing is ever unpickled
or executed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import UserError

STDLIB = "stdlib"
PIECE = 16 * 1024  # a text that is too long for one document is cut, at line ends, into pieces of about so many bytes
MANIFEST, PREPARING = "manifest.json", "preparing.json"  # of a prepared corpus, and of one in the making
_BOM = b"\xef\xbb\xbf"


class Item(NamedTuple):
    """One document, or what stands in the place of one.

    ``text`` is clean UTF-8 without surrounding line ends, None for what is no text; ``why`` then says why.
    ``part``, ``row`` are where the item after this one begins.
    """

    part: int
    row: int
    text: bytes | None
    why: str = ""
    unified: bool = False


@dataclass(frozen=True)
class Source:
    """Text to be read. ``identity`` (a JSON value) changes when what would be read does; ``items(part, row)`` reads
    from a place on."""

    name: str
    identity: dict[str, Any]
    items: Callable[[int, int], Iterator[Item]]


def is_corpus(names: Collection[str]) -> bool:
    """Whether a folder of these files is a corpus that was prepared, or is being prepared."""
    shards = any(re.fullmatch(r"train[-\d]*\.bin", name) for name in names)
    return PREPARING in names or (MANIFEST in names and shards)


def clean(raw: bytes) -> tuple[bytes | None, str]:
    """UTF-8 text with line ends unified, or None and why it is no text."""
    if b"\0" in raw:
        return None, "binary: there are NUL bytes in it"
    if not raw.isascii():
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return None, f"not UTF-8: byte {raw[error.start]:#04x} at {error.start}; `iconv -t UTF-8` converts"
    return raw.removeprefix(_BOM).replace(b"\r\n", b"\n").strip(b"\n"), ""


def pieces(text: bytes, size: int) -> Iterator[bytes]:
    """Cut a document at line ends (a line that is endless, between characters) into pieces of about ``size`` bytes."""
    start = 0
    while start < len(text):
        end = _cut(text, start, size)
        yield text[start:end]
        start = end


def _cut(text: bytes | bytearray, start: int, size: int) -> int:
    line_end = text.find(b"\n", start + size, start + 2 * size)
    if line_end >= 0:
        return line_end + 1
    end = start + size
    while end < len(text) and text[end] & 0xC0 == 0x80:  # in the middle of a character
        end += 1
    return end


class _NoField(UserError):
    """The first row of a table has no such field: perhaps the table is none of texts."""


def text_of_row(row: Any, field: str, where: str, first: bool = False) -> str:
    """The text of a row; null is none.

    Raises:
        UserError: the row has no such field, or something else in it.
    """
    if not isinstance(row, dict) or field not in row:
        names = list(row) if isinstance(row, dict) else None
        raise (_NoField if first else UserError)(_no_field(where, field, names))
    text = row[field]
    if not isinstance(text, str | None):
        raise UserError(f"{where}: {field!r} holds {type(text).__name__}, not text; --text-field names another")
    return text or ""


def _no_field(where: str, field: str, names: list[str] | None) -> str:
    there = "it is no object" if names is None else f"there are {', '.join(map(str, names[:12])) or 'none'}"
    return f"{where}: no field {field!r} ({there}); --text-field names the one with the text"
