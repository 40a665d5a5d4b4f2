"""Split documents into training and held-out ones and find copies: by content alone, on every machine, in any order.

Documents are ranked by the hash of their bytes, and the first sixteenth is held out. Exact duplicates are dropped, so
no held-out document is also in the training text. If there are few documents, they are cut into pieces first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .documents import PIECE, pieces

HELD_OUT = 16  # one document of 16 is held out
FEW = 4 * HELD_OUT  # fewer documents are cut into pieces
SEPARATOR = b"\n\n\n"  # between documents, if the tokenizer has no token for their end


@dataclass(frozen=True)
class Split:
    """For each of n documents, in order: whether it is kept (not a copy of an earlier one), and whether held out."""

    kept: np.ndarray
    held_out: np.ndarray

    @property
    def train(self) -> np.ndarray:
        return self.kept & ~self.held_out

    @property
    def copies(self) -> int:
        return len(self.kept) - int(self.kept.sum())


def keys_of(documents: Sequence[bytes]) -> np.ndarray:
    """The first 16 bytes of each document's SHA-256, as (n, 2) integers that sort as the bytes do."""
    digests = b"".join(hashlib.sha256(text).digest()[:16] for text in documents)
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)


def split(keys: np.ndarray) -> Split:
    """The split of documents that have these keys.

    By rank and not by a threshold, so that a small corpus gets its share of held-out text as well.
    """
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: among equal keys the earliest document comes first
    ranked = keys[order]
    new = np.ones(len(keys), bool)
    new[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    firsts = order[new]
    kept, held_out = np.zeros(len(keys), bool), np.zeros(len(keys), bool)
    kept[firsts] = True
    held_out[firsts[: max(1, len(firsts) // HELD_OUT)]] = True
    return Split(kept, held_out)


def piece_size(total: int) -> int:
    """The size in bytes of the pieces into which few documents, of ``total`` bytes together, are cut."""
    return min(PIECE, max(1, total // FEW))


def cut(documents: Sequence[bytes], size: int) -> list[bytes]:
    """The pieces of all documents, in order."""
    return [piece for text in documents for piece in pieces(text, size)]
