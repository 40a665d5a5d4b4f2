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
# The noise of a loss as a part of it; more than this is meant in percent.
MOST_NOISE = 0.2
NOISES = ("trunk_noise", "run_noise")
# A parameter sees at most so many tokens; beyond this, sizes or tokens are in other units.
LEAST_LIKELY_TOKENS = 2e4
MOST_TOKENS_A_PARAMETER, LEAST_TOKENS_A_PARAMETER = 1e6, 1e-3


def check_counts(runs: RunArrays, table: RawTable) -> None:
    """Refuse sizes, tokens, compute and losses that are not above zero, and hyperparameters that cannot be.

    Raises:
        UserError: the first row of ``table``, the runs' own, that is wrong.
    """
    required = ("num_params", "tokens", "flops", "loss")
    for name in (*required, *(n for n in runs.extra if n in COUNTS or n in ("lr", "sequence_length", *NOISES))):
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
        if name == "flops" and np.isnan(values[row]):  # sizes and tokens passed, so 6·N·D was there
            shown = f"6·N·D of {runs.num_params[row]:g} parameters and {runs.tokens[row]:g} tokens"
        raise UserError(f"{table.name}, {where}: {name} is {shown}; it must be a finite number above zero")
    for name in NOISES:
        noise = runs.extra.get(name)
        if noise is not None and np.nanmax(noise) >= MOST_NOISE:
            raise UserError(
                f"{table.name}: {name} is {np.nanmax(noise):g}; it is the standard deviation over the loss, so write "
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
            f"Say its unit, e.g. columns={{{name!r}: '{match.taken[name]}*1e6'}}, or write plain counts (20e9, not 20)"
        )
    if len(match.chosen & {"num_params", "tokens"} & set(match.factors)) or "flops" in match.taken:
        return  # the user said the unit, or the compute of the table confirms it
    ratio = float(np.median(runs.tokens / runs.num_params))
    if not LEAST_TOKENS_A_PARAMETER < ratio < MOST_TOKENS_A_PARAMETER:
        name, values = ("num_params", runs.num_params) if ratio > 1 else ("tokens", runs.tokens)
        column = match.taken.get(name, name)
        raise UserError(
            f"{ratio:.3g} tokens a parameter: is {name} (column {column!r}, {values.min():.4g} to {values.max():.4g}) "
            f"in millions or billions? Say its unit, e.g. columns={{{name!r}: '{column}*1e6'}}, or *1 if it is a count"
        )
    if np.median(runs.num_params) < 1e4 and np.median(runs.tokens) < 1e5 and "num_params" not in match.factors:
        column = match.taken.get("num_params", "num_params")
        sizes, tokens = float(np.median(runs.num_params)), float(np.median(runs.tokens))
        raise UserError(
            f"num_params and tokens have medians of {sizes:.4g} and {tokens:.4g}: are they in millions? Say the "
            f"units, e.g. columns={{'num_params': '{column}*1e6'}}, or *1 if they are counts"
        )
    if np.median(runs.tokens) < LEAST_LIKELY_TOKENS and "tokens" not in match.factors and "tokens" not in match.chosen:
        column, middle = match.taken.get("tokens", "tokens"), float(np.median(runs.tokens))
        raise UserError(
            f"tokens have a median of {middle:.4g}: is column {column!r} in thousands or millions? Say its unit, e.g. "
            f"columns={{'tokens': '{column}*1e6'}}, or *1 if it is a count"
        )
