"""Training on the same tokens more than once: what a repeated token is still worth.

With U unique tokens, D > U tokens of training are worth D' = U + U·R_D·(1 − e^(−(D/U − 1)/R_D)) fresh ones: about all
of them up to four passes, and never more than U·(1 + R_D). Parameters beyond the size U_N for which U tokens are
compute-optimal lose their worth in the same way, with R_N (arXiv 2305.16264, equations 5 to 8).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ...errors import UserError
from ...laws import Fit, Forecast, Prediction
from ...laws.prediction import LossPredictor
from ...quantities import require_positive
from .predictor import Array, Predictor, Samples, as_predictor

# The size that suits the unique tokens is searched between these tokens per parameter.
_RATIOS = (1e-3, 1e6)
_STEP = 1e-3
FREE_EPOCHS = 4
PAPER = "(arXiv 2305.16264)"


@dataclass(frozen=True)
class Repetition:
    """How fast repeated tokens (R_D) and excess parameters (R_N) lose their worth; defaults as published.

    They were fitted to C4 with models up to 9B; on other runs they need not hold (a fit of the law
    ``data_constrained`` measures yours). Large values mean that repetition costs nothing.

    Attributes:
        tokens, params: R_D and R_N.
        sd: standard deviation of ln R_D from data to data, which is in the intervals. The published runs themselves
            give 30 by ``laws.fit``, and images of digits, read 36 times by a small transformer, 3 or less.
    """

    tokens: float = 15.387756
    params: float = 5.309743
    sd: float = 1.0

    def __post_init__(self) -> None:
        require_positive(decay_of_repeated_tokens=self.tokens, decay_of_excess_parameters=self.params)
        if not 0 <= self.sd < math.inf:
            raise UserError(f"sd of the decay of repeated tokens is {self.sd}; it must be 0 or more")


@dataclass(frozen=True)
class Repeated:
    """A predictor for training on ``unique_tokens`` unique tokens, repeated as often as necessary.

    Up to that many tokens, and for sizes for which they suffice, it predicts what ``predictor`` does. A fit of a law
    that reads unique tokens itself gets them directly, and so does a forecast that knows from earlier studies what
    repetition costs; ``repetition`` is not used then.

    Where the runs that the law was fitted to read the same data, ``seen_tokens`` is the longest of them: what
    repetition costs up to there is in their losses, and tokens lose their worth from there on.

    Raises:
        UserError: ``unique_tokens`` is not above zero.
    """

    predictor: LossPredictor
    unique_tokens: float
    repetition: Repetition = field(default_factory=Repetition)
    seen_tokens: float = 0.0

    def __post_init__(self) -> None:
        require_positive(tokens_available=self.unique_tokens)

    @property
    def range(self) -> Mapping[str, tuple[float, float]] | None:
        """What the predictor was fitted on; None if that is not known."""
        return self._law.range

    @property
    def counted(self) -> str:
        """Which parameters the predictor counts."""
        return self._law.counted

    @property
    def measured(self) -> bool:
        """Whether the predictor's own law includes the cost of repetition, in place of the published constants."""
        return self._fit is not None or self._knows

    @property
    def fresh_tokens(self) -> float:
        """Up to so many the law is taken as it is."""
        return max(self.unique_tokens, self.seen_tokens)

    @cached_property
    def best_size(self) -> float:
        """U_N: the size for which the unique tokens are compute-optimal; infinite if the law has no such size."""
        low, high = (math.log(self.fresh_tokens / ratio) for ratio in reversed(_RATIOS))
        if not self._wants_params(low) or self._wants_params(high):
            return math.inf
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._wants_params(middle) else (low, middle)
        return math.exp((low + high) / 2)

    def effective(self, num_params: float | Array, tokens: float | Array, sds: float = 0.0) -> tuple[Array, Array]:
        """N' and D': what the parameters and tokens are worth, with ln R_D so many standard deviations off."""
        n, d = np.broadcast_arrays(np.asarray(num_params, float), np.asarray(tokens, float))
        if self._knows:
            return n, d
        size = n if math.isinf(self.best_size) else worth(n, self.best_size, self.best_size * self.repetition.params)
        decay = self.repetition.tokens * math.exp(sds * self.repetition.sd)
        return size, worth(d, self.fresh_tokens, self.unique_tokens * decay)

    def predict(self, num_params: float | Array, tokens: float | Array, level: float = 0.9) -> Prediction:
        """The loss of N parameters on D tokens, of which only ``unique_tokens`` are unique."""
        if self._fit is not None:
            return self._fit.predict(num_params, tokens, level=level, unique_tokens=self.unique_tokens)
        at, worse, better = (
            self._law.predict(*map(_plain, self.effective(num_params, tokens, sds)), level=level)
            for sds in (0.0, -1.0, 1.0)
        )
        if self._knows:
            return at
        # The distance of a loss with other constants is one standard deviation, upwards and downwards.
        normal = statistics.NormalDist().inv_cdf((1 + level) / 2)
        value = np.asarray(at.value, float)
        up = np.hypot(np.log(at.high / value), normal * np.log(np.maximum(worse.value / value, 1.0)))
        down = np.hypot(np.log(value / at.low), normal * np.log(np.maximum(value / better.value, 1.0)))
        return replace(at, low=_plain(value * np.exp(-down)), high=_plain(value * np.exp(up)))

    def weighted_samples(self, num_params: Array, tokens: Array) -> Samples:
        """The predictor's refits at the effective parameters and tokens; U_N stays that of the fit itself."""
        if self._fit is not None:
            return self._fit.weighted_samples(num_params, tokens, np.full_like(tokens, self.unique_tokens))
        return self._law.weighted_samples(*self.effective(num_params, tokens))

    @cached_property
    def _law(self) -> Predictor:
        law = self.predictor
        if isinstance(law, Forecast) and self._knows:
            law = replace(law, drift_prior=replace(law.drift_prior, unique_tokens=self.unique_tokens))
        return as_predictor(law)

    @property
    def _knows(self) -> bool:
        """Whether the predictor is a forecast with the cost of repetition in it."""
        return knows_repetition(self.predictor)

    @property
    def _fit(self) -> Fit | None:
        """The predictor if it is a fit of a law that reads unique tokens."""
        law = self.predictor
        return law if isinstance(law, Fit) and "unique_tokens" in law.law.inputs else None

    def _wants_params(self, log_size: float) -> bool:
        """Whether, at equal compute, a larger model on fewer tokens would reach a lower loss."""
        steps = np.array([_STEP, -_STEP])
        sizes, tokens = np.exp(log_size + steps), self.fresh_tokens * np.exp(-steps)
        larger, smaller = np.asarray(self._law.predict(sizes, tokens).value, float)
        return bool(larger < smaller)


def knows_repetition(predictor: LossPredictor) -> bool:
    """Whether a forecast counts what it costs that tokens are read again, as earlier studies showed it."""
    return isinstance(predictor, Forecast) and predictor.drift_prior.unique_tokens is not None


def early_end_cautions(predictor: LossPredictor, tokens: float) -> list[str]:
    """What it means for a prediction that the fitted runs end before their power law begins."""
    law = predictor.predictor if isinstance(predictor, Repeated) else predictor
    early = law.early_end if isinstance(law, Forecast) else None
    return [] if early is None or tokens <= early.tokens else [early.sentence()]


def costs_much(epochs: float | None) -> bool:
    """Whether so many passes over the corpus are worth clearly less than as many fresh tokens."""
    return epochs is not None and epochs > FREE_EPOCHS


def repetition_note(epochs: float | None, included: bool = False, unit: str = "") -> str:
    """What so many passes over the data mean, in words that follow "the run"; empty for one pass or less.

    ``included``: the predicted loss and its interval include what they cost. ``unit``: what is counted, where it is
    no text.
    """
    if epochs is None or epochs <= 1:
        return ""
    reads = f"reads its {unit + 's' if unit else 'corpus'} {epochs:.3g} times"
    if included:
        return f"{reads}; loss and interval include what that costs, as earlier studies showed"
    if epochs <= FREE_EPOCHS:
        return (
            f"{reads}; up to about {FREE_EPOCHS} times, large models lose little by that {PAPER}, while small ones on "
            "little data lose 0 to 10 % with each doubling"
        )
    many = float(worth(np.asarray(epochs), 1.0, Repetition().tokens))
    return (
        f"{reads}, which is worth {many:.3g} times by arXiv 2305.16264: a law of tokens alone predicts too low a loss "
        "here; plan with --tokens-available, or fit the law data_constrained"
    )


def worth(amount: Array, fresh: float, most: float) -> Array:
    """The effective amount: equal up to ``fresh``, then less and less more, at most ``most`` more."""
    excess = np.maximum(amount - fresh, 0.0) / most
    return np.where(amount > fresh, fresh - most * np.expm1(-excess), amount)


def _plain(value: Array) -> float | Array:
    """A number where it is one."""
    return value if np.ndim(value) else float(value)
