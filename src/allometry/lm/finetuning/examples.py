"""Examples to fine-tune on: pairs of prompt and completion, texts, or texts with a label."""

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
    """The tokens of one example, and the first of them that counts in the loss: of a pair, that of the completion.

    Of a text with a label, the number of the label is what is learned, and no token counts.
    """

    tokens: tuple[int, ...]
    first: int
    label: int | None = None


def labels_in(path: Path) -> tuple[str, ...]:
    """The labels in a JSONL file, in the order of the alphabet; empty if its first example has none.

    Raises:
        UserError: no such file, one label alone, or an example without one beside others with one.
    """
    lines = list(_values(path, _content(path))) if Path(path).suffix == ".jsonl" else []
    if not lines or not isinstance(lines[0][1], dict) or "label" not in lines[0][1]:
        return ()
    labels = {_label(path, number, value) for number, value in lines}
    if len(labels) < 2:
        raise UserError(f"--data {path}: all labels are {labels.pop()!r}; there is nothing to tell apart")
    return tuple(sorted(labels))


def read_examples(
    path: Path, encode: Encode, end: int | None, context: int, labels: Sequence[str] = ()
) -> list[Example]:
    """The examples of a file, each at most ``context`` tokens long.

    A JSONL file has ``prompt`` and ``completion``, or ``text``, on each line, with ``labels`` (:func:`labels_in`)
    ``text`` and ``label``; any other file is a text, which is cut into pieces of the context. A long prompt loses its
    beginning, a long completion or text its end. ``end`` is added after a completion or a text of JSONL without labels.

    Raises:
        UserError: no such file, a line that is no example, or no example in it.
    """
    content = _content(path)
    if labels:
        examples = list(_labelled(path, content, encode, context, labels))
    elif Path(path).suffix == ".jsonl":
        examples = list(_pairs(path, content, encode, [] if end is None else [end], context))
    else:
        tokens = encode(content)
        examples = [Example(tuple(tokens[i : i + context]), 1) for i in range(0, len(tokens) - 1, context)]
    if not examples:
        raise UserError(f"--data {path}: no examples in it")
    return examples


def _content(path: Path) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"--data {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"--data {path}: not UTF-8 text") from None


def _values(path: Path, content: str) -> Iterable[tuple[int, Any]]:
    """The JSON value on each line that has one, with the line's number."""
    for number, line in enumerate(content.split("\n"), 1):  # a text may hold what else ends a line
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            raise UserError(f"--data {path}, line {number}: not JSON") from None


def _label(path: Path, number: int, value: Any) -> str:
    label = value.get("label") if isinstance(value, dict) else None
    if isinstance(label, str | int) and isinstance(value.get("text"), str):
        return str(label)
    raise UserError(
        f'--data {path}, line {number}: give "text" and "label" (a name or a number), as the first line does'
    )


def _labelled(path: Path, content: str, encode: Encode, context: int, labels: Sequence[str]) -> Iterable[Example]:
    numbers = {label: number for number, label in enumerate(labels)}
    for number, value in _values(path, content):
        label = _label(path, number, value)
        if tokens := encode(value["text"])[:context]:
            yield Example(tuple(tokens), len(tokens), numbers[label])


def _pairs(path: Path, content: str, encode: Encode, end: list[int], context: int) -> Iterable[Example]:
    for number, value in _values(path, content):
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


def batch_of(examples: Sequence[Example], pad: int = 0) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` and ``labels`` of examples side by side, filled up by the token ``pad``.

    ``labels`` are the tokens where a loss is taken and −100 elsewhere, (rows, length); of texts with a label those,
    (rows,).
    """
    longest = max(len(example.tokens) for example in examples)
    tokens = torch.full((len(examples), longest), pad)
    mask, labels = torch.zeros_like(tokens), torch.full_like(tokens, -100)
    for row, example in enumerate(examples):
        length = len(example.tokens)
        tokens[row, :length] = torch.tensor(example.tokens)
        mask[row, :length] = 1
        labels[row, example.first : length] = tokens[row, example.first : length]
    if examples[0].label is not None:
        labels = torch.tensor([example.label for example in examples])
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}
