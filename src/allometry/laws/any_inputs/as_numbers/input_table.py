"""The input table: a forecast over any inputs as plain numbers, so that a program without NumPy gives the same ones.

``input_table`` writes it, ``report/scripts/inputs_law.js`` evaluates it. Arrays are {"shape": […], "f8": base64 of
little-endian doubles}. At a point x (one number an input) of a group:

- ``forms``: each gives a value v on the scale of its link by its ``steps`` (``form_steps``), from its ``constants`` of
  the group and ln x − ``middle`` (0 where x is not above zero), and s² = gᵀ·``spread``·g, g the derivatives of v by the
  constants (``spread``: the lower triangle of the group, row by row). Link "log": centre c = v and deviation s where
  the table is ``logarithmic``, else c = exp(v), deviation c·s. Link "identity": c = v and s, or where the table is
  ``logarithmic`` c = ln max(v, ``least``), s/max(v, ``least``).
- Its leftovers: with kₗ the correlations of the point with each run for the factor l on the lengths (Matérn 5/2 in
  (ln x or x, less ``middle``)/``deviation``/``lengths``; times ``between`` for a run of another group), the mean is
  Σ kₗ·``mean``ₗ and the variance Σ ``terms`` weight·(1 − kₗᵀ·(Kₗ + I/ratio)⁻¹·kₗ), Kₗ the correlations of the runs;
  ``noise`` is the variance of a run. Where the form has ``frontier`` the mean grows by g = exp(min(``growth``·e, 5)),
  the variances by g²; e = max(ln t − b, 0), t the form's centre as a target, b the ``log_best`` of the last step of
  the group's ``frontier`` whose cost is at most the point's, e = 0 below all. The cost is the product of the inputs
  ``counts``. Where it has ``best`` they grow by (1 + l^``level_power``)^``level_growth`` besides, l the level of c:
  (``sign``·c − ``best``)/``unit`` of the group in ``ranges``, from 0 to ``most_level``.
- ``record``: the likeness to each split, the weights of the forms; ``shown`` errors and inflation of the splits: as in
  ``InputForecast`` and ``Record``; ``span`` and ``deviations`` are those of the inputs, ``dearest`` is
  the largest ln cost.
- ``sizes``, where it is not null, is the law table (``law_table``) that predicts instead, from the inputs ``places``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...forecasting.forecast import Forecast
from ...law_table import INPUTS, LEVELS, has_table, law_table, packed, process_terms
from ...tables.measurements import Measurements
from .. import frontier, held_out, mixing
from ..fitted_form import FittedForm
from ..frontier import BEST, BOTH, FRONTIER, Levels
from ..held_out import cost_at, cost_inputs, size_and_tokens
from ..input_forecast import OPTIMISM, TOWARDS_ERRORS, InputForecast
from ..leftovers import LENGTHS, MOST_RUNS, RATIOS
from .form_steps import NoSteps, form_steps

Array = np.ndarray
NEAR_FRONTIER, NEAR_BEST = (FRONTIER, BOTH), (BEST, BOTH)
# What the functions of a prediction have as constants.
RULES = {
    "growth": frontier.GROWTH,
    "level_power": frontier.LEVEL_POWER,
    "level_growth": frontier.LEVEL_GROWTH,
    "most_level": frontier.MOST_LEVEL,
    "wholly": held_out.WHOLLY,
    "least_likeness": held_out.LEAST_LIKENESS,
    "sharpness": mixing.SHARPNESS,
    "least_weight": mixing.LEAST_WEIGHT,
    "clueless": mixing.CLUELESS,
    "optimism": OPTIMISM,
    "towards_errors": TOWARDS_ERRORS,
}


def has_input_table(forecast: InputForecast | Forecast) -> bool:
    """Whether the table can hold the forecast: every formula is one of arithmetic."""
    if isinstance(forecast, Forecast):
        return has_table(forecast)
    if forecast.sizes is not None:
        return has_table(forecast.sizes)
    try:
        for fit in forecast.fits:
            form_steps(fit.form)
    except NoSteps:
        return False
    return True


def input_table(forecast: InputForecast | Forecast, levels: Sequence[float] = LEVELS) -> dict[str, Any]:
    """The table of a forecast for which ``has_input_table`` is true, ready for JSON (NaN only inside arrays).

    Args:
        levels: of the intervals that can be asked for.
    """
    runs = runs_of(forecast)
    if isinstance(forecast, Forecast):
        return _of_runs(runs, _spread(len(runs)), levels) | _of_sizes(forecast, [0, 1], levels)
    errors = {"errors": dict(forecast.errors)}
    if forecast.sizes is not None:
        places = size_and_tokens(runs)
        return _of_runs(runs, _spread(len(runs)), levels) | errors | _of_sizes(forecast.sizes, places or [], levels)
    return _of_runs(runs, forecast.basis[0].index, levels) | errors | _of_forms(forecast, levels)


def runs_of(forecast: InputForecast | Forecast, target: str = "loss") -> Measurements:
    """The runs of a forecast by its inputs; sizes and tokens are two of them."""
    if isinstance(forecast, InputForecast):
        return forecast.runs
    runs = forecast.runs
    points = np.stack([runs.num_params, runs.tokens], axis=1)
    return Measurements(target, INPUTS, runs.loss, points, np.zeros(len(runs), int), notes=forecast.notes)


def _spread(count: int) -> Array:
    """Places of at most ``MOST_RUNS`` of so many runs."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_RUNS)).round().astype(int))


def _of_runs(runs: Measurements, index: Array, levels: Sequence[float]) -> dict[str, Any]:
    """What every table has: the inputs, and some of the runs."""
    return {
        "target": runs.target,
        "inputs": list(runs.inputs),
        "groups": list(runs.group_names),
        "levels": list(levels),
        "are_shares": runs.are_shares,
        "by_logarithm": runs.by_logarithm.tolist(),
        "span": [[float(own.min()), float(own.max())] for own in runs.points.T],
        "runs": {
            "points": packed(runs.points[index]),
            "group": runs.group[index].tolist(),
            "values": packed(runs.values[index]),
        },
    }


def _of_sizes(forecast: Forecast, places: list[int], levels: Sequence[float]) -> dict[str, Any]:
    return {"sizes": law_table(forecast, levels), "places": places}


def _of_forms(forecast: InputForecast, levels: Sequence[float]) -> dict[str, Any]:
    runs, points = forecast.runs, forecast.runs.points
    basis, left = forecast.basis
    return {
        "sizes": None,
        "deviations": np.maximum(points.std(axis=0), 1e-12).tolist(),
        "t": forecast.half_widths(levels),
        "logarithmic": forecast.logarithmic,
        "least": forecast.least if np.isfinite(forecast.least) else None,
        "rules": RULES,
        "drift": forecast.drift,
        "counts": cost_inputs(runs),
        "dearest": float(np.log(cost_at(runs, points)).max()),
        "record": {"along": forecast.record.along.tolist(), "logged": packed(forecast.record.logged)},
        "inflation": forecast.inflation.tolist(),
        "shown": forecast.shown.tolist(),
        "forms": [_form(fit, forecast, own) for fit, own in zip(forecast.fits, left, strict=True)],
        "frontier": _frontier(runs) if any(fit.emphasis in NEAR_FRONTIER for fit in forecast.fits) else None,
        "ranges": _ranges(forecast),
        "process": {
            "factors": list(LENGTHS),
            "middle": forecast.places.middle.tolist(),
            "deviation": forecast.places.deviation.tolist(),
            "lengths": basis.metric.lengths.tolist(),
            "between": basis.metric.between,
        },
    }


def _form(fit: FittedForm, forecast: InputForecast, left: Array) -> dict[str, Any]:
    """A form with its constants, and the process of what it leaves."""
    basis, _ = forecast.basis
    mixture = basis.mixture(left, fit.num_constants)
    means = [
        vectors @ ((shares * RATIOS) @ weighed)
        for (_, vectors), shares, weighed in zip(basis.eigen, mixture.shares, mixture.weighed, strict=True)
    ]
    variances = mixture.shares * RATIOS * mixture.noises / mixture.freedom
    rows, columns = np.tril_indices(fit.spread.shape[-1])
    return {
        "name": fit.name,
        "link": fit.form.link,
        "frontier": fit.emphasis in NEAR_FRONTIER,
        "best": fit.emphasis in NEAR_BEST,
        "middle": fit.middle.tolist(),
        "steps": form_steps(fit.form),
        "constants": packed(np.concatenate([fit.theta, fit.coefficients], axis=1)),
        "spread": packed(fit.spread[:, rows, columns]),
        "mean": packed(np.stack(means)),
        "terms": process_terms(variances, RATIOS, mixture.noise**2),
        "noise": mixture.noise**2,
    }


def _ranges(forecast: InputForecast) -> dict[str, Any]:
    """What tells the level of a target: its sign, and for each group the best one and the unit."""
    levels = Levels.of(forecast.runs, forecast.common_scale.forward(forecast.runs.values))
    return {"sign": levels.sign, "best": levels.best.tolist(), "unit": levels.unit.tolist()}


def _frontier(runs: Measurements) -> list[dict[str, Any]]:
    """For each group the costs at which the best target falls, and its logarithm from there."""
    steps = []
    for number in range(len(runs.group_names)):
        mine = runs.where(runs.group == number)
        cost = cost_at(runs, mine.points)
        order = np.argsort(cost, kind="stable")
        best = np.minimum.accumulate(np.log(mine.values[order]))
        falls = np.flatnonzero(np.concatenate([np.ones(min(len(best), 1), bool), np.diff(best) < 0]))
        steps.append({"cost": packed(cost[order][falls]), "log_best": packed(best[falls])})
    return steps
