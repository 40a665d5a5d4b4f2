"""How far predictions drift with distance, as known before: from public tables, or from one's own earlier studies."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...errors import UserError


@dataclass(frozen=True)
class DriftPrior:
    """The slope of ln(observed/predicted) over ln(factor of compute beyond the largest run), over many tables.

    Attributes:
        slope: its mean; predictions are moved by it. 0.01: losses come out 1 % higher for each e-fold of compute.
        sd: its standard deviation from table to table.
        cuts: how many cuts of a table's own backtest this evidence is worth.
        freedom: degrees of freedom (Student's t) of an interval that rests on this evidence alone.

    Raises:
        UserError: a standard deviation or a number of cuts below zero, freedom below 1, or a number that is not finite.
    """

    slope: float = 0.0
    sd: float = 0.006
    cuts: float = 8.0
    freedom: float = 2.0

    def __post_init__(self):
        sizes = 0 <= self.cuts < float("inf") and 1 <= self.freedom < float("inf")
        if not (abs(self.slope) < 1 and 0 <= self.sd < 1 and sizes):
            raise UserError(
                f"{self}: slope and sd are parts of the loss for each e-fold (0.006), cuts a number from 0 on, "
                "freedom one from 1 on"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain data: the attributes."""
        return asdict(self)


# What is left of a good fit on public tables. A table's own cuts share runs and reach less far than the predictions, so
# eight of them count as much.
PUBLIC_TABLES = DriftPrior()
