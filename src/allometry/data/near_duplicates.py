"""Near copies: how much of the held-out text also occurs in the training text, word for word.

Texts are compared by *shingles*: all stretches of 48 characters, after capitals became small letters and everything
else but letters and digits became single spaces. A fixed share of them is sampled; a shingle's own hash decides, so
that the same ones are sampled wherever they occur. A held-out document is a near copy if at least half of its shingles
occur somewhere in the training text: for example a document with a changed date, a quotation of it, or a licence that
a thousand files share. (Exact copies are dropped earlier.) The training text is read once; memory is proportional to
the held-out text and bounded by sampling fewer shingles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..quantities import plural

LENGTH = 48  # characters of a shingle: about eight words
LEAST_SHOWN = 0.001  # share of the held-out text that is worth a word
NEAR = 0.5  # share of its shingles from which a document is a near copy
LEAST = 8  # a document with fewer sampled shingles is too short to be judged
MOST = 1 << 22  # sampled shingles of all held-out text, about
_BLOCK = 1 << 16
_BASE, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
# NUL, which occurs in no text, stays: it separates documents.
_LETTERS = bytes(b if b >= 128 or not b else ord(chr(b).lower()) if chr(b).isalnum() else 32 for b in range(256))


@dataclass(frozen=True)
class NearDuplicates:
    """``near`` of the ``judged`` held-out documents are near copies.

    ``share`` is the part of all sampled shingles that occurs in the training text; ``examples`` are the beginnings of
    the documents with the largest shares.
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
        documents = plural(self.judged, "held-out document")
        near = (
            f"{self.near} of {documents} {'has' if self.near == 1 else 'have'}"
            if self.near
            else f"none of {documents} has"
        )
        shared = f" ({self.share:.1%} of the held-out text also occurs there)" if self.share >= LEAST_SHOWN else ""
        return f"{near} a near copy in the training text{shared}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"shingle": LENGTH, "near_from": NEAR}


def near_duplicates(held_out: Callable[[], Iterable[bytes]], train: Iterable[bytes]) -> NearDuplicates:
    """Compare held-out documents (which are iterated twice) with the training text."""
    rate = 1
    total = sum(map(len, held_out()))
    while total > MOST * rate or rate < 16:
        rate *= 2
    beginnings, hashes = [], []
    for text in held_out():
        beginnings.append(text[:80])
        hashes.append(np.unique(_shingles(text, rate)))
    owner = np.repeat(np.arange(len(hashes)), [len(sampled) for sampled in hashes])
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
    # Most shingles occur in no held-out document: a table of bits rejects nine of ten before the search.
    bits = max(16, int(np.ceil(np.log2(len(table)))) + 4)
    maybe = np.zeros(1 << bits, bool)
    shift = np.uint64(64 - bits)
    maybe[(table * _BASE) >> shift] = True
    for texts in _joined(train):
        hashes = _shingles(texts, rate)
        hashes = hashes[maybe[(hashes * _BASE) >> shift]]
        places = np.minimum(np.searchsorted(table, hashes), len(table) - 1)
        seen[places[table[places] == hashes]] = True


def _joined(texts: Iterable[bytes], size: int = 1 << 22) -> Iterable[bytes]:
    """Documents joined to larger portions, with a byte between them that occurs in no text."""
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
    kept[1:] |= letters[:-1] != 32  # the first of several spaces
    return letters[kept]


def _shingles(text: bytes, rate: int) -> np.ndarray:
    """Hashes of the sampled shingles, one in ``rate`` (a power of two).

    A shingle's hash is a polynomial in an odd base modulo 2^64: the difference of two prefix sums, divided by the
    power of the base at its place. All hashes together cost a few operations per character.
    """
    letters = _normalised(text)
    kept = []
    for start in range(0, len(letters) - LENGTH + 1, _BLOCK):
        block = letters[start : start + _BLOCK + LENGTH - 1]
        sums = np.zeros(len(block) + 1, np.uint64)
        np.cumsum(block * _POWERS[: len(block)], out=sums[1:])
        hashes = (sums[LENGTH:] - sums[:-LENGTH]) * _INVERSES[: len(block) - LENGTH + 1]
        # The lowest bits of such a polynomial depend on little of the text, so the upper ones decide the sampling.
        hashes ^= hashes >> np.uint64(32)
        hashes *= _MIX
        kept.append(hashes[hashes >> np.uint64(65 - rate.bit_length()) == 0])
    return np.concatenate(kept) if kept else np.empty(0, np.uint64)


def _powers(base: np.uint64) -> np.ndarray:
    return np.multiply.accumulate(np.full(_BLOCK + LENGTH, base, np.uint64)) * np.uint64(pow(int(base), -1, 1 << 64))


_POWERS = _powers(_BASE)
_INVERSES = _powers(np.uint64(pow(int(_BASE), -1, 1 << 64)))
