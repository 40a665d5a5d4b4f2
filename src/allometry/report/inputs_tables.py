"""Tables of a law of any inputs: its forms and their weights, constants, errors on held-out runs, the runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import laws
from ..laws.any_inputs.composing.formula_form import FormulaForm
from ..laws.any_inputs.formula_text import formula_text
from ..laws.any_inputs.projection import AnyForm
from ..laws.fitting.fit import GREEK
from ..quantities import plural
from . import cells
from .cells import NONE, ReportCell, ReportTable, row
from .law_parts import LawPart

MOST_ROWS = 200
MOST_FORMULAS = 4  # groups whose formula is written out


def formulas(part: LawPart) -> list[str]:
    """The simplest of the forms of most weight, with its constants, group by group."""
    if not isinstance(part.forecast, laws.InputForecast) or part.named_laws is not None:
        return []
    best, runs = part.forecast.simplest, part.runs
    names = runs.group_names
    lines = [
        (f"{name}: " if len(names) > 1 else "") + formula_text(best, runs.target, runs.inputs, number)
        for number, name in list(enumerate(names))[:MOST_FORMULAS]
    ]
    more = len(names) - MOST_FORMULAS
    return lines + ([f"and {plural(more, 'more group')} of this form"] if more > 0 else [])


def forms(forecast: laws.InputForecast) -> ReportTable:
    """A row for each form: its weight where all held-out runs count alike, and at most for some kind of prediction."""
    most = forecast.record.weights(forecast.record.kinds).max(axis=0)
    rows = [
        row(
            fit.name,
            ReportCell(f"{weight:.2f}", repr(float(weight))),
            ReportCell(f"{largest:.2f}", repr(float(largest))),
            f"{fit.num_constants:g}",
            cells.number(fit.noise),
        )
        for fit, weight, largest in zip(forecast.fits, forecast.weights, most, strict=True)
    ]
    return ReportTable(
        ("form", "weight", "largest weight", "constants", "noise of a run"), tuple(rows), frozenset({"form"})
    )


def constants(forecast: laws.InputForecast) -> ReportTable:
    """The constants of the formula on the page, as the fit keeps them, with standard errors; some of very many."""
    best, names = forecast.simplest, forecast.runs.group_names
    symbols = _symbols(best.form, forecast.runs.inputs)
    rows = []
    for number, name in enumerate(names):
        values = [*best.theta[number], *best.coefficients[number]]
        errors = np.sqrt(np.maximum(np.diag(best.spread[number]), 0))
        own = [
            row(name, symbol, cells.number(float(value)), ReportCell(f"{error:.3g}", repr(float(error))))
            for symbol, value, error in zip(symbols, values, errors, strict=True)
        ]
        rows += own[: MOST_ROWS - len(rows)]
    columns = ("group", "constant", "value", "std. error")
    if len(names) == 1:
        rows = [cells.ReportRow(one.cells[1:]) for one in rows]
        columns = columns[1:]
    return ReportTable(columns, tuple(rows), frozenset({"group", "constant"}))


def _symbols(form: AnyForm, inputs: tuple[str, ...]) -> list[str]:
    """What each constant is, in the order of θ and then of the coefficients."""
    if isinstance(form, FormulaForm):
        letters = {symbol: GREEK.get(symbol) or symbol for symbol in form.formula.constants}
        theta = [f"ln {letters[s]}" if kind[0] > 0 else letters[s] for s, kind in form.ranges.items()]
        return [*theta, *(letters[symbol] for symbol in form.linear)]
    names = [", ".join(inputs[place] for place in feature.inputs) for feature in form.features]
    theta = [
        f"{one.symbol} of {name}" for each, name in zip(form.features, names, strict=True) for one in each.constants
    ]
    theta += [f"rate of {_product(names, product)}" for product in form.falling]
    theta += [f"weight of {names[place]}" for place in form.joined[1:]]
    theta += ["ln of the joint exponent"] if form.joined else []
    functions = [f"f({name})" for name in names]
    columns = [f"coefficient of {_product(functions, one)}" if one else "constant term" for one in form.products]
    columns += ["coefficient of the exponential"] if form.falling else []
    return [*theta, *columns, *(["coefficient of the sum"] if form.joined else [])]


def _product(names: list[str], places: tuple[int, ...]) -> str:
    return " × ".join(names[place] for place in places)


def held_out(forecast: laws.InputForecast) -> ReportTable | None:
    """The errors of the mixture on what each split held out; None without a backtest."""
    if not forecast.errors:
        return None
    rows = [row(name, cells.number(float(error))) for name, error in forecast.errors.items()]
    return ReportTable(("held out", f"rms error of {forecast.runs.target}"), tuple(rows), frozenset({"held out"}))


def runs(part: LawPart) -> ReportTable:
    """The runs, with what the law gives for them; the first of very many."""
    table = part.runs
    some = np.arange(min(len(table), MOST_ROWS))
    predicted = np.asarray(part.predict(table.points[some], table.group[some]).value)
    cell_of = [table.cells_of(int(number)) for number in table.group[some]]
    columns: Mapping[str, Callable[[int], Any]] = {
        **{column: (lambda i, c=column: cell_of[i][c]) for column in table.group_columns},
        **{name: (lambda i, j=j: _input(float(table.points[i, j]))) for j, name in enumerate(table.inputs)},
        table.target: lambda i: cells.number(float(table.values[i])),
        "predicted": lambda i: cells.number(float(predicted[i])),
    }
    rows = tuple(row(*(cell(int(i)) for cell in columns.values())) for i in some)
    return ReportTable(tuple(columns), rows, frozenset(table.group_columns))


def _input(value: float) -> str | ReportCell:
    if not np.isfinite(value):
        return NONE
    return cells.count(value) if abs(value) >= 1000 else cells.number(value)
