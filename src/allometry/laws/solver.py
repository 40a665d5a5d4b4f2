"""Batched bounded Levenberg–Marquardt: many fits of one law at once, one row of θ and of weights each.

One fit is a batch of starts, a bootstrap is a batch of resamples, and both run the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from .constants_prior import Prior
from .whitening import Trunks

Array = np.ndarray
OUTSIDE = 0.1


class Form(Protocol):
    """What the solver needs of a law."""

    symbols: ClassVar[tuple[str, ...]]

    @property
    def log_loss(self) -> Callable[..., tuple[Array, Array]]:
        """θ and inputs → ln L, shape (batch, runs), and its derivatives by θ, shape (batch, constants, runs)."""
        ...


F = TypeVar("F", bound=Form)


@dataclass(frozen=True)
class Problem(Generic[F]):
    """What is minimised: Σ w·ρ(residual) over runs.

    Attributes:
        law: the form.
        inputs: what the law reads, as it reads it: logarithms from its centre, each of shape (runs,), or schedules.
        log_loss: ln of the observed losses, (runs,) or (batch, runs).
        objective: "log_squares" (ρ = r²/2 of ln L), "huber" (the same inside δ, linear outside) or "squares" (r²/2
            of L itself).
        delta: δ of huber.
        lower, upper: bounds of θ, (constants,) or (batch, constants).
        trunks: which runs share noise; residuals are whitened by it, each run by its trunk. None: all independent.
        prior: what is known of the constants before, which counts as further residuals. None: nothing.
    """

    law: F
    inputs: tuple[Any, ...]
    log_loss: Array
    objective: str
    delta: float
    lower: Array
    upper: Array
    trunks: Trunks | None = None
    prior: Prior | None = None

    def evaluate(self, theta: Array, weights: Array, rows: Array | slice = slice(None)) -> tuple[Array, Array, Array]:
        """The objective's value (batch,), gradient (batch, P) and Gauss–Newton matrix (batch, P, P) at θ.

        For huber the runs outside δ, where ρ is straight, count with a tenth of the weight that would bound ρ from
        above: nearly Newton's matrix, yet never singular, and damping guards the steps.
        """
        observed = self.log_loss if self.log_loss.ndim == 1 else self.log_loss[rows]
        predicted, jacobian = self.law.log_loss(theta, *self.inputs)
        if self.objective == "squares":
            value = np.exp(predicted)
            residual, jacobian = value - np.exp(observed), jacobian * value[:, None]
        else:
            residual = predicted - observed
        if self.trunks is not None:
            residual, jacobian = self.trunks.of(rows).whiten(weights, residual, jacobian)
        size = np.abs(residual)
        rho, pull, curvature = residual**2 / 2, residual, weights
        if self.objective == "huber":
            outside = size > self.delta
            rho = np.where(outside, self.delta * (size - self.delta / 2), rho)
            pull = np.clip(residual, -self.delta, self.delta)
            curvature = weights * np.where(outside, OUTSIDE * self.delta / np.maximum(size, self.delta), 1.0)
        gradient = (jacobian @ (weights * pull)[..., None])[..., 0]
        matrix = (jacobian * curvature[:, None]) @ jacobian.swapaxes(1, 2)
        value = (weights * rho).sum(axis=1)
        if self.prior is None:
            return value, gradient, matrix
        known = self.prior.evaluate(theta, rows)
        return value + known[0], gradient + known[1], matrix + known[2]

    def bounds(self, rows: Array) -> tuple[Array, Array]:
        """Lower and upper bounds of these rows of a batch."""
        return (self.lower, self.upper) if self.lower.ndim == 1 else (self.lower[rows], self.upper[rows])


def solve(problem: Problem, start: Array, weights: Array, steps: int = 200, tolerance: float = 1e-13):
    """Minimise from every row of ``start`` (batch, P) with the weights of that row (batch, runs).

    Stops a row when the step's promised decrease is below ``tolerance`` times its objective value.

    Returns:
        θ (batch, P) and the objective's values (batch,).
    """
    theta = np.clip(start, problem.lower, problem.upper)
    with np.errstate(over="ignore", invalid="ignore"):
        value, gradient, matrix = problem.evaluate(theta, weights)
    value = np.where(np.isfinite(value), value, np.inf)
    damping = np.full(len(theta), 1e-3)
    active = np.flatnonzero(np.isfinite(value))
    for _ in range(steps):
        if not len(active):
            break
        bounds = problem.bounds(active)
        step, promised = _step(theta[active], gradient[active], matrix[active], damping[active], bounds)
        candidate = np.clip(theta[active] + step, *bounds)
        with np.errstate(over="ignore", invalid="ignore"):
            new_value, new_gradient, new_matrix = problem.evaluate(candidate, weights[active], active)
        better = new_value < value[active]
        rows = active[better]
        theta[rows], value[rows] = candidate[better], new_value[better]
        gradient[rows], matrix[rows] = new_gradient[better], new_matrix[better]
        damping[active] *= np.where(better, 0.2, 6.0)
        np.clip(damping, 1e-14, 1e12, out=damping)
        done = (promised <= tolerance * value[active] + 1e-300) | (~better & (damping[active] > 1e9))
        active = active[~done]
    return theta, value


def _step(theta: Array, gradient: Array, matrix: Array, damping: Array, bounds: tuple[Array, Array]):
    """The damped step with the constants at an active bound held, and the decrease that the model promises."""
    lower, upper = bounds
    span = 1e-12 * (upper - lower)
    held = (theta <= lower + span) & (gradient > 0) | (theta >= upper - span) & (gradient < 0) | (lower == upper)
    free = ~held
    diagonal = np.einsum("bii->bi", matrix)
    scale = np.sqrt(np.maximum(diagonal, 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300))
    identity = np.eye(theta.shape[1])
    normal = matrix / scale[:, :, None] / scale[:, None, :] * (free[:, :, None] & free[:, None, :])
    normal = normal + identity * (damping[:, None] * 1.0 + held + 1e-15)[:, :, None]
    right = np.where(free, -gradient, 0.0) / scale
    step = np.linalg.solve(normal, right[..., None])[..., 0]
    promised = 0.5 * np.einsum("bi,bi->b", step, right)
    return step / scale, promised
