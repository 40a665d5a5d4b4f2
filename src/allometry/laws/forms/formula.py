"""Any formula as a law: written once, as it stands in the paper; derivatives and starts are computed from it.

Derivatives are by the complex step, L'(x) = Im L(x + ih)/h, which is exact to rounding for anything made of sums,
products, powers, exp and log. Starts come from a low-discrepancy sample of the constants with a range; the formula is
linear in floor and coefficients, so these are solved for at every sample (variable projection).

>>> class Sharp(Formula):
...     name, formula, source = "sharp", "L = E + A/(N^α·√D)", "mine"
...     constants = {"E": FLOOR, "A": COEFFICIENT, "alpha": (0.01, 1)}
...     def evaluate(self, c, n, d):
...         return c["E"] + c["A"] / (n ** c["alpha"] * d**0.5)
>>> laws.fit(Sharp(), observations)
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..base import Array, Law, floor_bound
from ..variable_projection import nonnegative_least_squares

FLOOR, COEFFICIENT = "floor", "coefficient"
EXPONENT = (0.02, 1.5)
# The constants of what most laws of further inputs add to: see ``size_and_data``.
SIZE_AND_DATA: dict[str, str | tuple[float, float]] = {
    "E": FLOOR,
    "A": COEFFICIENT,
    "B": COEFFICIENT,
    "alpha": EXPONENT,
    "beta": EXPONENT,
}
# ln of a coefficient in the formula's own units, which are not known.
COEFFICIENT_LOG = (-200.0, 400.0)
SAMPLES = 512
STEP = 1e-30


@dataclass(frozen=True)
class Formula(Law):
    """A law by its formula; N, D and other inputs come as they are, not as logarithms.

    ``constants`` gives the kind of each symbol, in order: ``FLOOR`` (zero to the lowest loss), ``COEFFICIENT``
    (positive, a factor of one term), or (least, most) of a constant that is not linear. Positive ones are
    searched by their logarithm.
    """

    constants: ClassVar[dict[str, str | tuple[float, float]]]

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "constants" in cls.__dict__:
            cls.symbols = tuple(cls.constants)

    @abstractmethod
    def evaluate(self, constants: dict[str, Array], *inputs: Array) -> Array:
        """L for constants of shape (batch, 1) and inputs of shape (runs,); they may be complex."""

    @property
    def _logarithmic(self) -> Array:
        """Which constants θ holds the logarithm of."""
        return np.array(
            [kind == COEFFICIENT or (not isinstance(kind, str) and kind[0] > 0) for kind in self.constants.values()]
        )

    def centre(self, inputs):
        # A formula need not keep its form when N and D are counted in other units.
        return (0.0,) * len(inputs)

    def log_loss(self, theta, *inputs):
        raw = [np.exp(x) for x in inputs]
        # One row of constants for the value and one for the derivative by each constant.
        steps = 1j * STEP * np.concatenate([np.zeros((1, self.num_constants)), np.eye(self.num_constants)])
        stepped = (theta[:, None] + steps).reshape(-1, self.num_constants)
        with np.errstate(all="ignore"):
            log_loss = np.log(self._at(self._natural(stepped), raw)).reshape(
                *theta.shape[:1], self.num_constants + 1, -1
            )
        return np.real(log_loss[:, 0]), np.imag(log_loss[:, 1:]) / STEP

    def values(self, theta, centre):
        return self._natural(theta)

    def theta(self, values, centre):
        return np.where(self._logarithmic, np.log(np.where(self._logarithmic, np.maximum(values, 1e-300), 1)), values)

    def bounds(self, loss):
        pairs = {FLOOR: (0.0, floor_bound(loss)), COEFFICIENT: COEFFICIENT_LOG}
        logs = self._logarithmic
        rows = [
            pairs[kind] if isinstance(kind, str) else (np.log(kind) if log else kind)
            for kind, log in zip(self.constants.values(), logs, strict=True)
        ]
        lower, upper = np.array(rows, dtype=float).T
        return lower, upper

    def starts(self, inputs, loss, weights):
        lower, upper = self.bounds(loss)
        linear = np.array([isinstance(kind, str) for kind in self.constants.values()])
        theta = np.where(linear, 0.0, lower + low_discrepancy(SAMPLES, self.num_constants) * (upper - lower))
        raw = [np.exp(x) for x in inputs]
        with np.errstate(all="ignore"):
            natural = self._natural(theta)
            units = [np.where(linear, np.eye(self.num_constants)[j], natural) for j in np.flatnonzero(linear)]
            columns = np.stack([self._at(unit, raw) for unit in units], axis=1) if units else None
        if columns is None:
            squares = (weights * (self.log_loss(theta, *inputs)[0] - np.log(loss)) ** 2).sum(axis=1)
        else:
            # A column that overflows belongs to constants that no data have.
            sound = np.isfinite(columns).all(axis=(1, 2)) & (np.abs(columns) < 1e100).all(axis=(1, 2))
            theta, columns = theta[sound], columns[sound]
            coefficients, squares = nonnegative_least_squares(columns, loss, weights / loss**2)
            natural = self._natural(theta)
            natural[:, linear] = coefficients
            theta = self.theta(natural, ())
        finite = np.isfinite(squares)
        return theta[finite], squares[finite]

    def _natural(self, theta: Array) -> Array:
        logs = self._logarithmic
        return np.where(logs, np.exp(np.where(logs, theta, 0)), theta)

    def _at(self, natural: Array, raw: list[Array]) -> Array:
        return self.evaluate(dict(zip(self.symbols, natural.T[:, :, None], strict=True)), *raw)


@dataclass(frozen=True)
class DataConstrained(Formula):
    """Chinchilla on effective N' and D' when the U unique tokens are repeated: each repetition is worth less.

    D' = U + U·R_D·(1 − e^(−(D/U − 1)/R_D)), and N' the same from the size U_N that is best for U tokens.
    """

    name: ClassVar[str] = "data_constrained"
    formula: ClassVar[str] = "L = E + A/N'^α + B/D'^β, X' = U_X + U_X·R_X·(1 − e^(−(X/U_X − 1)/R_X))"
    source: ClassVar[str] = "arXiv 2305.16264, equations 5 to 8"
    inputs: ClassVar[tuple[str, ...]] = ("num_params", "tokens", "unique_tokens")
    constants: ClassVar = SIZE_AND_DATA | {"R_N": (0.05, 500.0), "R_D": (0.05, 500.0)}

    def evaluate(self, c, n, d, unique):
        tokens = worth(d, unique, c["R_D"])
        # The best size for U tokens on the law's own frontier; without a law (A = 0 or B = 0 while starts are
        # computed) sizes count fully.
        with np.errstate(all="ignore"):
            ratio = (c["alpha"] * c["A"]) / (c["beta"] * c["B"])
            best = ratio ** (1 / c["alpha"]) * unique ** (c["beta"] / c["alpha"])
            size = worth(n, best, c["R_N"])
        size = np.where(np.isfinite(size) & (np.real(size) > 0), size, n)
        return size_and_data(c, size, tokens)


def size_and_data(c: dict[str, Array], n: Array, d: Array) -> Array:
    """E + A/N^α + B/D^β (arXiv 2203.15556)."""
    return c["E"] + c["A"] / n ** c["alpha"] + c["B"] / d ** c["beta"]


def worth(amount: Array, unique: Array, decay: Array) -> Array:
    """The effective amount when all beyond ``unique`` is repetition: never more than unique·(1 + decay)."""
    repeated = unique * (1 - decay * np.expm1((1 - amount / unique) / decay))
    return np.where(np.real(amount) > np.real(unique), repeated, amount)


def low_discrepancy(count: int, dimensions: int) -> Array:
    """Points in the unit cube by the additive recurrence of Roberts: even in any number of dimensions."""
    root = 2.0
    for _ in range(64):  # the positive root of x^(d + 1) = x + 1
        root = (1 + root) ** (1 / (dimensions + 1))
    steps = root ** -np.arange(1.0, dimensions + 1)
    return (0.5 + np.outer(np.arange(1, count + 1), steps)) % 1
