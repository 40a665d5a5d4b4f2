"""How far predictions drift with distance, as known before: from public tables, or from one's own earlier studies."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...errors import UserError
from ..base import Array


@dataclass(frozen=True)
class DriftPrior:
    """The slope of ln(observed/predicted) over ln(factor of compute beyond the largest run), over many tables.

    Attributes:
        slope: its mean; predictions are moved by it. 0.01: losses come out 1 % higher for each e-fold of compute.
        sd: its standard deviation from table to table.
        cuts: how many cuts of a table's own backtest this evidence is worth.
        freedom: degrees of freedom (Student's t) of an interval that rests on this evidence alone.
        unique_tokens: of the text that is trained on; a run of more tokens reads it again. None: it is long enough.
        repeat_slope: as ``slope``, for each e-fold of tokens beyond the unique ones.
        repeat_sd: as ``sd``, from text to text.

    Raises:
        UserError: a standard deviation or a number of cuts below zero, freedom below 1, or a number that is not finite.
    """

    slope: float = 0.0
    sd: float = 0.006
    cuts: float = 8.0
    freedom: float = 2.0
    unique_tokens: float | None = None
    repeat_slope: float = 0.0
    repeat_sd: float = 0.0

    def __post_init__(self):
        sizes = 0 <= self.cuts < float("inf") and 1 <= self.freedom < float("inf")
        sizes = sizes and (self.unique_tokens is None or 0 < self.unique_tokens < float("inf"))
        slopes = all(abs(slope) < 1 for slope in (self.slope, self.repeat_slope))
        if not (slopes and all(0 <= sd < 1 for sd in (self.sd, self.repeat_sd)) and sizes):
            raise UserError(
                f"{self}: slope and sd are parts of the loss for each e-fold (0.006), cuts a number from 0 on, "
                "freedom one from 1 on, unique_tokens above 0"
            )

    def repeated(self, tokens: Array) -> Array:
        """ln(tokens beyond the unique ones): 0 where no token is read twice."""
        unique = np.inf if self.unique_tokens is None else self.unique_tokens
        return np.log(np.maximum(np.asarray(tokens, float) / unique, 1.0))

    def to_json(self) -> dict[str, Any]:
        """Plain data: the attributes."""
        return asdict(self)


# What is left of a good fit on public tables. A table's own cuts share runs and reach less far than the predictions, so
# eight of them count as much.
PUBLIC_TABLES = DriftPrior()
