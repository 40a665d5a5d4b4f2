"""Whole texts: what a full pass at every token would write, the end of the context, batches, and an interruption."""

import dataclasses

import pytest
import torch

from allometry.data.tokenizer import Bytes
from allometry.errors import UserError
from allometry.lm.decoder import build
from allometry.lm.inference import write_texts as writer
from allometry.lm.inference.sampling import Sampling
from allometry.lm.inference.write_texts import Writing, threads_for_model, write_texts
from helpers.builders import model_config

LIKELIEST = Sampling(temperature=0)


@pytest.fixture(scope="module")
def model():
    """Sharp enough that the likeliest token is no tie."""
    model = build(model_config(width=32, head_dim=8, hidden=48, vocab_size=256, context=40), 3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def by_full_passes(model, prompt: str, tokens: int) -> str:
    """The likeliest tokens by the whole window at every token, while the context lasts."""
    written = list(prompt.encode())
    with torch.no_grad():
        for _ in range(tokens):
            written.append(int(model(torch.tensor([written]))[0, -1].argmax()))
    return Bytes().decode(written)


def test_text_is_what_full_passes_write(model):
    (written,) = write_texts(model, Bytes(), ["abc"], Writing(37, LIKELIEST))
    assert written.text == by_full_passes(model, "abc", 37)
    assert (written.prompt, written.tokens, written.finish, written.forgot) == ("abc", 37, "length", 0)


def test_a_batch_writes_what_each_prompt_alone_would(model):
    prompts = ["a", "some longer prompt", "mid", "a"]
    for sampling in (LIKELIEST, Sampling(temperature=1.0, top_p=0.9, seed=5)):
        writing = Writing(50, sampling, stop=("~", "qz"))
        together = write_texts(model, Bytes(), prompts, writing)
        for number, prompt in enumerate(prompts):
            own = dataclasses.replace(sampling, seed=sampling.seed + number)
            (alone,) = write_texts(model, Bytes(), [prompt], dataclasses.replace(writing, sampling=own))
            assert (together[number].text, together[number].finish) == (alone.text, alone.finish)
    assert together[0].text != together[3].text  # the same prompt, another draw


class Latin:
    """A tokenizer of bytes whose text can be taken back to the same bytes, whatever they are."""

    name, vocab_size = "latin", 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode("latin-1"))

    def decode(self, tokens) -> str:
        return bytes(tokens).decode("latin-1")


def test_beyond_the_context_the_model_sees_the_newer_half(model):
    (written,) = write_texts(model, Latin(), ["abc"], Writing(100, LIKELIEST))
    tokens = list(written.text.encode("latin-1"))
    assert (written.tokens, len(tokens)) == (100, 103)
    assert written.forgot == 4  # 40 tokens are read, then 20 more each time: before the tokens 41, 61, 81 and 101
    with torch.no_grad():
        for begin, known, end in ((0, 3, 41), (20, 21, 61), (40, 21, 81), (60, 21, 101), (62, 39, 103)):
            logits = model(torch.tensor([tokens[begin : end - 1]]))[0]
            assert tokens[begin + known : end] == logits.argmax(-1)[known - 1 :].tolist()


def test_a_text_may_end_with_the_context(model):
    (written,) = write_texts(model, Bytes(), ["abc"], Writing(100, LIKELIEST, context_end="stop"))
    assert written.finish == "context"
    assert written.tokens == 40 - 3 + 1  # the last is chosen when the context is full, and is not read
    assert written.text == by_full_passes(model, "abc", 38)


def test_a_prompt_longer_than_the_context_is_refused_or_cut(model):
    prompt = "x" * 25 + "y" * 20
    with pytest.raises(UserError, match="45 tokens, but the model's context is 40"):
        write_texts(model, Bytes(), ["a", prompt], Writing(5, LIKELIEST))
    (written,) = write_texts(model, Bytes(), [prompt], Writing(1, LIKELIEST, cut_prompt=True))
    assert written.text == prompt + by_full_passes(model, prompt[-40:], 1)[40:]
    (full,) = write_texts(model, Bytes(), [prompt[-40:]], Writing(1, LIKELIEST))
    assert full.text[40:] == written.text[45:]


def test_an_empty_prompt_is_the_end_of_a_line(model):
    (empty,), (line,) = (write_texts(model, Bytes(), [text], Writing(9, LIKELIEST)) for text in ("", "\n"))
    assert empty.text == line.text


def test_pieces_are_the_text_as_it_comes(model):
    pieces: list[tuple[int, str]] = []
    writing = Writing(60, Sampling(temperature=1.5), on_piece=lambda number, piece: pieces.append((number, piece)))
    written = write_texts(model, Bytes(), ["one", "two"], writing)
    for number, text in enumerate(written):
        assert "".join(piece for owner, piece in pieces if owner == number) == text.text
    assert len(pieces) > 60


def test_an_interruption_keeps_what_is_written(model):
    whole = write_texts(model, Bytes(), ["abc"], Writing(30, LIKELIEST))[0].text
    shown = []

    def interrupt(number, piece):
        shown.append(piece)
        if len(shown) == 12:
            raise KeyboardInterrupt

    (written,) = write_texts(model, Bytes(), ["abc"], Writing(30, LIKELIEST, on_piece=interrupt))
    assert written.finish == "interrupted"
    assert 3 < len(written.text) < len(whole)
    assert whole.startswith(written.text)
    assert "".join(shown) == written.text


def test_a_model_the_quick_step_does_not_know_writes_the_same(model, monkeypatch):
    quick = write_texts(model, Bytes(), ["abc"], Writing(60, LIKELIEST))[0].text
    monkeypatch.setattr(writer, "can_step", lambda model: False)
    assert write_texts(model, Bytes(), ["abc"], Writing(60, LIKELIEST))[0].text == quick


def test_memory_is_the_cache_that_the_text_needs(model, monkeypatch):
    sizes = []
    real = type(model).cache
    monkeypatch.setattr(type(model), "cache", lambda self, *sizes_: sizes.append(sizes_) or real(self, *sizes_))
    write_texts(model, Bytes(), ["abc", "defgh"], Writing(6, LIKELIEST))
    write_texts(model, Bytes(), ["abc"], Writing(600, LIKELIEST))
    assert sizes == [(11, 2), (40, 1)]


def test_a_small_model_has_one_thread_and_threads_come_back(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    try:
        with threads_for_model(1_000_000):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with threads_for_model(1_000_000_000):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("values", [{"tokens": 0}, {"context_end": "wrap"}], ids=str)
def test_what_cannot_be_asked_is_one_line(values):
    with pytest.raises(UserError) as caught:
        Writing(**values)
    assert len(str(caught.value).splitlines()) == 1
