"""Examples to fine-tune on: pairs of prompt and completion, or texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Example:
    """The tokens of one example, and the first of them that counts in the loss: of a pair, that of the completion."""

    tokens: tuple[int, ...]
    first: int


def read_examples(path: Path, encode: Encode, end: int | None, context: int) -> list[Example]:
    """The examples of a file, each at most ``context`` tokens long.

    A JSONL file has ``prompt`` and ``completion``, or ``text``, on each line; any other file is a text, which is cut
    into pieces of the context. A long prompt loses its beginning, a long completion its end. ``end`` is added after a
    completion or a text of JSONL.

    Raises:
        UserError: no such file, a line that is no example, or no example in it.
    """
    try:
        content = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"--data {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"--data {path}: not UTF-8 text") from None
    if Path(path).suffix == ".jsonl":
        examples = list(_pairs(path, content, encode, [] if end is None else [end], context))
    else:
        tokens = encode(content)
        examples = [Example(tuple(tokens[i : i + context]), 1) for i in range(0, len(tokens) - 1, context)]
    if not examples:
        raise UserError(f"--data {path}: no examples in it")
    return examples


def _pairs(path: Path, content: str, encode: Encode, end: list[int], context: int) -> Iterable[Example]:
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            raise UserError(f"--data {path}, line {number}: not JSON") from None
        prompt, completion = _of_line(path, number, value)
        answer = [*encode(completion), *end][: max(1, context - 1)]
        before = encode(prompt)[-(context - len(answer)) :] if len(answer) < context else []
        if len(before) + len(answer) > 1:
            yield Example((*before, *answer), max(1, len(before)))


def _of_line(path: Path, number: int, value: Any) -> tuple[str, str]:
    if isinstance(value, dict):
        if isinstance(value.get("text"), str):
            return "", value["text"]
        if isinstance(value.get("prompt"), str) and isinstance(value.get("completion"), str):
            return value["prompt"], value["completion"]
    raise UserError(f'--data {path}, line {number}: give "prompt" and "completion", or "text"')


def split(examples: Sequence[Example], seed: int, held_out: int) -> tuple[list[Example], list[Example]]:
    """Training examples in the order of the seed, and ``held_out`` others that no training sees.

    Equal examples fall on one side.

    Raises:
        UserError: too few examples.
    """
    distinct = list(dict.fromkeys(examples))
    if len(distinct) <= held_out:
        raise UserError(
            f"--held-out {held_out}: there are {len(distinct)} different examples; give more, or hold out fewer"
        )
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed)).tolist()
    mixed = [distinct[i] for i in order]
    return mixed[held_out:], mixed[:held_out]


def batch_of(examples: Sequence[Example]) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` and ``labels`` (−100 where no loss is taken) of examples side by side."""
    longest = max(len(example.tokens) for example in examples)
    tokens = torch.zeros(len(examples), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(tokens), torch.full_like(tokens, -100)
    for row, example in enumerate(examples):
        length = len(example.tokens)
        tokens[row, :length] = torch.tensor(example.tokens)
        mask[row, :length] = 1
        labels[row, example.first : length] = tokens[row, example.first : length]
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}
