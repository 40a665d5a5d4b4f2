"""The grammar: which forms a table's inputs can have.

An input is a count or a rate (a power, one that saturates, one that begins late, a Hill curve, or a parabola around an
optimum that moves with the other inputs), a proportion of a whole, or a plain number. Forms are sums, sums with
products, products, products above a floor, and powers that add up in an effective size.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, combinations_with_replacement

import numpy as np

from ...tables.measurements import Measurements
from .features import Feature
from .form import IDENTITY, LOG, ComposedForm, up_to_squares

PLAIN = ("product of powers", "sum of powers", "product above a floor")
# More inputs than this are not tried in pairs or one by one.
MOST_PAIRED = 6
# Runs of a group for each constant of a form with products of three.
LEAST_RUNS_A_CONSTANT = 8


def candidates(runs: Measurements) -> list[ComposedForm]:
    """Every form worth a fit, the plain ones first."""
    varying = [place for place, values in enumerate(runs.points.T) if np.ptp(values) > 0]
    positive = bool((runs.values > 0).all())
    if runs.are_shares:
        return _of_shares(varying, positive)
    features = {place: _default(runs, place) for place in varying}
    forms = _plain(features, positive)
    if len(varying) <= MOST_PAIRED:
        forms += _with_products(features, positive, len(runs) / len(runs.group_names))
        forms += _upgraded(runs, features, positive) + _tuned(runs, features, positive)
    forms += _joined(features)
    distinct: dict[ComposedForm, ComposedForm] = {}
    for form in forms:  # of one input some say the same in other words
        distinct.setdefault(replace(form, name=""), form)
    return list(distinct.values())


def _default(runs: Measurements, place: int) -> str:
    """A power for an input above zero, else the input itself."""
    return "power" if (runs.points[:, place] > 0).all() else "linear"


def _logarithmic(kind: str) -> str:
    return "logarithm" if kind == "power" else kind


def _features(features: dict[int, str]) -> tuple[Feature, ...]:
    return tuple(Feature(kind, (place,)) for place, kind in features.items())


def _each(count: int) -> tuple[tuple[int, ...], ...]:
    return tuple((place,) for place in range(count))


def _plain(features: dict[int, str], positive: bool) -> list[ComposedForm]:
    logarithms = {place: _logarithmic(kind) for place, kind in features.items()}
    count = len(features)
    link = LOG if positive else IDENTITY
    return [
        ComposedForm(PLAIN[0], link, _features(logarithms), ((), *_each(count))),
        ComposedForm(PLAIN[1], IDENTITY, _features(features), ((), *_each(count))),
        ComposedForm(PLAIN[2], IDENTITY, _features(logarithms), ((),), falling=_each(count)),
    ]


def _with_products(features: dict[int, str], positive: bool, runs: float) -> list[ComposedForm]:
    """Sums with the products of pairs, of squares and, with many runs in a group, of three, on either scale."""
    count, forms = len(features), []
    pairs = tuple(combinations(range(count), 2))
    logarithms = _features({place: _logarithmic(kind) for place, kind in features.items()})
    for link in (IDENTITY, LOG) if positive else (IDENTITY,):
        scale = "" if link == IDENTITY else ", in the logarithm"
        powers = _features(features)
        if link == LOG:
            forms.append(ComposedForm(f"sum of powers{scale}", link, powers, ((), *_each(count))))
        if pairs:
            forms.append(ComposedForm(f"sum of powers with products{scale}", link, powers, ((), *_each(count), *pairs)))
            forms.append(
                ComposedForm(f"logarithms with products{scale}", link, logarithms, ((), *_each(count), *pairs))
            )
        squares = up_to_squares(range(count))
        forms.append(ComposedForm(f"parabolas in logarithms{scale}", link, logarithms, ((), *_each(count), *squares)))
        cubes = tuple(combinations_with_replacement(range(count), 3))
        if LEAST_RUNS_A_CONSTANT * (1 + count + len(squares) + len(cubes)) < runs:
            products = ((), *_each(count), *squares, *cubes)
            forms.append(ComposedForm(f"powers with products of three{scale}", link, powers, products))
    if pairs:
        forms.append(
            ComposedForm("product with products above a floor", IDENTITY, logarithms, ((),), (*_each(count), *pairs))
        )
    return forms


def _upgraded(runs: Measurements, features: dict[int, str], positive: bool) -> list[ComposedForm]:
    """One input at a time saturates, begins late, follows a Hill curve, or is repeated data."""
    forms, count = [], len(features)
    pairs = tuple(combinations(range(count), 2))
    for place, kind in features.items():
        if kind != "power":
            continue
        for other in ("saturating", "offset", "hill"):
            changed = _features(features | {place: other})
            name = f"{other} {runs.inputs[place]}"
            forms.append(ComposedForm(f"sum of powers, {name}", IDENTITY, changed, ((), *_each(count))))
            if pairs:
                forms.append(ComposedForm(f"sum with products, {name}", IDENTITY, changed, ((), *_each(count), *pairs)))
            if positive:
                forms.append(ComposedForm(f"product of powers, {name}", LOG, changed, ((), *_each(count), *pairs)))
    for total in features:
        for unique in features:
            a, b = runs.points[:, total], runs.points[:, unique]
            if total != unique and (b > 0).all() and (b <= a * (1 + 1e-9)).all() and (a > 1.01 * b).mean() > 0.02:
                repeated = tuple(
                    Feature("repeated", (total, unique)) if place == total else Feature(kind, (place,))
                    for place, kind in features.items()
                    if place != unique
                )
                each = _each(len(repeated))
                name = f"{runs.inputs[total]} repeated beyond {runs.inputs[unique]}"
                forms.append(ComposedForm(f"sum of powers, {name}", IDENTITY, repeated, ((), *each)))
                products = tuple(combinations(range(len(repeated)), 2))
                if products:
                    forms.append(ComposedForm(f"sum with products, {name}", IDENTITY, repeated, ((), *each, *products)))
                if positive:
                    forms.append(ComposedForm(f"product of powers, {name}", LOG, repeated, ((), *each, *products)))
    return forms


def _tuned(runs: Measurements, features: dict[int, str], positive: bool) -> list[ComposedForm]:
    """Some inputs have an optimum, which moves with the others: a parabola in their logarithms beside powers."""
    places = [place for place, kind in features.items() if kind == "power"]
    count, forms = len(features), []
    order = list(features)
    for size in (1, 2):
        for tuned in combinations(places, size):
            if size >= len(features) + (len(features) == 1):
                continue
            kinds = features | dict.fromkeys(tuned, "logarithm")
            inside = [order.index(place) for place in tuned]
            squares = up_to_squares(inside)
            moving = tuple((min(a, b), max(a, b)) for a in inside for b in range(count) if b not in inside)
            sizes = tuple(combinations([place for place in range(count) if place not in inside], 2))
            for link in (IDENTITY, LOG) if positive else (IDENTITY,):
                scale = "" if link == IDENTITY else ", in the logarithm"
                name = f"powers around an optimum of {' and '.join(runs.inputs[place] for place in tuned)}{scale}"
                products = ((), *_each(count), *squares, *moving, *sizes)
                forms.append(ComposedForm(name, link, _features(kinds), products))
    return forms


def _joined(features: dict[int, str]) -> list[ComposedForm]:
    """Powers that add up in an effective size."""
    places = [number for number, kind in enumerate(features.values()) if kind == "power"]
    if len(places) < 2 or len(places) < len(features):
        return []
    return [ComposedForm("powers that add up in one size", IDENTITY, _features(features), ((),), joined=tuple(places))]


def _of_shares(varying: list[int], positive: bool) -> list[ComposedForm]:
    """Proportions: each by itself, their exponential (a mixing law), their logarithms, with cross terms."""
    count, forms = len(varying), []
    for kind in ("linear", "log_share", "share"):
        features = tuple(Feature(kind, (place,)) for place in varying)
        forms.append(ComposedForm(f"sum of {kind.replace('_', ' of ')}s", IDENTITY, features, ((), *_each(count))))
        if positive:
            forms.append(ComposedForm(f"product of {kind.replace('_', ' of ')}s", LOG, features, ((), *_each(count))))
    linear = tuple(Feature("linear", (place,)) for place in varying)
    forms.append(ComposedForm("mixing law", IDENTITY, linear, ((),), falling=_each(count)))
    return forms
