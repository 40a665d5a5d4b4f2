"""How far a fit can be trusted: thousands of refits at once, standard errors, intervals.

Two ways to resample. ``pairs`` draws runs with replacement: it holds for unequal noise and outliers, but needs many
runs, since a resample of a small ladder may lose a size. ``residual`` keeps the design and draws new losses around
the fit: residuals are blown up for the freedom that the fit took from them, and every draw scales them by
√(ν/χ²_ν), ν runs minus constants, so that few runs give the wide tails of Student's t.

Runs that share a trunk are resampled with it: ``pairs`` draws trunks, ``residual`` draws the noise of every trunk and
of every run in it. A constant that was known before is drawn anew as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..solver import Problem, solve
from .trunk_noise import TrunkNoise

Array = np.ndarray
ENOUGH_FOR_PAIRS = 60
ENOUGH_TRUNKS = 30
STEPS, TOLERANCE = 300, 1e-10


def refits(
    problem: Problem,
    theta: Array,
    weights: Array,
    draws: int,
    resample: str,
    seed: int,
    rivals: Iterable[Array] = (),
    noise: TrunkNoise | None = None,
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
        noise: of the trunks, where the problem has any.
    """
    if not draws:
        return np.empty((0, len(theta)))
    runs, trunks = len(problem.inputs[0]), problem.trunks
    generator = np.random.default_rng(seed)
    if resample == "auto":
        enough = runs >= ENOUGH_FOR_PAIRS and (trunks is None or trunks.count >= ENOUGH_TRUNKS)
        resample = "pairs" if enough else "residual"
    starts = [theta, *rivals]
    if problem.prior is not None:
        problem = replace(problem, prior=problem.prior.drawn(draws, generator))
    if resample == "pairs" and trunks is not None:
        times = generator.multinomial(trunks.count, np.full(trunks.count, 1 / trunks.count), size=draws)
        return _best(replace(problem, trunks=trunks.drawn(times)), starts, times[:, trunks.code] * weights)
    if resample == "pairs":
        times = generator.multinomial(runs, np.full(runs, 1 / runs), size=draws)
        return _best(problem, starts, times * weights)
    fitted = problem.law.log_loss(theta[None], *problem.inputs)[0][0]
    if noise is None:
        drawn = residual_draws(problem, theta, weights, draws, generator)
    else:
        drawn = trunk_draws(problem, noise, weights, draws, generator)
    # Noise of a row is inversely proportional to the root of its weight: that is what the weights of a fit mean.
    resampled = replace(problem, log_loss=fitted + drawn)
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


def trunk_draws(problem: Problem, noise: TrunkNoise, weights: Array, draws: int, generator) -> Array:
    """New noise of the log losses, shape (draws, runs): of every trunk, and of every run in it.

    Each part has tails of its own, since its size rests on its own degrees of freedom.
    """
    trunks = problem.trunks
    assert trunks is not None
    freedom = max(len(weights) - len(problem.lower), 1)
    own = noise.own / np.sqrt(weights) * generator.standard_normal((draws, len(weights)))
    own *= np.sqrt(freedom / generator.chisquare(freedom, size=(draws, 1)))
    shared = noise.own * np.sqrt(trunks.ratio) * generator.standard_normal((draws, trunks.count))
    shared *= np.sqrt(noise.freedom / generator.chisquare(noise.freedom, size=(draws, 1)))
    return own + shared[:, trunks.code]


def covariance(problem: Problem, theta: Array, weights: Array) -> Array:
    """The linearised covariance of θ, (constants, constants): σ²·(JᵀWJ)⁺, constants at a bound held there."""
    squares = replace(problem, objective="log_squares")
    _, _, matrix = squares.evaluate(theta[None], weights[None])
    value, _, _ = replace(squares, prior=None).evaluate(theta[None], weights[None])
    free = (theta > problem.lower) & (theta < problem.upper)
    freedom = max(len(problem.inputs[0]) - int(free.sum()), 1)
    scale = np.sqrt(np.maximum(np.diag(matrix[0]), 1e-300)) / np.where(free, 1, 0).clip(1e-150)
    inverse = np.linalg.pinv(matrix[0] / scale / scale[:, None], rcond=1e-10, hermitian=True)
    return 2 * float(value[0]) / freedom * inverse / scale / scale[:, None]
