"""How far a fit can be trusted: thousands of refits at once, standard errors, intervals.

Two ways to resample. ``pairs`` draws runs with replacement: it holds for unequal noise and outliers, but needs many
runs, since a resample of a small ladder may lose a size. ``residual`` keeps the design and draws new losses around
the fit: residuals are blown up for the freedom that the fit took from them, and every draw scales them by
√(ν/χ²_ν), ν runs minus constants, so that few runs give the wide tails of Student's t.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..solver import Problem, solve

Array = np.ndarray
ENOUGH_FOR_PAIRS = 60
STEPS, TOLERANCE = 300, 1e-10


def refits(
    problem: Problem, theta: Array, weights: Array, draws: int, resample: str, seed: int, rivals: Iterable[Array] = ()
) -> Array:
    """θ of ``draws`` refits, shape (draws, constants), each the best from the optimum ``theta`` and its ``rivals``.

    Args:
        problem: the fit's own problem, with log losses of shape (runs,).
        theta: its optimum.
        weights: of the runs.
        draws: number of refits, 0 for none.
        resample: "pairs", "residual", or "auto": pairs from ``ENOUGH_FOR_PAIRS`` runs on.
        seed: of NumPy's PCG64; equal seeds give equal draws.
        rivals: θ of local optima that another draw of the data could have made the best.
    """
    if not draws:
        return np.empty((0, len(theta)))
    runs = len(problem.inputs[0])
    generator = np.random.default_rng(seed)
    if resample == "auto":
        resample = "pairs" if runs >= ENOUGH_FOR_PAIRS else "residual"
    starts = [theta, *rivals]
    if resample == "pairs":
        times = generator.multinomial(runs, np.full(runs, 1 / runs), size=draws)
        return _best(problem, starts, times * weights)
    fitted = problem.law.log_loss(theta[None], *problem.inputs)[0][0]
    noise = residual_draws(problem, theta, weights, draws, generator)
    # Noise of a row is inversely proportional to the root of its weight: that is what the weights of a fit mean.
    resampled = replace(problem, log_loss=fitted + noise)
    return _best(resampled, starts, np.tile(weights, (draws, 1)))


def _best(problem: Problem, starts: list[Array], weights: Array) -> Array:
    """For each row of weights the best of the solutions from every start."""
    best, least = np.empty((len(weights), len(starts[0]))), np.full(len(weights), np.inf)
    for number, start in enumerate(starts):
        theta, reached = solve(problem, np.tile(start, (len(weights), 1)), weights, STEPS, TOLERANCE)
        best = np.where((reached < least)[:, None], theta, best) if number else theta
        least = np.minimum(least, reached)
    return best


def residual_draws(problem: Problem, theta: Array, weights: Array, draws: int, generator) -> Array:
    """New noise of the log losses, shape (draws, runs), from the fit's standardised residuals."""
    fitted = problem.law.log_loss(theta[None], *problem.inputs)[0][0]
    runs, freedom = len(fitted), max(len(fitted) - len(theta), 1)
    relative = np.sqrt(weights / weights.mean())
    residuals = (problem.log_loss - fitted) * relative
    standardised = (residuals - residuals.mean()) * np.sqrt(runs / freedom)
    tails = np.sqrt(freedom / generator.chisquare(freedom, size=(draws, 1)))
    return standardised[generator.integers(runs, size=(draws, runs))] * tails / relative


def covariance(problem: Problem, theta: Array, weights: Array) -> Array:
    """The linearised covariance of θ, (constants, constants): σ²·(JᵀWJ)⁺, constants at a bound held there."""
    squares = replace(problem, objective="log_squares")
    value, _, matrix = squares.evaluate(theta[None], weights[None])
    free = (theta > problem.lower) & (theta < problem.upper)
    freedom = max(len(problem.inputs[0]) - int(free.sum()), 1)
    scale = np.sqrt(np.maximum(np.diag(matrix[0]), 1e-300)) / np.where(free, 1, 0).clip(1e-150)
    inverse = np.linalg.pinv(matrix[0] / scale / scale[:, None], rcond=1e-10, hermitian=True)
    return 2 * float(value[0]) / freedom * inverse / scale / scale[:, None]
