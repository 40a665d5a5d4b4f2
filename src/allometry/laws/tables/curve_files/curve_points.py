"""The points of loss curves as arrays: cleaned, ordered, and those of several sources as one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ....errors import UserError
from ....quantities import plural
from ..raw_table import RawTable

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class CurvePoints:
    """The points of all runs one below the other; the fields are those of ``Curves``, which they become."""

    names: tuple[str, ...]
    run: Array
    step: Array
    loss: Array
    lr: Array
    tokens: Array
    num_params: Array
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        """The number of points, of all runs together."""
        return len(self.loss)


def clean_points(
    table: RawTable, run: Array, names: list[str], values: dict[str, Array], notes: list[str]
) -> CurvePoints:
    """Points in order, without those that have no loss; impossible values are refused."""
    _check_points(table, values)
    run, values = _merged(run, values)
    known = np.isfinite(values["loss"]) & np.isfinite(values["step"])
    for why, gone in (
        ("an infinite loss: the run diverged there", np.isinf(values["loss"])),
        ("no loss or no step", ~known & ~np.isinf(values["loss"])),
    ):
        if gone.any():
            notes.append(f"{table.name}: {gone.sum()} of {plural(len(known), 'point')} left out, {why}")
    if not known.any():
        raise UserError(f"{table.name}: no point has a finite loss; nothing to read")
    order = np.flatnonzero(known)
    if not _is_sorted(run[order], values["step"][order]):
        order = order[np.lexsort((values["step"][order], run[order]))]
    # A run that was resumed wrote some steps twice: the later point counts.
    last = np.append((np.diff(run[order]) != 0) | (np.diff(values["step"][order]) != 0), True)
    if not last.all():
        notes.append(f"{table.name}: {plural((~last).sum(), 'point')} left out, a later one has the same step")
    order = order[last]
    kept, codes = np.unique(run[order], return_inverse=True)
    first = np.searchsorted(codes, np.arange(len(kept)))
    points = {key: values[key][order] for key in ("step", "loss", "lr", "tokens")}
    points["lr"], filled = _filled(codes, points["step"], points["lr"])
    if filled:
        notes.append(f"{table.name}: lr filled between its neighbours at {plural(filled, 'point')}")
    kept_names = tuple(names[one] or "run" for one in kept)
    return CurvePoints(kept_names, codes, **points, num_params=values["num_params"][order][first], notes=tuple(notes))


def _check_points(table: RawTable, values: dict[str, Array]) -> None:
    """Refuse the first point whose loss, step or rate cannot be."""
    known = np.isfinite(values["loss"]) & np.isfinite(values["step"])
    for key, least in (("loss", "above zero"), ("step", "zero or more"), ("lr", "zero or more")):
        wrong = known & ((values[key] <= 0) if key == "loss" else (values[key] < 0) | np.isinf(values[key]))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise UserError(f"{table.name}, {table.place(row)}: {key} is {values[key][row]:g}; it must be {least}")


def _merged(run: Array, values: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """The rows of one step of a run as one: loggers write rate, training and held-out loss into rows of their own.

    Each field is that of the last row which has it. Rows that each hold a loss stay: they are counted where the later
    one is taken.
    """
    step = values["step"]
    blank = np.isnan(values["loss"]) | np.isnan(step)
    if not blank.any():
        return run, values
    order = np.lexsort((step, run))
    new = np.append(True, (np.diff(run[order]) != 0) | (np.diff(step[order]) != 0) | np.isnan(step[order][1:]))
    starts = np.flatnonzero(new)
    group = np.cumsum(new) - 1
    merged = {}
    for key, column in values.items():
        place = np.where(np.isnan(column[order]), -1, np.arange(len(order)))
        last = np.maximum.reduceat(place, starts)[group]
        filled = np.where(last >= 0, column[order][np.maximum(last, 0)], np.nan)
        merged[key] = np.where(np.isnan(column[order]), filled, column[order]) if key != "loss" else column[order]
    # A row without a loss beside one that has it has given what it held.
    has_loss = np.maximum.reduceat((~np.isnan(values["loss"][order])).astype(int), starts)[group] > 0
    keep = ~(np.isnan(values["loss"][order]) & has_loss)
    return run[order][keep], {key: column[keep] for key, column in merged.items()}


def _is_sorted(run: Array, step: Array) -> bool:
    change = np.diff(run)
    return bool(np.all((change > 0) | ((change == 0) & (np.diff(step) >= 0))))


def _filled(run: Array, step: Array, lr: Array) -> tuple[Array, int]:
    """Rates that were not logged at every point, from the points before and after in the same run."""
    gaps = np.isnan(lr)
    if not gaps.any() or gaps.all():
        return lr, 0
    lr = lr.copy()
    for one in np.unique(run[gaps]):
        there = run == one
        known = there & ~gaps
        if known.any():
            lr[there & gaps] = np.interp(step[there & gaps], step[known], lr[known])
    return lr, int(gaps.sum() - np.isnan(lr).sum())


def together(parts: list[CurvePoints]) -> CurvePoints:
    """CurvePoints of several sources as one; runs of equal name in different sources are refused."""
    names = [name for part in parts for name in part.names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the run {twice!r} comes from more than one source; rename one")
    offsets = np.cumsum([0, *(len(part.names) for part in parts)])
    run = np.concatenate([part.run + offset for part, offset in zip(parts, offsets[:-1], strict=True)])
    fields = ("step", "loss", "lr", "tokens", "num_params")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in fields}
    # Files of one kind have equal notes; one is enough.
    notes = tuple(
        dict.fromkeys(note.split(": ", 1)[1] if len(parts) > 1 else note for part in parts for note in part.notes)
    )
    return CurvePoints(tuple(names), run, **joined, notes=notes)
