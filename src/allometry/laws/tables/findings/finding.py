"""A finding: its kind, its runs, and what to do about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..run_arrays import RunArrays

Array = np.ndarray


@dataclass(frozen=True)
class Finding:
    """Something about the runs that a careful person would look at.

    Attributes:
        kind: "duplicate", "impossible", "levels" (of the compute against 6·N·D), "checkpoints" (rows that are points
            along a run), "diverged", "outlier", "constant", "collinear", "rising", "pre-asymptotic" or "edge".
        rows: labels of the runs.
        text: one sentence on what it is, one on what to do.
    """

    kind: str
    rows: tuple[str, ...]
    text: str


def finding(kind: str, runs: RunArrays, rows: Array, text: str) -> Finding:
    """A finding that begins with the runs: "2 runs (a, b): a loss far above ..."."""
    labels = labels_of(runs, rows)
    shown = ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
    return Finding(kind, labels, f"{len(labels)} {'run' if len(labels) == 1 else 'runs'} ({shown}): {text}")


def labels_of(runs: RunArrays, rows: Array) -> tuple[str, ...]:
    return tuple(runs.labels[row] for row in rows)
