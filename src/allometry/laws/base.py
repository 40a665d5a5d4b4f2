"""What a law is: named constants, a formula, bounds and starts; everything else is shared.

A law computes in coordinates θ that suit a solver. Its inputs, N and D by default, come as logarithms
from a centre (the middle of the data), and positive coefficients enter by their logarithm *at that centre*, so that a
coefficient and its exponent hardly correlate. ``values`` and ``theta`` translate to the letters of the paper and back.

To add a law, take the base that fits and give it to ``laws.fit``; intervals, backtest and forecast then work unchanged:

- ``SumOfPowers`` (sums_of_powers.py): a floor and terms like B/D^β, given as a table;
- ``Formula`` (formula.py): any formula, written once as it stands in the paper;
- ``Law`` itself: to give better starts and derivatives than these two can find.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from ..errors import UserError

Array = np.ndarray
EXPONENTS = (1e-3, 3.0)
# A coefficient's logarithm at the centre may lie this far below or above the logarithm of the losses.
COEFFICIENT_SPAN = (-16.0, 8.0)


@dataclass(frozen=True)
class Law(ABC):
    """A formula for the loss with named constants.

    Attributes:
        name: the key in ``LAWS``.
        formula: for people.
        symbols: the constants in order; ``values`` of a fit has these keys.
        source: paper, or where the form is common.
        inputs: the columns of ``Observations`` that it reads.
    """

    name: ClassVar[str]
    formula: ClassVar[str]
    symbols: ClassVar[tuple[str, ...]]
    source: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ("num_params", "tokens")

    @property
    def num_constants(self) -> int:
        """The number of constants."""
        return len(self.symbols)

    @abstractmethod
    def log_loss(self, theta: Array, *inputs: Array) -> tuple[Array, Array]:
        """ln L, shape (batch, runs), and its derivatives by θ, shape (batch, constants, runs).

        θ has shape (batch, constants); each of the inputs, shape (runs,), is a logarithm from the centre.
        """

    @abstractmethod
    def values(self, theta: Array, centre: Sequence[float]) -> Array:
        """θ (..., constants) around ``centre`` → the constants of the formula, in the order of symbols."""

    @abstractmethod
    def theta(self, values: Array, centre: Sequence[float]) -> Array:
        """The inverse of ``values``."""

    @abstractmethod
    def bounds(self, loss: Array) -> tuple[Array, Array]:
        """Lower and upper bounds of θ for data with these losses."""

    @abstractmethod
    def starts(self, inputs: Sequence[Array], loss: Array, weights: Array) -> tuple[Array, Array]:
        """Starting points θ (starts, constants) by variable projection over a grid, and their sums of squares."""

    def centre(self, inputs: Sequence[Array]) -> tuple[float, ...]:
        """The middle of the logarithms, to which θ refers."""
        return tuple(float(x.mean()) for x in inputs)

    def loss(self, values: Mapping[str, float], *inputs: float | Array) -> float | Array:
        """L at the inputs (broadcast together), for constants in the formula's units; KeyError if one is missing."""
        logs = np.broadcast_arrays(*(np.log(np.asarray(x, float)) for x in inputs))
        vector = np.array([values[symbol] for symbol in self.symbols], dtype=float)
        flat = [x.ravel() for x in logs]
        centre = self.centre(flat)
        centred = (x - middle for x, middle in zip(flat, centre, strict=True))
        log_loss = self.log_loss(self.theta(vector, centre)[None], *centred)[0][0]
        return float(np.exp(log_loss[0])) if logs[0].ndim == 0 else np.exp(log_loss).reshape(logs[0].shape)


def coefficient_bounds(loss: Array) -> tuple[float, float]:
    """Least and most of a coefficient's logarithm at the centre."""
    return float(np.log(loss.min())) + COEFFICIENT_SPAN[0], float(np.log(loss.max())) + COEFFICIENT_SPAN[1]


def floor_bound(loss: Array) -> float:
    """A floor stays below the lowest loss."""
    return float(loss.min()) * (1 - 1e-6)


def grid(*axes: Sequence[float] | Array) -> Array:
    """All combinations, shape (cells, axes)."""
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)


def safe_log(coefficients: Array) -> Array:
    """The logarithm, with zero far below every loss instead of −inf."""
    return np.log(np.maximum(coefficients, 1e-300))


AnyLaw = TypeVar("AnyLaw", bound=Law)


def by_name(name: str, known: Mapping[str, AnyLaw], what: str = "law") -> AnyLaw:
    """The law of that name.

    Raises:
        UserError: no such law; the known ones are named.
    """
    if name not in known:
        raise UserError(f"no {what} {name!r}; known are {', '.join(known)}")
    return known[name]
