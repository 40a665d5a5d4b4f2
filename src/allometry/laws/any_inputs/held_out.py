"""What a backtest holds out: the dearest runs, those at an input's far end, every fifth point.

A split stands for a kind of prediction: of dearer runs, of runs beyond the largest value of one input, of runs among
those fitted. ``likeness`` says how much a point to predict for resembles each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..field_names import COUNTED, KNOWN, normalise
from ..tables.measurements import Measurements

Array = np.ndarray
# Shares of the runs, dearest first, that are held out by cost.
SHARES = (0.15, 0.3)
# At the end of an input as near to this share of the runs as its values allow, between the others.
END_SHARE, LEAST_SHARE, MOST_SHARE = 0.2, 0.03, 0.68
FOLDS = 5
# How often a split is repeated farther from the end; how many runs, which share of them, and how many values of the
# input that it lies along it must leave to fit.
DEEPER, LEAST_DEEP, DEEP_SHARE, DEEP_LEVELS = 2, 10, 0.35, 3
LEAST_FITTED = 4


# What a split lies along, where that is no input.
COST, INSIDE = -1, -2
# So many e-folds beyond the runs a point is wholly of the kind of a split along that input.
WHOLLY = 0.3
# What a split of another kind counts.
LEAST_LIKENESS = 0.4


class HeldOut(NamedTuple):
    """A split: what is held out, in words; the input at whose end it is, or COST or INSIDE; which runs are held out and
    which are fitted (boolean)."""

    name: str
    along: int
    held: Array
    fitted: Array

    @classmethod
    def of(cls, name: str, along: int, held: Array) -> HeldOut:
        """The split that fits all the other runs."""
        return cls(name, along, held, ~held)


def cost_of(runs: Measurements) -> Array:
    """The cost of each run: as given, or as its inputs have it."""
    return runs.cost if runs.cost is not None else cost_at(runs, runs.points)


def cost_at(runs: Measurements, points: Array) -> Array:
    """What points cost, by their inputs: parameters times tokens, or the product of the inputs that are counts."""
    counts = cost_inputs(runs)
    return np.exp(np.log(np.maximum(points[:, counts], 1e-300)).sum(axis=1))


def size_and_tokens(runs: Measurements) -> list[int] | None:
    """The places of the inputs that are parameters and tokens by their names; None without both."""
    names = [normalise(name) for name in runs.inputs]
    sizes = {*KNOWN["num_params"], *" ".join(COUNTED.values()).split()}
    size = next((place for place, name in enumerate(names) if name in sizes), None)
    tokens = next((place for place, name in enumerate(names) if name in KNOWN["tokens"]), None)
    if size is not None and tokens is not None and (runs.points[:, [size, tokens]] > 0).all():
        return [size, tokens]
    return None


def cost_inputs(runs: Measurements) -> list[int]:
    """The inputs that make up a cost: one of parameters and one of tokens, or else all above zero and beyond one."""
    return size_and_tokens(runs) or [
        place for place, own in enumerate(runs.points.T) if (own > 0).all() and own.max() > 1
    ]


def splits(runs: Measurements) -> list[HeldOut]:
    """The splits of a table, each with enough runs on both sides."""
    chosen = []
    if runs.are_shares:
        return _folds(runs)
    cost = cost_of(runs)
    if np.ptp(cost) > 0:
        chosen += [HeldOut.of(f"most expensive {share:.0%}", COST, _top(cost, share)) for share in SHARES]
    for place, (name, values) in enumerate(zip(runs.inputs, runs.points.T, strict=True)):
        held = _far_end(values)
        if held is not None:
            chosen.append(HeldOut.of(f"largest {name}", place, held))
    chosen += [fold._replace(name="every fifth point") for fold in _folds(runs)[:1]]
    distinct = {split.held.tobytes(): split for split in reversed(chosen)}
    kept = [split for split in reversed(distinct.values()) if _fit_for(runs, split.held)]
    return kept or _folds(runs)


def deeper_splits(runs: Measurements, base: list[HeldOut]) -> list[HeldOut]:
    """Splits farther from the end of the cost and of each input than those of ``base``, with what lies beyond left out.

    The runs of one split are off together, so that it is hardly more than one draw of how far a prediction goes astray.
    """
    deep = []
    for split in {split.along: split for split in base if split.along != INSIDE}.values():
        last = split
        for _ in range(DEEPER):
            rows = np.flatnonzero(last.fitted)
            inner = runs.where(rows)
            step = next((one for one in splits(inner)[::-1] if one.along == split.along), None)
            if step is None or step.fitted.sum() < max(LEAST_DEEP, DEEP_SHARE * len(runs)):
                break
            if split.along >= 0 and len(np.unique(inner.points[step.fitted, split.along])) < DEEP_LEVELS:
                break  # too few to tell a bend from a line
            held, fitted = np.zeros(len(runs), bool), np.zeros(len(runs), bool)
            held[rows[step.held]], fitted[rows[step.fitted]] = True, True
            last = HeldOut(split.name, split.along, held, fitted)
            deep.append(last)
    return deep


def _fit_for(runs: Measurements, held: Array) -> bool:
    """Whether both sides have runs, every group keeps one, and every input that varies still does."""
    if not held.any() or (~held).sum() < LEAST_FITTED:
        return False
    left = runs.where(~held)
    groups = len(np.unique(left.group)) == len(np.unique(runs.group))
    varies = np.ptp(runs.points, axis=0) > 0
    return groups and bool((np.ptp(left.points, axis=0) > 0)[varies].all())


def _top(values: Array, share: float) -> Array:
    """The runs of the largest values, equal ones together, as near to this share of the runs as that allows."""
    levels, times = np.unique(values, return_counts=True)
    shares = times[::-1].cumsum() / len(values)
    return values >= levels[::-1][int(np.abs(np.log(shares / share)).argmin())]


def _far_end(values: Array) -> Array | None:
    """The runs at the largest values of an input; None if it has too few values."""
    if len(np.unique(values)) < 3:
        return None
    held = _top(values, END_SHARE)
    return held if LEAST_SHARE <= held.mean() <= MOST_SHARE else None


def _folds(runs: Measurements) -> list[HeldOut]:
    """Every fifth different point, in all groups."""
    _, place = np.unique(runs.points, axis=0, return_inverse=True)
    place = place.ravel()
    shuffled = np.random.default_rng(0).permutation(place.max() + 1)[place]
    held = [shuffled % FOLDS == number for number in range(FOLDS)]
    folds = [HeldOut.of(f"fold {number + 1} of {FOLDS}", INSIDE, rows) for number, rows in enumerate(held)]
    return [fold for fold in folds if fold.held.any() and (~fold.held).sum() >= LEAST_FITTED]


def likeness(runs: Measurements, points: Array, along: Array) -> Array:
    """How much each point resembles each split, which lies ``along`` an input, cost or none: (points, splits)."""
    beyond = np.zeros((len(points), len(along)))
    columns = zip(points.T, runs.points.T, runs.by_logarithm, strict=True)
    for place, (values, own, positive) in enumerate(columns):
        if positive:
            with np.errstate(divide="ignore"):
                beyond[:, along == place] = np.log(np.maximum(values, 1e-300) / own.max())[:, None]
        else:
            beyond[:, along == place] = ((values - own.max()) / max(float(own.std()), 1e-12))[:, None]
    cost, own = (np.log(cost_at(runs, array)) for array in (points, runs.points))
    # Of two splits by cost each counts half.
    beyond[:, along == COST] = (cost - own.max())[:, None]
    reach = np.clip(beyond / WHOLLY, 0, 1) / np.where(along == COST, max((along == COST).sum(), 1), 1)
    inside = 1 - np.clip(beyond / WHOLLY, 0, 1).max(axis=1, initial=0.0, keepdims=True)
    return LEAST_LIKENESS + np.where(along == INSIDE, inside, reach)


def beyond(runs: Measurements, points: Array) -> Array:
    """How far points (rows, inputs) lie beyond the runs, in e-folds; in deviations for an input that may be zero."""
    farthest = np.zeros(len(points))
    for values, own, positive in zip(points.T, runs.points.T, runs.by_logarithm, strict=True):
        if positive:
            low, high, at = np.log(own.min()), np.log(own.max()), np.log(np.maximum(values, 1e-300))
            unit = 1.0
        else:
            low, high, at, unit = own.min(), own.max(), values, max(float(own.std()), 1e-12)
        farthest = np.maximum(farthest, np.maximum(at - high, low - at) / unit)
    return farthest
