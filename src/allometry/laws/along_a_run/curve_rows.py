"""One loss curve with the learning rate of every step, from rows of step, learning rate and loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ...quantities import plural
from ..base import Array
from .multi_power import MOST_STEPS, check_rates

LEAST_ROWS, MOST_ROWS = 8, 600


class Curve(NamedTuple):
    """One run: its rows, and the learning rate of every step."""

    name: str
    steps: Array
    loss: Array
    rates: Array

    @property
    def at_rows(self) -> Array:
        """The learning rates of the rows."""
        return self.rates[self.steps - 1]


def read_rows(name: str, rows: Sequence, warmup: int, schedule: Array | None, notes: list[str]) -> Curve:
    """One curve, checked, without its warm-up; what was left out or averaged is added to ``notes``.

    Raises:
        UserError: rows out of order or too few, no learning rate.
    """
    try:
        steps, lr, loss = (np.asarray(column, dtype=float) for column in rows)
    except (TypeError, ValueError):
        raise UserError(f"curve {name}: give (steps, learning rates, losses), all numbers") from None
    if not (steps.ndim == 1 and steps.shape == lr.shape == loss.shape and len(steps)):
        raise UserError(f"curve {name}: steps, learning rates and losses must be equally many")
    if not (np.all(np.isfinite(steps)) and np.all(np.diff(steps) > 0) and steps[0] >= 0):
        raise UserError(f"curve {name}: steps must rise from row to row; sort them, and keep one row a step")
    if steps[-1] > MOST_STEPS:
        raise UserError(f"curve {name}: {steps[-1]:.3g} steps; if these are tokens, divide by the tokens of a step")
    if schedule is None and not np.all(np.isfinite(lr) & (lr >= 0)):
        raise UserError(f"curve {name}: a learning rate is missing or negative; fix it, or give the curve's schedule")
    rates = check_rates(_rates(steps, lr, warmup) if schedule is None else schedule, f"curve {name}")
    if steps[-1] > len(rates):
        raise UserError(
            f"curve {name}: its schedule has {plural(len(rates), 'step')}, but its last row is step {steps[-1]:.0f}"
        )
    risen = max(warmup, int(np.argmin(np.diff(rates, append=0.0) > 0)) + 1)
    sound = np.isfinite(loss) & (loss > 0)
    for reason, out in (("of warm-up", sound & (steps < risen)), ("without a finite loss above zero", ~sound)):
        if out.any():
            notes.append(f"curve {name}: left out {plural(out.sum(), 'row')} {reason}")
    steps, loss = steps[sound & (steps >= risen)], loss[sound & (steps >= risen)]
    if len(steps) < LEAST_ROWS:
        raise UserError(
            f"curve {name}: {plural(len(steps), 'row after warm-up is', 'rows after warm-up are')} too few; "
            f"give {LEAST_ROWS} or more"
        )
    if len(steps) > MOST_ROWS:
        notes.append(f"curve {name}: {len(steps)} rows averaged to {MOST_ROWS}")
        first = np.linspace(0, len(steps), MOST_ROWS, endpoint=False).astype(int)
        counts = np.diff(first, append=len(steps))
        steps, loss = (np.add.reduceat(column, first) / counts for column in (steps, loss))
    return Curve(name, np.round(steps).astype(int), loss, rates)


def _rates(steps: Array, lr: Array, warmup: int) -> Array:
    """The learning rate of every step from rows: see ``curve_fit.fit_curves``."""
    change = np.diff(lr)
    flat = np.pad(change == 0, 1, constant_values=True)
    jump = (change != 0) & flat[:-2] & flat[2:] & (np.diff(steps) > 1)
    at, rate = np.append(steps, steps[1:][jump] - 1), np.append(lr, lr[:-1][jump])
    if 0 < warmup < steps[0]:
        at, rate = np.append(at, [0, warmup]), np.append(rate, [0, lr[0]])
    elif warmup or np.any(change[:1] > 0):
        at, rate = np.append(at, 0), np.append(rate, 0)
    order = np.argsort(at, kind="stable")
    return np.interp(np.arange(1, steps[-1] + 1), at[order], rate[order])
