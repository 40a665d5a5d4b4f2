"""A form as steps of arithmetic: what its formula does with numbers, recorded while it is evaluated.

The formula is evaluated once with ``TracedNumber`` in the place of constants and inputs; each operation becomes a step.
So there is one text of every formula, and a program without NumPy can follow the steps, with derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from ..composing.features import KINDS
from ..composing.form import ComposedForm
from ..composing.formula_form import FormulaForm
from ..projection import AnyForm

Step = tuple[Any, ...]
# NumPy's functions whose steps there are; each has one number or two.
OPERATIONS = frozenset(
    {
        *("add", "subtract", "multiply", "divide", "power", "negative", "absolute", "maximum", "minimum"),
        *("exp", "expm1", "log", "log1p", "log10", "sqrt", "square", "tanh"),
        *("greater", "greater_equal", "less", "less_equal", "equal", "isfinite", "bitwise_and"),
    }
)


class NoSteps(TypeError):
    """A formula does something for which there is no step."""


class Tape:
    """The steps so far; one that was done before is not done again."""

    def __init__(self) -> None:
        self.steps: dict[Step, int] = {}

    def step(self, *step: Any) -> TracedNumber:
        """The result of a step: its name, then numbers or the places of earlier steps."""
        return TracedNumber(self, self.steps.setdefault(step, len(self.steps)))

    def place(self, value: Any) -> int:
        """Where a value stands; a plain number becomes a step.

        Raises:
            NoSteps: an array of several numbers, or something else.
        """
        if isinstance(value, TracedNumber):
            return value.place
        if np.size(value) != 1 or not np.isreal(value):
            raise NoSteps("a formula of arrays")
        return self.steps.setdefault(("number", float(np.asarray(value).item())), len(self.steps))


class TracedNumber(NDArrayOperatorsMixin):
    """A number that records what NumPy does with it."""

    def __init__(self, tape: Tape, place: int) -> None:
        self.tape, self.place = tape, place

    def __array_ufunc__(self, function: np.ufunc, method: str, *given: Any, **named: Any) -> TracedNumber:
        if method != "__call__" or named or function.__name__ not in OPERATIONS:
            raise NoSteps(f"numpy.{function.__name__}")
        return self.tape.step(function.__name__, *map(self.tape.place, given))

    def __array_function__(self, function: Any, _: Any, given: Sequence[Any], named: Any) -> Any:
        if function is np.real and len(given) == 1:
            return given[0]
        if function is not np.where or len(given) != 3 or named:
            raise NoSteps(f"numpy.{function.__name__}")
        return self.tape.step("where", *map(self.tape.place, given))

    def __bool__(self) -> bool:
        raise NoSteps("a formula that decides by a number")

    def __float__(self) -> float:
        raise NoSteps("a formula of Python's own functions")


def form_steps(form: AnyForm) -> list[Step]:
    """What the form predicts on the scale of its link, as steps, the last of which is the value.

    A step is (name, …): ("number", value), ("constant", place among θ and then the coefficients), ("input" or
    "input_log", place of an input; its logarithm from the middle), or a function of earlier steps by their places.

    Raises:
        NoSteps: a formula of one's own that does something else.
    """
    tape = Tape()
    constants = [tape.step("constant", place) for place in range(len(form.constants) + form.num_linear)]
    theta, coefficients = constants[: len(form.constants)], constants[len(form.constants) :]
    try:
        if isinstance(form, FormulaForm):
            last = tape.place(_formula(form, tape, theta, coefficients))
        else:
            last = tape.place(_composed(form, tape, theta, coefficients))
    except (AttributeError, TypeError, ValueError, IndexError) as error:  # what a formula asks of an array
        raise NoSteps(f"{form.name}: {error}") from None
    steps = list(tape.steps)
    return steps if last == len(steps) - 1 else [*steps, ("add", last, tape.place(0.0))]


def _formula(form: FormulaForm, tape: Tape, theta: Sequence[Any], coefficients: Sequence[Any]) -> Any:
    pairs = zip(form.ranges.items(), theta, strict=True)
    natural = {symbol: np.exp(value) if kind[0] > 0 else value for (symbol, kind), value in pairs}
    natural |= dict(zip(form.linear, coefficients, strict=True))
    inputs: Any = [tape.step("input", place) for place in form.places]
    return form.formula.evaluate(natural, *inputs)


def _composed(form: ComposedForm, tape: Tape, theta: Sequence[Any], coefficients: Sequence[Any]) -> Any:
    """Σ coefficient·column, as ``ComposedForm.columns`` has them."""
    values, firsts, place = [], [], 0
    for feature in form.features:
        firsts.append(place)
        inputs = [tape.step(kind, one) for one in feature.inputs for kind in ("input_log", "input")]
        own = list(theta[place : place + len(feature.constants)])
        values.append(KINDS[feature.kind].evaluate(own, *inputs))
        place += len(feature.constants)
    columns = [_product(values, product) for product in form.products]
    if form.falling:
        rates = theta[place : place + len(form.falling)]
        terms = zip(rates, form.falling, strict=True)
        columns.append(np.exp(-sum(rate * _product(values, product) for rate, product in terms)))
        place += len(form.falling)
    if form.joined:
        total = 0.0
        for number, one in enumerate(form.joined):
            weight = theta[place + number - 1] if number else 0.0
            log = tape.step("input_log", form.features[one].inputs[0])
            total = total + np.exp(weight - theta[firsts[one]] * log)
        columns.append(np.exp(np.exp(theta[place + len(form.joined) - 1]) * np.log(total)))
    return sum(coefficient * column for coefficient, column in zip(coefficients, columns, strict=True))


def _product(values: Sequence[Any], places: Sequence[int]) -> Any:
    return prod(values[place] for place in places)
