"""Tokens on disk: files that are memory-mapped and never loaded as a whole, and a manifest with their checksums.

    train-00000.bin …  heldout-00000.bin …   little-endian uint8, uint16 or uint32, nothing but tokens
    tokenizer.json                           unless the tokens are bytes
    manifest.json                            counts, the SHA-256 of each file, and its own checksum

The manifest is written last; a corpus exists when its manifest exists.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import parse_json, write_json
from .documents import MANIFEST, PREPARING

FORMAT = 2
Buffer = bytes | np.ndarray
_NAME = re.compile(r"(train|heldout)(-\d{5})?\.bin")
BYTES = {"name": "bytes", "vocab_size": 256, "sha256": ""}  # the tokenizer in the manifest of a corpus of bytes
_FIELDS = frozenset(
    ("source", "fingerprint", "documents", "duplicates", "skipped", "tokenizer", "dtype", "notes", "train", "held_out")
)
_DTYPES = ("uint8", "uint16", "uint32")


@dataclass(frozen=True)
class Shard:
    """One file of tokens: their number, the documents and bytes of text that they stand for, and the largest token."""

    name: str
    tokens: int
    documents: int
    bytes: int
    largest: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Shards:
    """Several arrays, read like one: ``len``, ``dtype`` and slices without a step."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = tuple(parts)
        self.ends = np.cumsum([len(part) for part in parts]).tolist()
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, places: slice) -> np.ndarray:
        """These tokens: a view if they are all in one shard, else a copy."""
        start, stop, _ = places.indices(len(self))
        slices = []
        number = bisect_right(self.ends, start)
        while start < stop:
            part, end = self.parts[number], self.ends[number]
            before = end - len(part)
            slices.append(part[start - before : stop - before])
            start, number = end, number + 1
        return slices[0] if len(slices) == 1 else np.concatenate([np.empty(0, self.dtype), *slices])


def write_manifest(folder: Path, value: dict[str, Any]) -> None:
    """Write a manifest together with its own checksum."""
    write_json(folder / MANIFEST, {"format": FORMAT, **value, "checksum": _checksum({"format": FORMAT, **value})})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        UserError: it does not exist, cannot be read, or was changed since it was written.
    """
    if (folder / PREPARING).exists() and not (folder / MANIFEST).exists():
        raise UserError(f"{folder}: not completely prepared yet; run the same `allometry data` command again")
    try:
        value = parse_json((folder / MANIFEST).read_text(encoding="utf-8"))
        if "train_tokens" in value:
            return _from_first_format(folder, value)
        if value.get("format", FORMAT) != FORMAT:
            raise UserError(
                f"{folder}: a corpus of format {value['format']}, written by another version; prepare it again"
            )
        if value.pop("checksum") != _checksum(value):
            raise UserError(f"{folder / MANIFEST}: was edited after it was written; prepare the corpus again")
        if missing := _FIELDS - value.keys():
            raise KeyError(*sorted(missing))
        return value
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: no corpus that can be read here ({error!r}); prepare it again") from None


def open_shards(folder: Path, shards: Sequence[dict[str, Any]], dtype: str, *, verify: bool) -> np.ndarray | Shards:
    """Open the shards that a manifest lists.

    Raises:
        UserError: a file is missing, or was changed since it was written.
    """
    listed = [Shard(**shard) for shard in shards]
    if dtype not in _DTYPES or not listed or not all(_NAME.fullmatch(shard.name) for shard in listed):
        raise UserError(f"{folder / MANIFEST}: names files or types that no corpus has; prepare it again")
    size = np.dtype(dtype).itemsize
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        for shard, same in zip(listed, pool.map(lambda s: _unchanged(folder, s, size, verify), listed), strict=True):
            if not same:
                raise UserError(f"{folder / shard.name}: the text changed since it was split; prepare the corpus again")
    # Slices of plain arrays cost less than those of a memmap.
    kind = np.dtype(dtype).newbyteorder("<")
    parts = [np.memmap(folder / shard.name, kind, mode="r").view(np.ndarray) for shard in listed]
    for shard, part in zip(listed, parts, strict=True):
        if verify and int(part.max()) != shard.largest:
            raise UserError(
                f"{folder / shard.name}: not the tokens that the manifest describes; prepare the text again"
            )
    return parts[0] if len(parts) == 1 else Shards(parts)


def _unchanged(folder: Path, shard: Shard, size: int, verify: bool) -> bool:
    try:
        with (folder / shard.name).open("rb") as file:
            same = file.seek(0, 2) == shard.tokens * size > 0
            file.seek(0)
            return same and (not verify or hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256)
    except OSError:
        return False


def content(folder: Path, shards: Sequence[Shard]) -> Iterator[bytes]:
    """The bytes of shards in small portions. (Mapped files would be counted as memory of this process.)"""
    for shard in shards:
        with (folder / shard.name).open("rb") as file:
            while portion := file.read(1 << 22):
                yield portion


def fingerprint(train: Iterable[Buffer], held_out: Iterable[Buffer], tokenizer: str) -> str:
    """The identity of a corpus: a hash of its training tokens, its held-out tokens and its tokenizer's SHA-256."""
    digest = hashlib.sha256()
    for tokens in train:
        digest.update(_bytes(tokens))
    digest.update(b"\0held out\0")
    for tokens in held_out:
        digest.update(_bytes(tokens))
    digest.update(f"\0tokenizer\0{tokenizer}".encode() if tokenizer else b"")
    return digest.hexdigest()[:16]


def shard_of(name: str, tokens: np.ndarray, documents: int, size: int) -> Shard:
    """The description of a file of these tokens, which stand for ``documents`` documents and ``size`` bytes of text."""
    return Shard(name, len(tokens), documents, size, int(tokens.max()), hashlib.sha256(_bytes(tokens)).hexdigest())


def _bytes(tokens: Buffer) -> bytes | memoryview:
    return tokens if isinstance(tokens, bytes) else tokens.data


def _from_first_format(folder: Path, old: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a corpus that the first version of this package wrote: bytes only, one hash for all files."""
    names = ("source", "fingerprint", "documents", "duplicates", "skipped")
    value = {name: old[name] for name in names} | {"dtype": "uint8", "tokenizer": BYTES, "notes": []}
    arrays = {"train": np.fromfile(folder / "train.bin", "u1"), "held_out": np.fromfile(folder / "heldout.bin", "u1")}
    if fingerprint([arrays["train"]], [arrays["held_out"]], "") != old["fingerprint"]:
        raise UserError(f"{folder}: the text changed since it was split; start a new study")
    for part, name in (("train", "train.bin"), ("held_out", "heldout.bin")):
        value[part] = [shard_of(name, arrays[part], 0, len(arrays[part])).to_json()]
    return value


def _checksum(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
