"""The best learning rate and batch from your own runs: a response surface in (learning rate, batch, N, D).

``surface(observations)`` needs runs that share a size and a token count and differ in rate and batch, at one such pair
at least. Each pair gives a measured optimum; over the pairs the optimum follows power laws, whose exponents start from
a published rule and move as far as the runs say. A few runs at one size therefore measure the constants and take the
exponents from the rule, with its doubt; a grid of sweeps measures all of it.

>>> found = planning.surface(observations)
>>> found.optimum(1e9, 20e9).lr          # 0.00101 [0.000837, 0.00123] 90%
>>> found.regret(2e-3, 524288, 1e9, 20e9)  # what another setting costs, relative to the best loss
>>> planning.plan(law, budget, surface=found)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ...errors import UserError
from ...laws import Observations, Prediction
from ...quantities import format_count
from ..rules import RULES, Rule
from ..rules import rule as rule_of
from ..rules.formulas import MeasuredRange, Point, PowerLaw
from .response import estimate, expected_rise, rise
from .sweeps import AXES, Sweeps, SweptCell, check_bracketed, check_exponents, check_settings, gather, measured, missing

Array = np.ndarray
DEFAULT_PRIOR = "step_law"
# One standard deviation between the exponents of one recipe and another's: about what published rules differ by.
PRIOR_SPREAD = 0.2
NO_PRIOR_SPREAD = 10.0
_MOST = 700.0  # ln of a price that a float still holds
_COUNTS = {"num_params": "size", "tokens": "tokens"}
_ARRAYS = ("coefficients", "covariance", "stiffness", "skew")
_HARDLY = 0.25  # an exponent of which the runs tell less than this share is the rule's
_VAGUE = 3.0  # an interval that reaches this factor to either side measures nothing


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

    ``expected_regret`` is the relative loss to expect above the best one, for not knowing the optimum better.
    """

    batch_tokens: Prediction
    lr: Prediction
    expected_regret: float | Array

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
        stiffness: of the three walls (rate, batch, rate over batch): ``response``.
        skew: their skewness.
        noise: of ln L from run to run near the optimum.
        cell_scatter: how far, in ln η and ln B, the optimum of one size and token count lies off the power laws.
        degrees_of_freedom: degrees of freedom of the intervals.
        prior: the rule that the exponents started from, None without.
        prior_exponents: η* in N, η* in D, B* in N, B* in D, by that rule.
        num_runs: number of runs.
        counted: which parameters were counted.
        range: "num_params", "tokens", "flops", "lr", "batch_tokens" → (least, most) of the runs.
        cells: what was measured at each size and token count.
        notes: what the runs do not tell, and the observations' notes.
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
        """The best batch and rate at N parameters and D tokens (broadcast), with intervals that hold the true ones.

        Raises:
            UserError: counts that are not finite and above zero, or a level outside (0, 1).
        """
        from scipy.stats import t as student

        if not 0 < level < 1:
            raise UserError(f"level is {level}; it must lie between 0 and 1, such as 0.9")
        rows = self._rows(num_params, tokens)
        spread = self._spread(rows)
        half = float(student.ppf((1 + level) / 2, self.degrees_of_freedom)) * np.sqrt(np.einsum("...ii->...i", spread))
        logs = rows @ self.coefficients.T
        lr, batch = (
            Prediction(*(_plain(np.exp(x[..., axis])) for x in (logs, logs - half, logs + half)), level)
            for axis in (0, 1)
        )
        price = np.expm1(np.minimum(expected_rise(self.stiffness, self.skew, spread), _MOST))
        return Setting(batch, lr, _plain(price))

    def recipe(self, num_params: float | Array, tokens: float | Array) -> tuple[float | Array, float | Array]:
        """Batch in tokens and learning rate, as ``planning.plan(..., recipe=surface.recipe)`` takes them."""
        lr, batch = np.moveaxis(np.exp(self._rows(num_params, tokens) @ self.coefficients.T), -1, 0)
        return _plain(batch), _plain(lr)

    def loss_ratio(self, lr: Any, batch_tokens: Any, num_params: Any, tokens: Any) -> float | Array:
        """Loss with this rate and batch over the best loss at N parameters and D tokens (broadcast), at least 1.

        Raises:
            UserError: a number that is not finite and above zero.
        """
        for name, value in (("lr", lr), ("batch_tokens", batch_tokens)):
            _check(name, value)
        best = self._rows(num_params, tokens) @ self.coefficients.T
        x, y = np.log(lr) - best[..., 0], np.log(batch_tokens) - best[..., 1]
        return _plain(np.exp(np.minimum(rise(self.stiffness, self.skew, x, y), _MOST)))

    def regret(self, lr: Any, batch_tokens: Any, num_params: Any, tokens: Any) -> float | Array:
        """``loss_ratio`` − 1: the price of this rate and batch, relative to the best loss there."""
        return self.loss_ratio(lr, batch_tokens, num_params, tokens) - 1.0

    def in_range(self, num_params: float, tokens: float) -> bool:
        """Whether the size and the tokens lie within what the runs covered."""
        return not self.outside(num_params, tokens)

    def outside(self, num_params: float, tokens: float) -> list[str]:
        """What of a target lies outside the runs, one phrase each."""
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
        """The power laws with errors, what a miss costs, and the notes, for people."""
        return "\n".join(_lines(self))

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        numbers = {
            name: getattr(self, name)
            for name in ("noise", "cell_scatter", "degrees_of_freedom", "prior", "num_runs", "counted")
        }
        return (
            {"kind": "surface"}
            | arrays
            | numbers
            | {
                "centre": list(self.centre),
                "prior_exponents": list(self.prior_exponents),
                "range": {name: list(pair) for name, pair in self.range.items()},
                "cells": [asdict(cell) | {"beyond": list(cell.beyond)} for cell in self.cells],
                "notes": list(self.notes),
            }
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Surface:
        """The surface that ``to_json`` wrote.

        Raises:
            UserError: not such a record.
        """
        try:
            values = {name: value for name, value in data.items() if name != "kind"}
            return cls(
                **values
                | {name: np.array(data[name], dtype=float) for name in _ARRAYS}
                | {name: tuple(data[name]) for name in ("centre", "prior_exponents", "notes")}
                | {
                    "range": {name: tuple(pair) for name, pair in data["range"].items()},
                    "cells": tuple(SweptCell(**one | {"beyond": tuple(one["beyond"])}) for one in data["cells"]),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"not a response surface: {type(error).__name__} {error}; fit it anew") from None

    def _rows(self, num_params: float | Array, tokens: float | Array) -> Array:
        """(1, ln N, ln D from the centre), shape (..., 3)."""
        _check("num_params", num_params)
        _check("tokens", tokens)
        n, d = np.broadcast_arrays(np.log(num_params) - self.centre[0], np.log(tokens) - self.centre[1])
        return np.stack([np.ones_like(n), n, d], axis=-1)

    def _spread(self, rows: Array) -> Array:
        """Covariance of (ln η*, ln B*) at the rows, shape (..., 2, 2): of the power laws, and the stray off them."""
        blocks = self.covariance.reshape(2, 3, 2, 3)
        return np.einsum("...i,aibj,...j->...ab", rows, blocks, rows) + self.cell_scatter**2 * np.eye(2)


def surface(observations: Observations, prior: str | Rule | None = DEFAULT_PRIOR) -> Surface:
    """Fit the response surface to runs that vary learning rate and batch.

    Args:
        observations: with the columns ``lr`` and ``batch_tokens``. Runs without them are left out, with a note; runs
            far from the optimum count little, and diverged ones next to nothing.
        prior: the rule whose exponents stand where the runs tell none (± ``PRIOR_SPREAD``), by name or your own
            ``Rule``: under μP, whose base rate does not fall with the size, another than Step Law's. None for no prior,
            which needs sweeps at three pairs of size and tokens at least.

    Raises:
        UserError: under three rates or batches at every size and token count; no optimum within the swept values
            anywhere; without a prior, sizes and tokens that do not tell the exponents. Each says which run to add.
    """
    sweeps, left_out = gather(observations)
    name, exponents, spread = _resolved(prior)
    check_settings(sweeps)
    if prior is None:
        check_exponents(sweeps)
    found = estimate(sweeps, exponents, spread)
    cells = measured(sweeps, found.optima, found.best)
    check_bracketed(sweeps, cells)
    made = Surface(
        centre=sweeps.centre,
        **{name: getattr(found, name) for name in (*_ARRAYS, "noise", "cell_scatter", "degrees_of_freedom")},
        prior=name,
        prior_exponents=() if prior is None else tuple(map(float, exponents)),
        num_runs=len(sweeps.cell),
        counted=observations.counted,
        range=_range(sweeps),
        cells=cells,
    )
    return replace(made, notes=(*_warnings(made, sweeps), *left_out, *observations.notes))


def _resolved(prior: str | Rule | None) -> tuple[str | None, Array, Array]:
    """Name of the prior, its exponents (η* in N and D, B* in N and D), and their spread."""
    if prior is None:
        return None, np.zeros(4), np.full(4, NO_PRIOR_SPREAD)
    chosen = rule_of(prior) if isinstance(prior, str) else prior
    exponents: list[float] = []
    for law in (chosen.lr, chosen.batch):
        if not _is_power(law):
            able = [name for name, each in RULES.items() if _is_power(each.lr) and _is_power(each.batch)]
            raise UserError(
                f"rule {chosen.name!r} has no exponents in size and tokens for both rate and batch; these have: "
                f"{', '.join(able)}"
            )
        # C = 6·N·D: an exponent in FLOPs is one in each.
        exponents += [law.num_params + law.flops, law.tokens + law.flops]
    return chosen.name, np.array(exponents), np.full(4, PRIOR_SPREAD)


def _is_power(law: object) -> bool:
    return isinstance(law, PowerLaw) and not law.loss


def _range(sweeps: Sweeps) -> dict[str, tuple[float, float]]:
    logs = {
        "num_params": sweeps.log_n,
        "tokens": sweeps.log_d,
        "flops": math.log(6) + sweeps.log_n + sweeps.log_d,
        "lr": sweeps.log_lr,
        "batch_tokens": sweeps.log_batch,
    }
    return {name: (float(np.exp(each.min())), float(np.exp(each.max()))) for name, each in logs.items()}


def _warnings(made: Surface, sweeps: Sweeps) -> list[str]:
    """What the runs do not tell, one sentence each."""
    found = []
    for count, word in _COUNTS.items():
        hardly = [each for each in AXES if made.exponents[each][count].share_from_runs < _HARDLY]
        if hardly:
            words = " and ".join(AXES[each] for each in hardly)
            values = " and ".join(f"{made.exponents[each][count].prior:+.3g}" for each in hardly)
            found.append(
                f"how {words} change with the {word} is {made.prior}'s (exponent {values} ± {PRIOR_SPREAD}), hardly "
                f"measured: add a sweep at {_fourfold(made, count)}"
            )
    for index, cell in enumerate(made.cells):
        for name in cell.beyond:
            found.append(
                f"at {sweeps.where(index)} the best {AXES[name]} lies beyond those swept: "
                f"{missing(sweeps, cell, index, name)}"
            )
    here = made.optimum(*np.exp(made.centre))
    for name, word in AXES.items():
        interval = getattr(here, name)
        if interval.high > _VAGUE * interval.value:
            found.append(f"the best {word} is hardly measured: {interval}; add runs at half and at twice it")
    return found


def _fourfold(made: Surface, count: str) -> str:
    n, d = (math.exp(each) for each in made.centre)
    n, d = (4 * made.range[count][1], d) if count == "num_params" else (n, 4 * made.range[count][1])
    return f"{format_count(n)} parameters and {format_count(d)} tokens"


def _exponent(value: float, error: float, prior: float) -> Exponent:
    if math.isnan(prior):
        return Exponent(float(value), float(error), None, 1.0)
    return Exponent(float(value), float(error), float(prior), max(0.0, 1 - float(error / PRIOR_SPREAD) ** 2))


def _lines(made: Surface) -> list[str]:
    n, d = (math.exp(each) for each in made.centre)
    least, most = ({name: format_count(pair[end]) for name, pair in made.range.items()} for end in (0, 1))
    lines = [
        f"response surface from {made.num_runs} runs at {len(made.cells)} sizes and token counts "
        f"(N {least['num_params']} to {most['num_params']}, D {least['tokens']} to {most['tokens']})"
    ]
    here = made.optimum(n, d)
    for name, symbol in (("lr", "η*"), ("batch_tokens", "B*")):
        exponents = made.exponents[name]
        value = f"{here.lr.value:.3g}" if name == "lr" else format_count(here.batch_tokens.value)
        powers = " · ".join(
            f"({letter}/{format_count(middle)})^{exponents[count].value:.3g}"
            for letter, middle, count in (("N", n, "num_params"), ("D", d, "tokens"))
        )
        lines.append(f"{AXES[name]:14} {symbol} = {value} · {powers}")
    lines.append(f"{'exponent':22}{'value':>8}{'std. error':>12}{'prior':>9}{'from the runs':>19}")
    for name, symbol in (("lr", "η*"), ("batch_tokens", "B*")):
        for count, one in made.exponents[name].items():
            prior, told = ("–", "–") if one.prior is None else (f"{one.prior:.3f}", f"{one.share_from_runs:.0%}")
            lines.append(
                f"  {symbol} in {_COUNTS[count]:15}{one.value:8.3f}{one.standard_error:12.3f}{prior:>9}{told:>19}"
            )
    for name, word in AXES.items():
        half, double = (
            made.regret(*(getattr(here, each).value * (factor if each == name else 1) for each in AXES), n, d)
            for factor in (0.5, 2)
        )
        lines.append(f"half the {word} costs {half:+.2%} of the loss, twice {double:+.2%}")
    lines.append(f"noise of the loss {made.noise:.2%}; optima stray {made.cell_scatter:.0%} from the power laws")
    lines += [] if made.prior is None else [f"exponents start from {made.prior} ± {PRIOR_SPREAD}"]
    return lines + [f"note: {text}" for text in made.notes]


def _check(name: str, value: object) -> None:
    array = np.asarray(value, dtype=float)
    if array.size == 0 or not np.all(np.isfinite(array) & (array > 0)):
        raise UserError(f"{name} must be finite and above zero")


def _plain(value: Array) -> float | Array:
    return float(value) if np.ndim(value) == 0 else value
