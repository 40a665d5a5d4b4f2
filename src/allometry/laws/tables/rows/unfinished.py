"""Runs that did not end, by the column of their states or by a word where the loss belongs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

FINISHED = frozenset(
    {"", "finished", "done", "complete", "completed", "ok", "success", "succeeded", "true", "yes", "✓", "✔", "✅"}
)
_UNFINISHED = """failed fail failure crashed crash running killed pruned error diverged diverge aborted cancelled
canceled pending queued waiting timeout timed-out oom preempted stopped interrupted in-flight inflight in-progress
incomplete started unfinished scheduled false no ✗ ✘ ❌ nan-loss exploded"""
UNFINISHED = frozenset(_UNFINISHED.split())
_ERROR = re.compile(r"([+-]?[\d.]+(?:e[+-]?\d+)?)\s*(?:±|\+/-|\+-|\\pm)\s*([\d.]+(?:e[+-]?\d+)?)", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"([+-]?\d+\.\d+)\s*\((\d*\.\d+)\)")


def _word(text: str) -> str:
    return re.sub(r"[\s_]+", "-", text.strip().lower())


def left_out_by_state(states: Sequence[str]) -> np.ndarray | None:
    """Which rows a column of states leaves out; None if it says nothing of how runs ended (``cosine``, 1, 0)."""
    words = {text: _word(text) for text in set(states)}
    known = FINISHED | UNFINISHED
    if not any(word in known and word for word in words.values()):
        return None
    return np.array([words[text] not in FINISHED for text in states], bool)


def is_unfinished(text: str) -> bool:
    """Whether a word in place of a loss says that there is none: ``diverged``, ``OOM``, ``still running``."""
    word = _word(text)
    return len(word) < 40 and bool(set(word.split("-")) & UNFINISHED or word in UNFINISHED)


def with_error(text: str) -> tuple[float, float] | None:
    """A value and its standard error in one cell: ``2.71 ± 0.01``, ``2.71 (0.01)``."""
    match = _ERROR.fullmatch(text.strip()) or _IN_BRACKETS.fullmatch(text.strip())
    try:
        return None if match is None else (float(match[1]), float(match[2]))
    except ValueError:
        return None
