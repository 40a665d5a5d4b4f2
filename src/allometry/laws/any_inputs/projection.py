"""Variable projection in batches: for each θ of a batch the coefficients of every group are solved for exactly.

Minimised is Σ w·(y − Σ c·column)² with weak priors: on θ what is expected of exponents and turns, on the coefficients
of a group the mean and covariance over groups (partial pooling). Steps are Levenberg–Marquardt with Kaufman's
derivative: that of the residual, less what the coefficients can take up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .composing.form import ComposedForm
from .composing.formula_form import FormulaForm
from .padded import Padded

Array = np.ndarray
AnyForm = ComposedForm | FormulaForm
TOLERANCE = 1e-7
RIDGE = 1e-9


@dataclass(frozen=True, eq=False)
class Pooling:
    """What is expected before the data: of θ mean and deviation (constants,); of the coefficients of a group mean
    (columns,) and precision (columns, columns), None where nothing is."""

    theta_mean: Array
    theta_deviation: Array
    mean: Array | None = None
    precision: Array | None = None

    @classmethod
    def of(cls, form: AnyForm) -> Pooling:
        """What a form expects of its own constants."""
        return cls(form.expected[2], form.expected[3])


@dataclass(frozen=True, eq=False)
class Solved:
    """θ (batch, constants), coefficients (batch, groups, columns), objective (batch,), squares (batch,), and the
    inverse of each group's normal matrix (batch, groups, columns, columns)."""

    theta: Array
    coefficients: Array
    objective: Array
    squares: Array
    inverse: Array

    def where(self, better: Array, other: Solved) -> Solved:
        """This one in the rows where ``better`` holds, the other elsewhere."""
        pairs = (
            (getattr(self, name), getattr(other, name))
            for name in ("theta", "coefficients", "objective", "squares", "inverse")
        )
        return Solved(*(np.where(better.reshape(-1, *[1] * (one.ndim - 1)), one, two) for one, two in pairs))


def project(
    form: AnyForm, data: Padded, target: Array, theta: Array, noise: float | Array, pooling: Pooling
) -> tuple[Solved, Array, Array]:
    """The coefficients at θ, with the columns and the residuals (batch, groups, runs).

    ``noise`` is the standard deviation of a run, one number or one a row of the batch.
    """
    columns = form.columns(theta, data.log, data.raw)
    weighted = columns * data.weights[..., None, :]
    gram = weighted @ columns.swapaxes(2, 3)
    right = (weighted @ target[..., None])[..., 0]
    scale = np.sqrt(np.maximum(np.einsum("bgjj->bgj", gram).mean(axis=1, keepdims=True), 1e-300))
    variance = np.broadcast_to(np.square(noise), len(theta))[:, None, None]
    if pooling.precision is not None:
        gram = gram + variance[..., None] * pooling.precision
        right = right + variance * (pooling.precision @ pooling.mean)
    normal = gram / scale[..., :, None] / scale[..., None, :] + RIDGE * np.eye(gram.shape[-1])
    inverse = np.linalg.inv(normal) / scale[..., :, None] / scale[..., None, :]
    coefficients = (inverse @ right[..., None])[..., 0]
    residual = target - (coefficients[..., None, :] @ columns)[..., 0, :]
    squares = (data.weights * residual**2).sum(axis=(1, 2))
    objective = squares.copy()
    if pooling.precision is not None:
        off = coefficients - pooling.mean
        objective += variance[:, 0, 0] * np.einsum("bgi,ij,bgj->b", off, pooling.precision, off)
    if theta.shape[1]:
        standard = (theta - pooling.theta_mean) / pooling.theta_deviation
        objective += variance[:, 0, 0] * (standard**2).sum(axis=1)
    return Solved(theta, coefficients, objective, squares, inverse), columns, residual


def solve(
    form: AnyForm,
    data: Padded,
    target: Array,
    starts: Array,
    noise: float | Array,
    pooling: Pooling,
    steps: int = 25,
) -> Solved:
    """The optimum from every start, (starts, constants); where each start has data of its own, of that."""
    with np.errstate(all="ignore"):
        return _solve(form, data, target, starts, noise, pooling, steps)


def _solve(form, data, target, starts, noise, pooling, steps) -> Solved:
    best, columns, residual = project(form, data, target, starts, noise, pooling)
    count = starts.shape[1]
    if not count:
        return best
    best = Solved(best.theta, best.coefficients, _finite(best.objective), best.squares, best.inverse)
    low, high, *_ = form.expected
    damping, going = np.full(len(starts), 1e-2), np.isfinite(best.objective)
    gradient, matrix = _normal(form, data, best, columns, residual, noise, pooling)
    for _ in range(steps):
        diagonal = np.einsum("bii->bi", matrix)
        scale = np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300))
        held = ((best.theta <= low) & (gradient > 0)) | ((best.theta >= high) & (gradient < 0))
        free = ~held
        normal = matrix / scale[:, :, None] / scale[:, None, :] * (free[:, :, None] & free[:, None, :])
        normal = normal + np.eye(count) * (damping[:, None] + held + 1e-12)[:, :, None]
        right = np.where(free, -gradient, 0) / scale
        step = np.linalg.solve(normal, right[..., None])[..., 0]
        promised = (step * right).sum(axis=1)
        candidate = np.clip(best.theta + np.where(going[:, None], step / scale, 0), low, high)
        tried, columns, residual = project(form, data, target, candidate, noise, pooling)
        better = going & (_finite(tried.objective) < best.objective)
        gained = np.where(better, best.objective - tried.objective, 0.0)
        going &= (promised > TOLERANCE * best.objective + 1e-300) & (better | (damping < 1e6))
        going &= ~(better & (gained < TOLERANCE * best.objective))
        damping = np.clip(damping * np.where(better, 0.2, 6.0), 1e-12, 1e12)
        if better.any():
            slopes = _normal(form, data, tried, columns, residual, noise, pooling)
            best = tried.where(better, best)
            gradient = np.where(better[:, None], slopes[0], gradient)
            matrix = np.where(better[:, None, None], slopes[1], matrix)
        if not going.any():
            break
    return best


def _finite(objective: Array) -> Array:
    return np.where(np.isfinite(objective), objective, np.inf)


def _normal(
    form: AnyForm,
    data: Padded,
    at: Solved,
    columns: Array,
    residual: Array,
    noise: float | Array,
    pooling: Pooling,
) -> tuple[Array, Array]:
    """Gradient (batch, constants) and Gauss–Newton matrix of half the objective."""
    projected = jacobian(form, data, at, columns)
    weighted = projected * data.weights[..., None, :]
    gradient = -(weighted @ residual[..., None])[..., 0].sum(axis=1)
    matrix = (weighted @ projected.swapaxes(2, 3)).sum(axis=1)
    variance = np.broadcast_to(np.square(noise), len(at.theta))[:, None]
    gradient += variance * (at.theta - pooling.theta_mean) / pooling.theta_deviation**2
    matrix += variance[..., None] * np.diag(1 / pooling.theta_deviation**2)
    return np.nan_to_num(gradient, posinf=0, neginf=0), np.nan_to_num(matrix, posinf=0, neginf=0)


def jacobian(form: AnyForm, data: Padded, at: Solved, columns: Array) -> Array:
    """Derivatives of the fitted target by θ that the coefficients cannot take up, (batch, groups, constants, runs)."""
    slopes = form.slopes(at.theta, data.log, data.raw, at.coefficients)
    along = (slopes * data.weights[..., None, :]) @ columns.swapaxes(2, 3)
    return slopes - (along @ at.inverse) @ columns
