"""A ``Formula`` as a form over any inputs: linear in its floor and coefficients, which every group has of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ....errors import UserError
from ...field_names import KNOWN, normalise
from ...forms.formula import Formula, low_discrepancy
from ...forms.input_laws import INPUT_LAWS
from ...tables.measurements import Measurements
from .features import Constant
from .form import IDENTITY, STEP

Array = np.ndarray


@dataclass(frozen=True)
class FormulaForm:
    """A formula over the inputs of a table.

    Attributes:
        formula: the formula.
        places: of its inputs among those of the table.
    """

    formula: Formula
    places: tuple[int, ...]

    @classmethod
    def of(cls, formula: Formula, inputs: Sequence[str]) -> FormulaForm:
        """The formula over a table with these inputs.

        Raises:
            UserError: the formula reads an input that is not there, or has neither floor nor coefficient.
        """
        if not any(isinstance(kind, str) for kind in formula.constants.values()):
            raise UserError(
                f"law {formula.name} has neither a floor nor a coefficient, which a law of named inputs needs"
            )
        return cls(formula, tuple(_place(name, inputs, formula.name) for name in formula.inputs))

    @property
    def name(self) -> str:
        """The formula's name."""
        return self.formula.name

    @property
    def link(self) -> str:
        """A formula gives the target itself."""
        return IDENTITY

    @cached_property
    def constants(self) -> tuple[Constant, ...]:
        """The constants with a range, on the scale of the logarithm where it lies above zero."""
        return tuple(_constant(symbol, kind) for symbol, kind in self.ranges.items())

    @cached_property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The constants with a range."""
        return {symbol: kind for symbol, kind in self.formula.constants.items() if not isinstance(kind, str)}

    @cached_property
    def linear(self) -> tuple[str, ...]:
        """The floor and the coefficients."""
        return tuple(symbol for symbol, kind in self.formula.constants.items() if isinstance(kind, str))

    @property
    def family(self) -> str:
        """A named law is one of its own."""
        return self.name

    @property
    def num_linear(self) -> int:
        """How many they are."""
        return len(self.linear)

    @property
    def num_constants(self) -> int:
        """The constants of one group."""
        return len(self.formula.constants)

    @property
    def is_unbounded(self) -> bool:
        """A formula is taken as it was written."""
        return False

    @cached_property
    def expected(self) -> Array:
        """Low, high, mean and deviation of the constants, (4, constants)."""
        return np.array([constant[1:] for constant in self.constants], float).reshape(-1, 4).T

    def starts(self, count: int, seed: int = 0) -> Array:
        """Starting points of θ, even over the ranges; (count, constants)."""
        if not self.constants:
            return np.empty((1, 0))
        low, high, *_ = self.expected
        return low + low_discrepancy(STARTS_EACH * count, len(low)) * (high - low)

    def natural(self, theta: Array) -> dict[str, Array]:
        """θ (batch, constants) as the constants of the formula, each (batch, 1, 1)."""
        pairs = zip(self.ranges.items(), theta.T, strict=True)
        return {symbol: (np.exp(value) if kind[0] > 0 else value)[:, None, None] for (symbol, kind), value in pairs}

    def columns(self, theta: Array, log: Array, raw: Array) -> Array:
        """What floor and coefficients multiply, (batch, groups, columns, runs)."""
        constants, inputs = self.natural(theta), [raw[place] for place in self.places]
        shape = (len(theta), *log.shape[-2:])
        columns = []
        for symbol in self.linear:
            unit = {other: np.full((1, 1, 1), float(other == symbol)) for other in self.linear}
            columns.append(np.broadcast_to(self.formula.evaluate(constants | unit, *inputs), shape))
        return np.stack(columns, axis=-2)

    def slopes(self, theta: Array, log: Array, raw: Array, coefficients: Array) -> Array:
        """Derivatives by θ by the complex step, (batch, groups, constants, runs)."""
        inputs, shape = [raw[place] for place in self.places], (len(theta), *log.shape[-2:])
        given = {symbol: coefficients[:, :, number, None] for number, symbol in enumerate(self.linear)}
        slopes = np.zeros((*shape[:2], theta.shape[1], shape[2]))
        for place in range(theta.shape[1]):
            stepped = theta.astype(complex)
            stepped[:, place] += 1j * STEP
            value = self.formula.evaluate(self.natural(stepped) | given, *inputs)
            slopes[:, :, place] = np.broadcast_to(np.imag(value) / STEP, shape)
        return slopes

    def to_json(self) -> dict[str, Any]:
        """The formula's name and text, and the places of its inputs."""
        return {"formula": self.formula.name, "text": self.formula.formula, "places": list(self.places)}


STARTS_EACH = 4


def named_forms(runs: Measurements) -> list[FormulaForm]:
    """The published laws that read just the inputs which vary in these runs, by their names."""
    varying = {place for place, values in enumerate(runs.points.T) if np.ptp(values) > 0}
    forms = []
    for formula in INPUT_LAWS.values():
        try:
            form = FormulaForm.of(formula, runs.inputs)
        except UserError:
            continue
        if set(form.places) == varying and (runs.points[:, form.places] > 0).all():
            forms.append(form)
    return forms


def _constant(symbol: str, kind: tuple[float, float]) -> Constant:
    low, high = np.log(kind) if kind[0] > 0 else kind
    return Constant(symbol, float(low), float(high), float(low + high) / 2, float(high - low) / 3)


def _place(name: str, inputs: Sequence[str], law: str) -> int:
    """Where the table has an input of a law: by its name, or by the usual names of sizes and tokens."""
    if name in inputs:
        return list(inputs).index(name)
    usual = [place for place, own in enumerate(inputs) if normalise(own) in KNOWN.get(name, ())]
    if not usual:
        raise UserError(f"law {law} reads {name}; the inputs are {', '.join(inputs)}: name the column so")
    return usual[0]
