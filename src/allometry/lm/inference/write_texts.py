"""Texts written by a language model: prompts read once, then a token at a time on their keys and values."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...data.tokenizer import Tokenizer
from ...errors import UserError
from ...runs.machine import cores
from ..decoder import LanguageModel
from .one_row import OneRowStep, can_step
from .sampling import Sampling
from .text_stream import StopStrings, TextStream

CONTEXT_ENDS = ("slide", "stop")
SMALL = 30_000_000  # parameters; below, a second thread waits longer than it works


@dataclass(frozen=True)
class WrittenText:
    """A prompt and what a model wrote after it.

    ``finish`` says why it ends: "length" (all tokens asked for), "stop" (a stop string), "end" (the tokenizer's end of
    a document), "context" (the context is full) or "interrupted". ``forgot`` is how many times the context was full and
    the older half was dropped.
    """

    prompt: str
    text: str
    tokens: int
    seconds: float
    finish: str
    forgot: int = 0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "text": self.text,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 4),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "finish": self.finish,
            "forgot": self.forgot,
        }


@dataclass(frozen=True)
class Writing:
    """What is asked of a model: how many tokens, how they are chosen, where to stop.

    ``context_end`` says what happens when a text fills the context: "slide" drops its older half and goes on, "stop"
    ends it. ``cut_prompt`` reads the end of a prompt that is longer than the context, which is else refused.
    ``on_piece`` receives each piece of text as soon as it is certain, with the number of its prompt.

    Raises:
        UserError: a value out of its range.
    """

    tokens: int = 400
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    context_end: str = "slide"
    cut_prompt: bool = False
    on_piece: Callable[[int, str], None] = lambda number, piece: None

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise UserError(f"--tokens {self.tokens}: give at least 1")
        if self.context_end not in CONTEXT_ENDS:
            raise UserError(f"--context-end {self.context_end}: unknown; there are {', '.join(CONTEXT_ENDS)}")


def write_texts(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str], writing: Writing
) -> list[WrittenText]:
    """What a model writes after each prompt; text i does not depend on the other prompts but for rounding.

    Invalid UTF-8 becomes the replacement character; an empty prompt stands for the end of a line. Ctrl-C ends all
    texts as they are, with ``finish`` "interrupted"; they are returned, and nothing is lost.

    Raises:
        UserError: no prompt, a prompt longer than the context, or the model's logits are not finite.
    """
    context = model.config.context
    if not prompts:
        raise UserError("--prompt: none given; give at least one")
    with torch.no_grad(), threads_for_model(sum(parameter.numel() for parameter in model.parameters())):
        texts = [_Text(i, prompt, tokenizer, writing, context) for i, prompt in enumerate(prompts)]
        for text in texts:
            text.begin()
        batch = _Batch(model, texts, tokenizer.vocab_size, writing)
        try:
            batch.run()
        except KeyboardInterrupt:
            for text in texts:
                text.end("interrupted")
    return [text.written() for text in texts]


@contextmanager
def threads_for_model(num_params: int) -> Iterator[None]:
    """One thread for a small model, OMP_NUM_THREADS or all cores for a large one; the number before, afterwards."""
    before = torch.get_num_threads()
    given = os.environ.get("OMP_NUM_THREADS", "")
    many = int(given) if given.isdigit() and int(given) else cores()
    torch.set_num_threads(1 if num_params < SMALL else many)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Text:
    """One text under way: its tokens, its stream of characters, its source of randomness."""

    def __init__(self, number: int, prompt: str, tokenizer: Tokenizer, writing: Writing, context: int):
        self.number, self.writing, self.context = number, writing, context
        self.tokens = tokenizer.encode(prompt) or tokenizer.encode("\n") or [0]
        if len(self.tokens) > context and not writing.cut_prompt:
            raise UserError(
                f"--prompt: {len(self.tokens)} tokens, but the model's context is {context}; shorten it, or give "
                "--cut-prompt to read its end alone"
            )
        self.stream, self.stops = TextStream(tokenizer), StopStrings(writing.stop)
        self.generator = writing.sampling.generator(number)
        self.end_token: int | None = getattr(tokenizer, "end", None)
        self.prompt_text = self.stream.push(self.tokens)
        self.pieces: list[str] = []
        self.count = self.forgot = 0
        self.finish, self.begun, self.seconds = "", 0.0, 0.0

    @property
    def most_tokens(self) -> int:
        """The tokens that the text may come to."""
        return len(self.tokens) + self.writing.tokens - self.count

    def begin(self) -> None:
        self.begun = time.perf_counter()
        self.writing.on_piece(self.number, self.prompt_text)

    def window(self) -> list[int]:
        """The end of the text that the model reads now: what leaves room for the rest, but half a context at least."""
        room = self.context - self.context // 2 if self.writing.context_end == "slide" else 1
        room = min(room, self.writing.tokens - self.count)
        return self.tokens[-(self.context - room + 1) :]

    def add(self, logits: Tensor) -> None:
        """Choose the next token by logits (vocab), and show what it completes."""
        token = self.writing.sampling.choose(logits, self.tokens, self.generator)
        if token == self.end_token:
            self.end("end")
            return
        self.tokens.append(token)
        self.count += 1
        self._show(self.stops.push(self.stream.push([token])))
        if self.stops.stopped:
            self.end("stop")
        elif self.count >= self.writing.tokens:
            self.end("length")

    def end(self, finish: str) -> None:
        if self.finish:
            return
        self.finish, self.seconds = finish, time.perf_counter() - self.begun
        self._show(self.stops.push(self.stream.finish()) + self.stops.finish())

    def _show(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)
            self.writing.on_piece(self.number, piece)

    def written(self) -> WrittenText:
        text = self.prompt_text + "".join(self.pieces)
        return WrittenText(self.prompt_text, text, self.count, self.seconds, self.finish, self.forgot)


class _Batch:
    """The texts that are not finished, and their keys and values: one row each."""

    def __init__(self, model: LanguageModel, texts: list[_Text], vocab_size: int, writing: Writing):
        # A vocabulary may be wider than its tokenizer's, for the machine's sake; the rest means nothing.
        self.model, self.vocab_size, self.writing = model, vocab_size, writing
        self.texts = list(texts)
        most = max(text.most_tokens for text in texts)
        self.cache = model.cache(min(model.config.context, most), len(texts))
        self.step: OneRowStep | None = None

    def run(self) -> None:
        for row, text in enumerate(self.texts):
            text.add(self._read(row, text))
        self._drop_finished()
        while self.texts:
            self._advance()
            self._drop_finished()

    def _advance(self) -> None:
        """One more token for every text."""
        full = [row for row, length in enumerate(self.cache.lengths) if length >= self.cache.context]
        if full:
            for row in full:
                self._at_the_end_of_the_context(row)
            return
        if len(self.texts) == 1:
            self.texts[0].add(self._one_row(self.texts[0].tokens[-1]))
            return
        last = torch.tensor([[text.tokens[-1]] for text in self.texts], device=self.model.embedding.weight.device)
        logits = self.model(last, self.cache)[:, -1, : self.vocab_size]
        for text, row in zip(self.texts, logits, strict=True):
            text.add(row)

    def _one_row(self, token: int) -> Tensor:
        if self.step is None and can_step(self.model):
            self.step = OneRowStep(self.model, self.cache)
        if self.step is not None:
            return self.step(token)[: self.vocab_size]
        tokens = torch.tensor([[token]], device=self.model.embedding.weight.device)
        return self.model(tokens, self.cache)[0, -1, : self.vocab_size]

    def _at_the_end_of_the_context(self, row: int) -> None:
        text = self.texts[row]
        if self.writing.context_end == "stop":
            text.end("context")
            return
        text.forgot += 1
        text.add(self._read(row, text))

    def _read(self, row: int, text: _Text) -> Tensor:
        """Read the end of a text into its empty row; the logits of what follows."""
        cache = self.cache.row(row)
        cache.forget()
        tokens = torch.tensor([text.window()], device=self.model.embedding.weight.device)
        return self.model(tokens, cache)[0, -1, : self.vocab_size]

    def _drop_finished(self) -> None:
        rows = [row for row, text in enumerate(self.texts) if not text.finish]
        if len(rows) < len(self.texts):
            self.texts = [self.texts[row] for row in rows]
            self.step = None
            if rows:
                self.cache.keep(rows)
