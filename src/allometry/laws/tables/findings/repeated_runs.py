"""Runs that repeat each other: copies, and those that differ in nothing but the seed, which tell the noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..run_arrays import RunArrays
from .finding import Finding, finding, labels_of

Array = np.ndarray

# Two runs that agree in these, where the table has them, repeat each other.
CONDITIONS = (
    "batch_tokens",
    "batch_sequences",
    "lr",
    "unique_tokens",
    "warmup",
    "weight_decay",
    "group",
    "share_of_run",
)


@dataclass(frozen=True)
class Noise:
    """The scatter between repeated runs.

    Attributes:
        sigma: standard deviation of ln L, pooled within the sets of repeats: 0.001 is 0.1 % of the loss.
        freedom: its degrees of freedom.
        sets: labels of the runs that repeat each other.
    """

    sigma: float
    freedom: int
    sets: tuple[tuple[str, ...], ...]


def noise(runs: RunArrays) -> Noise | None:
    """The noise floor: standard deviation of ln L between runs that differ in nothing but the seed.

    Runs that agree in loss and seed as well are copies, not repeats, and do not count. None without repeats.
    """
    alone = runs.where(~_copies(runs))
    groups = sets_of(_identity(alone), 2)
    if not groups:
        return None
    log_loss = np.log(alone.loss)
    squares = sum(float(((log_loss[rows] - log_loss[rows].mean()) ** 2).sum()) for rows in groups)
    freedom = sum(len(rows) - 1 for rows in groups)
    return Noise(float(np.sqrt(squares / freedom)), freedom, tuple(labels_of(alone, rows) for rows in groups))


def duplicates(runs: RunArrays) -> Iterator[Finding]:
    """Copies of other runs."""
    rows = np.flatnonzero(_copies(runs))
    if len(rows):
        yield finding(
            "duplicate",
            runs,
            rows,
            "the same as another in size, tokens, settings and loss; remove the copies, as a fit counts them twice",
        )


def _copies(runs: RunArrays) -> Array:
    """Whether an earlier run is the same in everything, including the loss and the seed."""
    _, first = np.unique(_identity(runs, ("seed",)), return_index=True)
    copies = np.ones(len(runs), bool)
    copies[first] = False
    return copies


def _identity(runs: RunArrays, more: tuple[str, ...] = ()) -> Array:
    """A number for each run, equal for runs of equal N, D and hyperparameters."""
    names = ["num_params", "tokens", *(name for name in (*CONDITIONS, *more) if name in runs.extra)]
    code = np.zeros(len(runs), np.int64)
    for values in [*map(runs.column, names), *([runs.loss] if more else [])]:
        # Six digits: the rest is how a number was written.
        rounded = np.round(np.log(np.where(values > 0, values, 1.0)), 6) + np.where(values > 0, 0.0, values - 1e6)
        levels, inverse = np.unique(np.where(np.isnan(values), -np.inf, rounded), return_inverse=True)
        code = np.unique(code * len(levels) + inverse, return_inverse=True)[1]
    return code


def sets_of(code: Array, least: int) -> list[Array]:
    """The rows of each code that so many rows have."""
    rows = np.flatnonzero(np.bincount(code)[code] >= least)
    order = rows[np.argsort(code[rows], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(code[order])) + 1) if len(rows) else []
