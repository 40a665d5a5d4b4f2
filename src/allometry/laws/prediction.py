"""A predicted loss with its interval, and the points that it is predicted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import UserError
from ..quantities import plural


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
            return f"{plural(np.size(self.value), 'prediction')}, {self.level:.0%} intervals"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] {self.level:.0%}"

    def to_json(self) -> dict:
        """value, low, high and level as plain numbers or lists."""
        return {
            "value": np.asarray(self.value).tolist(),
            "low": np.asarray(self.low).tolist(),
            "high": np.asarray(self.high).tolist(),
            "level": self.level,
        }


class LossPredictor(Protocol):
    """Anything that predicts a loss from parameters and tokens: a ``Fit``, a ``Forecast``, a predictor of your own."""

    def predict(self, num_params: float | np.ndarray, tokens: float | np.ndarray, level: float = 0.9) -> Prediction: ...


def points(num_params: object, tokens: object) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """N and D broadcast together and flattened, and the shape that predictions for them have."""
    n, d = np.broadcast_arrays(np.asarray(num_params, dtype=float), np.asarray(tokens, dtype=float))
    return n.ravel(), d.ravel(), n.shape


def around(value: np.ndarray, low: np.ndarray, high: np.ndarray, level: float, shape: tuple[int, ...]) -> Prediction:
    """A prediction of that shape whose interval holds its value."""
    triple = (value, np.minimum(low, value), np.maximum(high, value))
    shaped = (float(x[0]) if shape == () else x.reshape(shape) for x in triple)
    return Prediction(*shaped, level=level)


def check_points(num_params: object, tokens: object, level: float) -> None:
    """Raises UserError unless counts are finite and above zero and 0 < level < 1."""
    check_inputs({"num_params": num_params, "tokens": tokens})
    check_level(level)


def check_level(level: float) -> None:
    """Raises UserError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise UserError(f"level is {level}; it must lie between 0 and 1, such as 0.9")


def check_repeats(repeats: float) -> None:
    """Raises UserError unless it is a number of runs, 1 or more."""
    if not repeats >= 1:
        raise UserError(f"repeats is {repeats}; it must be 1 or more runs, or infinity for the expected loss")


def check_inputs(inputs: Mapping[str, object]) -> None:
    """Raises UserError unless all inputs are finite and above zero."""
    for name, value in inputs.items():
        array = np.asarray(value, dtype=float)
        if array.size == 0 or not np.all(np.isfinite(array) & (array > 0)):
            raise UserError(f"{name} must be finite and above zero to predict a loss")


def inputs_of(names: tuple[str, ...], given: Mapping[str, object], law: str) -> list[object]:
    """What a law reads, from what was given: steps follow from tokens and batch, and unique tokens are all of them.

    Raises:
        UserError: something that the law reads is neither given nor follows.
    """
    known = {name: value for name, value in given.items() if value is not None}
    if "steps" not in known and {"tokens", "batch_tokens"} <= set(known):
        known["steps"] = np.asarray(known["tokens"], float) / np.asarray(known["batch_tokens"], float)
    if "tokens" in known:
        known.setdefault("unique_tokens", known["tokens"])
    missing = [name for name in names if name not in known]
    if missing:
        raise UserError(f"law {law} predicts from {', '.join(names)}: give {', '.join(missing)} too")
    check_inputs({name: known[name] for name in names})
    return [known[name] for name in names]
