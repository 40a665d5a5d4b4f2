"""Several forecasts of one table: of several targets, or a law for each cell of a column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...errors import UserError
from ..forecasting.forecast import Forecast
from ..from_record import reads_record
from .input_forecast import InputForecast


class ForecastPart(NamedTuple):
    """A forecast with the target that it predicts, and the rows of the table that it was fitted to, column → cell."""

    target: str
    rows: dict[str, str]
    forecast: Forecast | InputForecast

    @property
    def label(self) -> str:
        """``loss, dataset = c4``."""
        return ", ".join([self.target, *(f"{column} = {cell}" for column, cell in self.rows.items())])


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Forecasts that were fitted together, one a target and cell."""

    parts: tuple[ForecastPart, ...]
    kind: str = field(default="forecasts", init=False)

    def chosen(self, cells: Mapping[str, str]) -> list[ForecastPart]:
        """The parts whose rows have these cells; all for none.

        Raises:
            UserError: no part has them.
        """
        rows = {column for part in self.parts for column in part.rows}
        wanted = {column: str(cell) for column, cell in cells.items() if column in rows}
        parts = [part for part in self.parts if wanted.items() <= part.rows.items()]
        if not parts:
            known = "; ".join(dict.fromkeys(part.label for part in self.parts))
            sought = ", ".join(f"{column} = {cell}" for column, cell in wanted.items())
            raise UserError(f"no law was fitted for {sought}; there are {known}")
        return parts

    def summary(self) -> str:
        """The summaries, each under its label."""
        return "\n\n".join(f"{part.label}\n{part.forecast.summary()}" for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        parts = [{"target": part.target, "rows": part.rows, "forecast": part.forecast.to_json()} for part in self.parts]
        return {"kind": self.kind, "parts": parts}

    @classmethod
    @reads_record("forecasts", "write them anew with allometry fit")
    def from_json(cls, data: dict[str, Any]) -> Forecasts:
        """The forecasts that ``to_json`` wrote.

        Raises:
            UserError: not such a record.
        """
        kinds: dict[str, type[Forecast | InputForecast]] = {"forecast": Forecast, "input_forecast": InputForecast}
        parts = [
            ForecastPart(
                part["target"], dict(part["rows"]), kinds[part["forecast"]["kind"]].from_json(part["forecast"])
            )
            for part in data["parts"]
        ]
        return cls(tuple(parts))
