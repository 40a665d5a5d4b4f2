"""The forecast of a table: of parameters and tokens by the named laws, of any other inputs by the grammar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

from ...errors import UserError
from ..base import Law
from ..forecasting.drift import PUBLIC_TABLES, DriftPrior
from ..forecasting.forecast import Forecast
from ..forecasting.forecast import forecast as forecast_sizes
from ..tables.measurements import Measurements
from ..tables.observations import Observations
from .input_forecast import InputForecast, forecast_inputs

Priors = Mapping[str, Mapping[str, tuple[float, float]]]


@overload
def forecast(
    observations: Observations,
    laws: Sequence[Law | str] | None = None,
    seed: int = 0,
    drift: DriftPrior = PUBLIC_TABLES,
    priors: Priors | None = None,
) -> Forecast: ...


@overload
def forecast(
    observations: Measurements,
    laws: None = None,
    seed: int = 0,
    drift: DriftPrior = PUBLIC_TABLES,
    priors: None = None,
) -> InputForecast: ...


def forecast(
    observations: Observations | Measurements,
    laws: Sequence[Law | str] | None = None,
    seed: int = 0,
    drift: DriftPrior = PUBLIC_TABLES,
    priors: Priors | None = None,
) -> Forecast | InputForecast:
    """Fit several laws, test each on the table itself, and weight them for prediction.

    Args:
        observations: the runs.
        laws: laws or names, for runs of parameters and tokens; the usual ones, as far as the number of runs allows, if
            None. For any other inputs the forms are composed.
        seed: of the refits and of the starting points.
        drift: how fast predictions go astray beyond the runs, where N and D are the inputs.
        priors: law → constant → (value, deviation), where N and D are the inputs.

    Raises:
        UserError: a design that supports no law, an unknown law, laws for inputs of one's own.
    """
    if isinstance(observations, Measurements):
        if laws is not None or priors is not None:
            raise UserError("a forecast over named inputs composes its own forms: leave laws and priors out")
        return forecast_inputs(observations, seed)
    return forecast_sizes(observations, laws, seed, drift, priors)
