"""The range of the fitted runs, so that a plan can report where it extrapolates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import UserError
from ...laws.prediction import LossPredictor
from ...quantities import format_count
from .predictor import FLOPS_PER_PARAM_TOKEN, as_predictor

Span = tuple[float, float]
# Public tables test a law up to about so many times its largest run; a million times beyond, nothing is known.
TESTED, MOST_BEYOND = 1e3, 1e6
_NEARLY = 1.05


@dataclass(frozen=True)
class FittedRange:
    """(least, most) of the fitted runs; a prediction beyond them extrapolates."""

    num_params: Span
    tokens: Span
    flops: Span
    tokens_per_param: Span

    @classmethod
    def of(cls, num_params: Sequence[float], tokens: Sequence[float]) -> FittedRange:
        """From the runs' parameters and tokens; FLOPs by 6·N·D.

        Raises:
            UserError: no runs, unequal lengths, or counts that are not above zero.
        """
        n, d = np.asarray(num_params, dtype=float), np.asarray(tokens, dtype=float)
        if n.size == 0 or n.shape != d.shape or not (np.all(np.isfinite(n * d)) and np.all(n > 0) and np.all(d > 0)):
            raise UserError("the fitted range needs as many parameters as tokens, all finite and above zero")
        return cls(*(_span(values) for values in (n, d, FLOPS_PER_PARAM_TOKEN * n * d, d / n)))

    @classmethod
    def by(cls, predictor: LossPredictor) -> FittedRange | None:
        """From ``predictor.range``: "num_params", "tokens", perhaps "flops" and "tokens_per_param" → (least, most).

        None if the predictor has no such mapping. A span that is missing in it follows from the corners of the others.
        """
        spans = as_predictor(predictor).range
        if spans is None or not {"num_params", "tokens"} <= set(spans):
            return None
        corners = cls.of(*zip(*((n, d) for n in spans["num_params"] for d in spans["tokens"]), strict=True))
        return cls(
            _pair(spans["num_params"]),
            _pair(spans["tokens"]),
            _pair(spans.get("flops", corners.flops)),
            _pair(spans.get("tokens_per_param", corners.tokens_per_param)),
        )

    def beyond(self, num_params: float, tokens: float) -> float:
        """How many times the largest run: in compute, size or tokens, whichever is most; below 1 inside."""
        flops = FLOPS_PER_PARAM_TOKEN * num_params * tokens
        return max(flops / self.flops[1], num_params / self.num_params[1], tokens / self.tokens[1])

    def cautions(self, num_params: float, tokens: float) -> list[str]:
        """What a target far beyond the runs means for its interval.

        Raises:
            UserError: it lies so far beyond that no prediction means anything.
        """
        factor = self.beyond(num_params, tokens)
        if factor > MOST_BEYOND:
            raise UserError(
                f"{format_count(num_params)} parameters on {format_count(tokens)} tokens lie {factor:.2g}× beyond the "
                f"largest run: no law has been tested so far out, and more than {MOST_BEYOND:.0e}× is refused; train "
                "larger runs first, or ask for less"
            )
        if factor <= TESTED:
            return []
        return [
            f"{factor:.2g}× beyond the largest run: no table has tested a law over more than about {TESTED:.0f}×, so "
            "loss and interval are a guess here"
        ]

    def outside(self, tokens_per_param: float) -> bool:
        """Whether no run had about so many tokens a parameter."""
        low, high = self.tokens_per_param
        return not low / _NEARLY <= tokens_per_param <= high * _NEARLY

    def settling_runs(self, tokens_per_param: float) -> list[tuple[float, float]]:
        """(N, D) of three runs at the largest run's compute that would show where the best size lies: around it."""
        ratios = [tokens_per_param * factor for factor in (0.5, 1.0, 2.0)]
        sizes = [math.sqrt(self.flops[1] / FLOPS_PER_PARAM_TOKEN / ratio) for ratio in ratios]
        return [(size, ratio * size) for size, ratio in zip(sizes, ratios, strict=True)]

    def notes(self, num_params: float, tokens: float) -> list[str]:
        """One sentence for each way in which a target lies beyond the runs."""
        flops = FLOPS_PER_PARAM_TOKEN * num_params * tokens
        notes = []
        if flops > self.flops[1]:
            notes.append(f"extrapolates to {flops / self.flops[1]:.3g}× the compute of the largest fitted run")
        for word, value, (low, high) in (
            ("parameters", num_params, self.num_params),
            ("tokens", tokens, self.tokens),
            ("tokens per parameter", tokens / num_params, self.tokens_per_param),
        ):
            # A bound that the search itself was held to is met up to rounding.
            if not low * (1 - 1e-6) <= value <= high * (1 + 1e-6):
                side, edge = ("above the most", high) if value > high else ("below the fewest", low)
                notes.append(f"{format_count(value)} {word}: {side} that was fitted ({format_count(edge)})")
        return notes


def _span(values: np.ndarray) -> Span:
    return float(values.min()), float(values.max())


def _pair(span: Span) -> Span:
    low, high = span
    return float(low), float(high)
