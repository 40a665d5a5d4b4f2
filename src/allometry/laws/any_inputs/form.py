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
    def num_linear(self) -> int:
        """How many coefficients are linear."""
        return len(self.products) + bool(self.falling) + bool(self.joined)

    @property
    def num_constants(self) -> int:
        """The constants of one group."""
        return len(self.constants) + self.num_linear

    def columns(self, theta: Array, log: Array, raw: Array) -> Array:
        """What the coefficients multiply, (batch, groups, columns, runs), for θ (batch, constants).

        ``log`` and ``raw`` have shape (inputs, groups, runs): logarithms from the middle of the data, and the inputs.
        """
        values, place = [], 0
        for feature in self.features:
            width = len(feature.constants)
            values.append(feature.evaluate(theta[:, place : place + width], log, raw))
            place += width
        ones = np.ones((len(theta), *log.shape[1:]), theta.dtype)
        columns = [_product(product, values, ones) for product in self.products]
        if self.falling:
            exponent = sum(
                theta[:, place + number, None, None] * _product(product, values, ones)
                for number, product in enumerate(self.falling)
            )
            columns.append(np.exp(-exponent))
            place += len(self.falling)
        if self.joined:
            columns.append(self._joined(theta, place, log))
        return np.stack(np.broadcast_arrays(*columns), axis=2)

    def _joined(self, theta: Array, place: int, log: Array) -> Array:
        """(Σ w·x^−a)^k, the first weight 1."""
        starts = np.cumsum([0, *(len(feature.constants) for feature in self.features)])
        total = 0.0
        for number, joined in enumerate(self.joined):
            exponent = theta[:, starts[joined], None, None]
            weight = theta[:, place + number - 1, None, None] if number else 0.0
            total = total + np.exp(weight - exponent * log[self.features[joined].inputs[0]])
        return np.exp(np.exp(theta[:, place + len(self.joined) - 1, None, None]) * np.log(total))

    def slopes(self, theta: Array, log: Array, raw: Array, coefficients: Array) -> Array:
        """Derivatives of the target's scale by θ, (batch, groups, constants, runs), by the complex step."""
        parts = []
        for place in range(theta.shape[1]):
            stepped = theta.astype(complex)
            stepped[:, place] += 1j * STEP
            columns = self.columns(stepped, log, raw)
            parts.append(np.einsum("bgj,bgjm->bgm", coefficients, np.imag(columns) / STEP))
        return np.stack(parts, axis=2) if parts else np.empty((len(theta), log.shape[1], 0, log.shape[2]))

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


def up_to_squares(places: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The products of two of some features, squares among them."""
    return tuple(combinations_with_replacement(places, 2))
