"""Rows and columns of a table made fit to use: labels, finished runs, groups, counts checked against each other."""

from __future__ import annotations

import math

import numpy as np

from ...errors import UserError
from .cells import Table
from .columns import COUNTS, KNOWN, Match, convert

FINISHED = frozenset({"", "finished", "done", "complete", "completed", "ok", "success", "succeeded"})
MOST_GROUPS = 12


def _labels(table: Table, match: Match) -> list[str]:
    texts = table.texts(match.taken["label"]) if "label" in match.taken else [""] * len(table)
    return [text or table.place(row) for row, text in enumerate(texts)]


def _finished(table: Table, match: Match, labels: list[str]) -> tuple[Table, list[str], list[str]]:
    """The rows that ended with a finite loss, their labels, and notes on the others."""
    reasons = np.zeros(len(table), dtype=object)
    if "status" in match.taken:
        status = np.array([text.lower() for text in table.texts(match.taken["status"])], dtype=object)
        unfinished = ~np.isin(status, list(FINISHED))
        reasons[unfinished] = "status " + status[unfinished]
    ended = np.flatnonzero(reasons == 0)
    finite = np.isfinite(convert(table.where(ended), "loss", match.taken["loss"]))
    reasons[ended[~finite]] = "loss missing or not finite"
    notes = []
    for reason in dict.fromkeys(reasons[reasons != 0]):
        rows = np.flatnonzero(reasons == reason)
        shown = ", ".join(labels[row] for row in rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        notes.append(f"left out {len(rows)} of {len(table)} runs, {reason}: {shown}")
    kept = ended[finite]
    if not len(kept):
        raise UserError(f"{table.name}: no run has a finite loss ({'; '.join(notes)}); nothing to fit")
    return table.where(kept), [labels[row] for row in kept], notes


def _own_columns(table: Table, match: Match) -> dict[str, np.ndarray]:
    """Columns of numbers that are no known field, under their own names."""
    own = {}
    for name, column in table.columns.items():
        if name in match.taken.values() or name in KNOWN or name.startswith("Unnamed:") or column.is_text:
            continue
        values, odd = table.numbers(name)
        if not odd.any():
            own[name] = values
    return own


def _groups(table: Table, match: Match, sizes: np.ndarray) -> tuple[np.ndarray | None, list[str]]:
    """One number for each combination of words in the columns of words that tell few kinds of rows apart."""
    total, notes = np.zeros(len(table), np.int64), []
    for name, column in table.columns.items():
        if name in match.taken.values() or not column.is_text:
            continue
        words, codes = np.unique(column.codes[0][table.index], return_inverse=True)
        if not 1 < len(words) <= min(MOST_GROUPS, len(table) // 2) or _follows(codes, sizes):
            continue
        shown = ", ".join(column.codes[1][word] or "blank" for word in words)
        first = column.codes[1][words[0]] or column.codes[1][words[1]]
        notes.append(f"{name} differs between rows ({shown}); where={{{name!r}: {first!r}}} takes one kind")
        total = np.unique(total * len(words) + codes, return_inverse=True)[1]
    return (total.astype(np.float64) if notes and "group" not in match.taken else None), notes


def _follows(codes: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether the words only name the sizes: one for each."""
    if len(np.unique(sizes[:1000])) > codes.max() + 1:
        return False
    levels, size = np.unique(sizes, return_inverse=True)
    pairs = np.unique(size * (codes.max() + 1) + codes)
    return len(pairs) == len(levels) == codes.max() + 1


def _check_counts(table: Table, columns: dict[str, np.ndarray], labels: list[str]) -> None:
    """Refuse sizes, tokens, compute and losses that are not above zero, and hyperparameters that cannot be."""
    required = ("num_params", "tokens", "flops", "loss")
    for name in (*required, *(n for n in columns if n in COUNTS or n in ("lr", "sequence_length"))):
        values = columns.get(name, np.full(len(table), np.nan))
        good = np.isfinite(values) & (values > 0)
        if name not in required:
            good |= np.isnan(values)
        if good.all():
            continue
        row = int(np.argmin(good))
        place = table.place(row)
        where = place if labels[row] == place else f"{place} ({labels[row]})"
        shown = "missing" if math.isnan(values[row]) else f"{values[row]:g}"
        raise UserError(f"{table.name}, {where}: {name} is {shown}; it must be a finite number above zero")
