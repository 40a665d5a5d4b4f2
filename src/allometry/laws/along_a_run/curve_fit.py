"""Fit the multi-power law to loss curves of one size, and predict the loss along another learning-rate schedule.

Rows of one curve are not independent: their noise is correlated, and where the law is wrong it is wrong for a whole
stretch. So uncertainty comes from leaving out one curve after the other (with one or two curves, one stretch after the
other): from the change of the constants (the jackknife), and from the prediction errors on the curve left out.

>>> fit = laws.fit_curves({"cosine": (step, lr, loss), "constant": (step, lr, loss)}, warmup=2000)
>>> print(fit.summary())
>>> fit.predict(laws.wsd(steps=72_000, peak=3e-4, warmup=2000, decay=0.2), steps=[72_000])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...errors import UserError
from ...quantities import plural
from ..base import Array
from ..fitting.fit import active_bounds, check_objective
from ..fitting.result import GREEK
from ..from_record import reads_record
from ..prediction import Prediction, check_level
from ..solver import Problem, solve
from ..tables.curves import Curves
from .curve_rows import Curve, read_rows
from .multi_power import MultiPower, Track, check_rates, check_steps, units_of, wsd

LAW = MultiPower()
# Their spread is computed in the logarithm.
POSITIVE = np.array([symbol not in ("L0", "gamma") for symbol in LAW.symbols])
LEAST_DECAY = 0.02
STARTS, ROWS_FOR_STARTS, FEWEST_CURVES, STRETCHES = 12, 24, 3, 4
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
# A schedule of more steps than this is evaluated at so many of them and interpolated between.
NODES = 1000


@dataclass(frozen=True, eq=False)
class CurveFit:
    """The multi-power law with values, their spread, and what it left unexplained.

    Attributes:
        values: constant → value, in the units of the given learning rates and steps.
        objective: the name of what was minimised: "log_squares", "huber" or "squares".
        objective_value: Σ ρ(residual) over rows at the optimum: ρ = r²/2 for squares, Huber's with δ = ``delta``
            for huber.
        delta: δ of huber.
        residuals: curve → ln(observed/fitted) of its rows.
        refits: constants with one block of rows left out, (blocks, constants).
        held_out: root mean square of ln(observed/predicted) over the blocks left out.
        range: "steps", "lr" → (least, most) of the rows.
        active_bounds: constants that ended at a bound, in words; worth reporting.
        starts: how many starts were solved, after the grid had chosen them.
        agreed: how many of them reached the optimum to 1e-6 of its objective.
        notes: what was left out, and what the curves do not determine.
    """

    values: dict[str, float]
    objective: str
    objective_value: float
    delta: float
    residuals: dict[str, Array]
    refits: Array
    held_out: float
    range: dict[str, tuple[float, float]]
    active_bounds: tuple[str, ...] = ()
    starts: int = 1
    agreed: int = 1
    notes: tuple[str, ...] = ()
    kind: str = field(default="curve_fit", init=False)

    @property
    def num_rows(self) -> int:
        """Number of rows fitted."""
        return sum(map(len, self.residuals.values()))

    @property
    def rms(self) -> float:
        """Root mean square of the relative residuals."""
        return float(np.sqrt(np.mean(np.concatenate(list(self.residuals.values())) ** 2)))

    @property
    def standard_errors(self) -> dict[str, float]:
        """Constant → its standard error by the jackknife, for positive constants that of their logarithm."""
        spread = _jackknife(self._coordinates(self.refits), self._coordinates(self._vector))
        return dict(zip(LAW.symbols, map(float, spread * np.where(POSITIVE, self._vector, 1)), strict=True))

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Constant → its 90 % interval."""
        return self.intervals_at(0.9)

    def intervals_at(self, level: float) -> dict[str, tuple[float, float]]:
        """Constant → (low, high) by the jackknife and Student's t with as many degrees as blocks less one."""
        centre = self._coordinates(self._vector)
        half = self._quantile(level) * _jackknife(self._coordinates(self.refits), centre)
        ends = np.stack([centre - half, centre + half])
        # A constant that the curves do not determine at all has no limits.
        ends = np.where(POSITIVE, np.exp(np.clip(np.where(POSITIVE, ends, 0), -700, 700)), ends)
        return {symbol: (float(a), float(b)) for symbol, a, b in zip(LAW.symbols, *ends, strict=True)}

    def predict(self, schedule: Array, steps: Array | None = None, level: float = 0.9) -> Prediction:
        """The loss along a schedule, with the interval of a new run's curve at each step.

        Args:
            schedule: the learning rate of every step from the first on, warm-up included, shape (steps,).
            steps: numbers of steps done to predict the loss after; after every step if not given.
            level: probability that the interval holds the loss.

        Raises:
            UserError: learning rates negative or not finite, steps outside the schedule, a level outside (0, 1).
        """
        rates = check_rates(schedule, "the schedule")
        rows = check_steps(steps, len(rates))
        nodes = rows if len(rows) <= NODES else _nodes(rates, rows)
        track = Track.of(rates, nodes)
        units = units_of([track])
        theta = LAW.theta(np.concatenate([self._vector[None], self.refits]), units)
        value, *others = LAW.log_loss(theta, track.scaled(units))[0]
        scale = np.hypot(_jackknife(np.array(others), value), self.held_out)
        if len(nodes) < len(rows):
            value, scale = (np.interp(rows, nodes, x) for x in (value, scale))
        half = self._quantile(level) * scale
        return Prediction(np.exp(value), np.exp(value - half), np.exp(value + half), level)

    def decay_shares(
        self,
        steps: int,
        peak: float,
        warmup: int = 0,
        shares: Sequence[float] = SHARES,
        final: float = 0.0,
        level: float = 0.9,
    ) -> dict[float, Prediction]:
        """Share of the steps given to the decay of a warmup–stable–decay schedule → loss at its end.

        Shares that do not leave room for the warm-up are left out; see ``wsd`` for the arguments.
        """
        ends = {}
        for share in shares:
            if warmup + round(share * steps) <= steps:
                end = self.predict(wsd(steps, peak, warmup, share, final), np.array([steps]), level)
                value, low, high = (float(np.ravel(each)[0]) for each in (end.value, end.low, end.high))
                ends[share] = Prediction(value, low, high, level)
        return ends

    def summary(self) -> str:
        """A table of the constants with standard errors and intervals, and how good the fit is."""
        lines = [f"{LAW.name}: {LAW.formula}", f"{'':8}{'value':>12}{'std. error':>12}   90 % interval"]
        errors, intervals = self.standard_errors, self.intervals
        for symbol, value in self.values.items():
            low, high = intervals[symbol]
            name = GREEK.get(symbol, symbol)
            lines.append(f"{name:8}{value:12.5g}{errors[symbol]:12.3g}   {low:.5g} to {high:.5g}")
        first, last = self.range["steps"]
        lines.append(
            f"{plural(self.num_rows, 'row')} of {plural(len(self.residuals), 'curve')}, steps {first:.0f} "
            f"to {last:.0f}; rms residual "
            f"{self.rms:.3%}, of what was left out {self.held_out:.3%}; {self.agreed} of {self.starts} starts agree"
        )
        lines += [f"note: {text}" for text in (*self.active_bounds, *self.notes)]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        plain = ("kind", "values", "objective", "objective_value", "delta", "held_out", "starts", "agreed")
        return {
            **{name: getattr(self, name) for name in plain},
            "standard_errors": self.standard_errors,
            "range": {key: list(pair) for key, pair in self.range.items()},
            "active_bounds": list(self.active_bounds),
            "notes": list(self.notes),
            "residuals": {name: values.tolist() for name, values in self.residuals.items()},
            "refits": self.refits.tolist(),
        }

    @classmethod
    @reads_record("a fit of curves", "fit them anew")
    def from_json(cls, data: dict[str, Any]) -> CurveFit:
        """The fit that ``to_json`` wrote.

        Raises:
            UserError: not such a record.
        """
        return cls(
            values={symbol: float(data["values"][symbol]) for symbol in LAW.symbols},
            residuals={name: np.array(values, dtype=float) for name, values in data["residuals"].items()},
            refits=np.array(data["refits"], dtype=float).reshape(-1, len(LAW.symbols)),
            range={key: (float(pair[0]), float(pair[1])) for key, pair in data["range"].items()},
            active_bounds=tuple(data["active_bounds"]),
            notes=tuple(data["notes"]),
            **{key: data[key] for key in ("objective", "objective_value", "delta", "held_out", "starts", "agreed")},
        )

    @property
    def _vector(self) -> Array:
        return np.array([self.values[symbol] for symbol in LAW.symbols])

    @staticmethod
    def _coordinates(values: Array) -> Array:
        """The constants, positive ones by their logarithm."""
        return np.where(POSITIVE, np.log(np.where(POSITIVE, values, 1)), values)

    def _quantile(self, level: float) -> float:
        from scipy.stats import t as student

        check_level(level)
        return float(student.ppf((1 + level) / 2, len(self.refits) - 1))


def fit_curves(
    curves: Mapping[str, tuple[Array, Array, Array]] | Curves,
    warmup: int = 0,
    schedules: Mapping[str, Array] | None = None,
    objective: str = "log_squares",
    delta: float | None = None,
) -> CurveFit:
    """Fit the multi-power law to curves of one model size at the global optimum of its objective.

    Between two rows the learning rate is interpolated linearly; between rows of one constant rate and rows of another
    it jumps at the first row of the other. Before the first row it is assumed to rise linearly over ``warmup`` steps to
    the first rate. Rows during warm-up are left out.

    Args:
        curves: run → (steps, learning rates, losses), or ``Curves``.
        warmup: steps of linear warm-up, where the rows do not show it.
        schedules: run → the learning rate of every step from the first on, where the rows do not determine it.
        objective: "log_squares" (relative errors), "huber" (of relative errors: outliers count less) or "squares".
        delta: where Huber's loss turns linear, for "huber" alone; 1e-3 by default.

    Raises:
        UserError: no curve, too few rows, rows out of order, no learning rate, a learning rate that never decays, an
            unknown objective.
    """
    delta = check_objective(objective, delta)
    runs = curves.by_run() if isinstance(curves, Curves) else curves
    if not isinstance(runs, Mapping) or not runs:
        raise UserError("no curves to fit: give run → (steps, learning rates, losses), or Curves")
    notes = list(curves.notes) if isinstance(curves, Curves) else []
    read = [read_rows(str(name), rows, warmup, (schedules or {}).get(name), notes) for name, rows in runs.items()]
    tracks = [Track.of(curve.rates, curve.steps) for curve in read]
    _check_decays(read, tracks, notes)
    units = units_of(tracks)
    log_loss = np.log(np.concatenate([curve.loss for curve in read]))
    scaled = tuple(track.scaled(units) for track in tracks)
    problem = Problem(LAW, scaled, log_loss, objective, delta, *LAW.bounds(np.exp(log_loss)))
    theta, objective_value, agreed, starts = _optimum(problem)
    refits, held_out = _leave_out(problem, theta)
    residuals = log_loss - LAW.log_loss(theta[None], *scaled)[0][0]
    return CurveFit(
        values=dict(zip(LAW.symbols, map(float, LAW.values(theta, units)), strict=True)),
        objective=objective,
        objective_value=objective_value,
        delta=delta,
        residuals=dict(zip([curve.name for curve in read], np.split(residuals, _ends(scaled)[:-1]), strict=True)),
        refits=LAW.values(refits, units),
        held_out=held_out,
        range=_range(read),
        active_bounds=active_bounds(problem, theta),
        starts=starts,
        agreed=agreed,
        notes=tuple(notes),
    )


def _range(curves: list[Curve]) -> dict[str, tuple[float, float]]:
    """Least and most steps and learning rate of the rows."""
    return {
        "steps": (float(min(c.steps[0] for c in curves)), float(max(c.steps[-1] for c in curves))),
        "lr": (float(min(c.at_rows.min() for c in curves)), float(max(c.at_rows.max() for c in curves))),
    }


def _check_decays(curves: list[Curve], tracks: list[Track], notes: list[str]) -> None:
    """Refuse curves whose learning rate never decays, and note what the decays do not determine."""
    decays = [(track.drop > 0) & (track.begins < track.area.max()) for track in tracks]
    depths = np.array([track.drop[decay].sum() for track, decay in zip(tracks, decays, strict=True)])
    decaying = np.flatnonzero(depths > LEAST_DECAY * np.array([curve.rates.max() for curve in curves]))
    if not len(decaying):
        raise UserError(
            "the learning rate never decays in these curves, so the effect of a decay on the loss cannot be fitted; "
            "add a curve with a decay, such as cosine or warmup–stable–decay"
        )
    if len(decaying) == 1:
        name = curves[decaying[0]].name
        notes.append(f"the learning rate decays in curve {name} only: the effect of other decays is not tested")
    reached = np.concatenate([tracks[i].rate[decays[i]] for i in decaying])
    if np.ptp(np.log(reached)) < 0.1:
        notes.append(
            "the learning rate decays to one level only, so C and γ compensate each other; "
            "add a curve with a slow decay"
        )


def _ends(tracks: Sequence[Track]) -> Array:
    """Where the rows of each curve end among all rows."""
    return np.cumsum([len(track.area) for track in tracks])


def _optimum(problem: Problem) -> tuple[Array, float, int, int]:
    """The best θ, its objective, and how many of how many starts came to it.

    Starts are solved on some rows of each curve, and the best of them goes on with all rows.
    """
    picks = [np.unique(np.linspace(0, len(t.area) - 1, ROWS_FOR_STARTS).round().astype(int)) for t in problem.inputs]
    tracks = tuple(track.take(pick) for track, pick in zip(problem.inputs, picks, strict=True))
    first = np.append(0, _ends(problem.inputs)[:-1])
    rows = np.concatenate([begin + pick for begin, pick in zip(first, picks, strict=True)])
    few = replace(problem, inputs=tracks, log_loss=problem.log_loss[rows])
    theta, squares = LAW.starts(tracks, np.exp(few.log_loss), np.ones(len(rows)))
    order = np.argsort(squares, kind="stable")
    chosen = np.append(order[: STARTS // 2], order[STARTS // 2 :: len(order) // (STARTS // 2)][: STARTS // 2])
    theta, reached = solve(few, theta[chosen], np.ones((len(chosen), len(rows))))
    best = int(np.argmin(reached))
    agreed = int(np.sum(reached <= reached[best] * (1 + 1e-6)))
    polished, least = solve(problem, theta[best][None], np.ones((1, len(problem.log_loss))), steps=1000)
    return polished[0], float(least[0]), agreed, len(chosen)


def _leave_out(problem: Problem, theta: Array) -> tuple[Array, float]:
    """θ with one block of rows left out, (blocks, constants), and the rms residual of the rows so left out."""
    sizes = [len(track.area) for track in problem.inputs]
    if len(sizes) >= FEWEST_CURVES:
        block = np.repeat(np.arange(len(sizes)), sizes)
    else:
        block = np.concatenate([i * STRETCHES + np.arange(size) * STRETCHES // size for i, size in enumerate(sizes)])
    kept = (block != np.unique(block)[:, None]).astype(float)
    refits, _ = solve(problem, np.tile(theta, (len(kept), 1)), kept, steps=60, tolerance=1e-6)
    errors = LAW.log_loss(refits, *problem.inputs)[0] - problem.log_loss
    return refits, float(np.sqrt(np.sum((1 - kept) * errors**2) / len(block)))


def _jackknife(refits: Array, whole: Array) -> Array:
    """Standard error from estimates that each lack one block, about the estimate from all of them."""
    blocks = len(refits)
    return np.sqrt((blocks - 1) / blocks * ((refits - whole) ** 2).sum(axis=0))


def _nodes(rates: Array, steps: Array) -> Array:
    """Steps between which the loss is nearly straight: even, and dense at the start and after the largest drops."""
    first, last = int(steps.min()), int(steps.max())
    near = np.geomspace(1, last, NODES // 8)
    drops = np.argsort(np.diff(rates), kind="stable")[:8] + 1
    after = (drops[:, None] + np.append(0, near)).ravel()
    return np.unique(np.clip(np.round([*near, *after, *np.linspace(first, last, NODES)]), first, last).astype(int))
