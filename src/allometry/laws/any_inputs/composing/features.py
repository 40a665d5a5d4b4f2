"""Features: what a form makes of one input, with at most three constants of its own.

A power is written as (1 − x^−a)/a, which together with a constant says the same as E + A·x^−a, passes through ln x at
a = 0 without a jump, and rises or falls with the sign of its coefficient: one feature covers falling powers above a
floor, logarithms and rising powers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Constant(NamedTuple):
    """A constant of a feature: its symbol, bounds, and what is expected of it before any data (mean, deviation)."""

    symbol: str
    low: float
    high: float
    mean: float
    deviation: float


EXPONENT = Constant("a", -1.0, 3.0, 0.3, 0.5)
# Where an input saturates or begins to count, as a logarithm from the middle of the data.
TURN = Constant("m", -12.0, 12.0, 0.0, 4.0)
STEEPNESS = Constant("b", -3.0, 2.0, -0.5, 0.8)
# The share, as a logarithm, below which a proportion is as good as none.
SMALL_SHARE = Constant("e", -7.0, 0.0, -3.0, 1.0)
# Repetitions, as a logarithm, after which repeated data are worth nothing more.
REPETITIONS = Constant("r", -2.0, 7.0, 2.5, 1.0)


def box_cox(exponent: Array, log: Array) -> Array:
    """(1 − e^(−a·v))/a, and v at a = 0; a may be complex."""
    along = exponent * log
    with np.errstate(all="ignore"):
        plain = -np.expm1(-along) / np.where(exponent == 0, 1, exponent)
    near = log * (1 - along / 2 * (1 - along / 3 * (1 - along / 4)))
    return np.where(np.abs(along) < 1e-3, near, plain)


def soft_log(value: Array) -> Array:
    """ln(1 + e^v) without overflow; v may be complex."""
    high = np.real(value) > 0
    return np.where(high, value, 0) + np.log1p(np.exp(np.where(high, -value, value)))


class Kind(NamedTuple):
    """A kind of feature: its constants, its formula in letters, and how it is worked out.

    ``evaluate`` takes the constants and, for each input that the feature reads, its logarithm from the middle of the
    data and the input itself.
    """

    constants: tuple[Constant, ...]
    text: str
    evaluate: Callable[..., Array]
    inputs: int = 1


def _saturating(constants: list[Array], log: Array, _: Array) -> Array:
    exponent, turn = constants
    return box_cox(exponent, log - soft_log(log - turn))


def _offset(constants: list[Array], log: Array, _: Array) -> Array:
    exponent, turn = constants
    return box_cox(exponent, turn + soft_log(log - turn))


def _hill(constants: list[Array], log: Array, _: Array) -> Array:
    steepness, turn = constants
    return 0.5 * np.tanh(np.exp(steepness) * (log - turn) / 2)


def _share(constants: list[Array], _: Array, raw: Array) -> Array:
    exponent, small = constants
    return box_cox(exponent, np.log(raw + np.exp(small)))


def _repeated(constants: list[Array], log: Array, raw: Array, _: Array, unique: Array) -> Array:
    exponent, repetitions = constants
    decay = np.exp(repetitions)
    times = np.maximum(raw / unique - 1, 0)
    worth = np.log1p(-decay * np.expm1(-times / decay)) - np.log1p(times)
    return box_cox(exponent, log + worth)


KINDS: dict[str, Kind] = {
    "power": Kind((EXPONENT,), "{x}^−{a}", lambda c, log, _: box_cox(c[0], log)),
    "logarithm": Kind((), "ln {x}", lambda _, log, __: log),
    "linear": Kind((), "{x}", lambda _, __, raw: raw),
    "saturating": Kind((EXPONENT, TURN), "({x}/(1 + {x}/{m}))^−{a}", _saturating),
    "offset": Kind((EXPONENT, TURN), "({x} + {m})^−{a}", _offset),
    "hill": Kind((STEEPNESS, TURN), "1/(1 + ({x}/{m})^{b})", _hill),
    "share": Kind((EXPONENT, SMALL_SHARE), "({x} + {e})^−{a}", _share),
    "log_share": Kind((SMALL_SHARE,), "ln({x} + {e})", lambda c, _, raw: np.log(raw + np.exp(c[0]))),
    "repeated": Kind((EXPONENT, REPETITIONS), "{x}'^−{a}", _repeated, inputs=2),
}


@dataclass(frozen=True)
class Feature:
    """A kind applied to inputs, by their places in the table."""

    kind: str
    inputs: tuple[int, ...]

    @property
    def constants(self) -> tuple[Constant, ...]:
        """Its constants."""
        return KINDS[self.kind].constants

    def evaluate(self, constants: Array, log: Array, raw: Array) -> Array:
        """Its value, (batch, groups, runs), from constants (batch, number) and inputs (inputs, groups, runs)."""
        columns = [constants[:, place, None, None] for place in range(len(self.constants))]
        pairs = [part for place in self.inputs for part in (log[place], raw[place])]
        value = KINDS[self.kind].evaluate(columns, *pairs)
        return np.broadcast_to(value, (len(constants), *value.shape[-2:]))
