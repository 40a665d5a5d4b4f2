"""Laws that are a floor and a sum of powers, each a table: which input each term falls with, by which exponent.

For fixed exponents such a law is linear in floor and coefficients, which must not be negative: a whole grid of
exponents is solved at once (variable projection), and every promising cell is a start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from ..base import EXPONENTS, Array, Law, coefficient_bounds, floor_bound, grid, safe_log
from ..variable_projection import nonnegative_least_squares

GRID_CELLS = 600


class _Term(NamedTuple):
    """coefficient / Π input^exponent by places: of the coefficient in θ, and pairs (exponent in θ, input)."""

    coefficient: int
    powers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SumOfPowers(Law):
    """L = floor + Σ coefficient / Π input^exponent.

    θ = (floor if there is one, ln of each term at the centre, the exponents). A subclass gives ``terms``, coefficient
    → (input → exponent), and ``floor``, the symbol of the floor or None. One exponent may serve several terms.
    ``sign`` is −1 where the paper writes the exponents of falling terms as negative numbers.
    """

    terms: ClassVar[dict[str, dict[str, str]]]
    floor: ClassVar[str | None] = "E"
    sign: ClassVar[int] = 1
    # Worked out of ``terms`` once, when the class is made; an evaluation only reads them.
    _first: ClassVar[int]  # where the coefficients begin in θ
    _begin: ClassVar[int]  # where the exponents begin in θ
    _terms: ClassVar[tuple[_Term, ...]]
    _powers: ClassVar[Array]  # 1 where a term falls with an input by an exponent: (terms, exponents, inputs)

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "terms" in cls.__dict__:
            exponents = dict.fromkeys(name for powers in cls.terms.values() for name in powers.values())
            cls.symbols = (*filter(None, [cls.floor]), *cls.terms, *exponents)
            cls.inputs = tuple(dict.fromkeys(name for powers in cls.terms.values() for name in powers))
            cls._first = 0 if cls.floor is None else 1
            cls._begin = cls._first + len(cls.terms)
            cls._terms = tuple(
                _Term(
                    cls._first + j,
                    tuple((cls.symbols.index(exponent), cls.inputs.index(name)) for name, exponent in powers.items()),
                )
                for j, powers in enumerate(cls.terms.values())
            )
            cls._powers = np.zeros((len(cls.terms), len(exponents), len(cls.inputs)))
            for j, term in enumerate(cls._terms):
                for exponent, place in term.powers:
                    cls._powers[j, exponent - cls._begin, place] = 1

    @classmethod
    def places(cls) -> list[dict]:
        """Where θ holds each term: its coefficient, and pairs (exponent, input)."""
        return [
            {"coefficient": term.coefficient, "powers": [list(pair) for pair in term.powers]} for term in cls._terms
        ]

    def log_loss(self, theta, *inputs):
        parts = [self._part(term, theta, inputs) for term in self._terms]
        loss = parts[0]
        for part in parts[1:]:
            loss = loss + part
        jacobian = np.zeros((len(theta), self.num_constants, loss.shape[1]))
        if self._first:
            loss = loss + theta[:, 0, None]
            jacobian[:, 0] = 1 / loss
        for term, part in zip(self._terms, parts, strict=True):
            jacobian[:, term.coefficient] = share = part / loss
            for exponent, place in term.powers:
                jacobian[:, exponent] -= share * (self.sign * inputs[place])
        return np.log(loss), jacobian

    def _part(self, term: _Term, theta: Array, inputs: tuple[Array, ...]) -> Array:
        """One term of the loss, (batch, runs)."""
        (exponent, place), *others = term.powers
        falls = self.sign * theta[:, exponent, None] * inputs[place]
        for exponent, place in others:
            falls += self.sign * theta[:, exponent, None] * inputs[place]
        return np.exp(theta[:, term.coefficient, None] - falls)

    def values(self, theta, centre):
        first, begin = self._first, self._begin
        shift = self.sign * theta[..., begin:] @ (self._powers @ np.asarray(centre)).T
        return np.concatenate(
            [theta[..., :first], np.exp(theta[..., first:begin] + shift), theta[..., begin:]], axis=-1
        )

    def theta(self, values, centre):
        first, begin = self._first, self._begin
        shift = self.sign * values[..., begin:] @ (self._powers @ np.asarray(centre)).T
        return np.concatenate(
            [values[..., :first], safe_log(values[..., first:begin]) - shift, values[..., begin:]], axis=-1
        )

    def bounds(self, loss):
        first, begin = self._first, self._begin
        low, high = coefficient_bounds(loss)
        least, most = (EXPONENTS[0], EXPONENTS[1]) if self.sign > 0 else (-EXPONENTS[1], 0.0)
        lower = [*[0.0] * first, *[low] * (begin - first), *[least] * (self.num_constants - begin)]
        return np.array(lower), np.array(
            [*[floor_bound(loss)] * first, *[high] * (begin - first), *[most] * (self.num_constants - begin)]
        )

    def starts(self, inputs, loss, weights):
        first, begin = self._first, self._begin
        free = self.num_constants - begin
        axis = np.geomspace(0.015, 2, max(round(GRID_CELLS ** (1 / free)), 5))
        exponents = grid(*[axis] * free)
        falls = self._powers @ np.stack(inputs)
        columns = np.exp(-np.einsum("ge,jer->gjr", exponents, falls))
        if first:
            columns = np.concatenate([np.ones_like(columns[:, :1]), columns], axis=1)
        coefficients, squares = nonnegative_least_squares(columns, loss, weights / loss**2)
        return np.concatenate(
            [coefficients[:, :first], safe_log(coefficients[:, first:]), self.sign * exponents], axis=1
        ), squares


@dataclass(frozen=True)
class Power(SumOfPowers):
    """The plain two-factor power law: of any positive metric, α and β negative for one that falls."""

    name: ClassVar[str] = "power"
    formula: ClassVar[str] = "L = k·N^α·D^β"
    source: ClassVar[str] = "the usual log-linear form"
    terms: ClassVar = {"k": {"num_params": "alpha", "tokens": "beta"}}
    floor: ClassVar = None
    sign: ClassVar[int] = -1

    def bounds(self, loss):
        # Linear in its logarithm: no bounds are needed, and a metric may rise.
        return np.array([-50.0, -3, -3]), np.array([50.0, 3, 3])

    def starts(self, inputs, loss, weights):
        root = np.sqrt(weights)
        rows = np.stack([root, *(root * x for x in inputs)], axis=1)
        return np.linalg.lstsq(rows, root * np.log(loss), rcond=None)[0][None], np.zeros(1)


@dataclass(frozen=True)
class PowerFloor(SumOfPowers):
    """The power law above a floor E."""

    name: ClassVar[str] = "power_floor"
    formula: ClassVar[str] = "L = E + k·N^α·D^β"
    source: ClassVar[str] = "the usual log-linear form with an irreducible loss"
    terms: ClassVar = {"k": {"num_params": "alpha", "tokens": "beta"}}
    sign: ClassVar[int] = -1


@dataclass(frozen=True)
class Chinchilla(SumOfPowers):
    """Hoffmann et al. 2022, approach 3."""

    name: ClassVar[str] = "chinchilla"
    formula: ClassVar[str] = "L = E + A/N^α + B/D^β"
    source: ClassVar[str] = "arXiv 2203.15556, equation 2"
    terms: ClassVar = {"A": {"num_params": "alpha"}, "B": {"tokens": "beta"}}


@dataclass(frozen=True)
class ChinchillaTied(SumOfPowers):
    """Chinchilla with one exponent: the best ratio D/N is the same at every budget."""

    name: ClassVar[str] = "chinchilla_tied"
    formula: ClassVar[str] = "L = E + A/N^α + B/D^α"
    source: ClassVar[str] = "arXiv 2403.08540, equation 4"
    terms: ClassVar = {"A": {"num_params": "alpha"}, "B": {"tokens": "alpha"}}


@dataclass(frozen=True)
class ThreeTerm(SumOfPowers):
    """Batch and steps apart: what a larger batch buys is not what more steps buy. M batch in tokens, K steps."""

    name: ClassVar[str] = "three_term"
    formula: ClassVar[str] = "L = E + A/N^α + B/M^β + C/K^γ"
    source: ClassVar[str] = "arXiv 2607.01487"
    terms: ClassVar = {"A": {"num_params": "alpha"}, "B": {"batch_tokens": "beta"}, "C": {"steps": "gamma"}}
