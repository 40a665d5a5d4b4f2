"""Near copies: how much of the held-out text stands in the training text as well, word for word.

Texts are compared by *shingles*, all stretches of 48 letters after everything but letters and digits is a single
space and capitals are small. Of these a fixed share is taken, chosen by their own hash and so the same ones wherever
they stand. A held-out document is a near copy if at least half of its shingles stand somewhere in the training text:
a document with a changed date, a quotation of it, a licence that a thousand files share. (Exact copies are dropped
before this.) One pass over the training text; memory follows the held-out text and is bounded by thinner sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LENGTH = 48  # letters of a shingle: eight words
NEAR = 0.5  # share of a document's shingles
LEAST = 8  # sampled shingles below which a document is too short to judge
MOST = 1 << 22  # sampled shingles of all held-out text
_BLOCK = 1 << 16
_BASE, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
# NUL, which stands in no text, remains: it keeps documents apart.
_LETTERS = bytes(b if b >= 128 or not b else ord(chr(b).lower()) if chr(b).isalnum() else 32 for b in range(256))


@dataclass(frozen=True)
class NearDuplicates:
    """``near`` of the ``judged`` held-out documents are near copies; ``share`` of all sampled shingles are found.

    ``examples``: beginnings of the documents of the largest shares.
    """

    held_out: int
    judged: int
    near: int
    share: float
    examples: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line for the user."""
        if not self.judged:
            return "held-out documents are too short to look for near copies of them"
        return (
            f"{self.near} of {self.judged} held-out documents have a near copy in the training text "
            f"({self.share:.1%} of the held-out text stands there too)"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"shingle": LENGTH, "near_from": NEAR}


def near_duplicates(held_out: Callable[[], Iterable[bytes]], train: Iterable[bytes]) -> NearDuplicates:
    """Compare held-out documents (iterated twice) with the training text."""
    rate = 1
    total = sum(map(len, held_out()))
    while total > MOST * rate or rate < 16:
        rate *= 2
    beginnings, hashes = [], []
    for text in held_out():
        beginnings.append(text[:80])
        hashes.append(np.unique(_shingles(text, rate)))
    owner = np.repeat(np.arange(len(hashes)), [len(found) for found in hashes])
    table, place = np.unique(np.concatenate(hashes) if hashes else np.empty(0, np.uint64), return_inverse=True)
    seen = np.zeros(len(table), bool)
    _mark(seen, table, train, rate)
    counts = np.bincount(owner, minlength=len(hashes))
    shares = np.bincount(owner, seen[place], minlength=len(hashes)) / np.maximum(counts, 1)
    judged = counts >= LEAST
    near = np.flatnonzero(judged & (shares >= NEAR))
    worst = near[np.argsort(-shares[near], kind="stable")][:5]
    return NearDuplicates(
        held_out=len(hashes),
        judged=int(judged.sum()),
        near=len(near),
        share=float(seen[place].mean()) if len(place) else 0.0,
        examples=tuple(" ".join(beginnings[i].decode("utf-8", "ignore").split()) for i in worst),
    )


def _mark(seen: np.ndarray, table: np.ndarray, train: Iterable[bytes], rate: int) -> None:
    """Set ``seen`` where a hash of the sorted ``table`` occurs in the training text."""
    if not len(table):
        return
    # Most shingles are in no held-out document: a table of bits turns nine of ten away before the search.
    bits = max(16, int(np.ceil(np.log2(len(table)))) + 4)
    maybe = np.zeros(1 << bits, bool)
    shift = np.uint64(64 - bits)
    maybe[(table * _BASE) >> shift] = True
    for texts in _joined(train):
        found = _shingles(texts, rate)
        found = found[maybe[(found * _BASE) >> shift]]
        places = np.minimum(np.searchsorted(table, found), len(table) - 1)
        seen[places[table[places] == found]] = True


def _joined(texts: Iterable[bytes], size: int = 1 << 22) -> Iterable[bytes]:
    """Documents in larger portions, with a byte between them that stands in no text."""
    portion: list[bytes] = []
    length = 0
    for text in texts:
        portion.append(text)
        length += len(text)
        if length >= size:
            yield b"\0".join(portion)
            portion, length = [], 0
    yield b"\0".join(portion)


def _normalised(text: bytes) -> np.ndarray:
    letters = np.frombuffer(text.translate(_LETTERS), np.uint8)
    kept = letters != 32
    kept[1:] |= letters[:-1] != 32  # of a run of spaces the first
    return letters[kept]


def _shingles(text: bytes, rate: int) -> np.ndarray:
    """Hashes of the sampled shingles, one in ``rate`` (a power of two).

    A shingle's hash is a polynomial in an odd base modulo 2^64: the difference of two prefix sums, divided by the
    power of its place. All of them cost a handful of operations a letter.
    """
    letters = _normalised(text)
    kept = []
    for start in range(0, len(letters) - LENGTH + 1, _BLOCK):
        block = letters[start : start + _BLOCK + LENGTH - 1]
        sums = np.zeros(len(block) + 1, np.uint64)
        np.cumsum(block * _POWERS[: len(block)], out=sums[1:])
        hashes = (sums[LENGTH:] - sums[:-LENGTH]) * _INVERSES[: len(block) - LENGTH + 1]
        # The lowest bits of such a polynomial know little of the text; the upper ones choose.
        hashes ^= hashes >> np.uint64(32)
        hashes *= _MIX
        kept.append(hashes[hashes >> np.uint64(65 - rate.bit_length()) == 0])
    return np.concatenate(kept) if kept else np.empty(0, np.uint64)


def _powers(base: np.uint64) -> np.ndarray:
    return np.multiply.accumulate(np.full(_BLOCK + LENGTH, base, np.uint64)) * np.uint64(pow(int(base), -1, 1 << 64))


_POWERS = _powers(_BASE)
_INVERSES = _powers(np.uint64(pow(int(_BASE), -1, 1 << 64)))
