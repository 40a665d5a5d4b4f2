"""Beyond runs that end before their power law begins: how far down the loss may go there.

The findings of a table say when its runs end early (:mod:`allometry.laws.tables.rows.late_slopes`). A law is fitted to
the beginning then, and the loss comes out below it. Of 14 ladders that were followed to 3 to 14 times their longest run
(pairs of texts, GPTs as programs, speech, subwords; in some size was merely worth less than tokens), the loss fell on
with 0.35 to 1.9 times the exponent that the longest runs had; the larger factors are those of few lengths and far
targets. So the interval reaches down to an exponent that grows by a part of itself over every stretch as long as that
of the lengths that ran, and up to no fall at all.

Where the exponent itself grows up to the longest runs, losses came out below the law by 0.23 of it for each e-fold of
tokens (seven ladders; standard deviation 0.2). Where noise hardly explains that it grows, predictions are lowered by as
much, and the loss of the longest run is the most that is expected.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..tables.rows.late_slopes import late_slopes, size_against_tokens
from ..tables.run_arrays import RunArrays

Array = np.ndarray
GROWTH = 0.6  # of the exponent, over a stretch of ln D as long as that of the lengths that ran
LOWER, LOWER_SD = 0.23, 0.2  # of ln L for each e-fold beyond, as parts of the exponent, where it still grows
SURE = 0.02  # the chance of noise below which the exponent is taken to grow


@dataclass(frozen=True)
class EarlyEnd:
    """What is known of a loss beyond runs that end early.

    Attributes:
        tokens: of the longest run; the rest concerns longer ones.
        exponent: −d ln L / d ln D that the longest runs have at most (95 %).
        growth: of the exponent for each e-fold of tokens beyond, at most, as a part of it.
        grows: whether the exponent grew up to the longest runs; else size is worth next to nothing to any of them.
        lower: how far below its law ln L lies for each e-fold of tokens beyond; 0 where it is not sure that it grew.
        lower_sd: the standard deviation of ``lower``.
    """

    tokens: float
    exponent: float
    growth: float
    grows: bool
    lower: float = 0.0
    lower_sd: float = 0.0

    @classmethod
    def of(cls, runs: RunArrays) -> EarlyEnd | None:
        """None where the runs do not end early, or do not tell their exponents."""
        from scipy.special import stdtrit

        late = late_slopes(runs)
        if late is None:
            return None
        against = size_against_tokens(runs)
        if not late.grow and not (against is not None and against.short_of_tokens):
            return None
        most = max(late.exponent + float(stdtrit(late.freedom, 0.95)) * late.error, 0.0)
        longest, shortest = float(runs.tokens.max()), float(runs.tokens.min())
        growth, known = GROWTH / float(np.log(longest / shortest)), most if late.chance < SURE else 0.0
        return cls(longest, most, growth, late.grow, LOWER * known, LOWER_SD * known)

    def beyond(self, tokens: Array) -> Array:
        """ln(tokens over those of the longest run); 0 inside."""
        return np.log(np.maximum(np.asarray(tokens, float) / self.tokens, 1.0))

    def fall(self, tokens: Array) -> Array:
        """How far ln L may fall at most beyond the longest run."""
        distance = self.beyond(tokens)
        return self.exponent * distance * (1 + self.growth * distance)

    def ends(self, tokens: Array, at: Array, half: Array, last: Array, last_half: Array, share: float) -> Array:
        """Lower and upper ends of ln L, (2, points).

        Args:
            tokens: of each point.
            at, half: ln L as predicted, and half its interval.
            last, last_half: the same for the longest run of that size; those of the point where it is no longer.
            share: of the level's interval in that of 90 %.
        """
        steep = last - np.hypot(share * self.fall(tokens), last_half)
        low = np.minimum(steep, at - last_half) if self.lower > 0 else np.minimum(steep, at - half)
        high = np.minimum(at + half, last + last_half) if self.lower > 0 else at + half
        return np.where(self.beyond(tokens) > 0, [low, high], [at - half, at + half])

    def sentence(self) -> str:
        """For people: what it means for predictions."""
        why = "all runs are short for their sizes (more tokens help each, more parameters next to nothing)"
        if self.grows:
            why = "the loss still falls faster with every doubling at the longest runs"
        return f"{why}: beyond them it may fall more steeply, and intervals reach down to that; train longer runs first"

    def to_json(self) -> dict[str, Any]:
        """Plain data: the attributes."""
        return asdict(self)
