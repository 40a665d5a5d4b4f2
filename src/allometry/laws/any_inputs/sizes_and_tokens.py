"""Tables of parameters and tokens: the named laws' forecast, against the grammar's where there are other inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import UserError
from ..forecasting.forecast import Forecast
from ..forecasting.forecast import forecast as forecast_sizes
from ..tables.measurements import Measurements
from ..tables.observations import Observations
from .backtest_forms import CommonScale, Trial
from .frontier import relevance
from .held_out import size_and_tokens, splits

Array = np.ndarray
# By how much, as a logarithm, laws that do not read all inputs must predict better to be preferred.
MARGIN = 0.2
# Where only the centre of a forecast is asked for.
FEW_DRAWS = 4


def sizes_forecast(runs: Measurements, mixed: Sequence[Trial], scale: CommonScale) -> Forecast | None:
    """The forecast of the named laws, if it is to predict instead of the mixture of forms; else None.

    A table of one size and one token count is theirs. With more inputs, which they do not read, they must predict the
    runs held out clearly better than the mixture (``mixed``, its trials). None also where no named law fits.
    """
    places = size_and_tokens(runs)
    if places is None or len(runs.group_names) > 1 or not (runs.values > 0).all():
        return None
    try:
        if len(runs.inputs) > 2 and not _better(runs, places, mixed, scale):
            return None
        return forecast_sizes(_observations(runs, places))
    except UserError:
        return None


def _better(runs: Measurements, places: list[int], mixed: Sequence[Trial], scale: CommonScale) -> bool:
    """Whether the named laws predict what each split holds out better than the mixture, on the whole."""
    counts, margins = relevance(runs, scale.forward(runs.values)), []
    pairs = list(zip(splits(runs), mixed, strict=False))
    least = [_least_error(runs, places, split.held, counts, scale) for split, _ in pairs]
    if least and np.mean([_margin(trial.rms, own) for own, (_, trial) in zip(least, pairs, strict=True)]) <= MARGIN:
        return False
    for split, trial in pairs:
        kept, held = runs.where(~split.held), runs.where(split.held)
        predicted = forecast_sizes(_observations(kept, places), draws=FEW_DRAWS).predict(*held.points[:, places].T)
        errors = scale.forward(np.asarray(predicted.value)) - scale.forward(held.values)
        off = float(np.sqrt(np.average(errors**2, weights=counts[split.held])))
        margins.append(_margin(trial.rms, off))
    return bool(margins) and float(np.mean(margins)) > MARGIN


def _margin(of_mixture: float, of_laws: float) -> float:
    return float(np.log((of_mixture + 1e-12) / (of_laws + 1e-12)))


def _least_error(runs: Measurements, places: list[int], held: Array, counts: Array, scale: CommonScale) -> float:
    """What no law of sizes and tokens alone can go below: how much runs of equal size and tokens differ."""
    values, weights = scale.forward(runs.values[held]), counts[held]
    _, cell = np.unique(runs.points[held][:, places], axis=0, return_inverse=True)
    cell = cell.ravel()
    middle = np.bincount(cell, weights * values) / np.bincount(cell, weights)
    return float(np.sqrt(np.average((values - middle[cell]) ** 2, weights=weights)))


def _observations(runs: Measurements, places: list[int]) -> Observations:
    sizes, tokens = runs.points[:, places].T
    rows = zip(sizes, tokens, runs.values, strict=True)
    return Observations.from_records([{"num_params": n, "tokens": d, "loss": y} for n, d, y in rows])
