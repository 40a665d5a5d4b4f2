"""Rolling origins: every law is fitted to the runs below a cut and predicts the runs above it.

The cuts of one law differ only in which runs have a weight, so all of them are solved as one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ..base import Law
from ..fitting.fit import constants_prior, fit, make_problem
from ..fitting.refits import covariance
from ..fitting.result import Fit
from ..fitting.trunk_noise import has_trunks
from ..forms.named_laws import LAWS, law
from ..solver import Problem, solve
from ..tables.observations import Observations
from .run_weights import prediction_weights, relevance, relevance_of, weights_of
from .smoothing import smoothed

Array = np.ndarray
# The others add cost, or runaway predictions from few runs (Farseer's nine constants), and no accuracy over public
# tables.
DEFAULT_LAWS = ("power", "power_floor", "chinchilla", "skaling")
INPUTS = ("num_params", "tokens")
MOST_CUTS = 8
# A cut below a third of the runs would test a fit on too few runs.
EARLIEST = 1 / 3
STARTS = 4


@dataclass(frozen=True, eq=False)
class Origin:
    """One cut: the predictions of each law, fitted to the runs below it, for all runs.

    Attributes:
        index: of the cut.
        below, above: the runs on either side, in the order of compute.
        smooth: those below with smooth losses.
        relevance: of the runs above, in the whole table.
        log_loss: law → ln L of the runs below and then of those above.
        spread: law → standard deviation of ln L that noise leaves in the constants, of the runs above.
        sigma: law → noise of ln L, that of trunks apart.
    """

    index: int
    below: Observations
    above: Observations
    smooth: Observations
    relevance: Array
    log_loss: dict[str, Array]
    spread: dict[str, Array]
    sigma: dict[str, float]


def predictive(laws: Sequence[Law | str] | None) -> list[Law]:
    """The laws of these names, those of a forecast if None.

    Raises:
        UserError: an unknown law, a law that reads more than N and D, or no laws.
    """
    forms = [law(one) for one in (DEFAULT_LAWS if laws is None else laws)]
    if not forms:
        raise UserError(f"no laws to test or to forecast with; known are {', '.join(LAWS)}")
    for form in forms:
        if form.inputs != INPUTS:
            raise UserError(
                f"law {form.name} reads {', '.join(form.inputs)}; a forecast and its backtest take laws of num_params "
                f"and tokens alone, so fit it by itself"
            )
    return forms


def by_compute(observations: Observations) -> Observations:
    """The runs in the order of compute; of equal compute by size and then loss; the original order has no effect."""
    return observations.where(np.lexsort((observations.loss, observations.num_params, observations.flops)))


def origins(
    forms: Sequence[Law], ordered: Observations, most_cuts: int = MOST_CUTS, fits: Mapping[str, Fit] | None = None
) -> list[Origin]:
    """Every law fitted below every cut of runs in the order of compute.

    ``fits`` are those of the whole table, which say how large the noise of trunks is and what is known of constants.
    """
    sizes = cuts(ordered, max(form.num_constants for form in forms) + 2, most_cuts)
    if not sizes:
        return []
    sides = [(ordered.where(np.arange(size)), ordered.where(np.arange(size, len(ordered)))) for size in sizes]
    if fits is None and has_trunks(ordered):
        counting = prediction_weights(ordered)
        fits = {form.name: fit(form, ordered, weights=counting, bootstrap=0) for form in forms}
    below = [below for below, _ in sides]
    weights = np.zeros((len(below), len(ordered)))  # a run above a cut has none
    smoothed_below = [smoothed(runs) for runs in below]
    for row, runs, smooth in zip(weights, below, smoothed_below, strict=True):
        row[: len(runs)] = weights_of(runs, relevance_of(smooth))
    fitted = {form.name: _fit_below(form, ordered, below, weights, (fits or {}).get(form.name)) for form in forms}
    weight = relevance(ordered)
    return [
        Origin(
            index,
            *sides[index],
            smooth=smoothed_below[index],
            relevance=weight[size:],
            log_loss={name: by_cut[index].log_loss for name, by_cut in fitted.items()},
            spread={name: by_cut[index].spread for name, by_cut in fitted.items()},
            sigma={name: by_cut[index].sigma for name, by_cut in fitted.items()},
        )
        for index, size in enumerate(sizes)
    ]


def cuts(ordered: Observations, least: int, most: int) -> list[int]:
    """Numbers of runs to fit, for runs in the order of compute.

    A cut never splits runs of one compute, leaves at least ``least`` runs and a third of all, three sizes and two
    token counts below, and sizes and tokens that are not tied to each other.
    """
    compute = ordered.flops
    possible = []
    for size in range(max(least, int(np.ceil(EARLIEST * len(ordered)))), len(ordered)):
        if compute[size] > 1.02 * compute[size - 1] and _supports(ordered, size):
            possible.append(size)
    if len(possible) <= most:
        return possible
    picks = np.unique(np.linspace(0, len(possible) - 1, most).round().astype(int))
    return [possible[pick] for pick in picks]


def _supports(ordered: Observations, size: int) -> bool:
    log_n, log_d = np.log(ordered.num_params[:size]), np.log(ordered.tokens[:size])
    if _levels(log_n) < 3 or _levels(log_d) < 2:
        return False
    slope, offset = np.polyfit(log_n, log_d, 1)
    return bool(np.std(log_d - slope * log_n - offset) >= 0.1)


def _levels(logarithms: np.ndarray) -> int:
    """How many values there are that differ by more than 5 %."""
    return 1 + int((np.diff(np.sort(logarithms)) > 0.05).sum())


class _Below(NamedTuple):
    """One law at one cut: ln L of all runs, its spread above the cut, and the noise below."""

    log_loss: Array
    spread: Array
    sigma: float


def _fit_below(
    form: Law, ordered: Observations, below: list[Observations], weights: Array, whole: Fit | None
) -> list[_Below]:
    """The law fitted below each cut; all cuts are one batch, in which a run above a cut has no weight.

    A run above a cut does not affect its bounds either; cuts share only their starts, and what the ``whole`` fit says
    of the noise of trunks and knew of constants before.
    """
    problem, centre = make_problem(form, ordered, "log_squares", 1.0)
    if whole is not None:
        prior = constants_prior(form, centre, whole.priors, whole.variance)
        trunks = None if whole.trunk_noise is None else whole.trunk_noise.trunks_of(ordered)
        problem = replace(problem, trunks=trunks, prior=prior)
    lower, upper = (np.array(ends) for ends in zip(*(form.bounds(runs.loss) for runs in below), strict=True))
    start = np.concatenate([_starts(problem, weights[0]), _starts(problem, weights[-1])])
    cut = np.repeat(np.arange(len(below)), len(start))
    batch = replace(problem, lower=lower[cut], upper=upper[cut])
    theta, reached = solve(batch, np.tile(start, (len(below), 1)), weights[cut], steps=40, tolerance=1e-8)
    best = reached.reshape(len(below), -1).argmin(axis=1) + len(start) * np.arange(len(below))
    problem = replace(problem, lower=lower, upper=upper)
    theta, _ = solve(problem, theta[best], weights, steps=100, tolerance=1e-11)
    return [_look_above(_part(problem, i, len(runs)), problem, theta[i], weights[i]) for i, runs in enumerate(below)]


def _part(problem: Problem[Law], cut: int, num_runs: int) -> Problem[Law]:
    """The problem of the first ``num_runs`` runs alone."""
    return replace(
        problem,
        inputs=tuple(x[:num_runs] for x in problem.inputs),
        log_loss=problem.log_loss[:num_runs],
        lower=problem.lower[cut],
        upper=problem.upper[cut],
        trunks=None if problem.trunks is None else problem.trunks.where(slice(num_runs)),
    )


def _look_above(part: Problem[Law], problem: Problem[Law], theta: Array, weights: Array) -> _Below:
    """The prediction of the fit to the runs of ``part`` for the others."""
    num_runs = len(part.log_loss)
    weights = weights[:num_runs]
    predicted, jacobian = (x[0] for x in problem.law.log_loss(theta[None], *problem.inputs))
    above = jacobian[:, num_runs:]
    variance = np.einsum("pr,pq,qr->r", above, covariance(part, theta, weights), above)
    squares = 2 * replace(part, prior=None).evaluate(theta[None], weights[None])[0][0]
    return _Below(
        predicted, np.sqrt(variance.clip(0)), float(np.sqrt(squares / max(num_runs - problem.law.num_constants, 1)))
    )


def _starts(problem: Problem[Law], weights: Array) -> Array:
    """The best start of the law's grid and some from further down; runs without weight are left out."""
    seen = weights > 0
    inputs = [x[seen] for x in problem.inputs]
    theta, squares = problem.law.starts(inputs, np.exp(problem.log_loss[seen]), weights[seen])
    order = np.argsort(squares, kind="stable")
    return theta[order[np.unique(np.geomspace(1, len(order), STARTS).round().astype(int) - 1)]]
