"""The forecast over any inputs: several forms, weighted by how well each predicted, with a calibrated interval.

What a form leaves unexplained near the runs is added to it (``leftovers``). The interval holds a run's noise, the
spread of the constants and of the leftovers, the distance between the forms, and a drift with distance beyond the runs;
all but the noise are scaled to the backtest's errors. ``search_forms`` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ...errors import UserError
from ...quantities import plural
from ..field_names import KNOWN, normalise
from ..forecasting.forecast import Forecast
from ..from_record import reads_record
from ..prediction import Prediction, around, check_level
from ..tables.measurements import Measurements
from .backtest_forms import CommonScale, left_of, with_leftovers
from .fitted_form import FittedForm
from .formula_text import formula_text
from .held_out import WHOLLY, beyond, size_and_tokens
from .leftovers import Basis, Metric, Places
from .mixing import Record, of_those_that_know

Array = np.ndarray
# Standard deviation that a prediction gains for each e-fold beyond the runs, in those of the target.
DRIFT = 0.01
# By what share errors beyond the runs are larger than the backtest's, by which the forms were weighed.
OPTIMISM = 0.5
# How far an interval goes to the backtest's errors where they are larger than it states, as a power.
TOWARDS_ERRORS = 0.75
POINTS_AT_ONCE = 2000


@dataclass(frozen=True, eq=False)
class InputForecast:
    """Several fitted forms that predict together.

    Attributes:
        runs: the runs fitted.
        fits: the forms, the overall best first.
        record: what the backtest showed of each form, from which its weight at a point follows.
        errors: split → root mean square of the mixture's errors there.
        metric: over which distance the leftovers of runs agree.
        logarithmic: whether forms are mixed on the scale of the target's logarithm.
        least: the least value that a form may predict there.
        inflation: what the uncertain part of the interval is multiplied by, as each split showed, (splits,).
        shown: the errors of the backtest along what each split lies along, of deeper splits too, (splits,).
        notes: what was left out, and what would help.
        sizes: the forecast of the named laws, which then predicts: for parameters and tokens alone, or where their
            laws predict better than the mixture does with further inputs.
    """

    runs: Measurements
    fits: tuple[FittedForm, ...]
    record: Record
    errors: Mapping[str, float]
    metric: Metric
    logarithmic: bool
    least: float
    inflation: Array
    shown: Array
    notes: tuple[str, ...] = ()
    sizes: Forecast | None = None
    kind: str = field(default="input_forecast", init=False)

    @property
    def num_runs(self) -> int:
        """Number of runs fitted."""
        return len(self.runs)

    @property
    def weights(self) -> Array:
        """Weight of each form where all kinds of splits count alike; they sum to one."""
        return self.record.weights(np.ones(self.record.logged.shape[1]))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what it predicts from; groups aside."""
        return self.runs.inputs

    def predict(self, frame: Any = None, level: float = 0.9, **inputs: Any) -> Prediction:
        """The target at the rows of a frame, in their order, with the interval that holds a new run's value.

        Args:
            frame: as ``Observations.read`` takes it, with the inputs and the columns of the groups; or None.
            level: of the interval.
            inputs: instead of a frame: name → value or array; ``num_params`` and ``tokens`` also stand for columns
                with another of their usual names.

        Raises:
            UserError: an input or a group is missing or not known, a value that no run comes near in kind.
        """
        check_level(level)
        if frame is None:
            frame = self._frame_of(inputs)
        elif inputs:
            raise UserError("give either a frame or the inputs by name, not both")
        points, group, shape = self.runs.at(frame)
        self._check(points)
        places = size_and_tokens(self.runs)
        if self.sizes is not None and places is not None:
            predicted = self.sizes.predict(points[:, places[0]], points[:, places[1]], level=level)
            value, low, high = (np.asarray(part) for part in (predicted.value, predicted.low, predicted.high))
            return around(value, low, high, level, shape)
        chunks = [slice(start, start + POINTS_AT_ONCE) for start in range(0, len(points), POINTS_AT_ONCE)]
        centre, scale = np.concatenate([self._moments(points[c], group[c]) for c in chunks], axis=1)
        half = self.half_widths([level])[0] * scale
        common = self.common_scale
        with np.errstate(over="ignore"):
            triple = (common.back(centre), common.back(centre - half), common.back(centre + half))
        return around(*triple, level, shape)

    def _frame_of(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Keywords as a frame; the usual names of sizes and tokens are the table's own."""
        own = dict(inputs)
        for name in ("num_params", "tokens"):
            if name in own and name not in self.inputs:
                column = next((one for one in self.inputs if normalise(one) in KNOWN[name]), None)
                if column is not None:
                    own[column] = own.pop(name)
        stray = [name for name in own if name not in (*self.inputs, *self.runs.group_columns)]
        if stray:
            known = ", ".join((*self.inputs, *self.runs.group_columns))
            raise UserError(f"this law does not read {', '.join(stray)}; it predicts from {known}")
        if not own:
            raise UserError(f"give the point to predict for: {', '.join(self.inputs)}")
        return own

    def _check(self, points: Array) -> None:
        """Refuse points for which the runs say nothing at all."""
        columns = zip(self.inputs, points.T, self.runs.points.T, self.runs.by_logarithm, strict=True)
        for name, values, own, positive in columns:
            if positive and (values <= 0).any():
                raise UserError(f"{name} must be above zero, as it is in every run")
            if np.ptp(own) == 0 and (np.abs(values - own[0]) > 1e-9 * abs(own[0])).any():
                raise UserError(
                    f"{name} is {own[0]:g} in every run, so nothing can be said at another value: add a run with one"
                )
        if self.runs.are_shares:
            off = np.abs(points.sum(axis=1) - 1)
            if (off > 0.02).any():
                raise UserError(
                    f"the proportions {', '.join(self.inputs)} must add up to one; in row {int(off.argmax()) + 1} they "
                    f"add up to {points[off.argmax()].sum():.3g}"
                )

    @cached_property
    def common_scale(self) -> CommonScale:
        """The scale on which forms are mixed."""
        return CommonScale(self.logarithmic, self.least)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the t distribution that the intervals take."""
        taken = self.weights @ [fit.theta.shape[1] + fit.form.num_linear for fit in self.fits]
        return max(len(self.runs) - float(taken), 4.0)

    def half_widths(self, levels: Sequence[float]) -> list[float]:
        """Half the width of the interval of each level, in units of its scale."""
        from scipy.special import stdtrit

        return [float(stdtrit(self.freedom, (1 + level) / 2)) for level in levels]

    @cached_property
    def places(self) -> Places:
        """Where runs and points lie for the process."""
        return Places.of(self.runs)

    @cached_property
    def basis(self) -> tuple[Basis, list[Array]]:
        """The process over the runs, and what each form leaves at them."""
        runs, common = self.runs, self.common_scale
        basis = Basis.of(self.places.at(runs.points), runs.group, self.metric)
        return basis, [left_of(fit, runs, common) for fit in self.fits]

    def _moments(self, points: Array, group: Array) -> tuple[Array, Array]:
        """Centre and scale of the prediction, on the scale of the mixture."""
        basis, left = self.basis
        crossing = basis.crossing(self.places.at(points), group)
        shares = self.record.at(self.runs, points).T
        parts = [
            with_leftovers(fit, self.runs, residuals, self.common_scale, basis, crossing, points, group)
            for fit, residuals in zip(self.fits, left, strict=True)
        ]
        centres, variances, noises = (np.stack(one) for one in zip(*parts, strict=True))
        shares = of_those_that_know(shares, variances, (shares * noises).sum(axis=0))
        centre = (shares * centres).sum(axis=0)
        apart = (centres - centre) ** 2
        distance = beyond(self.runs, points)
        unsure = (shares * (variances + apart)).sum(axis=0) + (self.drift * distance) ** 2
        larger = 1 + OPTIMISM * np.clip(distance / WHOLLY, 0, 1)
        stated = np.sqrt((shares * noises).sum(axis=0) + (larger * self._inflation(points)) ** 2 * unsure)
        shown = larger * self._shown(points)
        return centre, np.maximum(stated, stated ** (1 - TOWARDS_ERRORS) * shown**TOWARDS_ERRORS)

    def _shown(self, points: Array) -> Array:
        """The errors of the backtest, by the points' likeness to its splits; where they exceed what is stated, the
        interval goes most of the way to them, since a process that knows its runs too well states too little."""
        if not len(self.shown):
            return np.zeros(len(points))
        kinds = self.record.likeness(self.runs, points)
        logged = np.log(np.maximum(self.shown, 1e-300))
        return np.exp(kinds @ logged / kinds.sum(axis=1))

    def _inflation(self, points: Array) -> Array:
        """What the uncertain part is multiplied by at points, by their likeness to the splits."""
        if not len(self.inflation):
            return np.ones(len(points))
        kinds = self.record.likeness(self.runs, points)
        return np.exp(kinds @ np.log(self.inflation) / kinds.sum(axis=1))

    @cached_property
    def drift(self) -> float:
        """Standard deviation that a prediction gains for each e-fold beyond the runs."""
        return DRIFT * float(self.common_scale.forward(self.runs.values).std())

    def evidence(self, frame: Any = None, **inputs: Any) -> str:
        """How far a prediction goes beyond the runs, and the backtest's errors; one or two lines."""
        points, _, _ = self.runs.at(self._frame_of(inputs) if frame is None else frame)
        lines = []
        for name, values, own in zip(self.inputs, points.T, self.runs.points.T, strict=True):
            if (own > 0).all() and not self.runs.are_shares and values.max() > own.max():
                lines.append(f"{name} reaches {values.max() / own.max():.3g}× the largest of the runs")
            elif values.max() > own.max() or values.min() < own.min():
                lines.append(f"{name} lies outside the runs ({own.min():g} to {own.max():g})")
        shown = ", ".join(f"{split} {error:.2g}" for split, error in self.errors.items())
        return "; ".join(lines or ["inside the runs"]) + (f"\nbacktest, rms of errors: {shown}" if shown else "")

    @property
    def simplest(self) -> FittedForm:
        """Of the forms that weigh at least half as much as the heaviest the one with the fewest constants."""
        weights = self.weights
        near = [fit for fit, weight in zip(self.fits, weights, strict=True) if weight >= 0.5 * weights.max()]
        return min(near, key=lambda fit: fit.num_constants)

    def __repr__(self) -> str:
        return f"<InputForecast of {self.runs.target} from {', '.join(self.inputs)}: {plural(len(self.runs), 'run')}>"

    def _repr_html_(self) -> str:
        from ..result_cards import input_forecast_card

        return input_forecast_card(self).html()

    def summary(self) -> str:
        """The formula in its best form, the weights and the backtest, for people."""
        if self.sizes is not None:
            return self.sizes.summary()
        groups = len(self.runs.group_names)
        lines = [
            f"{self.runs.target} from {', '.join(self.inputs)}: {plural(self.num_runs, 'run')}"
            + (f" in {plural(groups, 'group')}" if groups > 1 else "")
        ]
        best = self.simplest
        for number, name in list(enumerate(self.runs.group_names))[:4]:
            prefix = f"{name}: " if groups > 1 else ""
            lines.append("  " + prefix + formula_text(best, self.runs.target, self.inputs, number))
        if groups > 4:
            lines.append(f"  and {plural(groups - 4, 'group')} more of this form")
        lines.append(f"noise of a run {best.noise:.2g}" + (" of the logarithm" if best.form.link == "log" else ""))
        kinds = self.record.weights(self.record.kinds)
        for fit, weight, most in zip(self.fits, self.weights, kinds.max(axis=0), strict=True):
            lines.append(f"  weight {weight:.2f} (largest {most:.2f})  {fit.name}")
        shown = ", ".join(f"{split} {error:.2g}" for split, error in self.errors.items())
        lines.append(f"held out, rms of errors: {shown or 'too few runs for a backtest'}")
        return "\n".join([*lines, *(f"note: {text}" for text in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        return {
            "kind": self.kind,
            "formula": formula_text(self.simplest, self.runs.target, self.inputs),
            "fits": [fit.to_json() for fit in self.fits],
            "record": self.record.to_json(),
            "errors": dict(self.errors),
            "lengths": self.metric.lengths.tolist(),
            "between": self.metric.between,
            "logarithmic": self.logarithmic,
            "least": self.least if np.isfinite(self.least) else None,
            "inflation": self.inflation.tolist(),
            "shown": self.shown.tolist(),
            "notes": list(self.notes),
            "runs": self.runs.to_json(),
            "sizes": None if self.sizes is None else self.sizes.to_json(),
        }

    @classmethod
    @reads_record("a forecast", "write it anew with allometry fit")
    def from_json(cls, data: dict[str, Any]) -> InputForecast:
        """The forecast that ``to_json`` wrote.

        Raises:
            UserError: not such a record.
        """
        return cls(
            Measurements.from_json(data["runs"]),
            tuple(FittedForm.from_json(one) for one in data["fits"]),
            Record.from_json(data["record"]),
            data["errors"],
            Metric(np.array(data["lengths"], float), float(data["between"])),
            bool(data["logarithmic"]),
            -np.inf if data["least"] is None else float(data["least"]),
            np.array(data["inflation"], float),
            np.array(data["shown"], float),
            tuple(data["notes"]),
            None if data["sizes"] is None else Forecast.from_json(data["sizes"]),
        )
