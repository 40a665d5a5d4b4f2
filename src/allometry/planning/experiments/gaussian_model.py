"""How much a run improves a prediction: the model behind the next runs and the optimal ladder.

ln L of a run is a law at its constants, plus drift, plus noise. The constants are Gaussian around plausible ones; the
drift, by which every law is wrong, is a random walk in ln N and in ln D that starts at the target. All of it is
Gaussian, so the knowledge at any points is one covariance matrix, and a further run conditions it. In this model, runs
far from the target have less weight, repeats do not average the drift away, and far extrapolation widens the interval.
"""

from __future__ import annotations

import numpy as np

from ...errors import UserError
from ...laws import LAWS
from ...quantities import require_positive
from ..optimum.predictor import FLOPS_PER_PARAM_TOKEN, Numbers
from ..resources.budget import Budget

Array = np.ndarray
# Standard deviation of ln L of one run around its law, from seeds, evaluation and settings, on carefully run ladders.
NOISE = 0.003
# Standard deviation of the drift of ln L over one e-fold of N or of D. With it, forecasts of the cleaner public tables
# (OLMo, Chinchilla, Gadre) err as expected in the median: half of that at 30 times the compute, twice that at 100.
DRIFT = 0.005
OPTIMAL_RATIO = 20.0  # tokens a parameter, arXiv 2203.15556
# What chinchilla and skaling fit to public tables (Chinchilla, Gadre, OLMo, Porian) at 20 tokens a parameter and the
# largest compute of each: share of the floor in the loss, share of N's term in the rest, exponent where one term
# dominates, and k of skaling (drawn uniformly in its logarithm).
FLOOR, SHARE, EXPONENT, POWER = (0.4, 0.9), (0.3, 0.7), (0.2, 0.5), (0.25, 1.5)
# The prior of the constants is this much wider than those fits: it matters only where the runs leave a constant open.
WIDENING = 3.0
LEVEL = 0.1  # standard deviation of ln L, by the laws of the prior, at the run through which they go
PRIOR_DRAWS = 2000
MODELLED = ("power", "power_floor", "chinchilla", "skaling")


def log_points(num_params: float | Array, tokens: float | Array) -> Array:
    """(ln N, ln D) of points, shape (points, 2)."""
    return np.log(np.stack([np.atleast_1d(num_params), np.atleast_1d(tokens)], axis=1).astype(float))


def plausible(name: str, run: tuple[float, float], loss: float | Array, draws: int, seed: int = 0) -> Array:
    """Constants of laws that have ``loss`` (or one each) at ``run`` (N, D): (draws, constants) in the order of symbols.

    The power laws get the slopes that a two-term law has at that run.
    """
    generator = np.random.default_rng(seed)
    uniform = lambda low, high, size: generator.uniform(low, high, size)
    part, share = uniform(*FLOOR, draws), uniform(*SHARE, draws)
    alpha, beta = uniform(*EXPONENT, draws), uniform(*EXPONENT, draws)
    k = np.exp(uniform(np.log(POWER[0]), np.log(POWER[1]), draws)) if name == "skaling" else np.ones(draws)
    if name.startswith("power"):
        part, slope = (part, 1.0) if name == "power_floor" else (np.zeros(draws), 1 - part)
        a, b = -slope * share * alpha, -slope * (1 - share) * beta
        columns = [part * loss, (1 - part) * loss / (run[0] ** a * run[1] ** b), a, b]
        return np.stack(columns if name == "power_floor" else columns[1:], axis=1)
    alpha, beta, rest = alpha / k, beta / k, ((1 - part) * loss) ** (1 / k)
    columns = [part * loss, rest * share * run[0] ** alpha, rest * (1 - share) * run[1] ** beta, alpha, beta, k]
    return np.stack(columns[: LAWS[name].num_constants], axis=1)


def prior(name: str, run: tuple[float, float], loss: float, centre: Array) -> tuple[Array, Array]:
    """Mean and covariance of θ around ``centre``: those of the plausible laws near a run, widened."""
    losses = loss * np.exp(LEVEL * np.random.default_rng(1).standard_normal(PRIOR_DRAWS))
    theta = LAWS[name].theta(plausible(name, run, losses, PRIOR_DRAWS), tuple(centre))
    return theta.mean(axis=0), WIDENING**2 * np.cov(theta.T)


def walk(points: Array, target: Array, drift: float) -> Array:
    """Covariance of the drift at the points (points, 2): independent walks in ln N and ln D that are 0 at the target.

    Two points on one side of the target share the way up to the nearer of them; on different sides, nothing.
    """
    away = points - target
    shared = np.minimum(np.abs(away)[:, None], np.abs(away)[None])
    return drift**2 * np.where(away[:, None] * away[None] > 0, shared, 0.0).sum(axis=-1)


def after_runs(covariance: Array, runs: Array | slice, noise: Array) -> tuple[Array, Array]:
    """Gains (…, points, runs) and covariance (…, points, points) of ln L once runs at those of the points are known.

    The mean moves by gains @ (ln of the losses observed − mean at the runs). ``noise`` is the covariance of the runs'
    errors, (runs, runs).
    """
    cross = covariance[..., runs]
    inner = cross[..., runs, :] + noise
    gains = np.linalg.solve(inner, cross.swapaxes(-1, -2)).swapaxes(-1, -2)
    return gains, covariance - gains @ cross.swapaxes(-1, -2)


def check_target(target: float | tuple[float, float]) -> tuple[float, float]:
    """(N, D) of a target given as that pair, or as FLOPs at 20 tokens a parameter.

    Raises:
        UserError: neither, or a number that is not above zero.
    """
    if not isinstance(target, tuple | list | np.ndarray):
        require_positive(target=target)
        num_params = (float(target) / (FLOPS_PER_PARAM_TOKEN * OPTIMAL_RATIO)) ** 0.5
        return num_params, OPTIMAL_RATIO * num_params
    try:
        num_params, tokens = target
    except ValueError:
        raise UserError("a target is (num_params, tokens), such as (7e9, 140e9), or FLOPs, such as 1e21") from None
    require_positive(target_num_params=num_params, target_tokens=tokens)
    return float(num_params), float(tokens)


def check_flops(budget: Budget | float) -> float:
    """The FLOPs of a budget that is a number or a ``Budget``.

    Raises:
        UserError: it is not above zero, or has no FLOPs.
    """
    flops = budget.flops if isinstance(budget, Budget) else budget
    require_positive(budget=flops)
    if flops is None:
        raise UserError("the budget has no FLOPs: give a number such as 1e19, or a Budget with flops or hours")
    return float(flops)


def cost(num_params: Numbers, tokens: Numbers) -> Numbers:
    """6·N·D, in FLOPs."""
    return FLOPS_PER_PARAM_TOKEN * num_params * tokens
