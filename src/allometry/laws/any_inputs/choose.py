"""The forecast of a table: of parameters and tokens by the named laws, of any other inputs by the grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from ...errors import UserError
from ..base import Law
from ..forecasting.forecast import Forecast
from ..forecasting.forecast import forecast as forecast_sizes
from ..tables.measurements import Measurements
from ..tables.observations import Observations
from .input_forecast import InputForecast, forecast_inputs


@overload
def forecast(observations: Observations, laws: Sequence[Law | str] | None = None, seed: int = 0) -> Forecast: ...


@overload
def forecast(observations: Measurements, laws: None = None, seed: int = 0) -> InputForecast: ...


def forecast(
    observations: Observations | Measurements, laws: Sequence[Law | str] | None = None, seed: int = 0
) -> Forecast | InputForecast:
    """Fit several laws, test each on the table itself, and weight them for prediction.

    Args:
        observations: the runs.
        laws: laws or names, for runs of parameters and tokens; the usual ones, as far as the number of runs allows, if
            None. For any other inputs the forms are composed.
        seed: of the refits and of the starting points.

    Raises:
        UserError: a design that supports no law, an unknown law, laws for inputs of one's own.
    """
    if isinstance(observations, Measurements):
        if laws is not None:
            raise UserError("a forecast over named inputs composes its own forms: leave the laws out")
        return forecast_inputs(observations, seed)
    return forecast_sizes(observations, laws, seed)
