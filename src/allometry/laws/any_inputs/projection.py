"""Variable projection in batches: for each θ of a batch the coefficients of every group are solved for exactly.

Minimised is Σ w·(y − Σ c·column)² with weak priors: on θ what is expected of exponents and turns, on the coefficients
of a group the mean and covariance over groups (partial pooling). Steps are Levenberg–Marquardt with Kaufman's
derivative: that of the residual, less what the coefficients can take up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .form import ComposedForm
from .padded import Padded

Array = np.ndarray
TOLERANCE = 1e-7
RIDGE = 1e-9


@dataclass(frozen=True, eq=False)
class Pooling:
    """What the coefficients of a group are expected to be: ``mean`` (columns,), ``precision`` (columns, columns)."""

    mean: Array
    precision: Array


@dataclass(frozen=True, eq=False)
class Solved:
    """θ (batch, constants), coefficients (batch, groups, columns), objective (batch,), squares (batch,), and the
    inverse of each group's normal matrix (batch, groups, columns, columns)."""

    theta: Array
    coefficients: Array
    objective: Array
    squares: Array
    inverse: Array


def project(
    form: ComposedForm, data: Padded, target: Array, theta: Array, noise: float, pooling: Pooling | None
) -> tuple[Solved, Array, Array]:
    """The coefficients at θ, with the columns and the residuals (batch, groups, runs)."""
    columns = form.columns(theta, data.log, data.raw)
    weighted = columns * data.weights[:, None]
    gram = weighted @ columns.swapaxes(2, 3)
    right = (weighted @ target[..., None])[..., 0]
    scale = np.sqrt(np.maximum(np.einsum("bgjj->bgj", gram).mean(axis=1, keepdims=True), 1e-300))
    if pooling is not None:
        gram = gram + noise**2 * pooling.precision
        right = right + noise**2 * pooling.precision @ pooling.mean
    normal = gram / scale[..., :, None] / scale[..., None, :] + RIDGE * np.eye(gram.shape[-1])
    inverse = np.linalg.inv(normal) / scale[..., :, None] / scale[..., None, :]
    coefficients = (inverse @ right[..., None])[..., 0]
    residual = target - np.einsum("bgj,bgjm->bgm", coefficients, columns)
    squares = (data.weights * residual**2).sum(axis=(1, 2))
    objective = squares.copy()
    if pooling is not None:
        off = coefficients - pooling.mean
        objective += noise**2 * np.einsum("bgi,ij,bgj->b", off, pooling.precision, off)
    if theta.shape[1]:
        _, _, mean, deviation = form.expected
        objective += noise**2 * (((theta - mean) / deviation) ** 2).sum(axis=1)
    return Solved(theta, coefficients, objective, squares, inverse), columns, residual


def solve(
    form: ComposedForm,
    data: Padded,
    target: Array,
    starts: Array,
    noise: float,
    pooling: Pooling | None = None,
    steps: int = 25,
) -> Solved:
    """The optimum from every start, (starts, constants)."""
    with np.errstate(all="ignore"):
        return _solve(form, data, target, starts, noise, pooling, steps)


def _solve(form, data, target, starts, noise, pooling, steps) -> Solved:
    best, columns, residual = project(form, data, target, starts, noise, pooling)
    if not starts.shape[1]:
        return best
    theta, objective = starts.copy(), np.where(np.isfinite(best.objective), best.objective, np.inf)
    low, high, *_ = form.expected
    damping = np.full(len(theta), 1e-2)
    active = np.flatnonzero(np.isfinite(objective))
    parts = _normal(form, data, best, columns, residual, noise)
    gradient, matrix = (np.where(np.isfinite(part), part, 0.0) for part in parts)
    for _ in range(steps):
        if not len(active):
            break
        diagonal = np.einsum("bii->bi", matrix[active])
        scale = np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300))
        held = ((theta[active] <= low) & (gradient[active] > 0)) | ((theta[active] >= high) & (gradient[active] < 0))
        free = ~held
        normal = matrix[active] / scale[:, :, None] / scale[:, None, :] * (free[:, :, None] & free[:, None, :])
        normal = normal + np.eye(theta.shape[1]) * (damping[active][:, None] + held + 1e-12)[:, :, None]
        right = np.where(free, -gradient[active], 0) / scale
        step = np.linalg.solve(normal, right[..., None])[..., 0]
        promised = (step * right).sum(axis=1)
        candidate = np.clip(theta[active] + step / scale, low, high)
        tried, columns, residual = project(form, data, target, candidate, noise, pooling)
        better = tried.objective < objective[active]
        rows = active[better]
        if better.any():
            chosen = Solved(
                tried.theta[better],
                tried.coefficients[better],
                tried.objective[better],
                tried.squares[better],
                tried.inverse[better],
            )
            slopes = _normal(form, data, chosen, columns[better], residual[better], noise)
            theta[rows], objective[rows] = chosen.theta, chosen.objective
            gradient[rows], matrix[rows] = (np.where(np.isfinite(part), part, 0.0) for part in slopes)
        damping[active] = np.clip(damping[active] * np.where(better, 0.2, 6.0), 1e-12, 1e12)
        done = (promised <= TOLERANCE * objective[active] + 1e-300) | (~better & (damping[active] > 1e8))
        active = active[~done]
    return project(form, data, target, theta, noise, pooling)[0]


def _normal(form: ComposedForm, data: Padded, at: Solved, columns: Array, residual: Array, noise: float):
    """Gradient (batch, constants) and Gauss–Newton matrix of half the objective."""
    projected = jacobian(form, data, at, columns)
    weighted = projected * data.weights[:, None]
    gradient = -np.einsum("bgpm,bgm->bp", weighted, residual)
    matrix = np.einsum("bgpm,bgqm->bpq", weighted, projected)
    _, _, mean, deviation = form.expected
    gradient += noise**2 * (at.theta - mean) / deviation**2
    return gradient, matrix + noise**2 * np.diag(1 / deviation**2)


def jacobian(form: ComposedForm, data: Padded, at: Solved, columns: Array) -> Array:
    """Derivatives of the fitted target by θ that the coefficients cannot take up, (batch, groups, constants, runs)."""
    slopes = form.slopes(at.theta, data.log, data.raw, at.coefficients)
    along = (slopes * data.weights[:, None]) @ columns.swapaxes(2, 3)
    return slopes - (along @ at.inverse) @ columns
