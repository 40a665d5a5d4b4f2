"""Tokens on disk: arrays in files that are mapped and never loaded, and a manifest that vouches for them.

    train-00000.bin …  heldout-00000.bin …   little-endian uint8, uint16 or uint32, nothing but tokens
    tokenizer.json                           unless the tokens are bytes
    manifest.json                            counts, the SHA-256 of each file, and its own

A corpus exists when its manifest, the last of them, does.
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
from ..files import write_json
from .documents import MANIFEST, PREPARING

FORMAT = 2
Buffer = bytes | np.ndarray
_NAME = re.compile(r"(train|heldout)(-\d{5})?\.bin")
BYTES = {"name": "bytes", "vocab_size": 256, "sha256": ""}  # the tokenizer's entry of a corpus of bytes
_FIELDS = frozenset(
    ("source", "fingerprint", "documents", "duplicates", "skipped", "tokenizer", "dtype", "notes", "train", "held_out")
)
_DTYPES = ("uint8", "uint16", "uint32")


@dataclass(frozen=True)
class Shard:
    """One file of tokens: how many, of how many documents and bytes of text, and the largest of them."""

    name: str
    tokens: int
    documents: int
    bytes: int
    largest: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Shards:
    """Arrays one after another, read like one: ``len``, ``dtype`` and slices without a step."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = tuple(parts)
        self.ends = np.cumsum([len(part) for part in parts]).tolist()
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, places: slice) -> np.ndarray:
        """These tokens: a view where they lie in one shard, else a copy."""
        start, stop, _ = places.indices(len(self))
        found = []
        number = bisect_right(self.ends, start)
        while start < stop:
            part, end = self.parts[number], self.ends[number]
            before = end - len(part)
            found.append(part[start - before : stop - before])
            start, number = end, number + 1
        return found[0] if len(found) == 1 else np.concatenate([np.empty(0, self.dtype), *found])


def seal(folder: Path, value: dict[str, Any]) -> None:
    """Write a manifest, with its own checksum in it."""
    write_json(folder / MANIFEST, {"format": FORMAT, **value, "checksum": _checksum({"format": FORMAT, **value})})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        UserError: there is none that can be read, or it is not as it was written.
    """
    if (folder / PREPARING).exists() and not (folder / MANIFEST).exists():
        raise UserError(f"{folder}: not wholly prepared yet; run the same `allometry data` command again")
    try:
        value = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if "train_tokens" in value:
            return _from_first_format(folder, value)
        if value.get("format", FORMAT) != FORMAT:
            raise UserError(f"{folder}: a corpus of format {value['format']}, made by another version; prepare it anew")
        if value.pop("checksum") != _checksum(value):
            raise UserError(f"{folder / MANIFEST}: edited by hand since it was written; prepare the corpus anew")
        if missing := _FIELDS - value.keys():
            raise KeyError(*sorted(missing))
        return value
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: no corpus that can be read here ({error!r}); prepare it anew") from None


def open_shards(folder: Path, shards: Sequence[dict[str, Any]], dtype: str, *, verify: bool) -> np.ndarray | Shards:
    """The tokens of shards as a manifest lists them.

    Raises:
        UserError: a file is missing, or not the one that was written.
    """
    found = [Shard(**shard) for shard in shards]
    if dtype not in _DTYPES or not found or not all(_NAME.fullmatch(shard.name) for shard in found):
        raise UserError(f"{folder / MANIFEST}: names files or types that no corpus has; prepare it anew")
    size = np.dtype(dtype).itemsize
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter
        for shard, same in zip(found, pool.map(lambda s: _unchanged(folder, s, size, verify), found), strict=True):
            if not same:
                raise UserError(f"{folder / shard.name}: the text changed since it was split; prepare the corpus anew")
    # As plain arrays, whose slices cost less than a memmap's.
    kind = np.dtype(dtype).newbyteorder("<")
    parts = [np.memmap(folder / shard.name, kind, mode="r").view(np.ndarray) for shard in found]
    for shard, part in zip(found, parts, strict=True):
        if verify and int(part.max()) != shard.largest:
            raise UserError(f"{folder / shard.name}: not the tokens that the manifest tells of; prepare the text anew")
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
    """The bytes of shards in small portions; mapped ones would be counted as this process's memory."""
    for shard in shards:
        with (folder / shard.name).open("rb") as file:
            while portion := file.read(1 << 22):
                yield portion


def fingerprint(train: Iterable[Buffer], held_out: Iterable[Buffer], tokenizer: str) -> str:
    """What a corpus is known by: a hash of its training tokens, its held-out tokens, and its tokenizer's SHA-256."""
    digest = hashlib.sha256()
    for tokens in train:
        digest.update(tokens)
    digest.update(b"\0held out\0")
    for tokens in held_out:
        digest.update(tokens)
    digest.update(f"\0tokenizer\0{tokenizer}".encode() if tokenizer else b"")
    return digest.hexdigest()[:16]


def shard_of(name: str, tokens: np.ndarray, documents: int, size: int) -> Shard:
    """The entry of a file of these tokens, of so many documents and bytes of text."""
    return Shard(name, len(tokens), documents, size, int(tokens.max()), hashlib.sha256(tokens).hexdigest())


def _from_first_format(folder: Path, old: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a corpus of bytes as the first version of this package wrote it, with one hash for all."""
    names = ("source", "fingerprint", "documents", "duplicates", "skipped")
    value = {name: old[name] for name in names} | {"dtype": "uint8", "tokenizer": BYTES, "notes": []}
    arrays = {"train": np.fromfile(folder / "train.bin", "u1"), "held_out": np.fromfile(folder / "heldout.bin", "u1")}
    if fingerprint([arrays["train"]], [arrays["held_out"]], "") != old["fingerprint"]:
        raise UserError(f"{folder}: the text changed since it was split; start the study anew")
    for part, name in (("train", "train.bin"), ("held_out", "heldout.bin")):
        value[part] = [shard_of(name, arrays[part], 0, len(arrays[part])).to_json()]
    return value


def _checksum(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
