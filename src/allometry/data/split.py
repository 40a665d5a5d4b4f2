"""Which documents are held out, and which are copies: by content alone, whatever the machine and the order.

Documents are ranked by the hash of their bytes and the first sixteenth is held out; exact duplicates are dropped, so
no held-out document stands in the training text too. A corpus of few documents is cut into pieces first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .documents import PIECE, pieces

HELD_OUT = 16  # one document in so many is held out
FEW = 4 * HELD_OUT  # a corpus of fewer documents is cut into pieces
SEPARATOR = b"\n\n\n"  # between documents, where the tokenizer has no token for it


@dataclass(frozen=True)
class Split:
    """For each of n documents, in order: is it kept (no copy of an earlier one), is it held out?"""

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
    """The split of documents with these keys.

    By rank and not by a threshold, so that a small corpus also gets its share of held-out text.
    """
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: of equal keys the first document comes first
    ranked = keys[order]
    new = np.ones(len(keys), bool)
    new[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    firsts = order[new]
    kept, held_out = np.zeros(len(keys), bool), np.zeros(len(keys), bool)
    kept[firsts] = True
    held_out[firsts[: max(1, len(firsts) // HELD_OUT)]] = True
    return Split(kept, held_out)


def piece_size(total: int) -> int:
    """Bytes of the pieces that few documents, of so many bytes together, are cut into."""
    return min(PIECE, max(1, total // FEW))


def cut(documents: Sequence[bytes], size: int) -> list[bytes]:
    """The pieces of documents, in order."""
    return [piece for text in documents for piece in pieces(text, size)]
