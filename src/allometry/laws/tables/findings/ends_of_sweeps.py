"""Sweeps whose best run is at the end of what was tried."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..run_arrays import RunArrays
from .finding import Finding, finding
from .repeated_runs import sets_of

Array = np.ndarray

# Budgets of one sweep differ by so much, by rounding of sizes and steps.
SAME_BUDGET = 0.02


def ends_of_sweeps(runs: RunArrays) -> Iterator[Finding]:
    """Sweeps whose best run is at the end of what was tried."""
    batch = next((name for name in ("batch_tokens", "batch_sequences") if name in runs.extra), None)
    rate = "lr" if "lr" in runs.extra else None
    for what, name, fixed in (
        ("size for its compute", "num_params", ("flops",)),
        ("learning rate for its size and tokens", rate, ("num_params", "tokens")),
        ("batch for its size and tokens", batch, ("num_params", "tokens")),
    ):
        if name is None:
            continue
        low, high = _best_at_ends(runs, runs.column(name), fixed)
        for rows, side, beyond in ((low, "smallest", "below"), (high, "largest", "above")):
            if rows:
                text = f"best of its sweep at the {side} {what}; the optimum may lie {beyond}, so add a run there"
                yield finding("edge", runs, np.array(rows), text)


def _best_at_ends(runs: RunArrays, values: Array, fixed: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """The best runs of the sweeps of at least four values over a factor of two, where they have the least or most."""
    columns = [runs.column(name) for name in fixed]
    code = np.zeros(len(runs), np.int64)
    for column in [*columns, *([runs.extra["group"]] if "group" in runs.extra else [])]:
        level = _levels(column)
        code = np.unique(code * (level.max() + 1) + level, return_inverse=True)[1]
    low, high, swept = [], [], 0
    for rows in sets_of(code, least=4):
        tried = values[rows]
        if not np.isfinite(tried).all() or len(np.unique(tried)) < 4 or tried.max() < 2 * tried.min():
            continue
        if any(np.ptp(np.log(column[rows])) > 2 * SAME_BUDGET for column in columns):
            continue
        swept += len(rows)
        best = rows[np.argmin(runs.loss[rows])]
        if values[best] == tried.min():
            low.append(int(best))
        if values[best] == tried.max():
            high.append(int(best))
    # Runs anywhere in (N, D) share a budget by chance now and then; that is no sweep over sizes.
    by_chance = "flops" in fixed and swept < len(runs) / 2
    return ([], []) if by_chance else (low, high)


def _levels(column: Array) -> Array:
    """A number for each value; what differs by rounding, as the budgets of one sweep do, has the same one."""
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    step = ~(np.diff(ordered) <= SAME_BUDGET * np.abs(ordered[:-1]))
    level = np.empty(len(column), np.int64)
    level[order] = np.concatenate([[0], np.cumsum(step)])
    return level
