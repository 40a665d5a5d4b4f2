"""What commands print: answers on standard output, progress and notes on standard error."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
from typing import Any

from rich.console import Console

notes = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
answers = Console(highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())
questions = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)  # what a question is about
volume: dict[str, Any] = {"verbose": False, "command": ""}


# Arguments of the library that messages advise, and the options of a command that say the same.
_ADVICE = re.compile(r"\b(columns|where)=(\{[^{}]*\})")
_BARE = (
    (re.compile(r"\bcounted=(?!\w)"), "--counted"),
    (re.compile(r"(?:^columns(?=:)|\bcolumns=(?![\w{]))"), "--column"),
)
_NAMES = {
    "plan": {
        "num_params": "--params",
        "num_devices": "--count",
        "price_per_hour": "--price",
        "flops_per_second": "--flops-per-second",
        "tokens_available": "--tokens-available",
        "inference_tokens": "--inference-tokens",
        "vocab_size": "--vocab",
    },
    "predict": {"num_params": "--params", "batch_tokens": "--batch", "unique_tokens": "--unique"},
    "scale": {"num_params": "--params"},
}


def as_options(text: str, command: str | None = None) -> str:
    """Advice to a caller of the library as options of the command: ``columns={'lr': None}`` is ``--column lr=none``.

    Names of arguments become the options of ``command``, by default of the one that is running.
    """

    def option(advice: re.Match[str]) -> str:
        flag = {"columns": "--column", "where": "--where"}[advice[1]]
        try:
            arguments = ast.literal_eval(advice[2].replace("...", "'…'"))
        except (ValueError, SyntaxError):
            return advice[0]
        values = {name: "none" if value is None else value for name, value in arguments.items()}
        pairs = [f"{name}={value}" for name, value in values.items()]
        return " ".join(f"{flag} {pair if pair.endswith('…') else shlex.quote(pair)}" for pair in pairs)

    text = _ADVICE.sub(option, text)
    for pattern, flag in _BARE:
        text = pattern.sub(flag, text)
    for name, flag in _NAMES.get(volume["command"] if command is None else command, {}).items():
        words = name.replace("_", " ")  # as a check of a number says it
        text = re.sub(rf"(?<![\w-]){name}\b|^{words}(?= must be )", flag, text)
    return text


def choose_volume(*, quiet: bool = False, verbose: bool = False) -> None:
    """How much is said besides answers and errors; what was said first, before or after the command's name, stays."""
    notes.quiet |= quiet
    volume["verbose"] |= verbose


def reset_volume() -> None:
    """As a process begins."""
    notes.quiet = volume["verbose"] = False
    volume["command"] = ""


def note(text: str, *, verbatim: bool = False) -> None:
    """A line of progress or advice on standard error; brackets in it are text, not markup.

    ``verbatim``: names of arguments in it are columns of the user's, or options already.
    """
    notes.print(text if verbatim else as_options(text), markup=False)


def answer(text: Any) -> None:
    """Text, or a rich table, as the command's answer on standard output."""
    print(text) if isinstance(text, str) else answers.print(text)  # text that a model wrote is shown unchanged


def answer_json(value: Any) -> None:
    """A machine's answer: one JSON value and nothing else. NaN and infinity become null, which JSON has."""
    print(json.dumps(_finite(value), indent=1, ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
