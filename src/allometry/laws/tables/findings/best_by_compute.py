"""The best loss of a table at each compute, and how far a run lies above it."""

from __future__ import annotations

import numpy as np

from ..run_arrays import RunArrays

Array = np.ndarray


def excess(runs: RunArrays, flops: Array | None = None, log_loss: Array | None = None) -> Array:
    """How far ln L lies above the best loss of the table at no more compute, at least 0; 0.1 is about 10 %.

    Of the runs themselves, or of points with these FLOPs and ln L; the smallest run's loss is the best below all runs.
    """
    flops = runs.flops if flops is None else flops
    log_loss = np.log(runs.loss) if log_loss is None else log_loss
    steps, best = frontier(runs)
    # Runs of one budget differ in compute by rounding of sizes and steps; they share a frontier.
    last = np.searchsorted(steps, 1.01 * flops, side="right") - 1
    return np.maximum(log_loss - best[np.maximum(last, 0)], 0.0)


def frontier(runs: RunArrays) -> tuple[Array, Array]:
    """Where the best loss of the table falls: FLOPs, ascending, and ln of the best loss at no more than so many."""
    order = np.argsort(runs.flops, kind="stable")
    flops, best = runs.flops[order], np.minimum.accumulate(np.log(runs.loss[order]))
    falls = np.diff(best, prepend=np.inf) < 0
    return flops[falls], best[falls]
