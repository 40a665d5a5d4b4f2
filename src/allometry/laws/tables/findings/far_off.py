"""Runs far from a smooth surface through the others: diverged, or not of this table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..run_arrays import RunArrays
from .finding import Finding, finding

Array = np.ndarray

# A run this far from its neighbours' surface, in scales of their scatter and as a logarithm, does not belong to them.
FAR_SCALES, FAR, VERY_FAR = 6.0, np.log(1.1), np.log(1.5)
ROUNDS = 30
MOST_ROWS_FOR_SURFACE = 5000


def far_off(runs: RunArrays) -> Iterator[Finding]:
    """Runs far from a smooth surface through the others, on the side on which a smaller or larger run contradicts."""
    surface = _residuals(runs)
    if surface is None:
        return
    residual, scale = surface
    for kind, sign, text in (
        (
            "diverged",
            1.0,
            "a loss far above runs of like size, tokens and settings; if they diverged leave them out, or fit with "
            "objective='huber'",
        ),
        (
            "outlier",
            -1.0,
            "a loss far below runs of like size, tokens and settings; is it measured on the same corpus?",
        ),
    ):
        far = np.flatnonzero(sign * residual > max(FAR, FAR_SCALES * scale))
        rows = [row for row in far if sign * residual[row] > VERY_FAR or _contradicted(runs, int(row), sign)]
        if rows:
            yield finding(kind, runs, np.array(rows), text)


def _contradicted(runs: RunArrays, row: int, sign: float) -> bool:
    """Whether a run that is no larger and no longer did better (sign 1), or one no smaller and no shorter worse (−1).

    A surface bends wrongly at the ends of a table; this does not.
    """
    larger = sign * (runs.num_params[row] - runs.num_params) >= 0
    longer = sign * (runs.tokens[row] - runs.tokens) >= 0
    gap = sign * np.log(runs.loss[row] / runs.loss[larger & longer])
    return bool(gap.max() > FAR / 2)


def _residuals(runs: RunArrays) -> tuple[Array, float] | None:
    """Residuals of ln L from a quadratic surface in what was varied, robust against a few odd runs; and their scale.

    Least absolute residuals by reweighting, in the logarithms of N, D, batch and rate. None with too few runs.
    """
    names = ("num_params", "tokens", "batch_tokens", "batch_sequences", "lr", "unique_tokens")
    logs = []
    for name in names:
        values = runs.extra.get(name) if name not in ("num_params", "tokens") else runs.column(name)
        if values is None or not np.all(np.isfinite(values) & (values > 0)) or np.ptp(np.log(values)) < 0.05:
            continue
        logs.append((np.log(values) - np.log(values).mean()) / np.log(values).std())
    squares = [a * b for i, a in enumerate(logs) for b in logs[i:]]
    terms = [np.ones(len(runs)), *logs]
    if len(runs) >= 3 * (len(terms) + len(squares)):
        terms += squares
    if len(runs) < 2 * len(terms) + 2 or not logs:
        return None
    design, target = np.stack(terms, axis=1), np.log(runs.loss)
    residual = target - np.median(target)
    thin = slice(None, None, -(-len(target) // MOST_ROWS_FOR_SURFACE))
    for _ in range(ROUNDS):
        root = 1 / np.sqrt(np.maximum(np.abs(residual[thin]), 1e-4))
        solution = np.linalg.lstsq(root[:, None] * design[thin], root * target[thin], rcond=1e-9)[0]
        residual = target - design @ solution
    return residual, 1.4826 * float(np.median(np.abs(residual)))
