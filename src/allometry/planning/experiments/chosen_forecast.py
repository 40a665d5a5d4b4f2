"""The forecast from chosen runs: a law of any inputs, and the process that chose them.

Where the runs' noise is small, forms can be told apart, and the best of them extrapolate further than any process.
Where it is not, or where there are hardly any runs, the forms of ``laws.forecast`` are now exact and now absurd, and a
process with a parabola is never far off. So the prediction is the law's as far as the noise of a run is small against
the scatter of all runs, and at most a standard deviation off what the process predicts; where no law can be fitted or
tested, it is the process's alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import UserError
from ...laws.any_inputs.input_forecast import InputForecast
from ...laws.prediction import Prediction, around, check_level
from ...laws.tables.frames import as_columns
from ...laws.tables.measurements import Measurements
from ...quantities import plural
from .candidate_rows import CandidateRows
from .input_process import InputProcess, InputUnits

Array = np.ndarray
# The noise of a run, in standard deviations of all runs, at which law and process count alike.
ALIKE_AT = 0.1
# In the process's standard deviations, how far from it the law is taken to be at most.
MOST_APART = 1.0


@dataclass(frozen=True, eq=False)
class ChosenForecast:
    """A process and, where one could be fitted and tested, a law, which predict together.

    Attributes:
        runs: that were measured and gave a value.
        process: learnt from them.
        units: in which the process takes inputs.
        labels: of the groups of all candidates, sorted: their numbers in the process.
        logarithmic: whether the process predicts logarithms of the target.
        law: of ``laws.forecast``, or None.
        reason: why there is no law; empty if there is one.
    """

    runs: Measurements
    process: InputProcess
    units: InputUnits
    labels: tuple[str, ...]
    logarithmic: bool
    law: InputForecast | None
    reason: str = ""

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what it predicts from; groups aside."""
        return self.runs.inputs

    @property
    def group_names(self) -> tuple[str, ...]:
        """The groups of the runs."""
        return self.runs.group_names

    @property
    def law_share(self) -> float:
        """How much the law counts, as against the process."""
        return 0.0 if self.law is None else float(1 / (1 + (self.process.noise / ALIKE_AT) ** 2))

    def predict(self, frame: Any = None, level: float = 0.9, **inputs: Any) -> Prediction:
        """The target at the rows of a frame, in their order, with the interval that holds a new run's value.

        Args:
            frame: with the inputs and the columns of the groups, as ``choose_runs`` takes its candidates; or None.
            level: of the interval.
            inputs: instead of a frame: name → value or array.

        Raises:
            UserError: an input or a group is missing or not known.
        """
        from scipy.special import ndtri

        check_level(level)
        if frame is not None and inputs:
            raise UserError("give either a frame or the inputs by name, not both")
        columns, shape = as_columns(inputs if frame is None else frame)
        rows = CandidateRows.of(columns, self.inputs, self.runs.group_columns, "the frame")
        self._check(rows)
        places, group = self.units.at(rows.points), np.searchsorted(self.labels, rows.labels)
        centre, deviation = self.process.predict(places, group)
        half = float(ndtri((1 + level) / 2)) * deviation
        known = np.isin(rows.labels, self.runs.group_names)
        law = self._of_law(rows, known, level)
        if law is not None:
            apart, most = law[0] - centre[known], MOST_APART * deviation[known]
            centre[known] += self.law_share * np.clip(apart, -most, most)
            # Where the two disagree, the law's narrow interval would hold neither of them.
            sure = np.isfinite(law[1]) & (np.abs(apart) <= most)
            half[known] += self.law_share * (np.where(sure, law[1], half[known]) - half[known])
        back = np.exp if self.logarithmic else np.asarray
        shape = (len(centre),) if shape is None else shape
        return around(back(centre), back(centre - half), back(centre + half), level, shape)

    def _check(self, rows: CandidateRows) -> None:
        """Refuse rows of which nothing is known."""
        strange = next((label for label in rows.labels.tolist() if label not in self.labels), None)
        if strange is not None:
            raise UserError(f"no candidate was of group {strange!r}; there are {', '.join(self.labels[:8])}")
        for name, values, positive in zip(self.inputs, rows.points.T, self.units.by_logarithm, strict=True):
            if positive and (values <= 0).any():
                raise UserError(f"{name} must be above zero, as it is in every candidate")

    def _of_law(self, rows: CandidateRows, known: Array, level: float) -> tuple[Array, Array] | None:
        """Centre and half width of the law's interval, on the scale of the process, for the rows whose group it knows;
        None where it says nothing."""
        if self.law is None or not known.any():
            return None
        try:
            predicted = self.law.predict(rows.columns(np.flatnonzero(known)), level=level)
        except UserError:  # an input is the same in every run
            return None
        parts = (np.asarray(part, float) for part in (predicted.value, predicted.low, predicted.high))
        if not self.logarithmic:
            value, low, high = parts
        else:
            value, low, high = (np.log(np.maximum(part, 1e-300)) for part in parts)
        return value, (high - low) / 2

    def summary(self) -> str:
        """The law, if there is one, and how much of it is believed; for people."""
        runs = f"{plural(len(self.runs), 'run')} by a process over {', '.join(self.inputs)}"
        if self.law is None:
            return f"{self.runs.target} from {runs} alone: {self.reason}"
        return f"{self.law.summary()}\npredicted by this law ({self.law_share:.0%}) and from {runs}"

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        scales = self.process.scales[0]
        return {
            "kind": "chosen_forecast",
            "runs": self.runs.to_json(),
            "process": {name: getattr(scales, name) for name in scales.__dataclass_fields__},
            "law": None if self.law is None else self.law.to_json(),
            "reason": self.reason,
        }


def chosen_forecast(
    runs: Measurements, law: InputForecast | None, reason: str, units: InputUnits, labels: Sequence[str]
) -> ChosenForecast:
    """The forecast from runs, with the law that was fitted to them, or why there is none.

    A law of so few runs that no backtest was possible has no part in it.
    """
    if law is not None and law.sizes is None and not law.errors:
        law, reason = None, "too few runs to test a law"
    logarithmic = bool((runs.values > 0).all())
    values = np.log(runs.values) if logarithmic else runs.values
    names = np.array(runs.group_names)[runs.group]
    process = InputProcess.of(units.at(runs.points), np.searchsorted(labels, names), values)
    return ChosenForecast(runs, process, units, tuple(labels), logarithmic, law, reason)
