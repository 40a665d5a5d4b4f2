"""What planning asks of a law: the loss at a size and tokens with its interval and, where it has them, its refits."""

from __future__ import annotations

from typing import Protocol

import numpy as np

Array = np.ndarray
FLOPS_PER_PARAM_TOKEN = 6.0


class Prediction(Protocol):
    """A predicted loss with its interval; floats or arrays."""

    value: float
    low: float
    high: float


class Predictor(Protocol):
    """Anything that predicts a loss from non-embedding parameters and tokens: a Fit, a Forecast, your own.

    A predictor may also say what it was fitted on, as a mapping ``range`` (see ``FittedRange.by``), which parameters it
    counts (see ``count_of``), and give the refits behind its constants (see ``refits``).
    """

    def predict(self, num_params, tokens, level: float = 0.9) -> Prediction: ...


def count_of(predictor: Predictor) -> str:
    """Which parameters a predictor counts: "non_embedding", "matmul", "total", or "unknown", taken as the first."""
    laws = getattr(predictor, "fits", None) or {}
    return getattr(predictor, "counted", None) or getattr(next(iter(laws.values()), None), "counted", None) or "unknown"


def refits(
    predictor: Predictor, num_params: Array, tokens: Array, unique_tokens: Array | None = None
) -> list[tuple[float, Array]]:
    """The bootstrap refits at points: (weight, ln L of shape (draws, points)), one pair for each law.

    A Fit is one law; a Forecast is its laws with their weights; a predictor with a method ``refits`` of its own is
    asked for them. ``unique_tokens`` are for a law that reads them; all, by default. Empty where there are no refits.
    """
    own = getattr(predictor, "refits", None)
    if own is not None:
        return own(num_params, tokens)
    laws = getattr(predictor, "fits", None)
    if laws is not None:
        pairs = [(weight, laws[name]) for name, weight in predictor.weights.items() if weight > 0]
        return [(weight * w, sample) for weight, one in pairs for w, sample in refits(one, num_params, tokens)]
    if len(getattr(predictor, "draws", ())) < 2:
        return []
    unique = tokens if unique_tokens is None else unique_tokens
    given = {"num_params": num_params, "tokens": tokens, "unique_tokens": unique}
    if not set(predictor.law.inputs) <= set(given):
        return []
    return [(1.0, predictor.log_samples(*(given[name] for name in predictor.law.inputs)))]


def weighted_interval(values: Array, weights: Array, level: float) -> tuple[float, float]:
    """The central interval that holds ``level`` of weighted values."""
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order])
    middles = (share - weights[order] / 2) / share[-1]
    low, high = np.interp([(1 - level) / 2, (1 + level) / 2], middles, values[order])
    return float(low), float(high)
