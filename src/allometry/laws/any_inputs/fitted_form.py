"""One form fitted: the best of many starts, coefficients pooled over groups, noise, the spread of its constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .form import LOG, ComposedForm
from .padded import Padded, logs
from .projection import Pooling, Solved, jacobian, project, solve

Array = np.ndarray
POOLING_ROUNDS = 6
# How many groups' worth the expectation counts that groups differ as much as their coefficients deviate from zero.
LEAST_GROUPS = 1.0


@dataclass(frozen=True, eq=False)
class FittedForm:
    """A form with constants.

    Attributes:
        form: the formula.
        theta: its constants that are not linear, (constants,).
        coefficients: of each group, (groups, columns).
        noise: standard deviation of a run on the scale of the link.
        middle: of the logarithms of the inputs.
        spread: covariance of (θ, coefficients of a group), (groups, constants + columns, the same).
    """

    form: ComposedForm
    theta: Array
    coefficients: Array
    noise: float
    middle: Array
    spread: Array

    def at(self, points: Array, group: Array) -> tuple[Array, Array]:
        """Centre and standard deviation, on the scale of the link, at points (rows, inputs) of groups (rows,)."""
        log, raw = logs(points, self.middle).T[:, None], points.T[:, None]
        theta = self.theta[None]
        with np.errstate(all="ignore"):
            columns = self.form.columns(theta, log, raw)[0, 0]
        chosen = self.coefficients[group].T
        centre = (chosen * columns).sum(axis=0)
        slopes = self._slopes(theta, points, group)
        full = np.concatenate([slopes, columns])
        variance = np.einsum("ir,rij,jr->r", full, self.spread[group], full)
        return centre, np.sqrt(np.maximum(variance, 0))

    def _slopes(self, theta: Array, points: Array, group: Array) -> Array:
        """Derivatives by θ, (constants, rows)."""
        slopes = np.zeros((theta.shape[1], len(points)))
        for number in np.unique(group):
            rows = np.flatnonzero(group == number)
            log, raw = logs(points[rows], self.middle).T[:, None], points[rows].T[:, None]
            with np.errstate(all="ignore"):
                slopes[:, rows] = self.form.slopes(theta, log, raw, self.coefficients[None, number, None])[0, 0]
        return slopes

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        return {
            "form": self.form.to_json(),
            "theta": self.theta.tolist(),
            "coefficients": self.coefficients.tolist(),
            "noise": self.noise,
            "middle": self.middle.tolist(),
            "spread": self.spread.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FittedForm:
        """The fit that ``to_json`` wrote."""
        arrays = (np.array(data[name], float) for name in ("middle", "spread"))
        return cls(
            ComposedForm.from_json(data["form"]),
            np.array(data["theta"], float),
            np.array(data["coefficients"], float),
            float(data["noise"]),
            *arrays,
        )


def target_of(form: ComposedForm, values: Array) -> Array:
    """The target on the scale of the form's link."""
    return np.log(np.maximum(values, 1e-300)) if form.link == LOG else values


def fit_form(
    form: ComposedForm, data: Padded, middle: Array, starts: Array, steps: int = 25, pooled: bool = True
) -> FittedForm:
    """The best optimum of all starts, with its noise estimated and coefficients pooled over groups."""
    target = np.where(data.weights > 0, target_of(form, np.where(data.weights > 0, data.values, 1.0)), 0.0)
    noise = _first_noise(data, target)
    solved = solve(form, data, target, starts, noise, steps=steps)
    best = int(np.argmin(np.where(np.isfinite(solved.objective), solved.objective, np.inf)))
    theta, pooling = solved.theta[best : best + 1], None
    rounds = POOLING_ROUNDS if pooled and len(data.values) > 1 else 2
    solved = project(form, data, target, theta, noise, pooling)[0]
    for _ in range(rounds):
        noise = _noise(form, data, solved)
        if pooled and len(data.values) > 1:
            pooling = pool(solved, noise)
        solved = solve(form, data, target, solved.theta, noise, pooling, steps=8)
    noise = _noise(form, data, solved)
    solved, columns, _ = project(form, data, target, solved.theta, noise, pooling)
    spread = _spread(form, data, solved, columns, noise)
    return FittedForm(form, solved.theta[0], solved.coefficients[0], noise, middle, spread)


def _first_noise(data: Padded, target: Array) -> float:
    """A hundredth of how much the target varies: what is taken for noise before any fit."""
    used = target[data.weights > 0]
    return 0.01 * float(used.std()) + 1e-12


def _noise(form: ComposedForm, data: Padded, solved: Solved) -> float:
    """Standard deviation of the residuals, corrected for the constants fitted."""
    runs = float((data.weights > 0).sum())
    mean_weight = data.weights.sum() / max(runs, 1)
    groups = int((data.weights > 0).any(axis=1).sum())
    taken = len(form.constants) + groups * form.num_linear
    freedom = max(runs - min(taken, 0.75 * runs), 1.0)
    least = 1e-6 * (np.abs(solved.coefficients).max() + 1e-12)
    return float(np.sqrt(solved.squares[0] / mean_weight / freedom)) + least


def pool(solved: Solved, noise: float) -> Pooling:
    """Mean and covariance of the coefficients over groups, with what is uncertain of each group's own."""
    coefficients, inverse = solved.coefficients[0], solved.inverse[0]
    mean = coefficients.mean(axis=0)
    off = coefficients - mean
    own = noise**2 * inverse
    groups = len(coefficients)
    covariance = (np.einsum("gi,gj->ij", off, off) + own.sum(axis=0)) / (groups - 1 + LEAST_GROUPS)
    covariance = covariance + 1e-9 * np.diag(np.diag(covariance)) + 1e-14 * np.eye(len(mean))
    return Pooling(mean, np.linalg.pinv(covariance, hermitian=True))


def _spread(form: ComposedForm, data: Padded, solved: Solved, columns: Array, noise: float) -> Array:
    """Covariance of (θ, coefficients) of each group: θ's own, and how the coefficients follow it."""
    inverse = noise**2 * solved.inverse[0]
    groups, linear = inverse.shape[0], inverse.shape[1]
    count = solved.theta.shape[1]
    spread = np.zeros((groups, count + linear, count + linear))
    spread[:, count:, count:] = inverse
    if not count:
        return spread
    with np.errstate(all="ignore"):
        slopes = form.slopes(solved.theta, data.log, data.raw, solved.coefficients)[0]
        projected = jacobian(form, data, solved, columns)[0]
    weighted = projected * data.weights[:, None]
    _, _, _, deviation = form.expected
    matrix = np.einsum("gpm,gqm->pq", weighted, projected) / noise**2 + np.diag(1 / deviation**2)
    own = np.linalg.pinv(np.where(np.isfinite(matrix), matrix, 0), hermitian=True)
    follow = -np.einsum("gjk,gkm,gpm->gjp", solved.inverse[0], columns[0] * data.weights[:, None], slopes)
    spread[:, :count, :count] = own
    cross = follow @ own
    spread[:, count:, :count] = cross
    spread[:, :count, count:] = cross.swapaxes(1, 2)
    spread[:, count:, count:] += cross @ follow.swapaxes(1, 2)
    return spread
