"""Derive: missing columns from those that the table has (D from batch and steps), groups from columns of words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...quantities import plural
from .cleaning import Cleaned
from .columns import FIELDS, Match
from .raw_table import RawTable
from .run_arrays import RunArrays

Columns = dict[str, np.ndarray]

MOST_GROUPS = 12
# A batch of this many sequences would be several hundred million tokens; from here on a bare batch counts tokens.
LEAST_BATCH_IN_TOKENS = 1 << 16
# C below this share of 6·N·D is not in FLOPs: not even a model with few active experts goes there.
LEAST_SHARE = 1e-2


class Derived(NamedTuple):
    """The runs with all that follows from their columns, and notes on what was derived."""

    runs: RunArrays
    notes: list[str]


def derive(cleaned: Cleaned, match: Match) -> Derived:
    """Fill what is missing from what is there, and number the groups of rows that columns of words distinguish."""
    columns, own = dict(cleaned.columns), dict(cleaned.own)
    derived = _complete(columns, match.bare_batch)
    group, mixed = _groups(cleaned.table, match, columns["num_params"])
    if group is not None:
        own["group"] = group
    unknown = np.full(len(cleaned.table), np.nan)
    fields = {name: columns.pop(name, unknown) for name in FIELDS}
    extra = {name: values for name, values in (columns | own).items() if not np.isnan(values).all()}
    return Derived(RunArrays(**fields, labels=tuple(cleaned.labels), extra=extra), [*mixed, *derived])


def _complete(columns: Columns, bare_batch: bool) -> list[str]:
    """Fill what is missing from what is there, in place.

    D from batch and steps, or from C/(6·N); N from C/(6·D); C as 6·N·D; batch and steps from each other and D.

    Args:
        columns: field → values, nan where a row has none.
        bare_batch: whether the name of the column for ``batch_sequences`` leaves its unit open.

    Returns:
        One sentence for each derived column.
    """
    rows = len(next(iter(columns.values())))
    for name in ("num_params", "tokens", "flops"):
        columns.setdefault(name, np.full(rows, np.nan))
    notes = _batch_in_tokens(columns, bare_batch) if "batch_sequences" in columns else []

    def value(name: str) -> np.ndarray:
        return columns.get(name, np.full(rows, np.nan))

    def fill(name: str, values: np.ndarray, how: str) -> None:
        gaps = np.isnan(value(name)) & np.isfinite(values) & (values > 0)
        if gaps.any():
            columns[name] = np.where(gaps, values, value(name))
            notes.append(f"{name} derived as {how} in {plural(gaps.sum(), 'row')}")

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        fill("tokens", value("batch_tokens") * value("steps"), "D = batch·steps")
        notes += _drop_small_flops(columns)
        fill("tokens", value("flops") / (6 * value("num_params")), "D = C/(6·N)")
        fill("num_params", value("flops") / (6 * value("tokens")), "N = C/(6·D)")
        fill("flops", 6 * value("num_params") * value("tokens"), "C = 6·N·D")
        fill("batch_tokens", value("tokens") / value("steps"), "D/steps")
        fill("steps", value("tokens") / value("batch_tokens"), "D/batch")
    return notes


def _batch_in_tokens(columns: Columns, bare: bool) -> list[str]:
    """The batch in tokens, from sequences and their length; steps or its size decide about a batch of unknown unit."""
    batch = columns["batch_sequences"]
    if "sequence_length" in columns:
        columns.setdefault("batch_tokens", batch * columns["sequence_length"])
        return ["batch_tokens = batch in sequences · sequence length"]
    if not bare:
        return ["the batch is in sequences; columns={'sequence_length': ...} gives it in tokens"]
    if "steps" in columns and "tokens" in columns:
        with np.errstate(divide="ignore", invalid="ignore"):
            length = np.nanmedian(columns["tokens"] / (columns["steps"] * batch))
        in_tokens = bool(abs(length - 1) < 0.2)
    else:
        in_tokens = bool(np.nanmedian(batch) >= LEAST_BATCH_IN_TOKENS)
    if in_tokens:
        columns["batch_tokens"] = columns.pop("batch_sequences")
        return ["the batch is taken to be in tokens: it is too large for sequences, or batch·steps are the tokens"]
    return [
        "the batch has no unit in its name and is taken to be in sequences; columns={'sequence_length': ...} gives it "
        "in tokens, columns={'batch_tokens': ...} takes it as tokens"
    ]


def _drop_small_flops(columns: Columns) -> list[str]:
    """Leave out compute that is far below 6·N·D and so in some other unit; it is then derived from N and D."""
    share = columns["flops"] / (6 * columns["num_params"] * columns["tokens"])
    share = share[np.isfinite(share)]
    if not len(share) or not np.median(share) < LEAST_SHARE:
        return []
    columns["flops"] = np.full_like(columns["flops"], np.nan)
    return [f"flops not taken from the table: they are {np.median(share):.2g} of 6·N·D, so not in FLOPs"]


def _groups(table: RawTable, match: Match, sizes: np.ndarray) -> tuple[np.ndarray | None, list[str]]:
    """One number for each combination of words, over the columns of words that distinguish a few kinds of rows."""
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
