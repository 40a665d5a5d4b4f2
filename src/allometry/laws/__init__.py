"""Scaling laws: fit them to any table of runs, and predict the loss of a run with an interval (NumPy and SciPy only).

>>> from allometry import laws
>>> observations = laws.Observations.read("runs.csv")
>>> fit = laws.fit("chinchilla", observations)
>>> print(fit.summary())
>>> laws.forecast(observations).predict(num_params=1e9, tokens=20e9)
>>> runs = laws.Observations.read("runs.csv", target="loss", inputs=["experts", "params"], group="corpus")
>>> laws.forecast(runs).predict(frame)

- ``Observations``, ``Curves``: a table of runs, and the loss along them, from anybody's files;
- ``fit``: one law, its optimum and its intervals; ``LAWS`` by name, ``Formula`` for one's own;
- ``forecast``: several laws weighted by a ``backtest`` inside the table, with calibrated intervals; for
  ``Measurements`` (any inputs, any target, groups) the laws are composed from a grammar;
- ``isoflop``: the best size for each budget; ``fit_curves``: the loss along a learning-rate schedule;
  ``fit_metric``: an accuracy from a loss.
"""

from .along_a_run.curve_fit import CurveFit, fit_curves
from .along_a_run.multi_power import MultiPower, wsd
from .any_inputs.choose import forecast
from .any_inputs.input_forecast import InputForecast
from .any_inputs.several import ForecastPart, Forecasts
from .base import Law
from .fitting.fit import fit
from .fitting.result import Fit
from .forecasting.backtest import Backtest, backtest
from .forecasting.drift import DriftPrior
from .forecasting.forecast import Forecast
from .forms.farseer import Farseer
from .forms.formula import COEFFICIENT, FLOOR, DataConstrained, Formula
from .forms.input_laws import INPUT_LAWS, mixing_law
from .forms.joined_powers import Kaplan, KaplanFloor, Skaling
from .forms.named_laws import LAWS, law
from .forms.sums_of_powers import Chinchilla, ChinchillaTied, Power, PowerFloor, SumOfPowers, ThreeTerm
from .isoflop_slices.isoflop import IsoFlop, isoflop
from .isoflop_slices.slice import Slice
from .metrics import MetricFit, fit_metric
from .prediction import Prediction, check_level
from .saved import load, save
from .tables.curves import Curves
from .tables.findings.finding import Finding
from .tables.findings.repeated_runs import Noise
from .tables.measurements import Measurements, cells_of
from .tables.observations import Observations

__all__ = [
    "COEFFICIENT",
    "FLOOR",
    "INPUT_LAWS",
    "LAWS",
    "Backtest",
    "Chinchilla",
    "ChinchillaTied",
    "CurveFit",
    "Curves",
    "DataConstrained",
    "DriftPrior",
    "Farseer",
    "Finding",
    "Fit",
    "Forecast",
    "ForecastPart",
    "Forecasts",
    "Formula",
    "InputForecast",
    "IsoFlop",
    "Kaplan",
    "KaplanFloor",
    "Law",
    "Measurements",
    "MetricFit",
    "MultiPower",
    "Noise",
    "Observations",
    "Power",
    "PowerFloor",
    "Prediction",
    "Skaling",
    "Slice",
    "SumOfPowers",
    "ThreeTerm",
    "backtest",
    "cells_of",
    "check_level",
    "fit",
    "fit_curves",
    "fit_metric",
    "forecast",
    "isoflop",
    "law",
    "load",
    "mixing_law",
    "save",
    "wsd",
]
