"""IsoFLOP analysis: the best size at each compute budget of a table, and the power laws N*(C) and D*(C) through them.

It assumes nothing about the loss between budgets, so it works for tables that no law in N and D fits as a whole. The
usual way, a parabola for each budget, is biased (arXiv 2603.22339); ``shared_shape`` has the alternative used here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import UserError
from ...quantities import format_count, format_flops, plural
from ..from_record import reads_record
from ..prediction import Prediction, around, check_level
from ..tables.measurements import check_no_inputs
from ..tables.observations import Observations
from .frontier_lines import frontier
from .minima import METHODS
from .shared_shape import RunsByBudget
from .slice import Slice, bare, group, with_curve

Array = np.ndarray
LEAST_BUDGETS = 3
LEAST_DRAWS = 100
MOST_RUNS = 3000
QUANTITIES = {"num_params": "N*", "tokens": "D*"}


@dataclass(frozen=True, eq=False)
class IsoFlop:
    """Minima of a table's budgets and the frontier through them: N* = k·C^a, D* = k'·C^b, L* = E + K/C^γ.

    Attributes:
        method: "slices", "parabola" or "interpolation".
        budgets: one slice a budget, in the order of compute; refused ones too.
        centre: ln C about which the lines are held.
        lines: "num_params" and "tokens" → (logarithm at the centre, exponent); "loss" → (E, K·e^(−γ·centre), γ).
        draws: the same of the resamples, (draws, 2) or (draws, 3).
        sigma: relative noise of a run's loss at the floor of a valley.
        reach: a run this far above its budget's best, relative, counts half; inf if all count the same.
        scatter: standard deviation of ln N* about its line beyond what noise explains; it is in the intervals.
        counted: which parameters N counts: "non_embedding", "total", "matmul" or "unknown". The exponents depend on it.
        notes: the observations' notes, and what was left out.
        seed: of the draws.
    """

    method: str
    budgets: tuple[Slice, ...]
    centre: float
    lines: dict[str, Array]
    draws: dict[str, Array]
    sigma: float
    reach: float
    scatter: float
    counted: str = "unknown"
    notes: tuple[str, ...] = ()
    seed: int = 0
    kind: str = field(default="isoflop", init=False)

    @property
    def accepted(self) -> tuple[Slice, ...]:
        """The budgets that gave a minimum."""
        return tuple(budget for budget in self.budgets if not budget.refused)

    @property
    def exponents(self) -> dict[str, float]:
        """ "num_params" → a of N* ∝ C^a, "tokens" → b of D* ∝ C^b."""
        return {name: float(self.lines[name][1]) for name in QUANTITIES}

    @property
    def coefficients(self) -> dict[str, float]:
        """ "num_params" → k of N* = k·C^a, "tokens" → k' of D* = k'·C^b."""
        return {name: float(self._coefficient(self.lines[name])) for name in QUANTITIES}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 90 % intervals of the exponents."""
        return self.intervals_at(0.9)

    def intervals_at(self, level: float, of: str = "exponents") -> dict[str, tuple[float, float]]:
        """ "num_params" and "tokens" → (low, high) of their "exponents" or "coefficients" at this level.

        Raises:
            UserError: a level that is not between 0 and 1, or another ``of``.
        """
        check_level(level)
        if of not in ("exponents", "coefficients"):
            raise UserError(f"no intervals of {of!r}; known are exponents, coefficients")
        take = (lambda lines: lines[..., 1]) if of == "exponents" else self._coefficient
        ends = [(1 - level) / 2, (1 + level) / 2]
        pairs = {name: np.quantile(take(self.draws[name]), ends) for name in QUANTITIES}
        return {name: (float(low), float(high)) for name, (low, high) in pairs.items()}

    def num_params(self, flops: float | Array, level: float = 0.9) -> Prediction:
        """N* at C FLOPs, with the interval of the line there."""
        return self._predict("num_params", _power, flops, level)

    def tokens(self, flops: float | Array, level: float = 0.9) -> Prediction:
        """D* at C FLOPs, with the interval of the line there."""
        return self._predict("tokens", _power, flops, level)

    def loss(self, flops: float | Array, level: float = 0.9) -> Prediction:
        """L* at C FLOPs: E + K/C^γ through the minima (E = 0 with three of them), with the interval of that curve.

        That this form holds beyond the budgets is assumed; ``forecast`` does not assume it.
        """
        return self._predict("loss", _above_floor, flops, level)

    def slices(self) -> tuple[tuple[Array, Array], ...]:
        """(ln N, fitted loss) of each budget, in their order: what a picture of the valleys draws."""
        return tuple((np.log(budget.curve_params), budget.curve_loss) for budget in self.budgets)

    def summary(self) -> str:
        """The two power laws, a table of the budgets, what was refused and why."""
        kind = "an unknown count of" if self.counted == "unknown" else self.counted.replace("_", "-")
        lines = [
            f"isoflop by {self.method}: {len(self.accepted)} of {len(self.budgets)} budgets have a minimum; "
            f"N is {kind} parameters"
        ]
        for name, symbol in QUANTITIES.items():
            low, high = self.intervals[name]
            lines.append(
                f"{symbol} = {self.coefficients[name]:.4g}·C^{self.exponents[name]:.4f}   "
                f"90 % interval of the exponent {low:.4f} to {high:.4f}"
            )
        lines.append(f"{'C':>10}{'runs':>6}{'N*':>9}{'90 % interval':>20}{'D*':>9}{'D*/N*':>8}{'L*':>9}")
        lines += map(_row, self.accepted)
        lines += [f"refused C = {format_flops(one.flops)}: {one.refused}" for one in self.budgets if one.refused]
        far = f"; runs {self.reach:.1%} above their budget's best count half" if np.isfinite(self.reach) else ""
        lines.append(f"noise {self.sigma:.2%} of the loss{far}")
        if self.scatter:
            lines.append(f"the minima scatter by {self.scatter:.1%} in N* beyond noise; the intervals hold it")
        return "\n".join(lines + [f"note: {text}" for text in self.notes])

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        return {
            "kind": self.kind,
            "method": self.method,
            "exponents": self.exponents,
            "coefficients": self.coefficients,
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "budgets": [budget.to_json() for budget in self.budgets],
            "centre": self.centre,
            "lines": {name: line.tolist() for name, line in self.lines.items()},
            "draws": {name: lines.tolist() for name, lines in self.draws.items()},
            "sigma": self.sigma,
            "reach": self.reach if np.isfinite(self.reach) else None,
            "scatter": self.scatter,
            "counted": self.counted,
            "notes": list(self.notes),
            "seed": self.seed,
        }

    @classmethod
    @reads_record("an isoflop result", "compute it anew")
    def from_json(cls, data: dict[str, Any]) -> IsoFlop:
        """The result that ``to_json`` wrote.

        Raises:
            UserError: not such a record.
        """
        return cls(
            budgets=tuple(map(Slice.from_json, data["budgets"])),
            lines={name: np.array(line, dtype=float) for name, line in data["lines"].items()},
            draws={name: np.array(lines, dtype=float) for name, lines in data["draws"].items()},
            reach=np.inf if data["reach"] is None else float(data["reach"]),
            notes=tuple(data["notes"]),
            **{key: data[key] for key in ("method", "centre", "sigma", "scatter", "counted", "seed")},
        )

    def _coefficient(self, lines: Array) -> Array:
        return np.exp(lines[..., 0] - lines[..., 1] * self.centre)

    def _predict(self, name: str, curve: Callable, flops: float | Array, level: float) -> Prediction:
        """The line of that name and its draws at C."""
        check_level(level)
        flops = np.asarray(flops, dtype=float)
        if flops.size == 0 or not np.all(np.isfinite(flops) & (flops > 0)):
            raise UserError("flops must be finite and above zero; give a budget such as 1e21")
        c = np.log(flops.ravel()) - self.centre
        low, high = np.quantile(curve(self.draws[name], c), [(1 - level) / 2, (1 + level) / 2], axis=0)
        return around(curve(self.lines[name], c), low, high, level, flops.shape)


def isoflop(
    observations: Observations,
    method: str = "slices",
    budgets: Sequence[float] | None = None,
    tolerance: float = 0.1,
    bootstrap: int = 1000,
    seed: int = 0,
) -> IsoFlop:
    """Find the best size at each compute budget and fit N* = k·C^a and D* = k'·C^b.

    Args:
        observations: the runs; budgets need not be exact.
        method: "slices" (curves that share their exponents; a bias is left only where the shape of the valleys changes
            with compute, as with short runs that are mostly warmup), "interpolation" (Akima's spline: no assumption
            and several times the noise, a check on the first) or "parabola" (Approach 2, biased, for comparison).
        budgets: FLOPs of the budgets; found from the runs if None.
        tolerance: a run belongs to a budget if its FLOPs are within this share of it.
        bootstrap: number of resamples behind the intervals, at least 100.
        seed: of the resamples.

    Raises:
        UserError: an unknown method, fewer than three budgets with a minimum between their sizes, too few runs to
            separate noise from shape.
    """
    check_no_inputs(observations, "isoflop")
    _check_options(method, budgets, tolerance, bootstrap)
    if len(observations) > MOST_RUNS:
        raise UserError(
            f"{plural(len(observations), 'run is', 'runs are')} more than the {MOST_RUNS} that isoflop "
            f"takes: give one row a run"
        )
    groups, notes = group(observations, budgets, tolerance)
    slices = [bare(observations, members) for members in groups]
    while True:
        _check_enough(slices)
        kept = [index for index, one in enumerate(slices) if not one.refused]
        runs = RunsByBudget.of(observations, [groups[index] for index in kept])
        valleys = METHODS[method](runs, bootstrap, seed)
        for row, index in enumerate(kept):
            slices[index] = with_curve(slices[index], runs, valleys, row)
        if not any(slices[index].refused for index in kept):
            break
    return IsoFlop(
        method=method,
        budgets=tuple(slices),
        sigma=valleys.sigma,
        reach=float(valleys.reach),
        counted=observations.counted,
        notes=(*observations.notes, *notes),
        seed=seed,
        **frontier(runs, valleys, weighted=method == "slices", seed=seed),
    )


def _power(lines: Array, c: Array) -> Array:
    """Power laws (..., 2) at ln C − centre: (..., points)."""
    return np.exp(lines[..., :1] + lines[..., 1:] * c)


def _above_floor(laws: Array, c: Array) -> Array:
    """E + K·e^(−γc) of laws (..., 3) at ln C − centre: (..., points)."""
    return laws[..., :1] + laws[..., 1:2] * np.exp(-laws[..., 2:] * c)


def _row(one: Slice) -> str:
    """A line of the summary's table."""
    interval = f"{format_count(one.low)} to {format_count(one.high)}"
    return (
        f"{format_flops(one.flops):>10}{len(one.labels):6}{format_count(one.num_params):>9}{interval:>20}"
        f"{format_count(one.tokens):>9}{one.tokens / one.num_params:8.3g}{one.loss:9.4g}"
    )


def _check_enough(budgets: list[Slice]) -> None:
    """Refuse what cannot give a frontier: fewer than three budgets, or no more runs than constants."""
    accepted = [one for one in budgets if not one.refused]
    if len(accepted) < LEAST_BUDGETS:
        reasons = "; ".join(f"C = {format_flops(one.flops)}: {one.refused}" for one in budgets if one.refused)
        raise UserError(
            f"{plural(len(accepted), 'budget has', 'budgets have')} a minimum between their sizes and "
            f"{LEAST_BUDGETS} are needed"
            + (f" ({reasons})" if reasons else "; train several sizes at each of three budgets of compute")
        )
    num_runs, constants = sum(len(one.labels) for one in accepted), 3 * len(accepted) + 2
    if num_runs <= constants:
        raise UserError(
            f"{plural(num_runs, 'run')} in {plural(len(accepted), 'budget')} are no more than the "
            f"{constants} constants of their curves; "
            "add a size to each budget"
        )


def _check_options(method: str, budgets: Sequence[float] | None, tolerance: float, bootstrap: int) -> None:
    if method not in METHODS:
        raise UserError(f"no method {method!r}; known are {', '.join(METHODS)}")
    if not 0 <= tolerance < 1:
        raise UserError(f"tolerance is {tolerance}; give a share from 0 to 1, such as 0.1")
    if bootstrap < LEAST_DRAWS:
        raise UserError(f"bootstrap is {bootstrap}; intervals need at least {LEAST_DRAWS} resamples")
    if budgets is not None:
        array = np.asarray(budgets, dtype=float)
        if array.ndim != 1 or not array.size or not np.all(np.isfinite(array) & (array > 0)):
            raise UserError("budgets must be a list of FLOPs, finite and above zero, such as [1e18, 1e19, 1e20]")
