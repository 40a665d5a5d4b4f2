"""Scaling laws: fit them to any table of runs, predict the loss of a run, say how sure (NumPy and SciPy only).

>>> from allometry import laws
>>> observations = laws.Observations.read("runs.csv")
>>> fit = laws.fit("chinchilla", observations)
>>> print(fit.summary())
>>> laws.forecast(observations).predict(num_params=1e9, tokens=20e9)

- ``Observations``, ``Curves``: a table of runs, and the loss along them, from anybody's files;
- ``fit``: one law, its optimum and its intervals; ``LAWS`` by name, ``Formula`` for one's own;
- ``forecast``: several laws weighted by a ``backtest`` inside the table, with calibrated intervals;
- ``isoflop``: the best size for each budget; ``fit_curves``: the loss along a learning-rate schedule;
  ``fit_metric``: an accuracy from a loss.
"""

from .backtest import Backtest, backtest
from .catalog import LAWS, law
from .curve_fit import CurveFit, fit_curves
from .curves import Curves
from .design import Finding, Noise
from .farseer import Farseer
from .files import load, save
from .fit import fit
from .forecast import Forecast, forecast
from .formula import COEFFICIENT, FLOOR, DataConstrained, Formula
from .isoflop import IsoFlop, isoflop
from .law import Law
from .metrics import MetricFit, fit_metric
from .multi_power import MultiPower, wsd
from .observations import Observations
from .powers import Chinchilla, ChinchillaTied, Power, PowerFloor, SumOfPowers, ThreeTerm
from .prediction import Prediction
from .result import Fit
from .skaling import Kaplan, KaplanFloor, Skaling
from .slices import Slice

__all__ = [
    "COEFFICIENT",
    "FLOOR",
    "LAWS",
    "Backtest",
    "Chinchilla",
    "ChinchillaTied",
    "CurveFit",
    "Curves",
    "DataConstrained",
    "Farseer",
    "Finding",
    "Fit",
    "Forecast",
    "Formula",
    "IsoFlop",
    "Kaplan",
    "KaplanFloor",
    "Law",
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
    "fit",
    "fit_curves",
    "fit_metric",
    "forecast",
    "isoflop",
    "law",
    "load",
    "save",
    "wsd",
]
