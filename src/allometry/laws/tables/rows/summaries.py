"""Rows that somebody wrote below the runs: what a spreadsheet or ``describe`` makes of the rows above."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from ..raw_table import RawTable

_WORDS = """mean means average averages avg median std stdev stddev sd sem se min max minimum maximum total totals sum
overall count geomean best worst 25% 50% 75% mittelwert durchschnitt summe gesamt moyenne écart-type media promedio
ø µ μ σ σ² ∑ mean±std mean±se"""
SUMMARIES = frozenset(_WORDS.split())
# Words that stand beside those of a summary and change nothing.
_BESIDE = """of the all runs run rows row models loss losses value values ± +/- +- and dev deviation error err standard
grand over seeds n samples across"""
BESIDE = frozenset(_BESIDE.split())
# A row that equals the mean or the sum of all others in so many columns of numbers, to this accuracy, is no run.
LEAST_EQUAL, SAME = 3, 1e-6


def is_summary(text: str) -> bool:
    """Whether a label is that of a summary: ``Mean``, ``avg.``, ``std. dev.``, ``Average of runs``, ``n=12``."""
    if len(text) > 40:
        return False
    words = [word.strip(":*_()[]{}.,;\"'") for word in text.lower().split()]
    words = [word for word in words if word]
    if len(words) == 1 and re.fullmatch(r"n\s*=\s*\d+", words[0]):
        return True
    named = [word in SUMMARIES or word in ("standard", "std") for word in words]
    return any(named) and all(name or word in BESIDE for name, word in zip(named, words, strict=True))


def summary_rows(table: RawTable, fields: Iterable[str]) -> np.ndarray:
    """Which rows are summaries by a word in a column of words, in the first column, or where a number belongs.

    Args:
        fields: the columns whose cells should be numbers.

    Returns:
        One truth value a row; all False if every row would be one.
    """
    summaries = np.zeros(len(table), bool)
    names = list(table.columns)
    for name, column in table.columns.items():
        judged = column.is_text or name in names[:1] or name in fields
        if not judged or (isinstance(column.raw, np.ndarray) and column.raw.dtype == np.float64):
            continue
        codes, texts = column.codes
        hits = [place for place, text in enumerate(texts) if text and is_summary(text)]
        if hits:
            summaries |= np.isin(codes[table.index], hits)
    return summaries if not summaries.all() else np.zeros(len(table), bool)


def unlabelled_summary(columns: Mapping[str, np.ndarray]) -> bool:
    """Whether the last row is the mean, the median or the sum of all rows above it, in every field of a run."""
    values = [columns[name] for name in ("num_params", "tokens", "flops", "loss") if name in columns]
    if len(values) < LEAST_EQUAL or len(values[0]) < 4:
        return False
    for summary in (np.mean, np.median, np.sum):
        above = [(summary(one[:-1]), one[-1], np.ptp(one[:-1])) for one in values]
        if all(np.isfinite(x) and abs(x - last) <= SAME * abs(x) and spread > 0 for x, last, spread in above):
            return True
    return False
