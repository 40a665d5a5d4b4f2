"""What the fitted runs covered, so that a plan can say where it extrapolates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import UserError
from ...quantities import format_count
from .predictor import FLOPS_PER_PARAM_TOKEN, Predictor


@dataclass(frozen=True)
class FittedRange:
    """What the fitted runs covered, as (least, most): beyond it a prediction extrapolates."""

    num_params: tuple[float, float]
    tokens: tuple[float, float]
    flops: tuple[float, float]
    tokens_per_param: tuple[float, float]

    @classmethod
    def of(cls, num_params: Sequence[float], tokens: Sequence[float]) -> FittedRange:
        """From the runs' parameters and tokens; FLOPs by 6·N·D.

        Raises:
            UserError: no runs, unequal lengths, or counts that are not above zero.
        """
        n, d = np.asarray(num_params, dtype=float), np.asarray(tokens, dtype=float)
        if n.size == 0 or n.shape != d.shape or not (np.all(np.isfinite(n * d)) and np.all(n > 0) and np.all(d > 0)):
            raise UserError("covered runs need as many parameters as tokens, all finite and above zero")
        spans = (n, d, FLOPS_PER_PARAM_TOKEN * n * d, d / n)
        return cls(*((float(span.min()), float(span.max())) for span in spans))

    @classmethod
    def by(cls, predictor: Predictor) -> FittedRange | None:
        """From ``predictor.range``: "num_params", "tokens", perhaps "flops" and "tokens_per_param" → (least, most).

        None where the predictor has no such mapping. What is missing in it is bounded by the corners of the rest.
        """
        spans = getattr(predictor, "range", None)
        if not (isinstance(spans, Mapping) and {"num_params", "tokens"} <= set(spans)):
            return None
        corners = cls.of(*zip(*((n, d) for n in spans["num_params"] for d in spans["tokens"]), strict=True))
        names = ("num_params", "tokens", "flops", "tokens_per_param")
        return cls(*(tuple(map(float, spans.get(name, getattr(corners, name)))) for name in names))

    def notes(self, num_params: float, tokens: float) -> list[str]:
        """One sentence for each way in which a target lies beyond the runs."""
        flops = FLOPS_PER_PARAM_TOKEN * num_params * tokens
        found = []
        if flops > self.flops[1]:
            found.append(f"extrapolates to {flops / self.flops[1]:.3g}× the compute of the largest fitted run")
        for word, value, (low, high) in (
            ("parameters", num_params, self.num_params),
            ("tokens", tokens, self.tokens),
            ("tokens per parameter", tokens / num_params, self.tokens_per_param),
        ):
            # A bound that the search itself was held to is met up to rounding.
            if not low * (1 - 1e-6) <= value <= high * (1 + 1e-6):
                side, edge = ("above the most", high) if value > high else ("below the fewest", low)
                found.append(f"{format_count(value)} {word}: {side} that was fitted ({format_count(edge)})")
        return found
