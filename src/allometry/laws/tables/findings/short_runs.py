"""Runs so short that a law for long training need not hold for them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..rows.initial_phase import in_initial_phase
from ..rows.late_slopes import late_slopes, size_against_tokens
from ..run_arrays import RunArrays
from .best_by_compute import excess
from .finding import Finding, finding

HIGH = np.log(1.1)  # above the best loss at the compute of a run, as a logarithm


def pre_asymptotic(runs: RunArrays) -> Iterator[Finding]:
    """Runs that a law for long training need not hold for."""
    ratio = runs.tokens / runs.num_params
    few = (ratio < np.median(ratio) / 8) & (excess(runs) > HIGH)
    if few.any():
        yield finding(
            "pre-asymptotic",
            runs,
            np.flatnonzero(few),
            "far fewer tokens a parameter than the others, and a loss over 10 % above the best for their "
            "compute; they bend a law, so fit without them and see whether the constants stay",
        )
    steps, warmup = runs.extra.get("steps"), runs.extra.get("warmup")
    if steps is None or warmup is None:
        return
    rising = (warmup > 1) & (steps < 2 * warmup)
    if rising.any():
        yield finding(
            "pre-asymptotic",
            runs,
            np.flatnonzero(rising),
            "more than half of the steps in warmup; train them longer, or leave them out",
        )


def initial_phase(runs: RunArrays) -> Iterator[Finding]:
    """Runs that end before the loss falls as a law says."""
    rows = np.flatnonzero(in_initial_phase(runs.num_params, runs.tokens, runs.loss))
    if len(rows):
        yield finding(
            "pre-asymptotic",
            runs,
            rows,
            "so short that the loss falls faster with every doubling that follows, which no law describes; train "
            "longer, or at a higher learning rate, and leave these out",
        )


def early_end(runs: RunArrays) -> Iterator[Finding]:
    """Runs the longest of which end before the loss falls as a law says."""
    if (late := late_slopes(runs)) is not None and late.grow:
        yield finding(
            "pre-asymptotic",
            runs,
            np.flatnonzero(runs.tokens == runs.tokens.max()),
            "the longest there are, and yet the loss falls faster with every doubling up to them: a law fitted here "
            "describes how learning begins, and longer runs come out below it; train longer, or at a higher rate",
        )
    elif (against := size_against_tokens(runs)) is not None and against.short_of_tokens:
        yield finding(
            "pre-asymptotic",
            runs,
            np.array([against.row]),
            "the most tokens a parameter there are, and yet twice the tokens would lower its loss by "
            f"{_doubled(against.by_tokens)}, twice the size by {_doubled(against.by_size)}: all runs are short for "
            "their sizes, and a law fitted here may miss what longer ones learn; train longer, or smaller sizes",
        )


def _doubled(exponent: float) -> str:
    """What twice as much does to a loss, as a part of it."""
    return f"{-np.expm1(-exponent * np.log(2)):.1%}"
