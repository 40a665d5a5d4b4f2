"""The compute-optimal frontier: power laws through the minima of the budgets, and through every resample of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .minima import Valleys
from .shared_shape import RunsByBudget

Array = np.ndarray
# The minima scatter about their line by more than noise if fewer resamples than this share scatter as much.
SIGNIFICANT = 0.05
# No ladder follows a power law more closely than this, so no minimum of ln N* weighs as if it were known better.
TRUST = 0.1


def frontier(runs: RunsByBudget, valleys: Valleys, weighted: bool, seed: int) -> dict[str, Any]:
    """Lines through the minima, theirs through every resample, and the scatter beyond noise."""
    centre = float(runs.log_flops.mean())
    c = runs.log_flops - centre
    variance = np.maximum((np.diff(np.quantile(valleys.positions, [0.05, 0.95], axis=0), axis=0)[0] / 3.29) ** 2, 1e-18)
    moved = valleys.positions - valleys.position
    scatter = _scatter(c, runs.centre_n + valleys.position, moved, variance)
    if scatter:
        generator = np.random.default_rng(seed + 1)
        freedom = len(c) - 2
        tails = np.sqrt(freedom / generator.chisquare(freedom, size=(len(moved), 1)))
        moved = moved + scatter * tails * generator.standard_normal(moved.shape)
    weights = 1 / (variance + scatter**2 + TRUST**2) if weighted else np.ones_like(c)
    through = lambda n: {
        "num_params": _line(c, runs.centre_n + n, weights),
        "tokens": _line(c, runs.centre_d - runs.slope * n, weights),
    }
    return {
        "centre": centre,
        "lines": through(valleys.position) | {"loss": _above_floor(c, valleys.loss[None])[0]},
        "draws": through(valleys.position + moved) | {"loss": _above_floor(c, valleys.losses)},
        "scatter": scatter,
    }


def _line(x: Array, y: Array, weights: Array) -> Array:
    """(value at x = 0, slope) of weighted lines through y (..., points)."""
    middle = np.average(x, weights=weights)
    slope = (weights * (x - middle) * y).sum(axis=-1) / (weights * (x - middle) ** 2).sum()
    return np.stack([np.average(y, axis=-1, weights=weights) - slope * middle, slope], axis=-1)


def _scatter(x: Array, y: Array, moved: Array, variance: Array) -> float:
    """Standard deviation about the line beyond noise; 0 unless the resamples hardly ever scatter so much.

    The method of moments (DerSimonian and Laird 1986), with what noise explains taken from the resamples ``moved``
    (draws, points) instead of from independence, since the budgets share a shape.
    """
    weights = 1 / variance

    def squares(values: Array) -> Array:
        line = _line(x, values, weights)
        return (weights * (values - line[..., :1] - line[..., 1:] * x) ** 2).sum(axis=-1)

    observed, noise = float(squares(y)), squares(moved)
    if np.mean(noise >= observed) >= SIGNIFICANT:
        return 0.0
    design = np.stack([np.ones_like(x), x])
    inverse = np.linalg.inv(design * weights @ design.T)
    gain = weights.sum() - np.trace(inverse @ (design * weights**2 @ design.T))
    return float(np.sqrt(max(observed - np.median(noise), 0.0) / gain))


def _above_floor(x: Array, loss: Array) -> Array:
    """(E, K, γ) of L = E + K·e^(−γx) by least squares of relative residuals, for each row of loss: (draws, 3).

    For given γ the rest is linear, so γ alone is searched, on ever finer grids; E ≥ 0, and 0 where there are no more
    than three points.
    """
    one = 1 / loss[:, None]
    oo, o = (one**2).sum(axis=-1), one.sum(axis=-1)
    rows, middle = np.arange(len(loss)), np.full(len(loss), np.log(0.1))
    for width in (3.0, 0.25, 0.02, 0.002):
        gamma = np.exp(middle[:, None] + width * np.linspace(-1, 1, 25))
        term = np.exp(-gamma[..., None] * x) * one
        tt, to, t = (term**2).sum(axis=-1), (term * one).sum(axis=-1), term.sum(axis=-1)
        floor = np.maximum((o * tt - t * to) / (oo * tt - to**2), 0.0) * (len(x) > 3)
        scale = (t - floor * to) / tt
        best = ((floor[..., None] * one + scale[..., None] * term - 1) ** 2).sum(axis=-1).argmin(axis=1)
        middle = np.log(gamma[rows, best])
    return np.stack([floor[rows, best], scale[rows, best], gamma[rows, best]], axis=-1)
