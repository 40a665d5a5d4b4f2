"""The forecast of a table: of parameters and tokens by the named laws, of any other inputs by the grammar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

from ...errors import UserError
from ..base import Law
from ..forecasting.drift import DriftPrior
from ..forecasting.forecast import Forecast
from ..forecasting.forecast import forecast as forecast_sizes
from ..forms.formula import Formula
from ..forms.input_laws import input_law
from ..tables.measurements import Measurements
from ..tables.observations import Observations
from .composing.formula_form import FormulaForm
from .input_forecast import InputForecast
from .search_forms import forecast_inputs

Priors = Mapping[str, Mapping[str, tuple[float, float]]]


@overload
def forecast(
    observations: Observations,
    laws: Sequence[Law | str] | None = None,
    seed: int = 0,
    drift: DriftPrior | None = None,
    priors: Priors | None = None,
) -> Forecast: ...


@overload
def forecast(
    observations: Measurements,
    laws: Sequence[Law | str] | None = None,
    seed: int = 0,
    drift: DriftPrior | None = None,
    priors: None = None,
) -> InputForecast: ...


def forecast(
    observations: Observations | Measurements,
    laws: Sequence[Law | str] | None = None,
    seed: int = 0,
    drift: DriftPrior | None = None,
    priors: Priors | None = None,
) -> Forecast | InputForecast:
    """Fit several laws, test each on the table itself, and weight them for prediction.

    Args:
        observations: the runs.
        laws: laws or names, for runs of parameters and tokens; the usual ones, as far as the number of runs allows, if
            None. For any other inputs: formulas, or names of ``INPUT_LAWS``; the forms are composed if None.
        seed: of the refits and of the starting points.
        drift: how fast predictions go astray beyond the runs, where N and D are the inputs; None: as public tables
            show, and, where the runs end early, as such ladders show.
        priors: law → constant → (value, deviation), where N and D are the inputs.

    Raises:
        UserError: a design that supports no law, an unknown law, a law that reads other inputs.
    """
    if isinstance(observations, Measurements):
        if priors is not None:
            raise UserError("priors are for laws of parameters and tokens: leave them out")
        forms = None
        if laws is not None:
            if not laws:
                raise UserError("no law is named: name one, or leave laws out")
            forms = [FormulaForm.of(_formula(law), observations.inputs) for law in laws]
        return forecast_inputs(observations, seed, forms)
    return forecast_sizes(observations, laws, seed, drift, priors)


def _formula(law: Law | str) -> Formula:
    """A law of named inputs."""
    if isinstance(law, str | Formula):
        return input_law(law)
    raise UserError(f"law {law.name} is of parameters and tokens alone: give a Formula")
