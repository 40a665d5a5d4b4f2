"""Runs that differ in learning rate and batch, in cells of one size and token count; and which runs to add.

A sweep must fulfil some conditions before it has an optimum; each refusal names a run that would fulfil them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...errors import UserError
from ...laws import Observations
from ...quantities import format_count, plural

Array = np.ndarray
SAME = 0.02  # counts that differ by less are equal: tokens are whole steps, and steps depend on the batch
AXES = {"lr": "learning rate", "batch_tokens": "batch"}
LEAST_SETTINGS = 3  # with two values, one is lower, but there is no minimum
CLEARLY = math.log(2) / 2  # an optimum this far beyond the last value swept is a guess, not a measurement


@dataclass(frozen=True)
class Sweeps:
    """Runs in cells of one size and token count, cell after cell.

    ``log_lr``, ``log_batch``, ``log_loss`` and ``cell`` (an ascending index) have one entry a run, ``log_n`` and
    ``log_d`` one a cell.
    """

    log_lr: Array
    log_batch: Array
    log_loss: Array
    cell: Array
    log_n: Array
    log_d: Array

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the cells, (ln N, ln D)."""
        return float(self.log_n.mean()), float(self.log_d.mean())

    @cached_property
    def starts(self) -> Array:
        """The first run of each cell."""
        return np.searchsorted(self.cell, np.arange(len(self.log_n)))

    @property
    def sizes(self) -> Array:
        """Number of runs in each cell."""
        return np.bincount(self.cell, minlength=len(self.log_n))

    @cached_property
    def regressors(self) -> Array:
        """1, ln N and ln D from the middle, one row a cell."""
        n, d = self.centre
        return np.stack([np.ones_like(self.log_n), self.log_n - n, self.log_d - d], axis=1)

    @cached_property
    def swept(self) -> dict[str, Array]:
        """Of the logarithms of "lr" and of "batch_tokens": least, most, number of different values; (cells, 3) each."""
        groups = [np.split(logs, self.starts[1:]) for logs in (self.log_lr, self.log_batch)]
        extent = lambda logs: (logs.min(), logs.max(), len(_groups(logs)[1]))
        return {name: np.array([extent(logs) for logs in group]) for name, group in zip(AXES, groups, strict=True)}

    def where(self, cell: int) -> str:
        """``214M parameters and 4B tokens``."""
        n, d = (format_count(math.exp(logs[cell])) for logs in (self.log_n, self.log_d))
        return f"{n} parameters and {d} tokens"


@dataclass(frozen=True)
class SweptCell:
    """The runs of one size and token count: their number, the best setting there by the fit, and its loss.

    ``beyond`` names the settings whose optimum lies outside the swept values: "lr", "batch_tokens", both or none.
    """

    num_params: float
    tokens: float
    runs: int
    lr: float
    batch_tokens: float
    loss: float
    beyond: tuple[str, ...] = ()


def gather(observations: Observations) -> tuple[Sweeps, list[str]]:
    """The runs that share size and tokens with runs of another rate or batch, in cells; and notes on the others.

    Raises:
        UserError: no such columns or no such runs; a rate or a batch that is not above zero.
    """
    lr, batch = observations.column("lr"), observations.column("batch_tokens")
    known = np.isfinite(lr) & np.isfinite(batch)
    for name, values in (("lr", lr), ("batch_tokens", batch)):
        wrong = np.flatnonzero(known & ~(values > 0))
        if wrong.size:
            label = observations.labels[wrong[0]]
            raise UserError(f"{label}: {name} is {values[wrong[0]]:g}, not above zero: correct or remove the run")
    cell = np.zeros(len(known), dtype=int)
    cell[known] = _cells(np.log(observations.num_params[known]), np.log(observations.tokens[known]))
    different = np.unique(np.stack([cell, lr, batch])[:, known], axis=1)[0].astype(int)
    alone = known & (np.bincount(different, minlength=cell.max() + 1)[cell] < 2)
    used = known & ~alone
    if not used.any():
        raise UserError(
            "no two runs share size and tokens and differ in lr or batch_tokens: a surface needs such sweeps"
        )
    notes = []
    for reason, mask in (("without lr or batch_tokens", ~known), ("alone at their size and tokens", alone)):
        left = [observations.labels[i] for i in np.flatnonzero(mask)]
        if left:
            shown = ", ".join(left[:8]) + (f" and {len(left) - 8} more" if len(left) > 8 else "")
            notes.append(f"left out {len(left)} of {plural(len(known), 'run')}, {reason}: {shown}")
    columns = (lr, batch, observations.loss, observations.num_params, observations.tokens)
    return _in_order(cell[used], *(np.log(column[used]) for column in columns)), notes


def _cells(n: Array, d: Array) -> Array:
    """The cell of each run, by size and then by tokens."""
    size, _ = _groups(n)
    cell = np.empty(len(n), dtype=int)
    cells = 0
    for group in range(size.max(initial=-1) + 1):
        runs = np.flatnonzero(size == group)
        member, starts = _groups(d[runs])
        cell[runs] = cells + member
        cells += len(starts)
    return cell


def _in_order(cell: Array, lr: Array, batch: Array, loss: Array, n: Array, d: Array) -> Sweeps:
    """Sweeps in an order that does not depend on the order of the runs, cells numbered without gaps."""
    _, cell = np.unique(cell, return_inverse=True)
    order = np.lexsort((loss, batch, lr, cell))
    mean = lambda logs: np.bincount(cell, logs) / np.bincount(cell)
    return Sweeps(lr[order], batch[order], loss[order], cell[order], mean(n), mean(d))


def _groups(logs: Array) -> tuple[Array, Array]:
    """A group for each value, none wider than ``SAME``, numbered upwards; and the least value of each."""
    starts: list[float] = []
    for value in np.unique(logs):
        if not starts or value - starts[-1] > SAME:
            starts.append(value)
    return np.searchsorted(starts, logs, side="right") - 1, np.array(starts)


def check_settings(sweeps: Sweeps) -> None:
    """Refuse sweeps in which no cell can have a minimum in learning rate, or none in batch.

    Raises:
        UserError: fewer than three learning rates, or than three batches, in every cell; it says which runs to add.
    """
    for name, word in (("lr", "learning rates"), ("batch_tokens", "batches")):
        swept = sweeps.swept[name]
        if swept[:, 2].max() >= LEAST_SETTINGS:
            continue
        cell = int(np.argmax(sweeps.sizes))
        lr, batch = (math.exp(logs[sweeps.starts[cell]]) for logs in (sweeps.log_lr, sweeps.log_batch))
        rates, batches = [f"{x:.3g}" for x in (lr / 2, lr, 2 * lr)], [*map(format_count, (batch / 2, batch, 2 * batch))]
        many, other = (rates, f"batch {batches[1]}") if name == "lr" else (batches, f"learning rate {rates[1]}")
        raise UserError(
            f"no size and token count has runs at {LEAST_SETTINGS} {word}, so none has a minimum: add runs at "
            f"{sweeps.where(cell)} until it has {word} {many[0]}, {many[1]} and {many[2]} with {other}"
        )


def check_exponents(sweeps: Sweeps) -> None:
    """Refuse cells that do not determine the exponents in N and D without a prior.

    Raises:
        UserError: fewer than three cells with a sweep, or cells on a line in (ln N, ln D).
    """
    regressors = sweeps.regressors[sweeps.sizes >= LEAST_SETTINGS]
    if len(regressors) >= 3 and np.linalg.svd(regressors[:, 1:] - regressors[:, 1:].mean(0))[1][-1] > 0.1:
        return
    # The largest size with the fewest tokens lies off a rising line; with the most tokens it lies off a falling one.
    rises = (sweeps.regressors[:, 1] * sweeps.regressors[:, 2]).sum() > 0
    n, d = np.exp(sweeps.log_n.max()), np.exp(sweeps.log_d.min() if rises else sweeps.log_d.max())
    n = 4 * n if np.ptp(sweeps.log_n) < SAME else n
    d = 4 * d if np.ptp(sweeps.log_d) < SAME else d
    raise UserError(
        f"sweeps at {plural(len(regressors), 'pair')} of size and tokens do not determine how the optimum "
        f"moves with each: add "
        f"one at {format_count(n)} parameters and {format_count(d)} tokens, off the line of the others, or name a prior"
    )


def measured(sweeps: Sweeps, optima: Array, best: Array) -> tuple[SweptCell, ...]:
    """The cells with their optima, (ln η*, ln B*) one row each, and ln of their best loss."""
    beyond = {name: _beyond(sweeps, optima[:, axis], name) > 0 for axis, name in enumerate(AXES)}
    columns = np.exp([sweeps.log_n, sweeps.log_d, *optima.T, best]).T.tolist()
    return tuple(
        SweptCell(n, d, int(runs), lr, batch, loss, tuple(name for name in AXES if beyond[name][cell]))
        for cell, ((n, d, lr, batch, loss), runs) in enumerate(zip(columns, sweeps.sizes, strict=True))
    )


def _beyond(sweeps: Sweeps, optima: Array, name: str) -> Array:
    """How far the optimum of each cell lies beyond its swept values; negative within them, nan without a sweep."""
    least, most, different = sweeps.swept[name].T
    return np.where(different >= LEAST_SETTINGS, np.maximum(least - optima, optima - most), np.nan)


def check_bracketed(sweeps: Sweeps, cells: tuple[SweptCell, ...]) -> None:
    """Refuse sweeps whose optimum lies clearly beyond the swept values in every cell.

    Raises:
        UserError: so it is; the message names the run that would bracket one.
    """
    for name, word in (("lr", "learning rates"), ("batch_tokens", "batches")):
        distance = _beyond(sweeps, np.log([getattr(cell, name) for cell in cells]), name)
        if np.nanmin(distance) > CLEARLY:
            index = int(np.nanargmin(distance))
            raise UserError(
                f"the loss still falls at the end of the swept {word}, at every size and token count: "
                f"{missing(sweeps, cells[index], index, name)}"
            )


def missing(sweeps: Sweeps, cell: SweptCell, index: int, name: str) -> str:
    """Which run would bracket the optimum of a cell: beyond the end where it lies, the other setting as swept."""
    settings = {}
    for each in AXES:
        least, most, _ = np.exp(sweeps.swept[each][index])
        best = getattr(cell, each)
        inside = min(max(best, least), most)
        settings[each] = inside if each != name else 2 * most if best > most else least / 2
    return (
        f"add a run with learning rate {settings['lr']:.3g} and batch {format_count(settings['batch_tokens'])} at "
        f"{sweeps.where(index)}"
    )
