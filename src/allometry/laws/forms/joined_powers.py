"""Laws in which the terms of N and D are joined by a power: Skaling, and Kaplan's, which is Skaling with β = 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..base import EXPONENTS, Array, Law, coefficient_bounds, floor_bound, grid, safe_log
from ..variable_projection import nonnegative_least_squares

STEEPEST = 1.2
POWERS = (0.2, 0.45, 1.0, 2.5, 8.0)
FLOORS = (0.0, 0.35, 0.6, 0.75, 0.86, 0.94)


@dataclass(frozen=True)
class Skaling(Law):
    """Chinchilla's two terms joined by a power k, which is 1 there and grows towards a product of powers.

    θ = (E, s, w, a, b, ln k): the part above E is exp(s)·[(e^(w/2 − a·n/k) + e^(−w/2 − b·d/k))/2]^k, so that a = α·k
    and b = β·k are the exponents where one term dominates, for every k.
    """

    name: ClassVar[str] = "skaling"
    formula: ClassVar[str] = "L = E + (A/N^α + B/D^β)^k"
    symbols: ClassVar[tuple[str, ...]] = ("E", "A", "B", "alpha", "beta", "k")
    source: ClassVar[str] = "arXiv 2608.07222"

    def log_loss(self, theta, n, d):
        floor, scale, tilt, a, b, log_k = theta.T[:, :, None]
        k = np.exp(log_k)
        u, v = tilt / 2 - a / k * n, -tilt / 2 - b / k * d
        mean = np.logaddexp(u, v) - np.log(2)
        share = 1 / (1 + np.exp(np.clip(v - u, -700, 700)))
        by_k = k * mean + share * a * n + (1 - share) * b * d
        term = np.exp(scale + k * mean)
        loss = floor + term
        rows = np.stack([np.ones_like(u), k * (share - 0.5), -share * n, -(1 - share) * d, by_k], axis=1)
        return np.log(loss), np.concatenate([(1 / loss)[:, None], (term / loss)[:, None] * rows], axis=1)

    def values(self, theta, centre):
        floor, scale, tilt, a, b, log_k = np.moveaxis(theta, -1, 0)
        k = np.exp(log_k)
        middle = scale / k - np.log(2)
        log_a, log_b = middle + tilt / 2 + a / k * centre[0], middle - tilt / 2 + b / k * centre[1]
        return np.stack([floor, np.exp(log_a), np.exp(log_b), a / k, b / k, k], axis=-1)

    def theta(self, values, centre):
        floor, big_a, big_b, alpha, beta, k = np.moveaxis(values, -1, 0)
        log_a, log_b = safe_log(big_a) - alpha * centre[0], safe_log(big_b) - beta * centre[1]
        return np.stack([floor, *_scale_and_tilt(log_a, log_b, k), alpha * k, beta * k, np.log(k)], axis=-1)

    def bounds(self, loss):
        low, high = coefficient_bounds(loss)
        lower = np.array([0, low, -40, EXPONENTS[0], EXPONENTS[0], np.log(0.08)])
        return lower, np.array([floor_bound(loss), high, 40, STEEPEST, STEEPEST, np.log(20)])

    def starts(self, inputs, loss, weights):
        axis = np.geomspace(0.03, STEEPEST, 9)
        cells = [(floor, k, grid(axis, axis)) for floor in FLOORS for k in POWERS]
        return _project(cells, inputs, loss, weights)


@dataclass(frozen=True)
class KaplanFloor(Law):
    """Kaplan's law above a floor: Skaling with k = αD and β = 1. θ = (E, s, w, αN, ln αD)."""

    name: ClassVar[str] = "kaplan_floor"
    formula: ClassVar[str] = "L = E + ((Nc/N)^(αN/αD) + Dc/D)^αD"
    symbols: ClassVar[tuple[str, ...]] = ("E", "Nc", "Dc", "alpha_N", "alpha_D")
    source: ClassVar[str] = "arXiv 2001.08361, equation 1.5, with a floor"
    floors: ClassVar[tuple[float, ...]] = FLOORS

    def log_loss(self, theta, n, d):
        value, jacobian = Skaling().log_loss(_as_skaling(theta), n, d)
        by_power = jacobian[:, 5] + np.exp(theta[:, 4, None]) * jacobian[:, 4]
        return value, np.concatenate([jacobian[:, :4], by_power[:, None]], axis=1)

    def values(self, theta, centre):
        floor, big_a, dc, alpha, _, power = np.moveaxis(Skaling().values(_as_skaling(theta), centre), -1, 0)
        return np.stack([floor, np.exp(safe_log(big_a) / alpha), dc, alpha * power, power], axis=-1)

    def theta(self, values, centre):
        floor, nc, dc, alpha_n, alpha_d = np.moveaxis(values, -1, 0)
        ratio = alpha_n / alpha_d
        log_a, log_b = ratio * (safe_log(nc) - centre[0]), safe_log(dc) - centre[1]
        return np.stack([floor, *_scale_and_tilt(log_a, log_b, alpha_d), alpha_n, np.log(alpha_d)], axis=-1)

    def bounds(self, loss):
        lower, upper = Skaling().bounds(loss)
        # αD is also an exponent of D.
        return np.append(lower[:4], np.log(0.005)), np.append(upper[:4], np.log(STEEPEST))

    def starts(self, inputs, loss, weights):
        axis = np.geomspace(0.03, STEEPEST, 14)
        cells = [
            (floor, power, np.column_stack([axis, np.full_like(axis, power)]))
            for floor in self.floors
            for power in np.geomspace(0.03, STEEPEST, 14)
        ]
        theta, squares = _project(cells, inputs, loss, weights)
        return theta[:, [0, 1, 2, 3, 5]], squares


@dataclass(frozen=True)
class Kaplan(KaplanFloor):
    """Kaplan et al. 2020: no floor. θ = (s, w, αN, ln αD)."""

    name: ClassVar[str] = "kaplan"
    formula: ClassVar[str] = "L = ((Nc/N)^(αN/αD) + Dc/D)^αD"
    symbols: ClassVar[tuple[str, ...]] = ("Nc", "Dc", "alpha_N", "alpha_D")
    source: ClassVar[str] = "arXiv 2001.08361, equation 1.5"
    floors: ClassVar[tuple[float, ...]] = (0.0,)

    def log_loss(self, theta, n, d):
        value, jacobian = super().log_loss(_without_floor(theta), n, d)
        return value, jacobian[:, 1:]

    def values(self, theta, centre):
        return super().values(_without_floor(theta), centre)[..., 1:]

    def theta(self, values, centre):
        return super().theta(_without_floor(values), centre)[..., 1:]

    def bounds(self, loss):
        lower, upper = super().bounds(loss)
        return lower[1:], upper[1:]

    def starts(self, inputs, loss, weights):
        theta, squares = super().starts(inputs, loss, weights)
        return theta[:, 1:], squares


def _project(cells: list[tuple[float, float, Array]], inputs, loss: Array, weights: Array) -> tuple[Array, Array]:
    """Starts θ of Skaling and their sums of squares; a cell is (floor over the least loss, k, exponents (·, 2)).

    (L − E)^(1/k) is linear in A and B; its residuals are weighed so that they count as relative errors of L.
    """
    n, d = inputs
    starts, sums = [], []
    for fraction, k, exponents in cells:
        above = loss - fraction * loss.min()
        target = above ** (1 / k)
        slope = k * above / target / loss
        columns = np.exp(-np.stack([exponents[:, :1] * n, exponents[:, 1:] * d], axis=1) / k)
        coefficients, squares = nonnegative_least_squares(columns, target, weights * slope**2)
        log_a, log_b = np.clip(safe_log(coefficients.T), -16 / min(k, 1), None)
        floor, log_k = np.full_like(log_a, fraction * loss.min()), np.full_like(log_a, np.log(k))
        starts.append(np.column_stack([floor, *_scale_and_tilt(log_a, log_b, k), exponents, log_k]))
        sums.append(squares)
    return np.concatenate(starts), np.concatenate(sums)


def _scale_and_tilt(log_a: Array, log_b: Array, k: float | Array) -> tuple[Array, Array]:
    return k * ((log_a + log_b) / 2 + np.log(2)), log_a - log_b


def _as_skaling(theta: Array) -> Array:
    """θ of Kaplan's law with a floor → θ of Skaling: b = k = αD."""
    return np.concatenate([theta[..., :4], np.exp(theta[..., 4:]), theta[..., 4:]], axis=-1)


def _without_floor(theta: Array) -> Array:
    return np.concatenate([np.zeros_like(theta[..., :1]), theta], axis=-1)
