"""Scaling laws: fit them to any table of runs, predict the loss of a run, say how sure (NumPy and SciPy only).

>>> from allometry import laws
>>> observations = laws.Observations.read("runs.csv")
>>> fit = laws.fit("chinchilla", observations)
>>> print(fit.summary())
>>> laws.forecast(observations).predict(num_params=1e9, tokens=20e9)
"""

from .backtest import Backtest, backtest
from .catalog import LAWS, law
from .farseer import Farseer
from .files import load, save
from .fit import fit
from .forecast import Forecast, forecast
from .formula import COEFFICIENT, FLOOR, DataConstrained, Formula
from .law import Law
from .observations import Observations
from .powers import Chinchilla, ChinchillaTied, Power, PowerFloor, SumOfPowers, ThreeTerm
from .prediction import Prediction
from .result import Fit
from .skaling import Kaplan, KaplanFloor, Skaling

__all__ = [
    "COEFFICIENT",
    "FLOOR",
    "LAWS",
    "Backtest",
    "Chinchilla",
    "ChinchillaTied",
    "DataConstrained",
    "Farseer",
    "Fit",
    "Forecast",
    "Formula",
    "Kaplan",
    "KaplanFloor",
    "Law",
    "Observations",
    "Power",
    "PowerFloor",
    "Prediction",
    "Skaling",
    "SumOfPowers",
    "ThreeTerm",
    "backtest",
    "fit",
    "forecast",
    "law",
    "load",
    "save",
]
