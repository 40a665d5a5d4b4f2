"""Tokenizers that lose text: measured on held-out text, said, and refused beyond a few per cent."""

from __future__ import annotations

import pytest

from allometry.data.lossy_tokenizer import check_losses, measure_losses
from allometry.data.packing import prepare
from allometry.data.sources import open_source
from allometry.data.tokenizer import Subwords, train_bpe
from allometry.errors import UserError

tokenizers = pytest.importorskip("tokenizers")
TEXT = "The cat sat on the mat, and the dog sat on the log. 0123 Größe naïve 日本語 🙂\n" * 40


def words(vocabulary, normalizer=None, known=True):
    """A tokenizer of whole words, as WordLevel tokenizers are."""
    from tokenizers import models, pre_tokenizers

    entries = {word: number for number, word in enumerate(["[UNK]", *vocabulary])}
    one = tokenizers.Tokenizer(models.WordLevel(entries, unk_token="[UNK]"))
    one.pre_tokenizer = pre_tokenizers.Whitespace()
    if normalizer is not None:
        one.normalizer = normalizer
    return Subwords("words.json", one.to_str().encode())


def test_unknown_words_and_lost_characters_are_counted():
    losses = measure_losses(words(["the", "cat", "sat"]), [b"the cat sat on a mat"])
    assert (losses.tokens, losses.unknown, losses.unknown_share) == (6, 3, 0.5)
    assert losses.lost == len("onamat") + 3  # the blanks beside what is unknown go too


def test_a_byte_level_tokenizer_loses_nothing():
    bpe = train_bpe("bpe:300", 300, [TEXT])
    losses = measure_losses(bpe, [TEXT.encode()])
    assert (losses.unknown, losses.lost) == (0, 0)
    assert check_losses(bpe, [TEXT.encode()]) == []


def test_a_normalizer_that_folds_loses_what_it_folds():
    from tokenizers import decoders, normalizers

    bpe = tokenizers.Tokenizer.from_str(train_bpe("bpe:300", 300, [TEXT]).content.decode())
    bpe.normalizer, bpe.decoder = normalizers.Lowercase(), decoders.ByteLevel()
    folded = Subwords("folded.json", bpe.to_str().encode())
    losses = measure_losses(folded, [b"THE CAT sat"])
    assert (losses.unknown, losses.lost) == (0, 6)
    with pytest.raises(UserError, match=r"54\.55% of its characters do not come back"):
        check_losses(folded, [b"THE CAT sat"])
    assert "0.50% of its characters" in check_losses(folded, [b"T" + b"a" * 199])[0]


def test_data_refuses_a_lossy_tokenizer_and_leaves_nothing(tmp_path):
    (tmp_path / "text").mkdir()
    for number in range(30):
        (tmp_path / "text" / f"{number}.txt").write_text(TEXT + str(number))
    (tmp_path / "words.json").write_bytes(words(["the", "cat"]).content)
    with pytest.raises(UserError, match="of the held-out tokens are unknown"):
        prepare(open_source(str(tmp_path / "text")), tmp_path / "corpus", str(tmp_path / "words.json"))
    assert not (tmp_path / "corpus").exists() or not any((tmp_path / "corpus").iterdir())
