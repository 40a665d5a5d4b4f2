"""Scaling laws: fit them to any table of runs, predict the loss of a run, say how sure (NumPy and SciPy only).

>>> from allometry import laws
>>> observations = laws.Observations.read("runs.csv")
>>> fit = laws.fit("chinchilla", observations)
>>> print(fit.summary())
>>> laws.forecast(observations).predict(num_params=1e9, tokens=20e9)
"""

from .backtest import Backtest, backtest
from .files import load, save
from .fit import Fit, fit
from .forecast import Forecast, forecast
from .law import LAWS, Chinchilla, Law, Power, PowerFloor, Skaling, law
from .observations import Observations
from .prediction import Prediction

__all__ = [
    "LAWS",
    "Backtest",
    "Chinchilla",
    "Fit",
    "Forecast",
    "Law",
    "Observations",
    "Power",
    "PowerFloor",
    "Prediction",
    "Skaling",
    "backtest",
    "fit",
    "forecast",
    "law",
    "load",
    "save",
]
