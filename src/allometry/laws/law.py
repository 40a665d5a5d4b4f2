"""The laws: for each its names, formula, derivatives and a grid of starts; everything else is shared.

A law computes in coordinates θ that suit a solver: n = ln N and d = ln D are taken from a centre (the middle of the
data), and positive coefficients enter by their logarithm *at that centre*, so that a coefficient and its exponent
hardly correlate. ``values`` and ``theta`` translate to the letters of the paper and back. To add a law, subclass
``Law`` and give the six methods; fitting, intervals, backtest and forecast then work unchanged.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import UserError
from .starts import nonnegative_least_squares

Array = np.ndarray
EXPONENTS = (1e-3, 3.0)
# A coefficient's logarithm at the centre may lie this far below or above the logarithm of the losses.
COEFFICIENT_SPAN = (-16.0, 8.0)


@dataclass(frozen=True)
class Law(ABC):
    """A formula L(N, D) with named constants.

    Attributes:
        name: the key in ``LAWS``.
        formula: for people.
        symbols: the constants in order; ``values`` of a fit has these keys.
        source: paper, or where the form is usual.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    symbols: ClassVar[tuple[str, ...]]
    source: ClassVar[str]

    @property
    def count(self) -> int:
        """The number of constants."""
        return len(self.symbols)

    @abstractmethod
    def log_loss(self, theta: Array, n: Array, d: Array) -> tuple[Array, Array]:
        """ln L, shape (batch, runs), and its derivatives by θ, shape (batch, constants, runs).

        θ has shape (batch, constants); n and d, shape (runs,), are ln N and ln D from the centre.
        """

    @abstractmethod
    def values(self, theta: Array, centre: tuple[float, float]) -> Array:
        """θ (..., constants) around ``centre`` (ln N, ln D) → the constants of the formula, in the order of symbols."""

    @abstractmethod
    def theta(self, values: Array, centre: tuple[float, float]) -> Array:
        """The inverse of ``values``."""

    @abstractmethod
    def bounds(self, loss: Array) -> tuple[Array, Array]:
        """Lower and upper bounds of θ for data with these losses."""

    @abstractmethod
    def starts(self, n: Array, d: Array, loss: Array, weights: Array) -> tuple[Array, Array]:
        """Starting points θ (starts, constants) by variable projection over a grid, and their sums of squares."""

    def loss(self, values: Mapping[str, float], num_params: float | Array, tokens: float | Array) -> float | Array:
        """L at N and D (broadcast together) for constants such as a paper prints; KeyError if one is missing."""
        n, d = np.broadcast_arrays(np.log(np.asarray(num_params, float)), np.log(np.asarray(tokens, float)))
        vector = np.array([values[symbol] for symbol in self.symbols], dtype=float)
        centre = (float(n.mean()), float(d.mean()))
        log_loss, _ = self.log_loss(self.theta(vector, centre)[None], n.ravel() - centre[0], d.ravel() - centre[1])
        return float(np.exp(log_loss[0, 0])) if n.ndim == 0 else np.exp(log_loss[0]).reshape(n.shape)


@dataclass(frozen=True)
class Power(Law):
    """The plain two-factor power law; α and β are negative for a loss that falls. θ = (ln k at the centre, α, β)."""

    name: ClassVar[str] = "power"
    formula: ClassVar[str] = "L = k·N^α·D^β"
    symbols: ClassVar[tuple[str, ...]] = ("k", "alpha", "beta")
    source: ClassVar[str] = "the usual log-linear form"

    def log_loss(self, theta, n, d):
        rows = np.stack([np.ones_like(n), n, d])
        return theta @ rows, np.broadcast_to(rows, (len(theta), *rows.shape))

    def values(self, theta, centre):
        scale, alpha, beta = np.moveaxis(theta, -1, 0)
        return np.stack([np.exp(scale - alpha * centre[0] - beta * centre[1]), alpha, beta], axis=-1)

    def theta(self, values, centre):
        k, alpha, beta = np.moveaxis(values, -1, 0)
        return np.stack([np.log(k) + alpha * centre[0] + beta * centre[1], alpha, beta], axis=-1)

    def bounds(self, loss):
        return np.array([-50.0, -3, -3]), np.array([50.0, 3, 3])

    def starts(self, n, d, loss, weights):
        root = np.sqrt(weights)
        solution, *_ = np.linalg.lstsq(np.stack([root, root * n, root * d], axis=1), root * np.log(loss), rcond=None)
        return solution[None], np.zeros(1)


@dataclass(frozen=True)
class PowerFloor(Law):
    """A power law above a floor E. θ = (E, ln of the second term at the centre, α, β)."""

    name: ClassVar[str] = "power_floor"
    formula: ClassVar[str] = "L = E + k·N^α·D^β"
    symbols: ClassVar[tuple[str, ...]] = ("E", "k", "alpha", "beta")
    source: ClassVar[str] = "the usual log-linear form with an irreducible loss"

    def log_loss(self, theta, n, d):
        rows = np.stack([np.ones_like(n), n, d])
        return _above_floor(theta[:, 0], theta[:, 1:] @ rows, np.broadcast_to(rows, (len(theta), *rows.shape)))

    def values(self, theta, centre):
        return np.concatenate([theta[..., :1], Power().values(theta[..., 1:], centre)], axis=-1)

    def theta(self, values, centre):
        return np.concatenate([values[..., :1], Power().theta(values[..., 1:], centre)], axis=-1)

    def bounds(self, loss):
        low, high = _coefficient_bounds(loss)
        return np.array([0, low, -EXPONENTS[1], -EXPONENTS[1]]), np.array([_floor_bound(loss), high, 0, 0])

    def starts(self, n, d, loss, weights):
        exponents = _grid(np.geomspace(0.01, 2, 24), np.geomspace(0.01, 2, 24))
        term = np.exp(-exponents[:, :1] * n - exponents[:, 1:] * d)
        columns = np.stack([np.ones_like(term), term], axis=1)
        coefficients, squares = nonnegative_least_squares(columns, loss, weights / loss**2)
        return np.column_stack([coefficients[:, 0], _log(coefficients[:, 1]), -exponents]), squares


@dataclass(frozen=True)
class Chinchilla(Law):
    """Hoffmann et al. 2022, approach 3. θ = (E, ln of the N term, ln of the D term at the centre, α, β)."""

    name: ClassVar[str] = "chinchilla"
    formula: ClassVar[str] = "L = E + A/N^α + B/D^β"
    symbols: ClassVar[tuple[str, ...]] = ("E", "A", "B", "alpha", "beta")
    source: ClassVar[str] = "arXiv 2203.15556, equation 2"

    def log_loss(self, theta, n, d):
        floor, log_a, log_b, alpha, beta = theta.T[:, :, None]
        term_n, term_d = np.exp(log_a - alpha * n), np.exp(log_b - beta * d)
        loss = floor + term_n + term_d
        share_n, share_d = term_n / loss, term_d / loss
        return np.log(loss), np.stack([1 / loss, share_n, share_d, -share_n * n, -share_d * d], axis=1)

    def values(self, theta, centre):
        floor, log_a, log_b, alpha, beta = np.moveaxis(theta, -1, 0)
        return np.stack(
            [floor, np.exp(log_a + alpha * centre[0]), np.exp(log_b + beta * centre[1]), alpha, beta], axis=-1
        )

    def theta(self, values, centre):
        floor, a, b, alpha, beta = np.moveaxis(values, -1, 0)
        return np.stack([floor, _log(a) - alpha * centre[0], _log(b) - beta * centre[1], alpha, beta], axis=-1)

    def bounds(self, loss):
        low, high = _coefficient_bounds(loss)
        return np.array([0, low, low, *[EXPONENTS[0]] * 2]), np.array(
            [_floor_bound(loss), high, high, *[EXPONENTS[1]] * 2]
        )

    def starts(self, n, d, loss, weights):
        exponents = _grid(np.geomspace(0.02, 2, 24), np.geomspace(0.02, 2, 24))
        term_n, term_d = np.exp(-exponents[:, :1] * n), np.exp(-exponents[:, 1:] * d)
        columns = np.stack([np.ones_like(term_n), term_n, term_d], axis=1)
        coefficients, squares = nonnegative_least_squares(columns, loss, weights / loss**2)
        return np.column_stack([coefficients[:, 0], _log(coefficients[:, 1:]), exponents]), squares


@dataclass(frozen=True)
class Skaling(Law):
    """Chinchilla's two terms joined by a power k, which is 1 there and grows towards a product of powers.

    θ = (E, s, w, a, b, ln k): the part above E is exp(s)·[(e^(w/2 − a·n/k) + e^(−w/2 − b·d/k))/2]^k, so that a = α·k
    and b = β·k are the exponents where one term dominates, whatever k is.
    """

    name: ClassVar[str] = "skaling"
    formula: ClassVar[str] = "L = E + (A/N^α + B/D^β)^k"
    symbols: ClassVar[tuple[str, ...]] = ("E", "A", "B", "alpha", "beta", "k")
    source: ClassVar[str] = "arXiv 2608.07222"

    def log_loss(self, theta, n, d):
        _, scale, tilt, a, b, log_k = theta.T[:, :, None]
        k = np.exp(log_k)
        u, v = tilt / 2 - a / k * n, -tilt / 2 - b / k * d
        mean = np.logaddexp(u, v) - np.log(2)
        share = 1 / (1 + np.exp(np.clip(v - u, -700, 700)))
        by_k = k * mean + share * a * n + (1 - share) * b * d
        rows = np.stack([np.ones_like(u), k * (share - 0.5), -share * n, -(1 - share) * d, by_k], axis=1)
        return _above_floor(theta[:, 0], scale + k * mean, rows)

    def values(self, theta, centre):
        floor, scale, tilt, a, b, log_k = np.moveaxis(theta, -1, 0)
        k = np.exp(log_k)
        middle = scale / k - np.log(2)
        log_a, log_b = middle + tilt / 2 + a / k * centre[0], middle - tilt / 2 + b / k * centre[1]
        return np.stack([floor, np.exp(log_a), np.exp(log_b), a / k, b / k, k], axis=-1)

    def theta(self, values, centre):
        floor, big_a, big_b, alpha, beta, k = np.moveaxis(values, -1, 0)
        log_a, log_b = _log(big_a) - alpha * centre[0], _log(big_b) - beta * centre[1]
        scale = k * ((log_a + log_b) / 2 + np.log(2))
        return np.stack([floor, scale, log_a - log_b, alpha * k, beta * k, np.log(k)], axis=-1)

    def bounds(self, loss):
        low, high = _coefficient_bounds(loss)
        lower = np.array([0, low, -40, EXPONENTS[0], EXPONENTS[0], np.log(0.08)])
        return lower, np.array([_floor_bound(loss), high, 40, 1.2, 1.2, np.log(20)])

    def starts(self, n, d, loss, weights):
        # (L − E)^(1/k) is linear in A and B; its residuals are weighed so that they count as relative errors of L.
        exponents = _grid(np.geomspace(0.03, 1.2, 9), np.geomspace(0.03, 1.2, 9))
        found = []
        for fraction in (0.0, 0.35, 0.6, 0.75, 0.86, 0.94):
            above = loss - fraction * loss.min()
            for k in (0.2, 0.45, 1.0, 2.5, 8.0):
                target = above ** (1 / k)
                slope = k * above / target / loss
                columns = np.exp(-np.stack([exponents[:, :1] * n, exponents[:, 1:] * d], axis=1) / k)
                coefficients, squares = nonnegative_least_squares(columns, target, weights * slope**2)
                log_a, log_b = np.clip(_log(coefficients.T), -16 / min(k, 1), None)
                floor, log_k = np.full_like(log_a, fraction * loss.min()), np.full_like(log_a, np.log(k))
                scale = k * ((log_a + log_b) / 2 + np.log(2))
                found.append((np.column_stack([floor, scale, log_a - log_b, exponents, log_k]), squares))
        return np.concatenate([theta for theta, _ in found]), np.concatenate([squares for _, squares in found])


LAWS: dict[str, Law] = {law.name: law for law in (Power(), PowerFloor(), Chinchilla(), Skaling())}


def law(name: str | Law) -> Law:
    """The law of that name; a ``Law`` is returned as it is.

    Raises:
        UserError: no such law; the known ones are named.
    """
    if isinstance(name, Law):
        return name
    if name not in LAWS:
        raise UserError(f"no law {name!r}; known are {', '.join(LAWS)}")
    return LAWS[name]


def _above_floor(floor: Array, log_term: Array, rows: Array) -> tuple[Array, Array]:
    """ln(E + e^m) and its derivatives by E and by what m depends on (``rows`` are those of m)."""
    term = np.exp(log_term)
    loss = floor[:, None] + term
    return np.log(loss), np.concatenate([(1 / loss)[:, None], (term / loss)[:, None] * rows], axis=1)


def _coefficient_bounds(loss: Array) -> tuple[float, float]:
    return float(np.log(loss.min())) + COEFFICIENT_SPAN[0], float(np.log(loss.max())) + COEFFICIENT_SPAN[1]


def _floor_bound(loss: Array) -> float:
    """E stays below the lowest loss."""
    return float(loss.min()) * (1 - 1e-6)


def _grid(*axes: Array) -> Array:
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)


def _log(coefficients: Array) -> Array:
    """The logarithm, with zero far below every loss instead of −inf."""
    return np.log(np.maximum(coefficients, 1e-300))
