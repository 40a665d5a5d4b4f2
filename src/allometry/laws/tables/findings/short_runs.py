"""Runs so short that a law for long training need not hold for them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..rows.initial_phase import ends_early, in_initial_phase
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
    if ends_early(runs.num_params, runs.tokens, runs.loss):
        yield finding(
            "pre-asymptotic",
            runs,
            np.flatnonzero(runs.tokens == runs.tokens.max()),
            "the longest there are, and yet the loss falls faster with every doubling up to them: a law fitted here "
            "describes how learning begins, and says little of longer runs; train longer, or at a higher learning rate",
        )
