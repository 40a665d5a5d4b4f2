"""The budgets of a table: which runs share a compute, the curve through each, its minimum or why it has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from ...quantities import format_count, plural
from ..tables.observations import Observations
from .minima import Valleys
from .shared_shape import RunsByBudget

Array = np.ndarray
LEAST_SIZES = 4
# Sizes nearer than this, as logarithms, are one.
SAME = 0.02
# A minimum is held by its runs if it stays between their sizes in this share of the resamples.
HELD = 0.5


@dataclass(frozen=True, eq=False)
class Slice:
    """One budget: its runs, the curve through them, and where that is lowest.

    Attributes:
        flops: C, the geometric mean of the runs'.
        num_params, tokens, loss: N*, D* and L* at the minimum; nan if refused.
        low, high: the 90 % interval of N* from the noise of the runs; nan if refused.
        refused: why the budget gives no minimum and which run would help; empty if it gives one.
        labels, run_params, run_loss: its runs.
        curve_params, curve_loss: the fitted curve over its sizes; empty if there are too few of them.
    """

    flops: float
    labels: tuple[str, ...]
    run_params: Array
    run_loss: Array
    curve_params: Array = field(default_factory=lambda: np.empty(0))
    curve_loss: Array = field(default_factory=lambda: np.empty(0))
    num_params: float = np.nan
    tokens: float = np.nan
    loss: float = np.nan
    low: float = np.nan
    high: float = np.nan
    refused: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back; None stands for nan."""
        plain = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, np.ndarray | tuple):
                value = list(map(float, value)) if isinstance(value, np.ndarray) else list(value)
            plain[one.name] = None if value != value else value
        return plain

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Slice:
        """The slice that ``to_json`` wrote."""
        values: dict[str, Any] = {name: np.nan if value is None else value for name, value in data.items()}
        for name in ("run_params", "run_loss", "curve_params", "curve_loss"):
            values[name] = np.array(values[name], dtype=float)
        values["labels"] = tuple(data["labels"])
        return cls(**values)


def group(
    observations: Observations, budgets: Sequence[float] | None = None, tolerance: float = 0.1
) -> tuple[list[Array], list[str]]:
    """Put runs of one compute together.

    Without ``budgets``, the window of compute (1 ± ``tolerance``) that holds most runs is a budget, then the next one
    among the rest, until no window holds two; runs of one size are no budget.

    Returns:
        index arrays, one a budget in the order of compute, and a note that names the runs in none.
    """
    log_c, log_n = np.log(observations.flops), np.log(observations.num_params)
    half = np.log1p(tolerance) * (1 + 1e-9)
    if budgets is None:
        groups = [members for members in _windows(log_c, 2 * half) if _levels(log_n[members]) > 1]
    else:
        distance = np.abs(log_c - np.log(np.unique(np.asarray(budgets, dtype=float)))[:, None])
        nearest = np.where(distance.min(axis=0) <= half, distance.argmin(axis=0), -1)
        groups = [np.flatnonzero(nearest == row) for row in range(len(distance)) if np.any(nearest == row)]
    groups.sort(key=lambda members: log_c[members].mean())
    left = np.setdiff1d(np.arange(len(observations)), np.concatenate([np.empty(0, dtype=int), *groups]))
    if not len(left):
        return groups, []
    names = ", ".join(observations.labels[index] for index in left[:8])
    more = f" and {len(left) - 8} more" if len(left) > 8 else ""
    reason = "share their compute with no other size" if budgets is None else "are near none of the budgets"
    return groups, [f"{len(left)} of {plural(len(observations), 'run')} {reason}: {names}{more}"]


def _windows(log_c: Array, width: float) -> list[Array]:
    """Runs within ``width`` of each other, the fullest window first, while one holds two runs or more."""
    left, windows = np.argsort(log_c, kind="stable"), []
    while len(left):
        ends = np.searchsorted(log_c[left], log_c[left] + width, side="right")
        first = int(np.argmax(ends - np.arange(len(left))))
        window = slice(first, int(ends[first]))
        if window.stop - window.start < 2:
            break
        windows.append(left[window])
        left = np.delete(left, window)
    return windows


def _levels(logarithms: Array) -> int:
    """How many values there are that differ."""
    return 1 + int((np.diff(np.sort(logarithms)) > SAME).sum())


def bare(observations: Observations, members: Array) -> Slice:
    """The runs of a budget before anything is fitted; refused if they have too few sizes."""
    members = members[np.argsort(observations.num_params[members], kind="stable")]
    log_n, log_d, log_c = (np.log(getattr(observations, name)[members]) for name in ("num_params", "tokens", "flops"))
    sizes, reason = _levels(log_n), ""
    if sizes < LEAST_SIZES:
        widest = int(np.diff(log_n).argmax()) if sizes > 1 else 0
        new = log_n[widest : widest + 2].mean() if sizes > 1 else log_n[0] + np.log(2)
        reason = f"{sizes} of the {LEAST_SIZES} sizes that a curve needs: {_add(new, (log_d + log_n).mean() - new)}"
    return Slice(
        flops=float(np.exp(log_c.mean())),
        labels=tuple(observations.labels[index] for index in members),
        run_params=observations.num_params[members],
        run_loss=observations.loss[members],
        refused=reason,
    )


def with_curve(alone: Slice, runs: RunsByBudget, valleys: Valleys, row: int) -> Slice:
    """The budget in this row with its curve, and with its minimum or the reason why it has none."""
    position, drawn = float(valleys.position[row]), valleys.positions[:, row]
    size = lambda n: runs.centre_n[row] + n
    tokens = lambda n: runs.centre_d[row] - runs.slope[row] * n
    curved = replace(alone, curve_params=np.exp(size(runs.grid()[row])), curve_loss=valleys.curves[row])
    why, new = _refusal(runs, row, position, drawn)
    if why:
        return replace(curved, refused=why if new is None else f"{why}: {_add(size(new), tokens(new))}")
    low, high = np.quantile(drawn, [0.05, 0.95])
    return replace(
        curved,
        num_params=float(np.exp(size(position))),
        tokens=float(np.exp(tokens(position))),
        loss=float(valleys.loss[row]),
        low=float(np.exp(size(min(low, position)))),
        high=float(np.exp(size(max(high, position)))),
    )


def _refusal(runs: RunsByBudget, row: int, position: float, drawn: Array) -> tuple[str, float | None]:
    """Why a budget gives no minimum, empty if it gives one, and at which n a run would help."""
    low, high = (float(ends[row]) for ends in runs.span)
    step = (high - low) / (runs.mask[row].sum() - 1)
    below, above = float(np.mean(drawn <= low)), float(np.mean(drawn >= high))
    if np.isnan(position):
        return "its curve is concave, with a highest and no lowest point; leave out or repeat runs that failed", None
    if position <= low:
        return "the loss is lowest at or below its smallest size", low - step
    if position >= high:
        return "the loss is lowest at or above its largest size", high + step
    if below + above > 1 - HELD:
        share = f"noise puts the minimum off its sizes in {below + above:.0%} of the resamples"
        return share, low - step if below > above else high + step
    return "", None


def _add(log_n: float, log_d: float) -> str:
    num_params, tokens = (format_count(float(np.exp(log))) for log in (log_n, log_d))
    return f"add a run at {num_params} parameters and {tokens} tokens"
