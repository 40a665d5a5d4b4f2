"""Fit one law to a table of runs: every start on a grid by variable projection, then a batched solver, then a Fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ...quantities import plural
from ..base import Law
from ..constants_prior import Prior
from ..forms.named_laws import law
from ..solver import Problem, solve
from ..tables.findings.undetermined import check_design
from ..tables.measurements import check_no_inputs
from ..tables.observations import Observations
from .refits import refits
from .result import GREEK, Fit
from .trunk_noise import TrunkNoise, estimate, has_trunks

Array = np.ndarray
OBJECTIVES = ("log_squares", "huber", "squares")
DELTA = 1e-3  # where Huber's loss turns linear in the literature
STARTS = 20
RIVALS = 4
MOST_ROWS_FOR_STARTS = 1000
# The noise of trunks follows from residuals, and these from the noise; twice is enough.
ROUNDS = 2
LEAST_VARIANCE = 1e-12


class GlobalOptimum(NamedTuple):
    """The best θ, its objective, how many of how many starts came to it, and θ of local optima that nearly match it."""

    theta: Array
    objective_value: float
    agreed: int
    starts: int
    rivals: Array


def fit(
    law_or_name: Law | str,
    observations: Observations,
    objective: str | None = None,
    delta: float | None = None,
    weights: Array | None = None,
    bootstrap: int = 1000,
    resample: str = "auto",
    seed: int = 0,
    priors: Mapping[str, tuple[float, float]] | None = None,
) -> Fit:
    """Fit a law at the global optimum of its objective.

    Runs that name a ``trunk`` share its noise: they are weighed by the covariance, whose parts are estimated, or known
    where there is a column ``trunk_noise``.

    Args:
        law_or_name: a ``Law`` or its name in ``LAWS``.
        observations: the runs.
        objective: "huber" (of relative errors: outliers count less; what the literature fits, arXiv 2203.15556, and the
            default), "log_squares" (of relative errors; the default with priors, and for runs that share trunks, whose
            common noise is weighed as squares) or "squares".
        delta: where Huber's loss turns linear, for "huber" alone; 1e-3, the usual choice of the literature, by default.
        weights: one positive weight a run; all equal if not given.
        bootstrap: number of refits behind standard errors and intervals; 0 for none.
        resample: "pairs", "residual", or "auto" (pairs from 60 runs on).
        seed: of the bootstrap.
        priors: constant → (mean, standard deviation), from earlier studies of like models; best of exponents.

    Raises:
        UserError: too few runs, one size, one token count, one ratio, a column that the law reads is missing, an
            unknown law, objective, resampling or constant, impossible weights or standard deviations, a delta for
            another objective than huber.
    """
    check_no_inputs(observations, "fit")
    form = law(law_or_name)
    if objective is None:
        objective = "log_squares" if delta is None and (priors or has_trunks(observations)) else "huber"
    delta = check_objective(objective, delta)
    check_design(observations, form.name, form.num_constants)
    weights = _check_options(observations, weights, bootstrap, resample)
    _check_priors(form, priors)
    problem, centre = make_problem(form, observations, objective, delta)
    best, noise = optimum(problem, weights), None
    if priors or has_trunks(observations):
        problem, best, noise = _refined(problem, best, centre, observations, weights, priors or {})
    theta = refits(problem, best.theta, weights, bootstrap, resample, seed, best.rivals, noise)
    return Fit(
        law=form,
        values=dict(zip(form.symbols, map(float, form.values(best.theta, centre)), strict=True)),
        objective=objective,
        objective_value=best.objective_value,
        delta=delta,
        num_runs=len(observations),
        residuals=problem.log_loss - form.log_loss(best.theta[None], *problem.inputs)[0][0],
        weights=weights,
        range=data_range(observations, form.inputs),
        draws=form.values(theta, centre),
        active_bounds=active_bounds(problem, best.theta),
        starts=best.starts,
        agreed=best.agreed,
        condition=_condition(problem, best.theta, weights),
        counted=observations.counted,
        notes=observations.notes,
        seed=seed,
        trunk_noise=noise,
        priors=dict(priors or {}),
    )


def _refined(
    problem: Problem[Law],
    best: GlobalOptimum,
    centre: tuple[float, ...],
    runs: Observations,
    weights: Array,
    priors: Mapping[str, tuple[float, float]],
) -> tuple[Problem[Law], GlobalOptimum, TrunkNoise | None]:
    """The problem with the covariance of trunks and with what is known of constants, its optimum, and the noise.

    The noise is that of the optimum without them, and then of the optimum with them.
    """
    noise = None
    for _ in range(ROUNDS):
        predicted, jacobian = (x[0] for x in problem.law.log_loss(best.theta[None], *problem.inputs))
        residuals = problem.log_loss - predicted
        free = (best.theta > problem.lower) & (best.theta < problem.upper)
        variance = (weights * residuals**2).sum() / max(len(runs) - int(free.sum()), 1)
        if has_trunks(runs):
            noise = estimate(runs, residuals, jacobian[free], weights)
            problem, variance = replace(problem, trunks=noise.trunks_of(runs)), noise.own**2
        problem = replace(problem, prior=constants_prior(problem.law, centre, priors, float(variance)))
        best = optimum(problem, weights)
    return problem, best, noise


def constants_prior(
    form: Law, centre: tuple[float, ...], priors: Mapping[str, tuple[float, float]], variance: float
) -> Prior | None:
    """What is known of constants, beside runs whose own noise has this variance at weight 1; None for nothing."""
    if not priors:
        return None
    mean, sd = np.array(list(priors.values()), dtype=float).T
    places = np.array([form.symbols.index(symbol) for symbol in priors])
    return Prior(lambda theta: form.values(theta, centre), places, mean, sd, max(variance, LEAST_VARIANCE) / sd**2)


def make_problem(
    form: Law, observations: Observations, objective: str, delta: float
) -> tuple[Problem[Law], tuple[float, ...]]:
    """The minimisation around the middle of the data, and that middle (a logarithm an input).

    Raises:
        UserError: a column that the law reads is missing.
    """
    logs = [np.log(_column(form, observations, name)) for name in form.inputs]
    centre = form.centre(logs)
    inputs = tuple(x - middle for x, middle in zip(logs, centre, strict=True))
    return Problem(form, inputs, np.log(observations.loss), objective, delta, *form.bounds(observations.loss)), centre


def optimum(problem: Problem[Law], weights: Array, steps: int = 200, polish: int = 5000) -> GlobalOptimum:
    """The best optimum that any of the starts reaches.

    Cells of the grid go to optima of squared log residuals, which are smooth; another objective starts from those and
    from some of the cells themselves. Every start gets ``steps`` steps at most, and then the
    best one ``polish``.
    """
    thin = slice(None, None, -(-len(weights) // MOST_ROWS_FOR_STARTS))
    inputs = [x[thin] for x in problem.inputs]
    theta, squares = problem.law.starts(inputs, np.exp(problem.log_loss[thin]), weights[thin])
    theta = _spread(theta[np.argsort(squares, kind="stable")])
    tiled = np.tile(weights, (len(theta), 1))
    smooth, reached = solve(replace(problem, objective="log_squares"), theta, tiled, steps)
    if problem.objective == "log_squares":
        theta = smooth
    else:
        _, different = np.unique(np.round(np.log(reached + 1e-300), 3), return_index=True)
        both = np.concatenate([smooth[different[:4]], theta[::4]])
        theta, reached = solve(problem, both, np.tile(weights, (len(both), 1)), steps=500)
    best = int(np.argmin(reached))
    agreed = int(np.sum(reached <= reached[best] * (1 + 1e-6) + 1e-18))
    # Long flat valleys (a large k, few runs) take many more steps than the starts are given.
    polished, least = solve(problem, theta[best : best + 1], weights[None], steps=polish)
    rivals = _rivals(theta, reached, len(problem.log_loss))
    return GlobalOptimum(polished[0], float(least[0]), agreed, len(reached), rivals)


def data_range(
    observations: Observations, inputs: tuple[str, ...] = ("num_params", "tokens")
) -> dict[str, tuple[float, float]]:
    """Least and most N, D and C of the runs, and of what else a law reads."""
    names = dict.fromkeys(("num_params", "tokens", "flops", *inputs))
    arrays = {name: observations.column(name) for name in names}
    return {name: (float(array.min()), float(array.max())) for name, array in arrays.items()}


def active_bounds(problem: Problem, theta: Array) -> tuple[str, ...]:
    """Which coordinates of θ ended at a bound, in words."""
    span = 1e-9 * (problem.upper - problem.lower)
    lines = []
    for symbol, value, low, high in zip(
        problem.law.symbols, theta, problem.lower + span, problem.upper - span, strict=True
    ):
        if value <= low or value >= high:
            lines.append(f"{GREEK.get(symbol, symbol)} ended at its {'lower' if value <= low else 'upper'} bound")
    return tuple(lines)


def _column(form: Law, observations: Observations, name: str) -> Array:
    """A column that a law reads, complete and positive; unique_tokens must be in the table."""
    if name == "unique_tokens" and name not in observations.extra:
        raise UserError(f"law {form.name} needs the column unique_tokens; where nothing is repeated, fit chinchilla")
    values = observations.column(name)
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        labels = ", ".join(np.array(observations.labels, dtype=object)[wrong][:5])
        raise UserError(
            f"law {form.name}: {name} is missing or not above zero in {plural(wrong.sum(), 'run')} ({labels})"
        )
    return values


def _rivals(theta: Array, reached: Array, num_runs: int) -> Array:
    """At most ``RIVALS`` local optima that an F test at 95 % does not distinguish from the best."""
    from scipy.special import fdtri

    count, freedom = theta.shape[1], max(num_runs - theta.shape[1], 1)
    order = np.argsort(reached, kind="stable")
    near = order[reached[order] <= reached[order[0]] * (1 + count / freedom * fdtri(count, freedom, 0.95))]
    # One of each: starts that came to the same optimum differ by less than this.
    apart = np.diff(reached[near], prepend=reached[near[0]]) > 1e-3 * reached[near[0]]
    return theta[near[apart]][:RIVALS]


def _spread(ordered: Array) -> Array:
    """The best starts, half from the top and half from further down, so that one wide basin does not take them all."""
    near = ordered[: STARTS // 2]
    far = ordered[STARTS // 2 :: max(len(ordered) // (6 * STARTS), 1)][: STARTS - len(near)]
    return np.concatenate([near, far])


def check_objective(objective: str, delta: float | None = None) -> float:
    """δ of the objective: what was given, or the usual one.

    Raises:
        UserError: the objective is unknown, δ is not above zero, or δ is given for another objective than huber.
    """
    if objective not in OBJECTIVES:
        raise UserError(f"no objective {objective!r}; known are {', '.join(OBJECTIVES)}")
    if delta is None:
        return DELTA
    if not delta > 0:
        raise UserError(f"delta is {delta}; it must be above zero")
    if objective != "huber":
        raise UserError(
            f"delta is where huber turns linear: it has no use with the objective {objective}, leave it out"
        )
    return delta


def _check_priors(form: Law, priors: Mapping[str, tuple[float, float]] | None) -> None:
    for symbol, pair in (priors or {}).items():
        if symbol not in form.symbols:
            raise UserError(f"priors: law {form.name} has no constant {symbol!r}; it has {', '.join(form.symbols)}")
        if len(pair) != 2 or not np.all(np.isfinite(pair)) or not pair[1] > 0:
            raise UserError(f"priors: {symbol} is {pair}; give (mean, standard deviation), the second above zero")


def _check_options(observations, weights, bootstrap, resample) -> Array:
    if resample not in ("auto", "pairs", "residual"):
        raise UserError(f"no resampling {resample!r}; known are auto, pairs, residual")
    if bootstrap < 0:
        raise UserError(f"bootstrap is {bootstrap}; give a number of refits, 0 for none")
    if weights is None:
        return np.ones(len(observations))
    weights = np.asarray(weights, dtype=float)
    if weights.shape != (len(observations),) or not np.all(np.isfinite(weights) & (weights > 0)):
        raise UserError(f"weights must be {len(observations)} finite numbers above zero, one a run")
    return weights


def _condition(problem: Problem, theta: Array, weights: Array) -> float:
    """Condition number of the Gauss–Newton matrix scaled to unit diagonal; constants without effect are left out."""
    matrix = replace(problem, objective="log_squares").evaluate(theta[None], weights[None])[2][0]
    diagonal = np.diag(matrix)
    seen = diagonal > 1e-20 * diagonal.max()
    scale = np.sqrt(diagonal[seen])
    return float(np.linalg.cond(matrix[np.ix_(seen, seen)] / np.outer(scale, scale)))
