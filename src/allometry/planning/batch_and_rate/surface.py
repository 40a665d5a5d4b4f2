"""A response surface: the loss over learning rate, batch, size and tokens; its optimum, regret and exponents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...errors import UserError
from ...laws import Prediction
from ...laws.prediction import check_level
from ...quantities import format_count, plural
from ..rules.formulas import MeasuredRange, Point
from .response import expected_rise, rise
from .sweeps import AXES, SweptCell

Array = np.ndarray
# One standard deviation between the exponents of one training recipe and another: published rules differ by about this.
PRIOR_SPREAD = 0.2
_MOST = 700.0  # the logarithm of the largest regret that a float holds
COUNTS = {"num_params": "size", "tokens": "tokens"}
_ARRAYS = ("coefficients", "covariance", "stiffness", "skew")


@dataclass(frozen=True)
class Exponent:
    """How a best setting grows with a count: value, standard error, and the prior's value (None without a prior).

    ``share_from_runs`` is how much of it the runs measure: 1 − (standard error / prior's)², 0 where it is the prior's.
    """

    value: float
    standard_error: float
    prior: float | None
    share_from_runs: float


@dataclass(frozen=True)
class Setting:
    """The best batch (tokens) and learning rate, each with its interval.

    ``expected_regret`` is the expected loss above the best one, relative to it, because the optimum is uncertain.
    """

    batch_tokens: Prediction
    lr: Prediction
    expected_regret: float | Array

    def of(self, name: str) -> Prediction:
        """``lr`` or ``batch_tokens`` by name."""
        return self.lr if name == "lr" else self.batch_tokens

    def __str__(self) -> str:
        return f"batch {self.batch_tokens}, learning rate {self.lr}, expected regret {np.max(self.expected_regret):.2%}"

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        return {
            "batch_tokens": self.batch_tokens.to_json(),
            "lr": self.lr.to_json(),
            "expected_regret": np.asarray(self.expected_regret).tolist(),
        }


@dataclass(frozen=True, eq=False)
class Surface:
    """Loss over learning rate, batch, size and tokens, relative to the best loss at that size and token count.

    Attributes:
        centre: ln N and ln D where the constants hold.
        coefficients: of (ln η*, ln B*) over (1, ln N, ln D from the centre), shape (2, 3).
        covariance: of those six.
        stiffness: of the three walls (learning rate, batch, learning rate over batch): ``response``.
        skew: their skewness.
        noise: of ln L from run to run near the optimum.
        cell_scatter: how far, in ln η and ln B, the optimum of one size and token count lies off the power laws.
        degrees_of_freedom: degrees of freedom of the intervals.
        prior: the rule from whose exponents the fit started; None without one.
        prior_exponents: η* in N, η* in D, B* in N, B* in D, by that rule.
        num_runs: number of runs.
        counted: which parameters were counted.
        range: "num_params", "tokens", "flops", "lr", "batch_tokens" → (least, most) of the runs.
        cells: the measured optimum at each size and token count.
        notes: what the runs do not determine, and the observations' notes.
    """

    centre: tuple[float, float]
    coefficients: Array
    covariance: Array
    stiffness: Array
    skew: Array
    noise: float
    cell_scatter: float
    degrees_of_freedom: float
    prior: str | None
    prior_exponents: tuple[float, ...]
    num_runs: int
    counted: str
    range: dict[str, tuple[float, float]]
    cells: tuple[SweptCell, ...]
    notes: tuple[str, ...] = ()

    def optimum(self, num_params: float | Array, tokens: float | Array, level: float = 0.9) -> Setting:
        """The best batch and learning rate at N parameters and D tokens (broadcast), with intervals for the true ones.

        Raises:
            UserError: counts that are not finite and above zero, or a level outside (0, 1).
        """
        from scipy.stats import t as student

        check_level(level)
        rows = self._rows(num_params, tokens)
        spread = self._spread(rows)
        half = float(student.ppf((1 + level) / 2, self.degrees_of_freedom)) * np.sqrt(np.einsum("...ii->...i", spread))
        logs = rows @ self.coefficients.T
        lr, batch = (
            Prediction(
                _plain(np.exp(logs[..., axis])),
                _plain(np.exp((logs - half)[..., axis])),
                _plain(np.exp((logs + half)[..., axis])),
                level,
            )
            for axis in (0, 1)
        )
        regret = np.expm1(np.minimum(expected_rise(self.stiffness, self.skew, spread), _MOST))
        return Setting(batch, lr, _plain(regret))

    def recipe(self, num_params: float | Array, tokens: float | Array) -> tuple[float | Array, float | Array]:
        """Batch in tokens and learning rate, as ``planning.plan(..., recipe=surface.recipe)`` takes them."""
        lr, batch = np.moveaxis(np.exp(self._rows(num_params, tokens) @ self.coefficients.T), -1, 0)
        return _plain(batch), _plain(lr)

    def loss_ratio(self, lr: Any, batch_tokens: Any, num_params: Any, tokens: Any) -> float | Array:
        """Loss with these settings over the best loss at N parameters and D tokens (broadcast); at least 1.

        Raises:
            UserError: a number that is not finite and above zero.
        """
        for name, value in (("lr", lr), ("batch_tokens", batch_tokens)):
            _check(name, value)
        best = self._rows(num_params, tokens) @ self.coefficients.T
        x, y = np.log(lr) - best[..., 0], np.log(batch_tokens) - best[..., 1]
        return _plain(np.exp(np.minimum(rise(self.stiffness, self.skew, x, y), _MOST)))

    def regret(self, lr: Any, batch_tokens: Any, num_params: Any, tokens: Any) -> float | Array:
        """``loss_ratio`` − 1: what this learning rate and batch cost, relative to the best loss there."""
        return self.loss_ratio(lr, batch_tokens, num_params, tokens) - 1.0

    def in_range(self, num_params: float, tokens: float) -> bool:
        """Whether the size and the tokens lie within what the runs covered."""
        return not self.outside(num_params, tokens)

    def outside(self, num_params: float, tokens: float) -> list[str]:
        """In what respects a target lies outside the runs, one phrase each."""
        measured = MeasuredRange(num_params=self.range["num_params"], tokens=self.range["tokens"])
        return measured.outside(Point(num_params, tokens))

    @property
    def exponents(self) -> dict[str, dict[str, Exponent]]:
        """Of η* and B* as powers of N and D: ``exponents["lr"]["tokens"]`` and so on."""
        errors = np.sqrt(np.diag(self.covariance)).reshape(2, 3)
        priors = np.reshape(self.prior_exponents or np.full(4, np.nan), (2, 2))
        return {
            axis: {
                name: _exponent(self.coefficients[i, 1 + j], errors[i, 1 + j], priors[i, j])
                for j, name in enumerate(("num_params", "tokens"))
            }
            for i, axis in enumerate(AXES)
        }

    def summary(self) -> str:
        """The power laws with errors, what another setting costs, and the notes, for people."""
        return "\n".join(_lines(self))

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        return {
            "kind": "surface",
            "coefficients": self.coefficients.tolist(),
            "covariance": self.covariance.tolist(),
            "stiffness": self.stiffness.tolist(),
            "skew": self.skew.tolist(),
            "noise": self.noise,
            "cell_scatter": self.cell_scatter,
            "degrees_of_freedom": self.degrees_of_freedom,
            "prior": self.prior,
            "num_runs": self.num_runs,
            "counted": self.counted,
            "centre": list(self.centre),
            "prior_exponents": list(self.prior_exponents),
            "range": {name: list(pair) for name, pair in self.range.items()},
            "cells": [asdict(cell) | {"beyond": list(cell.beyond)} for cell in self.cells],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Surface:
        """The surface that ``to_json`` wrote.

        Raises:
            UserError: not such a record.
        """
        try:
            values: dict[str, Any] = {name: value for name, value in data.items() if name != "kind"}
            arrays = {name: np.array(data[name], dtype=float) for name in _ARRAYS}
            tuples = {name: tuple(data[name]) for name in ("centre", "prior_exponents", "notes")}
            cells = tuple(SweptCell(**one | {"beyond": tuple(one["beyond"])}) for one in data["cells"])
            spans = {name: tuple(pair) for name, pair in data["range"].items()}
            values |= {**arrays, **tuples, "range": spans, "cells": cells}
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"not a response surface: {type(error).__name__} {error}; fit it again") from None

    def _rows(self, num_params: float | Array, tokens: float | Array) -> Array:
        """(1, ln N, ln D from the centre), shape (..., 3)."""
        _check("num_params", num_params)
        _check("tokens", tokens)
        n, d = np.broadcast_arrays(np.log(num_params) - self.centre[0], np.log(tokens) - self.centre[1])
        return np.stack([np.ones_like(n), n, d], axis=-1)

    def _spread(self, rows: Array) -> Array:
        """Covariance of (ln η*, ln B*) at the rows, shape (..., 2, 2): of the power laws, plus the cell scatter."""
        blocks = self.covariance.reshape(2, 3, 2, 3)
        return np.einsum("...i,aibj,...j->...ab", rows, blocks, rows) + self.cell_scatter**2 * np.eye(2)


def _exponent(value: float, error: float, prior: float) -> Exponent:
    if math.isnan(prior):
        return Exponent(float(value), float(error), None, 1.0)
    return Exponent(float(value), float(error), float(prior), max(0.0, 1 - float(error / PRIOR_SPREAD) ** 2))


def _lines(fitted: Surface) -> list[str]:
    n, d = (math.exp(each) for each in fitted.centre)
    least, most = ({name: format_count(pair[end]) for name, pair in fitted.range.items()} for end in (0, 1))
    lines = [
        f"response surface from {plural(fitted.num_runs, 'run')} at {len(fitted.cells)} sizes and token counts "
        f"(N {least['num_params']} to {most['num_params']}, D {least['tokens']} to {most['tokens']})"
    ]
    here = fitted.optimum(n, d)
    for name, symbol in (("lr", "η*"), ("batch_tokens", "B*")):
        exponents = fitted.exponents[name]
        value = f"{here.lr.value:.3g}" if name == "lr" else format_count(float(here.batch_tokens.value))
        powers = " · ".join(
            f"({letter}/{format_count(middle)})^{exponents[count].value:.3g}"
            for letter, middle, count in (("N", n, "num_params"), ("D", d, "tokens"))
        )
        lines.append(f"{AXES[name]:14} {symbol} = {value} · {powers}")
    lines.append(f"{'exponent':22}{'value':>8}{'std. error':>12}{'prior':>9}{'from the runs':>19}")
    for name, symbol in (("lr", "η*"), ("batch_tokens", "B*")):
        for count, one in fitted.exponents[name].items():
            prior, share = ("–", "–") if one.prior is None else (f"{one.prior:.3f}", f"{one.share_from_runs:.0%}")
            lines.append(
                f"  {symbol} in {COUNTS[count]:15}{one.value:8.3f}{one.standard_error:12.3f}{prior:>9}{share:>19}"
            )
    for name, word in AXES.items():
        half, double = (
            fitted.regret(
                here.lr.value * (factor if name == "lr" else 1),
                here.batch_tokens.value * (factor if name == "batch_tokens" else 1),
                n,
                d,
            )
            for factor in (0.5, 2)
        )
        lines.append(f"half the {word} costs {half:+.2%} of the loss, twice {double:+.2%}")
    lines.append(
        f"noise of the loss {fitted.noise:.2%}; optima scatter {fitted.cell_scatter:.0%} around the power laws"
    )
    lines += [] if fitted.prior is None else [f"exponents start from {fitted.prior} ± {PRIOR_SPREAD}"]
    return lines + [f"note: {text}" for text in fitted.notes]


def _check(name: str, value: object) -> None:
    array = np.asarray(value, dtype=float)
    if array.size == 0 or not np.all(np.isfinite(array) & (array > 0)):
        raise UserError(f"{name} must be finite and above zero")


def _plain(value: Array) -> float | Array:
    return float(value) if np.ndim(value) == 0 else value
