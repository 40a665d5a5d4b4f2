"""Shards read as one array, whatever their number and type; batches from them are those of one array in memory."""

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allometry.data.corpus import Corpus, load_corpus, load_tokenizer, save_corpus
from allometry.data.shards import Shards, open_shards, write_manifest
from allometry.errors import UserError
from allometry.tasks.windows import Windows, held_out_windows

lengths = st.lists(st.integers(1, 40), min_size=2, max_size=6)


def cut(tokens: np.ndarray, sizes: list[int]) -> Shards:
    return Shards(np.split(tokens, np.cumsum(sizes)[:-1]))


@given(lengths, st.sampled_from([np.uint8, np.uint16, np.uint32]), st.integers(0, 2**32))
def test_shards_are_read_as_one_array(sizes, dtype, seed):
    rng = np.random.default_rng(seed)
    whole = rng.integers(0, 256, sum(sizes)).astype(dtype)
    shards = cut(whole, sizes)
    assert len(shards) == len(whole)
    for start, stop in [(None, None), (0, 0), (5, 2), (-3, None), *rng.integers(0, len(whole) + 9, (12, 2)).tolist()]:
        assert np.array_equal(shards[start:stop], whole[start:stop])
        assert shards[start:stop].dtype == dtype


def test_a_slice_of_one_shard_is_not_a_copy():
    parts = [np.arange(10), np.arange(10, 30)]
    assert np.shares_memory(Shards(parts)[12:20], parts[1])


@given(lengths, st.integers(2, 8), st.integers(0, 2**32), st.integers(0, 200))
def test_batches_from_shards_are_those_of_one_array(sizes, context, seed, first):
    whole = np.arange(sum(sizes) + 2 * context + 1, dtype=np.uint16)
    shards = cut(whole, [*sizes, 2 * context + 1])
    for a, b in zip(Windows(shards, context, seed).batch(first, 7), Windows(whole, context, seed).batch(first, 7)):  # noqa: B905
        assert torch.equal(a, b)
    for a, b in zip(held_out_windows(shards, context, 5), held_out_windows(whole, context, 5)):  # noqa: B905
        assert torch.equal(a, b)


@given(st.integers(2, 30), st.integers(0, 500), st.integers(0, 2**32), st.integers(0, 1000), st.integers(1, 40))
def test_the_order_is_the_one_that_studies_were_trained_by(context, more, seed, first, size):
    """Written out: of each epoch a phase, then a permutation of its windows."""
    tokens = np.arange(2 * context + 1 + more)
    windows = Windows(tokens, context, seed)
    count = (len(tokens) - 1) // context - 1
    starts = []
    for place in range(first, first + size):
        rng = np.random.default_rng([seed, place // count])
        phase = rng.integers(context)
        starts.append(phase + context * rng.permutation(count)[place % count])
    assert windows.batch(first, size)[0][:, 0].tolist() == starts


# ---- a corpus in a folder


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    tokens = rng.integers(97, 107, 5000, dtype=np.uint8)
    corpus = Corpus(tokens[:4500], tokens[4500:], "made", hashlib.sha256(b"").hexdigest()[:16], 3, 1, 0, notes=("one",))
    save_corpus(corpus, tmp_path / "c")
    return tmp_path / "c"


def test_a_corpus_is_mapped_and_not_loaded(folder):
    corpus = load_corpus(folder)
    assert isinstance(corpus.train.base, np.memmap)
    assert (corpus.tokenizer, corpus.vocab_size, corpus.bytes_per_token) == ("bytes", 256, 1.0)
    assert (corpus.notes, corpus.folder, corpus.duplicates) == (("one",), folder, 1)
    assert load_tokenizer(folder).decode([97]) == "a"


def test_a_corpus_is_saved_elsewhere_without_a_second_copy(folder, tmp_path):
    save_corpus(load_corpus(folder), tmp_path / "study" / "corpus")
    other = load_corpus(tmp_path / "study" / "corpus")
    assert other.fingerprint == load_corpus(folder).fingerprint
    assert (tmp_path / "study" / "corpus" / "train.bin").samefile(folder / "train.bin")
    save_corpus(load_corpus(folder), tmp_path / "study" / "corpus")  # once more, over what is there


def test_a_corpus_is_copied_where_it_cannot_be_linked(folder, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    save_corpus(load_corpus(folder), tmp_path / "other")
    assert not (tmp_path / "other" / "train.bin").samefile(folder / "train.bin")
    assert np.array_equal(load_corpus(tmp_path / "other").train, load_corpus(folder).train)


def refused(folder) -> str:
    with pytest.raises(UserError) as caught:
        load_corpus(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def manifest(folder) -> dict:
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("key", sorted({"fingerprint", "source", "documents", "dtype", "tokenizer", "train", "notes"}))
def test_a_manifest_edited_by_hand_is_noticed(folder, key):
    value = manifest(folder)
    value[key] = {"documents": 7, "train": [], "tokenizer": {"name": "x"}}.get(key, "other")
    (folder / "manifest.json").write_text(json.dumps(value))
    assert "was edited after" in refused(folder)


def test_a_count_or_hash_edited_by_hand_is_noticed(folder):
    for key, other in (("tokens", 4499), ("sha256", "0" * 64), ("name", "heldout.bin"), ("bytes", 1)):
        value = manifest(folder)
        value["train"][0][key] = other
        (folder / "manifest.json").write_text(json.dumps(value))
        assert "was edited after" in refused(folder)


def reseal(folder, **changes) -> None:
    value = manifest(folder) | changes
    write_manifest(folder, {key: item for key, item in value.items() if key not in ("format", "checksum")})


def test_a_manifest_with_another_hash_and_a_valid_checksum_is_noticed(folder):
    (shard,) = manifest(folder)["train"]
    reseal(folder, train=[shard | {"sha256": "0" * 64}])
    assert "train.bin: the text changed" in refused(folder)


@pytest.mark.parametrize("name", ["../train.bin", "/etc/passwd", "train.bin/../../x", "x.bin", "train-1.bin", ""])
def test_names_that_lead_elsewhere_are_never_opened(folder, name):
    (shard,) = manifest(folder)["train"]
    reseal(folder, train=[shard | {"name": name}])
    assert "names files or types that no corpus has" in refused(folder)


@pytest.mark.parametrize("dtype", ["object", "float64", "uint64", "O", ""])
def test_types_that_are_not_tokens_are_never_mapped(folder, dtype):
    reseal(folder, dtype=dtype)
    assert "names files or types that no corpus has" in refused(folder)


def test_a_manifest_of_another_version_is_reported(folder):
    value = manifest(folder) | {"format": 99}
    (folder / "manifest.json").write_text(json.dumps(value))
    assert "format 99" in refused(folder)


def test_tokens_that_the_tokenizer_does_not_know(folder):
    reseal(folder, tokenizer={"name": "bytes", "vocab_size": 100, "sha256": ""})
    assert "tokens that bytes does not know" in refused(folder)


def test_without_verification_sizes_alone_are_checked(folder):
    raw = bytearray((folder / "train.bin").read_bytes())
    raw[7] ^= 1
    (folder / "train.bin").write_bytes(raw)
    assert "the text changed" in refused(folder)
    assert len(load_corpus(folder, verify=False).train) == 4500
    (folder / "train.bin").write_bytes(raw[:-1])
    with pytest.raises(UserError, match="the text changed"):
        load_corpus(folder, verify=False)


def test_a_corpus_of_the_first_version_is_read(folder):
    """With one hash for both sides and nothing of the tokenizer."""
    train, held_out = ((folder / name).read_bytes() for name in ("train.bin", "heldout.bin"))
    digest = hashlib.sha256(train + b"\0held out\0" + held_out).hexdigest()[:16]
    old = {"source": "s", "fingerprint": digest, "tokenizer": "bytes", "train_tokens": len(train)}
    old |= {"heldout_tokens": len(held_out), "documents": 3, "duplicates": 1, "skipped": 0}
    (folder / "manifest.json").write_text(json.dumps(old))
    corpus = load_corpus(folder)
    assert (corpus.train.tobytes(), corpus.fingerprint, corpus.vocab_size) == (train, digest, 256)
    (folder / "train.bin").write_bytes(train[:-1])
    assert "the text changed" in refused(folder)


def test_shards_of_any_width_are_mapped(tmp_path):
    from allometry.data.shards import shard_of

    for dtype, largest in (("uint16", 60_000), ("uint32", 100_000)):
        tokens = np.arange(largest - 1000, largest).astype(dtype)
        (tmp_path / "train-00000.bin").write_bytes(tokens.tobytes())
        entry = shard_of("train-00000.bin", tokens, 1, 10)
        opened = open_shards(tmp_path, [entry.to_json()], dtype, verify=True)
        assert np.array_equal(opened, tokens)
        assert entry.largest == largest - 1
        inputs, _ = Windows(opened, 16, 0).batch(0, 4)
        assert inputs.min() >= largest - 1000
