"""Training on the same tokens more than once: what a token is still worth when it comes again.

With U different tokens, D > U tokens of training are worth D' = U + U·R_D·(1 − e^(−(D/U − 1)/R_D)) fresh ones: about
all of them up to four passes, and never more than U·(1 + R_D). Parameters beyond the size U_N for which U tokens are
compute-optimal lose their worth in the same way, with R_N (arXiv 2305.16264, equations 5 to 8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ...quantities import require_positive
from .predictor import Array, Prediction, Predictor, count_of, refits

# Tokens a parameter between which the size that suits the unique tokens is sought.
_RATIOS = (1e-3, 1e6)
_STEP = 1e-3
FREE_EPOCHS = 4


@dataclass(frozen=True)
class Repetition:
    """How fast repeated tokens (R_D) and excess parameters (R_N) lose their worth; defaults as published.

    They were fitted to C4 with models up to 9B; on other runs they need not hold (a fit of the law
    ``data_constrained`` measures yours). Large values mean that repetition costs nothing.
    """

    tokens: float = 15.387756
    params: float = 5.309743

    def __post_init__(self) -> None:
        require_positive(decay_of_repeated_tokens=self.tokens, decay_of_excess_parameters=self.params)


@dataclass(frozen=True)
class Repeated:
    """A predictor for training on ``unique_tokens`` different tokens, over and over if need be.

    Up to that many tokens, and for sizes that they suffice for, it predicts what ``predictor`` does. A fit of a law
    that reads unique tokens itself is asked with them, and ``repetition`` does not enter.

    Raises:
        UserError: ``unique_tokens`` is not above zero.
    """

    predictor: Predictor
    unique_tokens: float
    repetition: Repetition = field(default_factory=Repetition)

    def __post_init__(self) -> None:
        require_positive(tokens_available=self.unique_tokens)

    @property
    def range(self):
        """What the predictor was fitted on, if it says so."""
        return getattr(self.predictor, "range", None)

    @property
    def counted(self) -> str:
        """Which parameters the predictor counts."""
        return count_of(self.predictor)

    @property
    def measured(self) -> bool:
        """Whether the predictor's own law says what repetition costs, and not the published constants."""
        return "unique_tokens" in getattr(getattr(self.predictor, "law", None), "inputs", ())

    @cached_property
    def best_size(self) -> float:
        """U_N: the size for which the unique tokens are compute-optimal; infinite where the law has no such size."""
        low, high = (math.log(self.unique_tokens / ratio) for ratio in reversed(_RATIOS))
        if not self._wants_params(low) or self._wants_params(high):
            return math.inf
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._wants_params(middle) else (low, middle)
        return math.exp((low + high) / 2)

    def _wants_params(self, log_size: float) -> bool:
        """Whether, at equal compute, a larger model on fewer tokens would reach a lower loss."""
        steps = np.array([_STEP, -_STEP])
        sizes, tokens = np.exp(log_size + steps), self.unique_tokens * np.exp(-steps)
        larger, smaller = np.asarray(self.predictor.predict(sizes, tokens).value, float)
        return bool(larger < smaller)

    def effective(self, num_params: Array, tokens: Array) -> tuple[Array, Array]:
        """N' and D': what the parameters and tokens are worth."""
        n, d = np.broadcast_arrays(np.asarray(num_params, float), np.asarray(tokens, float))
        size = n if math.isinf(self.best_size) else _worth(n, self.best_size, self.repetition.params)
        return size, _worth(d, self.unique_tokens, self.repetition.tokens)

    def predict(self, num_params, tokens, level: float = 0.9) -> Prediction:
        """The loss of N parameters on D tokens, of which only ``unique_tokens`` differ."""
        if self.measured:
            return self.predictor.predict(num_params, tokens, level=level, unique_tokens=self.unique_tokens)
        n, d = self.effective(num_params, tokens)
        return self.predictor.predict(n if n.ndim else float(n), d if d.ndim else float(d), level=level)

    def refits(self, num_params: Array, tokens: Array) -> list[tuple[float, Array]]:
        """The predictor's refits at what the counts are worth; U_N stays that of the fit itself."""
        if self.measured:
            return refits(self.predictor, num_params, tokens, np.full_like(tokens, self.unique_tokens))
        return refits(self.predictor, *self.effective(num_params, tokens))


def repetition_note(epochs: float | None) -> str:
    """What it means to read a text so many times, in words that follow "the run"; empty where nothing comes twice."""
    if epochs is None or epochs <= 1:
        return ""
    said = f"reads its text {epochs:.3g} times"
    if epochs <= FREE_EPOCHS:
        return f"{said}; up to about {FREE_EPOCHS} times, a token stays nearly as good as new (arXiv 2305.16264)"
    worth = float(_worth(np.asarray(epochs), 1.0, Repetition().tokens))
    return (
        f"{said}, worth {worth:.3g} times by arXiv 2305.16264: a law of tokens alone promises too much here; plan with "
        "--tokens-available, or fit the law data_constrained"
    )


def _worth(amount: Array, unique: float, decay: float) -> Array:
    """The effective amount: equal up to ``unique``, then less and less more, to unique·(1 + decay) at most."""
    excess = np.maximum(amount / unique - 1, 0.0)
    return np.where(amount > unique, unique * (1 - decay * np.expm1(-excess / decay)), amount)
