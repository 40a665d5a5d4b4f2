"""Where, at a fixed compute, is the loss lowest? Three ways to find the minima of IsoFLOP slices, with resamples.

- ``slices``: curves L = E + A/N^α + B/D^β with E, A and B of each budget and α, β of all: see ``shared_shape``.
- ``parabola``: L quadratic in ln N, budget by budget (Hoffmann et al. 2022, Approach 2). Its vertex is off where a
  sweep is wide or off centre (arXiv 2603.22339); for comparison.
- ``interpolation``: Akima's spline through ln L over ln N (Porian et al. 2024, arXiv 2406.19146). It assumes no shape
  and smooths no noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .shared_shape import LEAST_SIGMA, Projection, RunsByBudget, basis, fit_shape, project

Array = np.ndarray
# Points between two sizes where a spline is looked at.
GRID_POINTS = 25


@dataclass(frozen=True)
class Valleys:
    """The minima of the budgets, and what they rest on.

    Attributes:
        position: n of each minimum, (budgets,); −inf or inf where the curve still falls at that end, nan where it is
            concave. It may lie outside the sizes that were run.
        loss: L there, (budgets,); nan where there is no minimum.
        positions, losses: the same for the resamples, (draws, budgets); finite, a minimum far outside is put one
            span of the budget's sizes outside.
        curves: fitted losses on ``RunsByBudget.grid()``, (budgets, points).
        sigma: relative noise of a run at the floor of a valley.
        reach: the excess of the loss at which misfit counts as much as noise; inf if every run counts the same.
    """

    position: Array
    loss: Array
    positions: Array
    losses: Array
    curves: Array
    sigma: float
    reach: float = np.inf


def slices(runs: RunsByBudget, draws: int, seed: int) -> Valleys:
    """Minima of curves that share their exponents, and of ``draws`` refits to resampled losses."""
    shape = fit_shape(runs)
    target, _ = _resample(shape.projection, runs, shape.weights, draws, seed)
    redrawn = shape.refit(runs, target)
    return _valleys(shape.projection, redrawn, runs, shape.sigma, shape.reach)


def parabola(runs: RunsByBudget, draws: int, seed: int) -> Valleys:
    """Vertices of parabolas in ln N, fitted to L by least squares in each budget alone, and ``draws`` resamples."""
    weights, flat = runs.loss**2, np.zeros((1, 2))
    best = project(flat, runs, weights, runs.loss[None])
    target, sigma = _resample(best, runs, weights, draws, seed)
    redrawn = project(np.repeat(flat, draws, axis=0), runs, weights, target)
    return _valleys(best, redrawn, runs, sigma / float(runs.loss[runs.mask].mean()))


def _valleys(best: Projection, redrawn: Projection, runs: RunsByBudget, sigma: float, reach: float = np.inf) -> Valleys:
    """The minima of a fit and of its resamples."""
    position, loss = _minima(best, runs)
    positions, losses = _minima(redrawn, runs, inside=True)
    return Valleys(position[0], loss[0], positions, losses, best.curve(runs, runs.grid())[0], sigma, reach)


def interpolation(runs: RunsByBudget, draws: int, seed: int) -> Valleys:
    """Minima of Akima's spline, each the median over the resamples that have one between their outermost sizes.

    A spline leaves no residuals, so the noise is the runs' own ``loss_se``, and where that is unknown what
    the method of slices leaves.
    """
    generator = np.random.default_rng(seed)
    sigma = fit_shape(runs).sigma
    noise = np.where(np.isnan(runs.noise), sigma, runs.noise)
    drawn = runs.loss * (1 + noise * generator.standard_normal((draws, *runs.loss.shape)))
    every = np.log(np.concatenate([runs.loss[None], drawn]))
    splines = [
        _spline(runs.n[row, mask], every[:, row, mask], grid)
        for row, (mask, grid) in enumerate(zip(runs.mask, runs.grid(), strict=True))
    ]
    lowest, least, inner, curves = (np.stack(column, axis=-1) for column in zip(*splines, strict=True))
    held = np.where(inner[1:], 1.0, np.nan)
    position = np.where(inner[0], _nan_median(lowest[1:] * held), np.where(lowest[0] > 0, np.inf, -np.inf))
    return Valleys(position, _nan_median(least[1:] * held), lowest[1:], least[1:], curves.T, sigma)


METHODS: dict[str, Callable[[RunsByBudget, int, int], Valleys]] = {
    "slices": slices,
    "parabola": parabola,
    "interpolation": interpolation,
}


def _resample(fitted: Projection, runs: RunsByBudget, weights: Array, draws: int, seed: int) -> tuple[Array, float]:
    """New losses, (draws, budgets, runs): the fitted ones and residuals drawn with replacement; and their σ.

    Residuals are standardised by their weights and by the freedom that the fit took at each run, so that their mean
    square is σ²; each draw is scaled by √(ν/χ²_ν), which gives few runs the wide tails of Student's t.
    """
    generator = np.random.default_rng(seed)
    slope = fitted.jacobian[0] if fitted.shape.any() else fitted.jacobian[0][:, :0]
    mask, num_runs, freedom = runs.mask, int(runs.mask.sum()), max(runs.freedom(slope.shape[1]), 1)
    sigma = max(float(np.sqrt(fitted.squares[0] / freedom)), LEAST_SIGMA)
    root = np.sqrt(weights) * mask / runs.loss
    columns = basis(fitted.shape, runs.n, runs.d)[0] * root[..., None]
    leverage = np.einsum("mri,mir->mr", columns, np.linalg.solve(fitted.gram[0], columns.swapaxes(-1, -2)))
    leverage += np.einsum("ri,ij,rj->r", slope, np.linalg.pinv(slope.T @ slope), slope).reshape(mask.shape)
    residuals = (fitted.residual[0] / np.sqrt(np.maximum(1 - leverage, 0.05)))[mask]
    residuals *= sigma / max(float(np.sqrt(np.mean(residuals**2))), 1e-300)
    tails = np.sqrt(freedom / generator.chisquare(freedom, size=(draws, 1)))
    drawn = residuals[generator.integers(num_runs, size=(draws, num_runs))] * tails
    losses = np.ones((draws, *mask.shape))
    losses[:, mask] = runs.loss[mask] + (fitted.residual[0][mask] + drawn) / root[mask]
    return losses, sigma


def _minima(fitted: Projection, runs: RunsByBudget, inside: bool = False) -> tuple[Array, Array]:
    """n of the minima and L there, (batch, budgets).

    ``inside`` puts minima far out one span beyond the sizes.
    """
    tilt, bend = fitted.coefficients[..., 1], fitted.coefficients[..., 2]
    if fitted.shape.any():
        side_n, side_d = fitted.sides()
        falls, rises = side_n > 0, side_d > 0
        alpha, beta = fitted.shape.T[:, :, None]
        ratio = np.where(falls, side_n, 1) / np.where(rises, side_d * runs.slope, 1)
        position = np.log(ratio) / (alpha + beta * runs.slope)
        position = np.where(falls & rises, position, np.where(falls, np.inf, np.where(rises, -np.inf, np.nan)))
    else:
        position = np.where(bend > 0, -tilt / np.where(bend > 0, bend, 1), np.nan)
    if inside:
        low, high = runs.span
        position = np.where(np.isnan(position), np.where(tilt > 0, -np.inf, np.inf), position)
        position = np.clip(position, 2 * low - high, 2 * high - low)
    at = np.where(np.isfinite(position), position, 0.0)
    return position, np.where(np.isfinite(position), fitted.curve(runs, at[..., None])[..., 0], np.nan)


def _spline(n: Array, log_loss: Array, grid: Array) -> tuple[Array, Array, Array, Array]:
    """Minima of splines through ln L (draws, runs): n, L, whether it lies inside, (draws,) each; L of the first."""
    from scipy.interpolate import Akima1DInterpolator

    sizes, of_run = np.unique(n.round(6), return_inverse=True)
    mean = np.stack([log_loss[:, of_run == size].mean(axis=1) for size in range(len(sizes))])
    spline = Akima1DInterpolator(sizes, mean)
    fine = np.linspace(sizes[0], sizes[-1], (len(sizes) - 1) * GRID_POINTS)
    lines = spline(fine)
    lowest = lines.argmin(axis=0)
    inner = (lowest > 0) & (lowest < len(fine) - 1)
    curve = np.exp(spline(np.clip(grid, sizes[0], sizes[-1]))[:, 0])
    return fine[lowest], np.exp(lines.min(axis=0)), inner, curve


def _nan_median(values: Array) -> Array:
    """The median over axis 0 of what is not nan; nan where nothing is left."""
    empty = np.isnan(values).all(axis=0)
    return np.where(empty, np.nan, np.nanmedian(np.where(empty, 0.0, values), axis=0))
