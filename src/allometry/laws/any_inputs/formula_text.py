"""A fitted form as a formula that a person can quote: constants in place, powers of the inputs themselves."""

from __future__ import annotations

import numpy as np

from .composing.features import Feature
from .composing.form import LOG
from .composing.formula_form import FormulaForm
from .fitted_form import FittedForm

Inputs = tuple[str, ...]
NEAR_ZERO = 0.01
DIGITS = 4


def formula_text(fitted: FittedForm, target: str, inputs: tuple[str, ...], group: int = 0) -> str:
    """``loss = 1.69 + 0.35·(N/2.1e+08)^−0.34 + …`` with the constants of one group."""
    form, theta, coefficients = fitted.form, fitted.theta[group], fitted.coefficients[group]
    if isinstance(form, FormulaForm):
        values = dict(zip(form.linear, coefficients, strict=True))
        values |= {symbol: value.item() for symbol, value in form.natural(theta[None]).items()}
        shown = ", ".join(f"{symbol} = {_number(values[symbol])}" for symbol in form.formula.constants)
        return f"{target}: {form.formula.formula}; {shown}"
    parts, place = [], 0
    for feature in form.features:
        width = len(feature.constants)
        parts.append(_affine(feature, theta[place : place + width], fitted.middle, inputs))
        place += width
    linear = _sum_text(_expanded(form.products, coefficients, parts))
    place_of_term = len(form.products)
    if form.falling:
        rates = -theta[place : place + len(form.falling)]
        linear += f" + {_number(coefficients[place_of_term])}·{_falling_text(form.falling, rates, parts)}"
        place += len(form.falling)
    if form.joined:
        weights = [0.0, *theta[place : place + len(form.joined) - 1]]
        power = float(np.exp(theta[place + len(form.joined) - 1]))
        inside = " + ".join(
            f"{_number(np.exp(weight))}·{parts[number][2]}" for weight, number in zip(weights, form.joined, strict=True)
        )
        linear += f" + {_number(coefficients[-1])}·({inside})^{_number(power)}"
    text = linear.replace("+ −", "− ").removeprefix("0 + ")
    return f"{target} = exp({text})" if form.link == LOG else f"{target} = {text}"


def _affine(feature: Feature, theta: np.ndarray, middle: np.ndarray, inputs: Inputs) -> tuple[float, float, str]:
    """A feature as shift + slope·text, the text in powers of the inputs."""
    place = feature.inputs[0]
    name, centre = inputs[place], float(np.exp(middle[place]))
    unit = f"{name}/{_number(centre)}"
    kind = feature.kind
    if kind == "logarithm":
        return 0.0, 1.0, f"ln({unit})"
    if kind == "linear":
        return 0.0, 1.0, name
    if kind == "log_share":
        return 0.0, 1.0, f"ln({name} + {_number(np.exp(theta[0]))})"
    if kind == "hill":
        turn, steep = centre * float(np.exp(theta[1])), float(np.exp(theta[0]))
        return 0.5, -1.0, f"1/(1 + ({name}/{_number(turn)})^{_number(steep)})"
    inside = unit
    if kind == "saturating":
        turn = centre * float(np.exp(theta[1]))
        inside = f"{unit}/(1 + {name}/{_number(turn)})"
    if kind == "offset":
        inside = f"({name} + {_number(centre * float(np.exp(theta[1])))})/{_number(centre)}"
    if kind == "share":
        inside = f"{name} + {_number(np.exp(theta[1]))}"
    if kind == "repeated":
        decay, unique = _number(np.exp(theta[1])), inputs[feature.inputs[1]]
        inside = f"{unique}·(1 + {decay}·(1 − exp((1 − {name}/{unique})/{decay})))/{_number(centre)}"
    exponent = float(theta[0])
    if abs(exponent) < NEAR_ZERO:
        return 0.0, 1.0, f"ln({inside})"
    return 1 / exponent, -1 / exponent, f"({inside})^{_number(-exponent)}"


def _falling_text(products, rates, parts) -> str:
    """The exponential of a sum, a logarithm alone in a product written as a power."""
    powers, rest = [], []
    for product, rate in zip(products, rates, strict=True):
        text = parts[product[0]][2] if len(product) == 1 else ""
        if text.startswith("ln("):
            powers.append(f"({text[3:-1]})^{_number(rate)}")
        else:
            rest.append((product, rate))
    if rest:
        inside = _sum_text(_expanded([product for product, _ in rest], [rate for _, rate in rest], parts))
        powers.append(f"exp({inside})".replace("+ −", "− ").replace("(0 + ", "("))
    return "·".join(powers)


def _expanded(products, coefficients, parts) -> dict[tuple[str, ...], float]:
    """A sum of products of features as coefficients of products of texts."""
    total: dict[tuple[str, ...], float] = {(): 0.0}
    for product, coefficient in zip(products, coefficients, strict=False):
        terms: dict[tuple[str, ...], float] = {(): float(coefficient)}
        for place in product:
            shift, slope, text = parts[place]
            grown: dict[tuple[str, ...], float] = {}
            for key, value in terms.items():
                if shift:
                    grown[key] = grown.get(key, 0.0) + value * shift
                longer = tuple(sorted((*key, text)))
                grown[longer] = grown.get(longer, 0.0) + value * slope
            terms = grown
        for key, value in terms.items():
            total[key] = total.get(key, 0.0) + value
    return total


def _sum_text(terms: dict[tuple[str, ...], float]) -> str:
    """The terms as one sum, squares written as such."""
    words = []
    for key, value in terms.items():
        factors = [text if key.count(text) == 1 else f"{text}^{key.count(text)}" for text in dict.fromkeys(key)]
        words.append("·".join([_number(value), *factors]))
    return " + ".join(words)


def _number(value: float) -> str:
    return f"{float(value):.{DIGITS}g}".replace("-", "−").replace("e+", "e")
