"""The laws of any inputs of one table, as pictures, tables and page ask them: one a target and cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .. import laws
from ..laws.any_inputs.as_numbers.input_table import has_input_table, input_table, runs_of
from ..laws.any_inputs.held_out import cost_of
from ..laws.tables.measurements import Measurements
from ..quantities import format_count

Array = np.ndarray
LEVEL = 0.9


@dataclass(frozen=True, eq=False)
class LawPart:
    """One law, with its name among those of the page."""

    label: str
    forecast: laws.InputForecast | laws.Forecast
    runs: Measurements

    @classmethod
    def each(cls, fitted: laws.InputForecast | laws.Forecasts) -> list[LawPart]:
        """Every law of a fit."""
        if isinstance(fitted, laws.Forecasts):
            return [cls(one.label, one.forecast, runs_of(one.forecast, one.target)) for one in fitted.parts]
        return [cls(fitted.runs.target, fitted, fitted.runs)]

    @property
    def named_laws(self) -> laws.Forecast | None:
        """The forecast of the named laws of size and tokens, where it predicts."""
        return self.forecast if isinstance(self.forecast, laws.Forecast) else self.forecast.sizes

    @property
    def can_be_asked(self) -> bool:
        """Whether the page can work its predictions out."""
        return has_input_table(self.forecast)

    @cached_property
    def table(self) -> dict[str, Any]:
        """What the page is told of it."""
        return input_table(self.forecast) | {"target": self.runs.target}

    def predict(self, points: Array, group: Array, level: float = LEVEL) -> laws.Prediction:
        """The target at points (rows, inputs) of groups (rows,)."""
        if isinstance(self.forecast, laws.Forecast):
            return self.forecast.predict(points[:, 0], points[:, 1], level=level)
        frame: dict[str, Any] = dict(zip(self.runs.inputs, points.T, strict=True))
        cells = [self.runs.cells_of(int(number)) for number in group]
        frame |= {column: [cell[column] for cell in cells] for column in self.runs.group_columns}
        return self.forecast.predict(frame, level=level)

    @cached_property
    def varying(self) -> list[int]:
        """The inputs that differ between runs."""
        return [place for place, own in enumerate(self.runs.points.T) if np.ptp(own) > 0]

    @cached_property
    def first_asked(self) -> int:
        """The run with which the page begins: the one of most cost, of proportions the one nearest to the mean."""
        runs = self.runs
        if runs.are_shares:
            return int(np.argmin(((runs.points - runs.points.mean(axis=0)) ** 2).sum(axis=1)))
        return int(np.argmax(cost_of(runs)))

    def moved(self, input_place: int, values: Array) -> Array:
        """The first question with other values of one input, (values, inputs); other proportions share the rest."""
        points = np.repeat(self.runs.points[self.first_asked][None], len(values), axis=0)
        if self.runs.are_shares:
            rest = np.delete(points, input_place, axis=1)
            total = rest.sum(axis=1, keepdims=True)
            ratios = np.divide(rest, total, out=np.full_like(rest, 1 / rest.shape[1]), where=total > 0)
            points = np.insert(ratios * (1 - values[:, None]), input_place, values, axis=1)
        points[:, input_place] = values
        return points

    def describe(self, place: int) -> str:
        """A run in words."""
        runs = self.runs
        inputs = zip(runs.inputs, runs.points[place], strict=True)
        name = runs.group_names[runs.group[place]]
        words = ", ".join(f"{one} {format_count(float(value))}" for one, value in inputs)
        return f"{name}: {words}" if name else words
