"""Fit laws of any inputs, several targets, or a law for each cell of a column; and predict by what was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ... import laws
from ...errors import UserError
from ...files import write_json
from ...laws.field_names import KNOWN, normalise
from ...planning.optimum.fitted_range import MOST_BEYOND, TESTED
from ...quantities import parse_number
from ..listener import Listener, Note, silent
from .study_fit import cautions

Fitted = laws.Forecast | laws.InputForecast | laws.Forecasts
MOST_PARTS = 200


class PredictedPart(NamedTuple):
    """What is predicted, in words; the prediction; what speaks for and against it; what questions it itself."""

    label: str
    prediction: laws.Prediction
    notes: list[str]
    cautions: list[str]


def fit_inputs(
    source: Path | str,
    targets: Sequence[str] = (),
    inputs: Sequence[str] = (),
    groups: Sequence[str] = (),
    *,
    by: str | None = None,
    cost: str | None = None,
    columns: Mapping[str, str | float | None] | None = None,
    where: Mapping[str, str] | None = None,
    counted: str | None = None,
    output: Path | None = None,
    listener: Listener = silent,
) -> Fitted:
    """Forecasts of each target, for each cell of a column, and write them.

    Args:
        source: a table of runs.
        targets: the columns to predict; the loss by its usual names if none.
        inputs: the columns to predict them from; sizes and tokens if none.
        groups: columns whose cells have constants of their own in one law.
        by: a column for whose every cell a law is fitted apart.
        cost: what a run took: a column, or an expression such as "6*N*D".
        columns, counted: of sizes and tokens, where no inputs are given, as :func:`fit_runs` takes them.
        where: column → value that a row must have.
        output: where to write the forecast.
        listener: receives where it was written.

    Raises:
        UserError: the source cannot be read, a column is missing, or its runs support no law.
    """
    cells = [{}] if by is None else [{by: cell} for cell in _cells(source, by, where)]
    parts = []
    for rows in cells:
        for target in targets or (None,):
            parts.append(_part(source, target, inputs, groups, cost, columns, {**(where or {}), **rows}, counted, rows))
    fitted = parts[0].forecast if len(parts) == 1 and by is None else laws.Forecasts(tuple(parts))
    if output is not None:
        write_json(output, fitted.to_json())
        listener(Note(f"written to {output}"))
    return fitted


def _part(source, target, inputs, groups, cost, columns, where, counted, rows) -> laws.ForecastPart:
    """One forecast; what is wrong with its runs is said with its rows."""
    try:
        if inputs or groups:
            if columns or counted:
                raise UserError("--column and --counted are for parameters and tokens: with --input name the columns")
            runs = laws.Observations.read(
                source, target=target, inputs=list(inputs) or None, group=list(groups), cost=cost, where=where
            )
            return laws.ForecastPart(runs.target, rows, laws.forecast(runs))
        if cost is not None:
            raise UserError("--cost is for a law of named inputs: give --input too")
        runs = laws.Observations.read(source, columns=columns, where=where, counted=counted, target=target)
        return laws.ForecastPart(target or "loss", rows, laws.forecast(runs))
    except UserError as error:
        if not rows:
            raise
        raise UserError(f"{', '.join(f'{column} = {cell}' for column, cell in rows.items())}: {error}") from None


def _cells(source: Path | str, by: str, where: Mapping[str, str] | None) -> list[str]:
    """The different cells of a column."""
    cells = laws.cells_of(source, by, where or {})
    if len(cells) > MOST_PARTS:
        raise UserError(f"{by} has {len(cells)} different cells, too many for a law each; --group {by} pools them")
    return cells


def load_forecast(path: Path | str) -> Fitted | None:
    """What :func:`fit_inputs` wrote; None where the file holds another kind of fit.

    Raises:
        UserError: no such file, or not one that ``allometry fit`` wrote.
    """
    if not Path(path).is_file():
        return None
    fitted = laws.load(path)
    return fitted if isinstance(fitted, laws.InputForecast | laws.Forecasts) else None


def predict_inputs(fitted: Fitted, at: Mapping[str, Any], level: float = 0.9) -> list[PredictedPart]:
    """The predictions at a point: name → number, written as people write it, or the cell of a group or of ``by``.

    Raises:
        UserError: a name is missing or not known, or a number is none.
    """
    if not isinstance(fitted, laws.Forecasts):
        return [_predicted("", fitted, at, level)]
    parts = fitted.chosen({name: value for name, value in at.items() if isinstance(value, str)})
    own = {column for part in fitted.parts for column in part.rows}
    rest = {name: value for name, value in at.items() if name not in own}
    return [_predicted(part.label, part.forecast, rest, level) for part in parts]


def _predicted(
    label: str, forecast: laws.Forecast | laws.InputForecast, at: Mapping[str, Any], level: float
) -> PredictedPart:
    if isinstance(forecast, laws.Forecast):
        counts = {name: parse_number(value, name) for name, value in at.items()}
        if set(counts) != {"num_params", "tokens"}:
            raise UserError(f"{label}: predicts from --params and --tokens: give both, and nothing else")
        size, tokens = counts["num_params"], counts["tokens"]
        notes = forecast.evidence(size, tokens).split("\n")
        return PredictedPart(label, forecast.predict(size, tokens, level=level), notes, cautions(forecast, counts))
    groups = forecast.runs.group_columns
    point = {n: str(value) if n in groups else parse_number(value, n, signed=True) for n, value in at.items()}
    notes = forecast.evidence(**point).split("\n")
    prediction = forecast.predict(level=level, **point)
    return PredictedPart(label or forecast.runs.target, prediction, notes, _far(forecast, point))


def _far(forecast: laws.InputForecast, point: Mapping[str, Any]) -> list[str]:
    """What a point far outside the runs means for its interval.

    Raises:
        UserError: it lies so far above them that no prediction means anything. A small value may be a plain one, as a
            weight decay of nearly nothing is.
    """
    distances, above = {}, {}
    for name, own in zip(forecast.inputs, forecast.runs.points.T, strict=True):
        # Sizes and tokens are also known by their usual names.
        given = (value for key, value in point.items() if key == name or normalise(name) in KNOWN.get(key, ()))
        value = next(given, 0.0)
        if value > 0 and (own > 0).all() and not forecast.runs.are_shares:
            above[name] = value / own.max()
            distances[name] = max(above[name], own.min() / value)
    name = max(distances, key=lambda name: distances[name], default="")
    if not name or distances[name] <= TESTED:
        return []
    if max(above.values()) > MOST_BEYOND:
        name = max(above, key=lambda name: above[name])
        raise UserError(
            f"{name} lies {above[name]:.2g}× outside the runs: no law has been tested so far out, and more than "
            f"{MOST_BEYOND:.0e}× is refused; make runs farther out first, or ask for less"
        )
    return [
        f"{name} lies {distances[name]:.2g}× outside the runs: no table has tested a law over more than about "
        f"{TESTED:.0f}×, so value and interval are a guess here"
    ]
