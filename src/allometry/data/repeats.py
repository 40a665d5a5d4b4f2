"""Fewer tokens of a corpus, to be read again and again; and two corpora mixed: what repeats and mixtures cost."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from ..errors import UserError
from .corpus import Corpus
from .shards import Shards, fingerprint

PIECE_TOKENS = 16_384  # long, so that few documents are cut


def limited(corpus: Corpus, unique_tokens: int | None, other: Corpus | None = None, share: float = 0.0) -> Corpus:
    """So many unique tokens of a corpus, of which a ``share`` is of another one; the held-out text stays.

    They are taken in pieces from everywhere, as the held-out text is: the first ones alone may be of another kind.
    Without a number, as many as the two corpora have at that share.

    Raises:
        UserError: there are fewer, or they are no bytes.
    """
    for one in (corpus, other):
        if one is not None and one.tokenizer != "bytes":
            raise UserError(f"{one.source}: unique_tokens and mix are for text as bytes, not as {one.tokenizer}")
    sizes = [len(corpus.train)] if other is None else [len(corpus.train) / (1 - share), len(other.train) / share]
    most = int(min(sizes))
    count = most if unique_tokens is None else unique_tokens
    if count > most:
        of_both = "" if other is None else f" at a share of {share:g}"
        raise UserError(f"unique_tokens {count}: {corpus.source} has {most} tokens of training text{of_both}")
    parts = _spread(corpus.train, count - round(count * share))
    if other is not None:
        parts += _spread(other.train, round(count * share))
    train, held_out = np.concatenate(parts), np.asarray(corpus.held_out[:])
    mark = fingerprint([train], [held_out], "")
    return replace(corpus, train=train, held_out=held_out, fingerprint=mark, folder=None)


def _spread(tokens: np.ndarray | Shards, count: int) -> list[np.ndarray]:
    """``count`` tokens in pieces of about ``PIECE_TOKENS``, evenly spaced."""
    pieces = -(-count // PIECE_TOKENS)
    ends, skipped = (np.linspace(0, total, pieces + 1).astype(int) for total in (count, len(tokens) - count))
    return [
        np.asarray(tokens[skip + start : skip + end])
        for skip, (start, end) in zip(skipped[:-1], pairwise(ends), strict=True)
    ]
