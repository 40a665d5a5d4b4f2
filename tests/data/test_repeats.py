"""Fewer tokens of a corpus, and two corpora mixed."""

from dataclasses import replace

import numpy as np
import pytest

from allometry.config.study import StudyConfig
from allometry.data.corpus import Corpus
from allometry.data.repeats import PIECE_TOKENS, limited
from allometry.errors import UserError


def corpus(letter: int, size: int, source: str) -> Corpus:
    return Corpus(np.full(size, letter, np.uint8), np.full(500, letter, np.uint8), source, f"f{letter}", 1, 0, 0)


A, B = corpus(1, 10_000, "a"), corpus(2, 4_000, "b")


@pytest.mark.parametrize("unique", [3_000, 40_000, 99_999, 100_000])
def test_unique_tokens_come_from_all_parts_of_the_text(unique):
    """No part of a text that changes along the way is left out, no token is taken twice, and their order stays."""
    whole = Corpus(np.arange(100_000), np.arange(500), "a", "f", 1, 0, 0)
    few = limited(whole, unique).train
    assert len(few) == unique
    assert (np.diff(few) > 0).all()
    pieces = -(-unique // PIECE_TOKENS)
    shares = np.histogram(few, pieces, (0, 100_000))[0]
    assert shares.max() - shares.min() <= 2  # rounding at both ends of a piece


def test_fewer_tokens_are_another_corpus():
    few = limited(A, 3_000)
    assert len(few.train) == 3_000
    assert few.held_out.tolist() == A.held_out.tolist()
    assert few.fingerprint not in (A.fingerprint, limited(A, 3_001).fingerprint)
    assert few.task("a").train_tokens == 3_000


@pytest.mark.parametrize(
    ("share", "unique", "expected"), [(0.25, 8_000, 8_000), (0.5, None, 8_000), (0.8, None, 5_000)]
)
def test_a_mixture_has_the_share_and_is_scored_on_the_first(share, unique, expected):
    both = limited(A, unique, B, share)
    assert len(both.train) == expected
    assert (both.train == 2).mean() == pytest.approx(share, abs=1e-3)
    assert set(both.held_out.tolist()) == {1}


def test_more_than_there_is_and_other_tokens_are_refused():
    with pytest.raises(UserError, match="unique_tokens 20000: a has 10000 tokens of training text"):
        limited(A, 20_000)
    with pytest.raises(UserError, match=r"a has 8000 tokens of training text at a share of 0\.5"):
        limited(A, 9_000, B, 0.5)
    with pytest.raises(UserError, match="for text as bytes, not as gpt2"):
        limited(replace(A, tokenizer="gpt2"), 3_000)


def test_only_text_is_repeated_or_mixed():
    with pytest.raises(UserError, match="unique_tokens and mix: only for the task text"):
        StudyConfig.parse({"task": "audio", "minutes": 3, "mix": "b"}, "study.toml")
