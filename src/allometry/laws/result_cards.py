"""How runs, fits and forecasts show themselves in a notebook: see :mod:`allometry.cards`.

The functions take the results as they are and import none of their modules, which call them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..cards import Card, Chart
from ..cards.chart import Dot, power_of_ten, shades
from ..quantities import format_count, format_flops, plural

BUDGETS, SIZES = 30, 40  # of the frontier: compute, and sizes tried at each
REACH = 10.0  # times the largest compute, to which the frontier is drawn
FEW = 3  # warnings at the top of a card
LEVEL = 0.9


def observations_card(runs: Any) -> Card:
    """Of ``Observations``: how many runs over which range, and what looks wrong with them."""
    chart = _loss_by_compute(f"Loss of {plural(len(runs), 'run')} against compute")
    chart.dots += _dots(runs)
    least, most = float(runs.flops.min()), float(runs.flops.max())
    repeats = f"Runs that repeat each other differ by {runs.noise.sigma:.2%}. " if runs.noise else ""
    troubles = [f"{one.kind}: {one.text}" for one in runs.findings]
    return Card(
        f"{plural(len(runs), 'run')} of {plural(len(set(runs.num_params.tolist())), 'model size')}",
        "A table of finished trainings: parameters N, training tokens D, compute C and final loss of each.",
        f"Loss {runs.loss.min():.4g} to {runs.loss.max():.4g}, {_between(runs.num_params)} parameters, "
        f"{_between(runs.tokens)} tokens, {format_flops(least)} to {format_flops(most)} FLOPs "
        f"({most / least:.3g}× from the least to the most).",
        f"{repeats}{plural(len(troubles), 'finding')} about these runs; `runs.findings` has them all."
        if troubles
        else f"{repeats}Nothing looks wrong with these runs.",
        "`forecast = laws.forecast(runs)` fits several laws and tests them on the largest runs.",
        chart.svg(),
        troubles[:FEW],
        runs.summary(),
    )


def fit_card(fit: Any) -> Card:
    """Of a ``Fit``: the law, its best split of each budget with the interval, or its residuals."""
    of_sizes = tuple(fit.law.inputs) == ("num_params", "tokens")
    if of_sizes:
        chart = _loss_by_compute(f"Loss by the law {fit.law.name} against compute")
        _frontier(chart, fit)
    else:
        chart = _residuals(fit)
    spread = "" if len(fit.draws) > 1 else " It has no intervals: it was fitted without refits."
    return Card(
        f"{fit.law.name}, fitted to {plural(fit.num_runs, 'run')}",
        f"One scaling law, {fit.law.formula}, with the constants that suit the runs best.",
        ", ".join(f"{name} = {value:.4g}" for name, value in fit.values.items())
        + (". The line is the lowest loss that each budget buys by this law." if of_sizes else "."),
        f"It misses the runs by {fit.rms:.2%} (rms). The intervals assume that this one law holds beyond the runs; "
        f"`laws.forecast(runs)` does not assume it.{spread}",
        "`fit.predict(num_params=…, tokens=…)`, or `planning.plan(fit, planning.Budget(flops=…))`."
        if of_sizes
        else "`fit.predict(…)` with the inputs of the law.",
        chart.svg(),
        fit.active_bounds[:FEW],
        fit.summary(),
    )


def forecast_card(forecast: Any) -> Card:
    """Of a ``Forecast``: runs, the lowest loss of each budget with its interval, and how the laws did when tested."""
    chart = _loss_by_compute(f"Loss against compute: {plural(forecast.num_runs, 'run')} and the forecast")
    _frontier(chart, forecast)
    chart.dots += _dots(forecast.runs)
    weights = sorted(forecast.weights.items(), key=lambda pair: -pair[1])
    score = dict(forecast.backtest.ranking()).get("forecast")
    tested = f"On the largest runs, which it had not seen, it was off by {score:.2%}. " if score is not None else ""
    budget = f"{REACH * forecast.range['flops'][1]:.2g}"
    return Card(
        f"Forecast from {plural(forecast.num_runs, 'run')}",
        "Several scaling laws, each weighted by how well it predicted the largest runs from the smaller ones.",
        ", ".join(f"{name} {weight:.2f}" for name, weight in weights if weight >= 0.005)
        + ". The line is the lowest loss that each budget buys; the band is where a new run is expected "
        f"({LEVEL:.0%}).",
        f"{tested}The uncertainty grows by {forecast.drift:.2%} for each factor of e beyond the largest run.",
        f"`planning.plan(forecast, planning.Budget(flops={budget}))` says what to train for ten times the compute.",
        chart.svg(),
        (),
        forecast.summary(),
    )


def input_forecast_card(forecast: Any) -> Card:
    """Of an ``InputForecast``: what it predicts against what was measured, at the runs that it was fitted to."""
    runs = forecast.runs
    chart = Chart(f"measured {runs.target}", f"predicted {runs.target}", f"Predicted {runs.target}", False, False)
    names = [runs.group_names[number] for number in runs.group]
    table = dict(zip(runs.inputs, runs.points.T, strict=True))
    for column in runs.group_columns:
        table[column] = [runs.cells_of(number)[column] for number in runs.group]
    predicted = np.asarray(forecast.predict(table).value)
    chart.dots += [
        Dot(x, y, f"{name} {x:.4g}".strip()) for x, y, name in zip(runs.values, predicted, names, strict=True)
    ]
    ends = [float(runs.values.min()), float(runs.values.max())]
    chart.line(ends, ends, "equal")
    groups = f" in {plural(len(runs.group_names), 'group')}" if runs.group_columns else ""
    off = float(np.sqrt(np.mean((predicted - runs.values) ** 2)))
    return Card(
        f"Forecast of {runs.target} from {', '.join(runs.inputs)}",
        f"Formulas found for {plural(len(runs), 'run')}{groups}, each weighted by how well it predicted runs that it "
        "had not seen.",
        f"At the runs themselves it is off by {off:.3g} (rms); the summary below has the formula.",
        "; ".join(f"{name}: off by {error:.3g}" for name, error in forecast.errors.items()) + " (rms on runs left out)."
        if forecast.errors
        else "Too few runs to leave some out and predict them.",
        "`forecast.predict(frame)` for new rows, or `forecast.predict(" + ", ".join(f"{n}=…" for n in table) + ")`.",
        chart.svg(),
        (),
        forecast.summary(),
    )


def _loss_by_compute(title: str) -> Chart:
    return Chart(
        "training compute (FLOPs)",
        "loss",
        title,
        log_y=True,
        form_x=power_of_ten,
        form_y=lambda y: f"{y:.3g}",
    )


def _dots(runs: Any) -> list[Dot]:
    """A dot for each run, darker for larger models."""
    return [
        Dot(c, loss, f"{label}: {format_count(n)} parameters, {format_count(d)} tokens, loss {loss:.4f}", shade)
        for n, d, c, loss, label, shade in zip(
            runs.num_params.tolist(),
            runs.tokens.tolist(),
            runs.flops.tolist(),
            runs.loss.tolist(),
            runs.labels,
            shades(runs.num_params.tolist()),
            strict=True,
        )
    ]


def _frontier(chart: Chart, predictor: Any) -> None:
    """The lowest loss that each budget buys, to ten times the compute of the runs, with its interval."""
    span = predictor.range
    budgets = np.geomspace(span["flops"][0], REACH * span["flops"][1], BUDGETS)
    sizes = np.geomspace(span["num_params"][0] / 2, 4 * span["num_params"][1], SIZES)
    n, c = np.meshgrid(sizes, budgets)
    predicted = predictor.predict(num_params=n, tokens=c / (6 * n), level=LEVEL)
    best = np.asarray(predicted.value).argmin(axis=1)
    value, low, high = (
        np.asarray(each)[np.arange(BUDGETS), best] for each in (predicted.value, predicted.low, predicted.high)
    )
    chart.band(budgets.tolist(), low.tolist(), high.tolist(), f"{LEVEL:.0%} interval")
    chart.line(budgets.tolist(), value.tolist(), "predicted, each budget split best")


def _residuals(fit: Any) -> Chart:
    """What the law leaves of each run, in per cent, in the order of the table."""
    chart = Chart("run", "observed over fitted (%)", f"Residuals of {fit.law.name}", False, False)
    left = [100 * float(value) for value in fit.residuals]
    chart.dots += [Dot(number, value, f"run {number}: {value:+.2f} %") for number, value in enumerate(left, 1)]
    chart.line([1, max(len(left), 2)], [0, 0])
    return chart


def _between(values: Sequence[float] | np.ndarray) -> str:
    low, high = float(np.min(values)), float(np.max(values))
    return format_count(low) if low == high else f"{format_count(low)} to {format_count(high)}"
