"""``ComposedForm``: the target as a sum of products of features, on its own scale or that of its logarithm.

target = Σ c·Π features            (identity)
ln target = Σ c·Π features         (log: products of powers)

and, for what neither can say, two terms that are not linear in their constants: a product above a floor,
c·exp(−Σ b·features), and powers that add up in an effective size, c·(Σ w·x^−a)^k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from .features import KINDS, Constant, Feature

Array = np.ndarray
IDENTITY, LOG = "identity", "log"
STEP = 1e-30
RATE = Constant("b", -3.0, 3.0, 0.2, 0.5)
WEIGHT = Constant("w", -8.0, 8.0, 0.0, 2.0)
JOINT = Constant("k", -2.5, 2.0, 0.0, 0.7)


@dataclass(frozen=True)
class ComposedForm:
    """A formula with constants.

    Attributes:
        name: what it is, in a word or two.
        link: "identity", or "log" for a target above zero.
        features: what is made of the inputs.
        products: each a tuple of places of features, whose product has a coefficient; () is the constant term.
        falling: products of features inside a term c·exp(−Σ b·product); none without it.
        joined: places of power features inside a term c·(Σ w·x^−a)^k; none without it.
    """

    name: str
    link: str
    features: tuple[Feature, ...]
    products: tuple[tuple[int, ...], ...]
    falling: tuple[tuple[int, ...], ...] = ()
    joined: tuple[int, ...] = ()

    @cached_property
    def constants(self) -> tuple[Constant, ...]:
        """The constants that are not linear, in the order of θ."""
        own = tuple(constant for feature in self.features for constant in feature.constants)
        weights = (WEIGHT,) * max(len(self.joined) - 1, 0) + ((JOINT,) if self.joined else ())
        return (*own, *(RATE for _ in self.falling), *weights)

    @property
    def family(self) -> tuple[str | int | bool, ...]:
        """What forms have in common that predict alike far from the runs: the link, and how products are made."""
        degree = max((len(product) for product in self.products), default=0)
        squares = any(len(set(product)) < len(product) for product in self.products)
        below = max((len(product) for product in self.falling), default=0)
        return self.link, degree, squares, below, bool(self.joined)

    @property
    def num_linear(self) -> int:
        """How many coefficients are linear."""
        return len(self.products) + bool(self.falling) + bool(self.joined)

    @property
    def num_constants(self) -> int:
        """The constants of one group."""
        return len(self.constants) + self.num_linear

    @property
    def is_unbounded(self) -> bool:
        """Whether it goes on for ever along an input: by its logarithm, without a floor or an optimum."""
        logarithms = [place for place, feature in enumerate(self.features) if feature.kind == "logarithm"]
        return any((place,) in self.products and (place, place) not in self.products for place in logarithms)

    def columns(self, theta: Array, log: Array, raw: Array) -> Array:
        """What the coefficients multiply, (batch, groups, columns, runs), for θ (batch, constants).

        ``log`` and ``raw`` have shape (inputs, groups, runs): logarithms from the middle of the data, and the inputs;
        or (inputs, batch, groups, runs), where each of the batch has its own.
        """
        return self._columns(theta, self._values(theta, log, raw), log)

    def _values(self, theta: Array, log: Array, raw: Array) -> list[Array]:
        """The features, each (batch, groups, runs)."""
        return [
            feature.evaluate(theta[:, first : first + len(feature.constants)], log, raw)
            for feature, first in zip(self.features, self._firsts, strict=True)
        ]

    @cached_property
    def _firsts(self) -> tuple[int, ...]:
        """Where the constants of each feature, and then those of the other terms, begin in θ."""
        widths = [len(feature.constants) for feature in self.features]
        return tuple(int(first) for first in np.cumsum([0, *widths])[:-1])

    @property
    def _rest(self) -> int:
        """Where the constants that belong to no feature begin in θ."""
        return sum(len(feature.constants) for feature in self.features)

    def _columns(self, theta: Array, values: list[Array], log: Array) -> Array:
        ones = np.ones((len(theta), *log.shape[-2:]), theta.dtype)
        columns = [_product(product, values, ones) for product in self.products]
        if self.falling:
            columns.append(np.exp(-self._exponent(theta, values, ones)))
        if self.joined:
            columns.append(self._joined(theta, log))
        return np.stack(columns, axis=-2)

    def _exponent(self, theta: Array, values: list[Array], ones: Array) -> Array:
        """Σ b·product of the falling term."""
        rates = theta[:, self._rest : self._rest + len(self.falling), None, None]
        terms = (rates[:, place] * _product(product, values, ones) for place, product in enumerate(self.falling))
        return sum(terms, np.zeros_like(ones))

    def _joined(self, theta: Array, log: Array) -> Array:
        """(Σ w·x^−a)^k, the first weight 1."""
        place, total = self._rest + len(self.falling), 0.0
        for number, joined in enumerate(self.joined):
            exponent = theta[:, self._firsts[joined], None, None]
            weight = theta[:, place + number - 1, None, None] if number else 0.0
            total = total + np.exp(weight - exponent * log[self.features[joined].inputs[0]])
        return np.exp(np.exp(theta[:, place + len(self.joined) - 1, None, None]) * np.log(total))

    def slopes(self, theta: Array, log: Array, raw: Array, coefficients: Array) -> Array:
        """Derivatives of the target's scale by θ, (batch, groups, constants, runs).

        Those of a feature by its constants are by the complex step; the rest is the chain rule.
        """
        values = self._values(theta, log, raw)
        ones = np.ones((len(theta), *log.shape[-2:]))
        slopes = np.zeros((*ones.shape[:2], theta.shape[1], log.shape[-1]))
        weights = coefficients[..., None]
        along = [np.zeros_like(ones) for _ in self.features]
        for number, product in enumerate(self.products):
            for place in set(product):
                along[place] += weights[:, :, number] * _derivative(product, place, values, ones)
        if self.falling:
            term = weights[:, :, len(self.products)] * np.exp(-self._exponent(theta, values, ones))
            for number, product in enumerate(self.falling):
                rate = theta[:, self._rest + number, None, None]
                slopes[:, :, self._rest + number] = -term * _product(product, values, ones)
                for place in set(product):
                    along[place] -= term * rate * _derivative(product, place, values, ones)
        for feature, first, outer in zip(self.features, self._firsts, along, strict=True):
            for place in range(len(feature.constants)):
                stepped = theta[:, first : first + len(feature.constants)].astype(complex)
                stepped[:, place] += 1j * STEP
                slopes[:, :, first + place] = outer * np.imag(feature.evaluate(stepped, log, raw)) / STEP
        if self.joined:
            for place in [*(self._firsts[one] for one in self.joined), *range(self._rest, theta.shape[1])]:
                stepped = theta.astype(complex)
                stepped[:, place] += 1j * STEP
                slopes[:, :, place] += weights[:, :, -1] * np.imag(self._joined(stepped, log)) / STEP
        return slopes

    def starts(self, count: int, seed: int = 0) -> Array:
        """Starting points of θ, the first what is expected, the others around it; (count, constants)."""
        if not self.constants:
            return np.empty((1, 0))
        low, high, mean, deviation = self.expected
        drawn = np.random.default_rng(seed).standard_normal((count, len(mean)))
        drawn[0] = 0
        return np.clip(mean + deviation * drawn, low + 1e-6, high - 1e-6)

    @cached_property
    def expected(self) -> Array:
        """Low, high, mean and deviation of the constants, (4, constants)."""
        return np.array([constant[1:] for constant in self.constants], float).reshape(-1, 4).T

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back."""
        return {
            "name": self.name,
            "link": self.link,
            "features": [[feature.kind, list(feature.inputs)] for feature in self.features],
            "products": [list(product) for product in self.products],
            "falling": [list(product) for product in self.falling],
            "joined": list(self.joined),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ComposedForm:
        """The form that ``to_json`` wrote."""
        return cls(
            data["name"],
            data["link"],
            tuple(Feature(kind, tuple(inputs)) for kind, inputs in data["features"] if kind in KINDS),
            tuple(map(tuple, data["products"])),
            tuple(map(tuple, data["falling"])),
            tuple(data["joined"]),
        )


def _product(places: Sequence[int], values: list[Array], ones: Array) -> Array:
    """The product of some features; one for none."""
    result = ones
    for place in places:
        result = result * values[place]
    return result


def _derivative(places: Sequence[int], by: int, values: list[Array], ones: Array) -> Array:
    """The derivative of a product of features by one of them."""
    others = list(places)
    others.remove(by)
    return places.count(by) * _product(others, values, ones)


def up_to_squares(places: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The products of two of some features, squares among them."""
    return tuple(combinations_with_replacement(places, 2))
