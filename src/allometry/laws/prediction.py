"""A predicted loss with its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """A value between ``low`` and ``high``, which hold a new run's loss with probability ``level``.

    Floats for one point, arrays for many.
    """

    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    level: float

    def __str__(self) -> str:
        if np.ndim(self.value):
            return f"{np.size(self.value)} predictions, {self.level:.0%} intervals"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] {self.level:.0%}"

    def to_json(self) -> dict:
        """value, low, high and level as plain numbers or lists."""
        return {
            "value": np.asarray(self.value).tolist(),
            "low": np.asarray(self.low).tolist(),
            "high": np.asarray(self.high).tolist(),
            "level": self.level,
        }


def points(num_params: object, tokens: object) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """N and D broadcast together and flattened, and the shape that predictions for them have."""
    n, d = np.broadcast_arrays(np.asarray(num_params, dtype=float), np.asarray(tokens, dtype=float))
    return n.ravel(), d.ravel(), n.shape


def around(value: np.ndarray, low: np.ndarray, high: np.ndarray, level: float, shape: tuple[int, ...]) -> Prediction:
    """A prediction of that shape whose interval holds its value."""
    triple = (value, np.minimum(low, value), np.maximum(high, value))
    shaped = (float(x[0]) if shape == () else x.reshape(shape) for x in triple)
    return Prediction(*shaped, level=level)
