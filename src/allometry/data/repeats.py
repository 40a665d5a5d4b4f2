"""Fewer tokens of a corpus, to be read again and again; and two corpora mixed: what repeats and mixtures cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import UserError
from .corpus import Corpus
from .shards import fingerprint


def limited(corpus: Corpus, unique_tokens: int | None, other: Corpus | None = None, share: float = 0.0) -> Corpus:
    """The first ``unique_tokens`` of a corpus, of which a ``share`` is of another one; the held-out text stays.

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
    parts = [np.asarray(corpus.train[: count - round(count * share)])]
    if other is not None:
        parts.append(np.asarray(other.train[: round(count * share)]))
    train, held_out = np.concatenate(parts), np.asarray(corpus.held_out[:])
    mark = fingerprint([train], [held_out], "")
    return replace(corpus, train=train, held_out=held_out, fingerprint=mark, folder=None)
