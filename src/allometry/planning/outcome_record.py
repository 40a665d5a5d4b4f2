"""The outcome: what a plan predicted, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import UserError
from ..quantities import check_fields


@dataclass(frozen=True)
class Outcome:
    """A plan's prediction against the run that was trained by it.

    ``predicted`` with ``low`` and ``high`` at ``level`` is the plan's loss, ``actual`` the run's. ``relative_error`` is
    predicted over actual, less one; ``inside`` says whether the interval holds the actual loss (None: the plan has no
    interval). ``compute_ratio`` is the run's FLOPs over those of the largest rung (None: there is no ladder),
    ``ladder_share`` the share of all FLOPs spent that went into sweep and rungs. ``bits_per_byte`` is None for a task
    without text. ``seconds`` are the run's, ``note`` is what its record says about it.
    """

    run: str
    predicted: float
    low: float | None
    high: float | None
    level: float
    actual: float
    bits_per_byte: float | None
    relative_error: float
    inside: bool | None
    compute_ratio: float | None
    ladder_share: float
    seconds: float
    note: str = ""

    def _repr_html_(self) -> str:
        from .plan_cards import outcome_card

        return outcome_card(self).html()

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Outcome:
        """The outcome that ``to_json`` wrote.

        Raises:
            UserError: fields are missing or unknown.
        """
        if not isinstance(record, Mapping):
            raise UserError("not an outcome: give a record of names and values, as allometry train writes")
        wrong = {field.name for field in fields(cls)} ^ set(record)
        if wrong:
            names = ", ".join(sorted(wrong))
            raise UserError(f"not an outcome of this version: missing or unknown fields {names}; train the plan again")
        try:
            check_fields(cls, record)
        except TypeError as error:
            raise UserError(f"not an outcome of this version: {error}; train the plan again") from None
        return cls(**record)
