"""Check: whether the numbers can be those of runs, and in the units that they seem to be in."""

from __future__ import annotations

import math

import numpy as np

from ...errors import UserError
from .columns import COUNTS, Match
from .raw_table import RawTable
from .run_arrays import RunArrays

# Below these a column cannot be a count of tokens or parameters of a language model; it is in millions or billions.
LEAST_TOKENS = 1e3
LEAST_PARAMS = 1e2
MOST_LEARNING_RATE = 10.0
# The noise of a loss as a part of it; more than this is meant in percent.
MOST_NOISE = 0.2


def check_counts(runs: RunArrays, table: RawTable) -> None:
    """Refuse sizes, tokens, compute and losses that are not above zero, and hyperparameters that cannot be.

    Raises:
        UserError: the first row of ``table``, the runs' own, that is wrong.
    """
    required = ("num_params", "tokens", "flops", "loss")
    for name in (*required, *(n for n in runs.extra if n in COUNTS or n in ("lr", "sequence_length", "trunk_noise"))):
        values = runs.column(name)
        good = np.isfinite(values) & (values > 0)
        if name not in required:
            good |= np.isnan(values)
        if good.all():
            continue
        row = int(np.argmin(good))
        place = table.place(row)
        where = place if runs.labels[row] == place else f"{place} ({runs.labels[row]})"
        shown = "missing" if math.isnan(values[row]) else f"{values[row]:g}"
        raise UserError(f"{table.name}, {where}: {name} is {shown}; it must be a finite number above zero")
    noise = runs.extra.get("trunk_noise")
    if noise is not None and np.nanmax(noise) >= MOST_NOISE:
        raise UserError(
            f"{table.name}: trunk_noise is {np.nanmax(noise):g}; it is the standard deviation over the loss, so write "
            "0.01 for 1 %"
        )


def check_units(runs: RunArrays, match: Match) -> None:
    """Refuse columns that are clearly in millions, billions or some other unit.

    Raises:
        UserError: which column it is, and what to write.
    """
    for name, least in (("tokens", LEAST_TOKENS), ("num_params", LEAST_PARAMS)):
        middle = float(np.median(runs.column(name)))
        if middle >= least:
            continue
        if name not in match.taken:
            raise UserError(
                f"{name} worked out from column {match.taken.get('flops')!r} has a median of {middle:.3g}, too small "
                f"for a count: is that column in FLOPs? Give plain FLOPs (1.2e19, not 12) or a column of {name}; steps "
                "and batch make tokens too"
            )
        raise UserError(
            f"{name} has a median of {middle:.3g}, too small for a count: is the column in millions or billions? "
            "Write plain counts (20e9, not 20)"
        )
    rates = runs.extra.get("lr")
    if rates is not None and np.nanmedian(rates) > MOST_LEARNING_RATE:
        raise UserError(
            f"lr (column {match.taken['lr']!r}) has a median of {np.nanmedian(rates):.3g}, far above any learning "
            "rate: write plain rates (3e-4), or leave the column out with columns={'lr': None}"
        )
