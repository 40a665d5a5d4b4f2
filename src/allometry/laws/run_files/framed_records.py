"""Records in binary logs: TensorFlow's and LevelDB's frames, and the fields of a protobuf message.

Every length that a file states is checked against the bytes that are there; a file that was cut short ends its log.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from ...errors import UserError

MOST_BYTES = 1 << 31
BLOCK = 32_768
WANDB_HEADER = b":W&B"
_LONG, _SHORT = struct.Struct("<Q"), struct.Struct("<IHB")


class CutShort(Exception):
    """The bytes end within a record, or state a length that cannot be."""


def read_bytes(path: Path) -> bytes:
    """The content of a file that is no larger than a log can be.

    Raises:
        UserError: it is.
    """
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} holds more than {MOST_BYTES >> 30} GiB, which is no log of a run")
    return path.read_bytes()


def tensorflow_records(content: bytes) -> Iterator[bytes]:
    """Length (8 bytes), its checksum (4), the record, its checksum (4).

    Raises:
        CutShort: a length beyond the end.
    """
    place, end = 0, len(content)
    while place < end:
        if place + 12 > end:
            raise CutShort
        (length,) = _LONG.unpack_from(content, place)
        place += 12
        if length > end - place - 4:
            raise CutShort
        yield content[place : place + length]
        place += length + 4


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """The records of a log of W&B: a header of 7 bytes, then blocks with records in full or in parts.

    Raises:
        CutShort: a length beyond its block or the end, or parts out of order.
    """
    place, end, parts = 7, len(content), []
    while place < end:
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        if place + 7 > end:
            raise CutShort
        _, length, kind = _SHORT.unpack_from(content, place)
        place += 7
        if kind == 0 and length == 0:  # a block that was filled up with zeros
            place += left - 7
            continue
        if length > min(left - 7, end - place) or kind not in (1, 2, 3, 4):
            raise CutShort
        piece = content[place : place + length]
        place += length
        if kind in (1, 2):
            parts = [piece]
        elif parts:
            parts.append(piece)
        else:
            raise CutShort
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a protobuf message: integers for varints, bytes for all else.

    Raises:
        CutShort: a length beyond the end, or a kind of field that there is not.
    """
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place, end)
        kind = key & 7
        if kind == 0:
            value, place = _varint(message, place, end)
            yield key >> 3, value
            continue
        if kind == 2:
            length, place = _varint(message, place, end)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise CutShort
        if length > end - place:
            raise CutShort
        yield key >> 3, message[place : place + length]
        place += length


def text_of(value: int | bytes) -> str:
    """A field as text.

    Raises:
        CutShort: it is a number.
    """
    if isinstance(value, int):
        raise CutShort
    return value.decode("utf-8", "replace")


def message_of(value: int | bytes) -> bytes:
    """A field as a message within the message.

    Raises:
        CutShort: it is a number.
    """
    if isinstance(value, int):
        raise CutShort
    return value


def _varint(message: bytes, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 70:
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise CutShort
