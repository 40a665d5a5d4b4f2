"""One form fitted: the best of many starts, constants pooled over groups, its noise and the spread of its constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import UserError
from ..forms.input_laws import INPUT_LAWS, MIXING, mixing_law
from .composing.form import LOG, ComposedForm
from .composing.formula_form import FormulaForm
from .frontier import ALL
from .padded import Padded, logs
from .projection import AnyForm, Pooling, Solved, jacobian, project, solve

Array = np.ndarray
POOLING_ROUNDS = 4
# How many groups' worth the expectation counts that groups differ as much as their coefficients deviate from zero.
LEAST_GROUPS = 1.0


@dataclass(frozen=True, eq=False)
class FittedForm:
    """A form with constants.

    Attributes:
        form: the formula.
        theta: its constants that are not linear, of each group (equal where they are shared), (groups, constants).
        coefficients: of each group, (groups, columns).
        noise: standard deviation of a run on the scale of the link.
        middle: of the logarithms of the inputs.
        spread: covariance of (θ, coefficients) of a group, (groups, constants + columns, the same).
        own: whether each group has a θ of its own.
        emphasis: which runs count more than others (``frontier``).
    """

    form: AnyForm
    theta: Array
    coefficients: Array
    noise: float
    middle: Array
    spread: Array
    own: bool = False
    emphasis: str = ALL

    @property
    def name(self) -> str:
        """The form's, and whether its exponents belong to each group."""
        own, near = (
            (", exponents of each group" if self.own else ""),
            ("" if self.emphasis == ALL else f", {self.emphasis}"),
        )
        return self.form.name + own + near

    @property
    def num_constants(self) -> float:
        """The constants taken from the runs; those of groups, which are pooled, count as three quarters."""
        theta = self.theta.shape[1] * (len(self.theta) if self.own else 1)
        return theta + self.coefficients.size if len(self.theta) == 1 else 0.75 * (theta + self.coefficients.size)

    def at(self, points: Array, group: Array) -> tuple[Array, Array]:
        """Centre and standard deviation, on the scale of the link, at points (rows, inputs) of groups (rows,)."""
        centre, variance = np.zeros(len(points)), np.zeros(len(points))
        for number in np.unique(group):
            rows = np.flatnonzero(group == number)
            log, raw = logs(points[rows], self.middle).T[:, None], points[rows].T[:, None]
            theta, chosen = self.theta[number : number + 1], self.coefficients[None, number : number + 1]
            with np.errstate(all="ignore"):
                columns = self.form.columns(theta, log, raw)
                full = np.concatenate([self.form.slopes(theta, log, raw, chosen), columns], axis=2)[0, 0]
            centre[rows] = chosen[0, 0] @ columns[0, 0]
            variance[rows] = np.einsum("ir,ij,jr->r", full, self.spread[number], full)
        return centre, np.sqrt(np.maximum(variance, 0))

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        return {
            "form": self.form.to_json(),
            "theta": self.theta.tolist(),
            "coefficients": self.coefficients.tolist(),
            "noise": self.noise,
            "middle": self.middle.tolist(),
            "spread": self.spread.tolist(),
            "own": self.own,
            "emphasis": self.emphasis,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FittedForm:
        """The fit that ``to_json`` wrote."""
        form = _form_of(data["form"])
        return cls(
            form,
            np.array(data["theta"], float).reshape(len(data["theta"]), len(form.constants)),
            np.array(data["coefficients"], float),
            float(data["noise"]),
            np.array(data["middle"], float),
            np.array(data["spread"], float),
            bool(data["own"]),
            str(data["emphasis"]),
        )


def _form_of(data: dict[str, Any]) -> AnyForm:
    if "formula" not in data:
        return ComposedForm.from_json(data)
    name, places = data["formula"], tuple(data["places"])
    formula = mixing_law([f"input {place}" for place in places]) if name == MIXING else INPUT_LAWS.get(name)
    if formula is None or formula.formula != data["text"]:  # an own law may have the name of a published one
        raise UserError(f"law {name!r} is one's own, which a file does not hold: fit it anew")
    return FormulaForm(formula, places)


def target_of(form: AnyForm, data: Padded) -> Array:
    """The target on the scale of the form's link, 0 where there is no run."""
    if form.link != LOG:
        return np.where(data.weights > 0, data.values, 0.0)
    return np.where(data.weights > 0, np.log(np.where(data.weights > 0, np.maximum(data.values, 1e-300), 1.0)), 0.0)


def fit_form(form: AnyForm, data: Padded, middle: Array, starts: Array, steps: int = 25) -> FittedForm:
    """The best optimum of all starts, with its noise estimated and coefficients pooled over groups."""
    target, groups = target_of(form, data), len(data.values)
    noise, pooling = _first_noise(data, target), Pooling.of(form)
    solved = solve(form, data, target, starts, noise, pooling, steps)
    best = int(np.argmin(np.where(np.isfinite(solved.objective), solved.objective, np.inf)))
    theta = solved.theta[best : best + 1]
    solved = project(form, data, target, theta, noise, pooling)[0]
    for _ in range(POOLING_ROUNDS if groups > 1 else 1):
        noise = _noise(form, data, solved, theta.shape[1])
        if groups > 1:
            pooling = _pooled(Pooling.of(form), solved.coefficients[0], solved.inverse[0], noise)
        solved = solve(form, data, target, solved.theta, noise, pooling, steps=5)
    noise = _noise(form, data, solved, theta.shape[1])
    solved, columns, _ = project(form, data, target, solved.theta, noise, pooling)
    spread = _spread(form, data, solved, columns, noise, pooling)
    theta = np.repeat(solved.theta, groups, axis=0)
    return FittedForm(form, theta, solved.coefficients[0], noise, middle, spread)


def fit_apart(shared: FittedForm, data: Padded) -> FittedForm:
    """The form of ``shared`` with a θ of its own for each group, pooled over them, from that start."""
    form, apart = shared.form, data.apart
    target = target_of(form, apart)
    pooling = Pooling(shared.theta[0], np.minimum(form.expected[3], 0.5))
    noise, theta = shared.noise, shared.theta
    coefficients, inverse = shared.coefficients, shared.spread[:, theta.shape[1] :, theta.shape[1] :] / noise**2
    pooling = _pooled(pooling, coefficients, inverse, noise)
    for _ in range(POOLING_ROUNDS):
        solved = solve(form, apart, target, theta, noise, pooling, steps=8)
        theta = solved.theta
        noise = _noise(form, apart, solved, theta.size)
        columns = form.columns(theta, apart.log, apart.raw)
        spread = _spread(form, apart, solved, columns, noise, pooling)
        own = np.einsum("gii->gi", spread)[:, : theta.shape[1]]
        variance = (theta.var(axis=0) * len(theta) + own.sum(axis=0)) / (len(theta) - 1 + LEAST_GROUPS)
        expected = Pooling(theta.mean(axis=0), np.sqrt(np.clip(variance, 1e-4, form.expected[3] ** 2)))
        pooling = _pooled(expected, solved.coefficients[:, 0], solved.inverse[:, 0], noise)
    return FittedForm(form, theta, solved.coefficients[:, 0], noise, shared.middle, spread, own=True)


def _first_noise(data: Padded, target: Array) -> float:
    """A hundredth of how much the target varies: what is taken for noise before any fit."""
    used = target[data.weights > 0]
    return 0.01 * float(used.std()) + 1e-12


def _noise(form: AnyForm, data: Padded, solved: Solved, count: int) -> float:
    """Standard deviation of the residuals, corrected for the constants fitted."""
    used = data.weights > 0
    runs = float(used.sum())
    mean_weight = data.weights.sum() / max(runs, 1)
    groups = int(used.any(axis=-1).sum())
    taken = count + groups * form.num_linear
    freedom = max(runs - min(taken, 0.75 * runs), 1.0)
    least = 1e-6 * (np.abs(solved.coefficients).max() + 1e-12)
    return float(np.sqrt(solved.squares.sum() / mean_weight / freedom)) + least


def _pooled(expected: Pooling, coefficients: Array, inverse: Array, noise: float) -> Pooling:
    """Mean and covariance of the coefficients over groups, with what is uncertain of each group's own."""
    mean = coefficients.mean(axis=0)
    off = coefficients - mean
    own = noise**2 * inverse
    covariance = (np.einsum("gi,gj->ij", off, off) + own.sum(axis=0)) / (len(coefficients) - 1 + LEAST_GROUPS)
    covariance = covariance + 1e-9 * np.diag(np.diag(covariance)) + 1e-14 * np.eye(len(mean))
    precision = np.linalg.pinv(covariance, hermitian=True)
    return Pooling(expected.theta_mean, expected.theta_deviation, mean, precision)


def _spread(form: AnyForm, data: Padded, solved: Solved, columns: Array, noise: float, pooling: Pooling) -> Array:
    """Covariance of (θ, coefficients) of each group: θ's own, and how the coefficients follow it."""
    batch, groups, linear = solved.coefficients.shape
    count = solved.theta.shape[1]
    inverse = noise**2 * solved.inverse
    spread = np.zeros((batch, groups, count + linear, count + linear))
    spread[..., count:, count:] = inverse
    if count:
        with np.errstate(all="ignore"):
            slopes = np.nan_to_num(form.slopes(solved.theta, data.log, data.raw, solved.coefficients))
            projected = np.nan_to_num(jacobian(form, data, solved, columns))
        weights = data.weights[..., None, :]
        matrix = ((projected * weights) @ projected.swapaxes(2, 3)).sum(axis=1) / noise**2
        matrix = matrix + np.diag(1 / pooling.theta_deviation**2)
        own = np.linalg.pinv(matrix, hermitian=True)[:, None]
        follow = -solved.inverse @ (columns * weights) @ slopes.swapaxes(2, 3)
        cross = follow @ own
        spread[..., :count, :count] = own
        spread[..., count:, :count] = cross
        spread[..., :count, count:] = cross.swapaxes(2, 3)
        spread[..., count:, count:] += cross @ follow.swapaxes(2, 3)
    return spread.reshape(batch * groups, count + linear, count + linear)
