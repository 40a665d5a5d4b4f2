"""What follows from the columns that are there, and whether they are in the units that they seem to be in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import UserError
from .columns import Match

if TYPE_CHECKING:
    from .observations import Observations

Columns = dict[str, np.ndarray]

# Below these a column cannot be a count of tokens or parameters of a language model; it is in millions or billions.
LEAST_TOKENS = 1e3
LEAST_PARAMS = 1e2
MOST_RATE = 10.0
# A batch of this many sequences would be several hundred million tokens; from here on a bare batch counts tokens.
LEAST_BATCH_IN_TOKENS = 1 << 16
# C below this share of 6·N·D is not in FLOPs: not even a model with few active experts goes there.
LEAST_SHARE = 1e-2


def complete(columns: Columns, bare_batch: bool) -> list[str]:
    """Fill what is missing from what is there, in place.

    D from batch and steps, or from C/(6·N); N from C/(6·D); C as 6·N·D; batch and steps from each other and D.

    Args:
        columns: field → values, nan where a row has none.
        bare_batch: whether ``batch_sequences`` may as well count tokens.

    Returns:
        Sentences that say what was derived.
    """
    rows = len(next(iter(columns.values())))
    for name in ("num_params", "tokens", "flops"):
        columns.setdefault(name, np.full(rows, np.nan))
    notes = _batch_in_tokens(columns, bare_batch) if "batch_sequences" in columns else []

    def value(name: str) -> np.ndarray:
        return columns.get(name, np.full(rows, np.nan))

    def fill(name: str, values: np.ndarray, how: str) -> None:
        gaps = np.isnan(value(name)) & np.isfinite(values) & (values > 0)
        if gaps.any():
            columns[name] = np.where(gaps, values, value(name))
            notes.append(f"{name} derived as {how} in {gaps.sum()} rows")

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        fill("tokens", value("batch_tokens") * value("steps"), "D = batch·steps")
        notes += _drop_small_flops(columns)
        fill("tokens", value("flops") / (6 * value("num_params")), "D = C/(6·N)")
        fill("num_params", value("flops") / (6 * value("tokens")), "N = C/(6·D)")
        fill("flops", 6 * value("num_params") * value("tokens"), "C = 6·N·D")
        fill("batch_tokens", value("tokens") / value("steps"), "D/steps")
        fill("steps", value("tokens") / value("batch_tokens"), "D/batch")
    return notes


def check_units(observations: Observations, match: Match) -> None:
    """Refuse columns that are clearly in millions, billions or some other unit.

    Raises:
        UserError: it says which column, and what to write.
    """
    for name, least in (("tokens", LEAST_TOKENS), ("num_params", LEAST_PARAMS)):
        middle = float(np.median(getattr(observations, name)))
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
    rates = observations.extra.get("lr")
    if rates is not None and np.nanmedian(rates) > MOST_RATE:
        raise UserError(
            f"lr (column {match.taken['lr']!r}) has a median of {np.nanmedian(rates):.3g}, far above any learning "
            "rate: write plain rates (3e-4), or leave the column out with columns={'lr': None}"
        )


def _batch_in_tokens(columns: Columns, bare: bool) -> list[str]:
    """Tokens a batch from sequences and their length; a batch of unknown unit by what steps or its size say."""
    batch = columns["batch_sequences"]
    if "sequence_length" in columns:
        columns.setdefault("batch_tokens", batch * columns["sequence_length"])
        return ["batch_tokens = batch in sequences · sequence length"]
    if not bare:
        return ["the batch is in sequences; columns={'sequence_length': ...} gives it in tokens"]
    if "steps" in columns and "tokens" in columns:
        with np.errstate(divide="ignore", invalid="ignore"):
            length = np.nanmedian(columns["tokens"] / (columns["steps"] * batch))
        in_tokens = bool(abs(length - 1) < 0.2)
    else:
        in_tokens = bool(np.nanmedian(batch) >= LEAST_BATCH_IN_TOKENS)
    if in_tokens:
        columns["batch_tokens"] = columns.pop("batch_sequences")
        return ["the batch is taken to be in tokens: it is too large for sequences, or batch·steps are the tokens"]
    return [
        "the batch does not say its unit and is taken to be in sequences; columns={'sequence_length': ...} gives it in "
        "tokens, columns={'batch_tokens': ...} says that it is in tokens"
    ]


def _drop_small_flops(columns: Columns) -> list[str]:
    """Compute that is far below 6·N·D is in some other unit; N and D say what it is."""
    share = columns["flops"] / (6 * columns["num_params"] * columns["tokens"])
    share = share[np.isfinite(share)]
    if not len(share) or not np.median(share) < LEAST_SHARE:
        return []
    columns["flops"] = np.full_like(columns["flops"], np.nan)
    return [f"flops not taken from the table: they are {np.median(share):.2g} of 6·N·D, so not in FLOPs"]
