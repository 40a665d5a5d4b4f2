"""Text to tokens and back, without loss, the same every time; and files that are not tokenizers."""

import json
import socket

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry.data import tokenizer as tokenizers
from allometry.data.split import SEPARATOR
from allometry.data.tokenizer import END, Bytes, Subwords, hub_answers, open_tokenizer, train_bpe, trained_vocab_size
from allometry.errors import UserError

WORDS = ["the quick brown fox\n", "jumps over the lazy dog\n", "12 Größen, 漢字 🙂\n"] * 200


@pytest.fixture(scope="module")
def bpe():
    return train_bpe("bpe:300", 300, WORDS)


def edited(bpe, **changes) -> bytes:
    """The tokenizer's file with other entries."""
    return json.dumps(json.loads(bpe.content) | changes).encode()


def split_at(tokens: np.ndarray, end: int) -> list[list[int]]:
    ends = np.flatnonzero(tokens == end)
    return [part.tolist() for part in np.split(tokens, ends + 1)[:-1]]


texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60), min_size=1, max_size=6)


@settings(max_examples=60)
@given(texts)
def test_any_text_round_trips_through_bpe(bpe, documents):
    tokens, size = bpe.pack([text.encode() for text in documents], begun=False)
    assert tokens.dtype == np.uint16
    assert tokens.max() < bpe.vocab_size
    assert [bpe.decode(part[:-1]) for part in split_at(tokens, bpe.end)] == documents
    assert size == sum(len(text.encode()) for text in documents)


@given(texts, st.booleans())
def test_bytes_are_the_bytes_with_separators_between(documents, begun):
    raw = [text.encode() for text in documents]
    tokens, size = Bytes().pack(raw, begun)
    assert tokens.tobytes() == SEPARATOR * begun + SEPARATOR.join(raw)
    assert size == len(tokens)
    assert Bytes().decode(Bytes().encode(documents[0])) == documents[0]


def test_a_bpe_learns_words_and_is_gpt2s_kind(bpe):
    assert bpe.vocab_size == 300
    assert len(bpe.encode("the quick brown fox\n")) < 12
    kind = json.loads(bpe.content)
    assert kind["model"]["type"] == "BPE"
    assert (kind["pre_tokenizer"]["type"], kind["pre_tokenizer"]["add_prefix_space"]) == ("ByteLevel", False)
    assert (kind["decoder"]["type"], bpe.end) == ("ByteLevel", 0)
    assert set(train_bpe("bpe:257", 257, []).encode("äz")) <= set(range(1, 257))  # the bare bytes


def test_the_same_text_gives_the_same_tokenizer(bpe):
    assert train_bpe("bpe:300", 300, iter(WORDS)).content == bpe.content
    assert train_bpe("bpe:300", 300, WORDS[:1]).sha256 != bpe.sha256


def test_the_texts_own_end_of_document_is_text(bpe):
    """Else a text could end documents, and a prompt be another one than was typed."""
    for text in (END, f"a{END}b"):
        tokens, _ = bpe.pack([text.encode()], begun=False)
        assert np.count_nonzero(tokens == bpe.end) == 1
        assert bpe.end not in bpe.encode(text)
        assert bpe.decode(bpe.encode(text)) == text


def test_documents_in_many_batches_are_those_in_one(bpe, monkeypatch):
    raw = [text.encode() * (1 + n % 7) for n, text in enumerate(WORDS)]
    whole, size = bpe.pack(raw, begun=False)
    monkeypatch.setattr(tokenizers, "_BATCH_BYTES", 100)
    again, same = bpe.pack(raw, begun=True)
    assert np.array_equal(whole, again)
    assert size == same


def test_a_file_is_used_without_its_truncation_and_padding(bpe, tmp_path):
    path = tmp_path / "tokenizer.json"
    limits = {
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 64},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": END,
        },
    }
    path.write_bytes(edited(bpe, **limits))
    given = open_tokenizer(str(path))
    assert given.encode("the quick brown fox") == bpe.encode("the quick brown fox")
    packed = [t.pack([b"the quick brown fox", b"x"], begun=False)[0] for t in (given, bpe)]
    assert np.array_equal(*packed)
    assert given.sha256 != bpe.sha256


def test_a_tokenizer_without_an_end_of_document_separates_by_text(bpe):
    model = json.loads(bpe.content)["model"]
    model["vocab"] = {f"{entry}." if entry == END else entry: i for entry, i in model["vocab"].items()}
    given = Subwords("t.json", edited(bpe, added_tokens=[], model=model))
    assert given.end is None
    tokens, size = given.pack([b"one", b"two"], begun=False)
    assert given.decode(tokens.tolist()) == "one\n\n\ntwo\n\n\n"
    assert size == len(b"one\n\n\ntwo\n\n\n")


def test_a_large_vocabulary_takes_wider_tokens(bpe):
    added = [
        {"id": 70_000, "content": END, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    ]
    model = json.loads(bpe.content)["model"]
    model["vocab"] = {entry: 70_000 if entry == END else i for entry, i in model["vocab"].items()}
    given = Subwords("t.json", edited(bpe, added_tokens=added, model=model))
    assert (given.vocab_size, given.dtype) == (70_001, np.uint32)
    assert given.pack([b"x"], begun=False)[0][-1] == 70_000


# ---- wrong input


def refused(name) -> str:
    with pytest.raises(UserError) as caught:
        open_tokenizer(str(name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["byte", "bpe", "bpe:", "bpe:8k", "bpe:-5", "gpt4", "../x", "a/tokenizer.json", ""])
def test_an_unknown_name_lists_the_known_ones(name):
    assert trained_vocab_size(name) == 0
    assert "give bytes, bpe:8192, gpt2, or the path of a tokenizer.json" in refused(name)


@pytest.mark.parametrize("name", ["bpe:0", "bpe:256", "bpe:99999999"])
def test_a_vocabulary_without_all_bytes_or_beyond_reason(name):
    with pytest.raises(UserError, match="from 257"):
        trained_vocab_size(name)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"\xff", b"\x80\x04K\x01.", b'{"model": 3}'])
def test_a_file_that_is_not_a_tokenizer(tmp_path, content):
    """The one before the last is a pickle; it is never opened as one."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    assert "not a tokenizer.json" in refused(path)


@pytest.fixture
def hub(monkeypatch):
    """What the hub library finds: nothing, or the path that is put into it."""
    import huggingface_hub

    cached = {}

    def download(repository, file, *, local_files_only, **_):
        if "path" in cached and local_files_only == cached.get("local", True):
            return cached["path"]
        raise OSError("no network\nat all.")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(tokenizers, "hub_answers", lambda: True)
    return cached


def test_gpt2_without_its_file_reports_how_to_get_it(hub):
    message = refused("gpt2")
    assert "cannot be downloaded (no network)" in message
    assert "hf download openai-community/gpt2 tokenizer.json" in message


def test_a_hub_that_does_not_answer_is_not_asked_again_and_again(hub, monkeypatch):
    monkeypatch.setattr(tokenizers, "hub_answers", lambda: False)
    hub.update(path="never taken", local=False)
    assert "huggingface.co does not answer" in refused("gpt2")


def test_whether_the_hub_answers(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub_answers()
    assert not hub_answers()
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert hub_answers()


@pytest.mark.parametrize("local", [True, False])
def test_gpt2_is_taken_from_the_cache_or_fetched_and_must_have_its_size(hub, bpe, tmp_path, local, monkeypatch):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(bpe.content)
    hub.update(path=str(path), local=local)
    assert "300 entries, but GPT-2 has 50257" in refused("gpt2")
    monkeypatch.setattr(tokenizers, "_GPT2", ("openai-community/gpt2", 300))
    assert open_tokenizer("gpt2").encode("the") == bpe.encode("the")
