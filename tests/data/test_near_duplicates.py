"""Planted copies are found, other documents are not, and the fast count equals the plain one."""

import random
import re

import numpy as np
import pytest

from allometry.data import near_duplicates as module
from allometry.data.near_duplicates import LENGTH, near_duplicates

VOCABULARY = ["".join(random.Random(n).choices("abcdefghijklmnop", k=2 + n % 9)) for n in range(3000)]


def words(count: int, seed) -> list[str]:
    return random.Random(str(seed)).choices(VOCABULARY, k=count)


def text(count: int, seed) -> bytes:
    return " ".join(words(count, seed)).encode()


def changed(source: bytes, share: float, seed) -> bytes:
    """The text with this share of its words replaced."""
    rng = random.Random(seed)
    return b" ".join(rng.choice(VOCABULARY).encode() if rng.random() < share else word for word in source.split(b" "))


def plain(raw: bytes) -> str:
    return re.sub(r"[\x01-\x2f\x3a-\x60\x7b-\x7f]+", " ", raw.decode("latin-1").translate(LOWER))


LOWER = {ord(c): c.lower() for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


@pytest.mark.parametrize("seed", range(3))
def test_the_share_equals_a_plain_count(seed, monkeypatch):
    """With every shingle taken, in small blocks, against sets of strings."""
    shingles = module._shingles
    monkeypatch.setattr(module, "_shingles", lambda text, rate: shingles(text, 1))
    monkeypatch.setattr(module, "_BLOCK", 977)
    rng = random.Random(seed)
    sources = [text(300, (seed, n)) for n in range(6)]
    held_out = [changed(source, share, seed) for source, share in zip(sources, (0, 0.02, 0.1, 0.5, 1, 1), strict=True)]
    train = [source + b"\n\n--" + text(100, rng.random()) for source in sources]
    grams = lambda raw: {plain(raw)[i : i + LENGTH] for i in range(len(plain(raw)) - LENGTH + 1)}
    known = set().union(*map(grams, train))
    counts = [(len(grams(raw) & known), len(grams(raw))) for raw in held_out]
    result = near_duplicates(lambda: held_out, train)
    assert result.share == pytest.approx(sum(n for n, _ in counts) / sum(n for _, n in counts), abs=1e-12)
    assert result.near == sum(n / of >= 0.5 for n, of in counts)
    assert (result.held_out, result.judged) == (6, 6)


def test_planted_copies_are_found_and_other_documents_are_not():
    """Sampling one shingle in sixteen: 20 copies with one word in fifty changed, 60 strangers."""
    train = [text(400, ("train", n)) for n in range(300)]
    copies = [changed(train[n], 0.02, n) for n in range(20)]
    strangers = [text(400, ("other", n)) for n in range(60)]
    result = near_duplicates(lambda: strangers + copies, train)
    assert (result.near, result.judged) == (20, 80)
    assert 0.15 < result.share < 0.25
    assert near_duplicates(lambda: strangers, train).share == 0
    assert all(any(plain(copy).startswith(example[:40]) for copy in copies) for example in result.examples)


def test_case_punctuation_and_line_breaks_do_not_hide_a_copy():
    source = text(200, 0)
    hidden = b",  \n".join(source.upper().split(b" "))
    assert near_duplicates(lambda: [hidden], [source]).near == 1


def test_a_quotation_within_a_longer_text_is_a_copy_but_not_the_other_way_round():
    quoted, longer = text(200, 0), text(2000, 1)
    assert near_duplicates(lambda: [quoted], [longer + b" " + quoted]).near == 1
    assert near_duplicates(lambda: [longer + b" " + quoted], [quoted]).near == 0


def test_a_copy_is_found_across_the_borders_of_portions_and_blocks():
    train = [text(3000, n) for n in range(8)]  # 150 kB, blocks of 64 kB
    joined = b" ".join(train)
    for place in (60_000, 65_400, 65_530, 100_000):
        assert near_duplicates(lambda place=place: [joined[place : place + 3000]], [joined]).near == 1


def test_a_shingle_across_two_documents_is_in_neither():
    first, second = text(100, 0), text(100, 1)
    ends = first[-LENGTH // 2 :] + b" " + second[: LENGTH // 2]
    shingles = set(module._shingles(ends, 1).tolist())
    (portion,) = module._joined([first, second])
    assert len(shingles) > 0
    assert not shingles & set(module._shingles(portion, 1).tolist())


def test_texts_in_any_script_are_compared():
    letters = [chr(c) for c in range(0x4E00, 0x4E00 + 2000)]
    chinese = "".join(random.Random(0).choices(letters, k=800)).encode()
    other = "".join(random.Random(1).choices(letters, k=800)).encode()
    assert near_duplicates(lambda: [chinese, other], [chinese + b"!"]).near == 1


def test_short_documents_are_not_judged_and_an_empty_text_is_valid():
    result = near_duplicates(lambda: [b"short", b"", b"x" * 60], [b"short"])
    assert (result.held_out, result.judged, result.near, result.share) == (3, 0, 0, 0.0)
    assert "too short" in result.describe()
    assert near_duplicates(list, []).judged == 0
    assert near_duplicates(lambda: [text(200, 0)], []).near == 0


def test_a_short_copy_is_not_a_near_copy(monkeypatch):
    """Five shingles, all of them found, are fewer than it takes to judge."""
    shingles = module._shingles
    monkeypatch.setattr(module, "_shingles", lambda text, rate: shingles(text, 1))
    raw = text(200, 0)
    for length, near in ((LENGTH + 4, 0), (LENGTH + module.LEAST, 1)):
        result = near_duplicates(lambda length=length: [raw[:length]], [raw])
        assert (result.near, result.judged, result.share) == (near, near, 1.0)


def test_sampling_decreases_with_the_text_and_is_uniform(monkeypatch):
    """About one in ``rate``, whatever the rate; a hash chosen at a high rate is chosen at every lower one."""
    raw = text(20_000, 0)
    every = module._shingles(raw, 1)
    assert len(np.unique(every)) > 0.99 * len(every)
    for rate in (16, 64, 256):
        kept = module._shingles(raw, rate)
        assert set(kept) <= set(every)
        assert abs(len(kept) - len(every) / rate) < 5 * (len(every) / rate) ** 0.5
    monkeypatch.setattr(module, "MOST", 1000)
    copy = changed(raw, 0.02, 0)
    assert near_duplicates(lambda: [copy], [raw]).near == 1
