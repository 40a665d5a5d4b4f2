"""What planning needs of a law: the loss at a size and tokens, the runs it was fitted on, and its refits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from ...laws import Prediction
from ...laws.prediction import LossPredictor

Array = np.ndarray
Numbers = TypeVar("Numbers", float, Array)
FLOPS_PER_PARAM_TOKEN = 6.0
Samples = list[tuple[float, Array]]
# A backtest knows the weights of the laws about as well as so many independent tests of them would.
WEIGHT_EVIDENCE = 8.0


@runtime_checkable
class Predictor(Protocol):
    """A law as planning uses it: ``laws.Fit``, ``laws.Forecast``, ``Repeated``, or what ``as_predictor`` returns."""

    @property
    def counted(self) -> str:
        """Which parameters it counts: "non_embedding", "matmul", "total", or "unknown", treated as the first."""
        ...

    @property
    def range(self) -> Mapping[str, tuple[float, float]] | None:
        """What it was fitted on: "num_params", "tokens", … → (least, most); None if that is not known."""
        ...

    def predict(self, num_params: float | Array, tokens: float | Array, level: float = 0.9) -> Prediction:
        """The loss at N parameters and D tokens (broadcast), with its interval."""
        ...

    def weighted_samples(self, num_params: Array, tokens: Array) -> Samples:
        """ln L of the bootstrap refits at points, (draws, points), with a weight for each law; empty without refits."""
        ...


def mixture_draws(samples: Samples) -> Array | None:
    """ln L of draws of the mixture of the laws, (draws, points); None without refits.

    One draw takes one refit of every law, of the same resampled runs, and weights drawn around the laws' own (a
    Dirichlet distribution). So a law of small weight changes each draw a little, and never is the whole of one.
    """
    kept = [(weight, each) for weight, each in samples if weight > 0 and len(each)]
    if not kept:
        return None
    draws = np.arange(max(len(each) for _, each in kept))
    shares = mixture_shares(np.array([weight for weight, _ in kept]), len(draws))
    return np.einsum("kd,kdp->dp", shares.T, np.stack([each[draws % len(each)] for _, each in kept]))


def mixture_shares(weights: Array, draws: int) -> Array:
    """The weights of the laws in each draw of their mixture, (draws, laws); the same on every call."""
    return np.random.default_rng(0).dirichlet(WEIGHT_EVIDENCE * weights / weights.sum(), size=draws)


def as_predictor(law: LossPredictor) -> Predictor:
    """A predictor of your own, completed: only ``predict`` is required of it.

    ``counted``, ``range`` and ``weighted_samples`` are its own where it has them; otherwise the count is "unknown",
    there is no range and there are no refits.
    """
    if isinstance(law, Predictor):
        return law
    return _Completed(
        law,
        law.counted if isinstance(law, _WithCount) else "unknown",
        law.range if isinstance(law, _WithRange) else None,
        law.weighted_samples if isinstance(law, _WithRefits) else lambda num_params, tokens: [],
    )


@runtime_checkable
class _WithCount(Protocol):
    counted: str


@runtime_checkable
class _WithRange(Protocol):
    range: Mapping[str, tuple[float, float]]


@runtime_checkable
class _WithRefits(Protocol):
    def weighted_samples(self, num_params: Array, tokens: Array) -> Samples: ...


@dataclass(frozen=True)
class _Completed:
    """A predictor of the user's own with what it lacks."""

    law: LossPredictor
    counted: str
    range: Mapping[str, tuple[float, float]] | None
    samples: Callable[[Array, Array], Samples]

    def predict(self, num_params: float | Array, tokens: float | Array, level: float = 0.9) -> Prediction:
        return self.law.predict(num_params, tokens, level=level)

    def weighted_samples(self, num_params: Array, tokens: Array) -> Samples:
        return self.samples(num_params, tokens)
