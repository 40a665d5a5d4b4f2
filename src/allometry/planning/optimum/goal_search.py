"""The compute at which a curve over FLOPs passes a goal: a falling curve of losses, or a growing size."""

from __future__ import annotations

import math
from collections.abc import Callable

from ...errors import UserError

MOST_FLOPS = 1e45
LEAST_LOSS, MOST_LOSS = 1e-100, 1e100
Curve = Callable[[float], float]
Point = tuple[float, float]


def compute_for(curve: Curve, goal: float, start: float) -> float | None:
    """The FLOPs at which a falling ``curve`` passes ``goal``; None if it does not before 1e45 FLOPs.

    Brackets by factors of ten from ``start``, then false position in the logarithms (the Illinois variant).

    Raises:
        UserError: the curve is below the goal down to the smallest budget.
    """
    # Far below the runs the end of an interval may be 0 or infinite.
    excess = lambda log_flops: math.log(min(max(curve(math.exp(log_flops)), LEAST_LOSS), MOST_LOSS) / goal)
    here, value = _first_affordable(excess, math.log(start))
    step = math.copysign(math.log(10.0), value)
    while abs(step) > 1e-9:
        there = here + step
        if there > math.log(MOST_FLOPS):
            return None
        try:
            ahead = excess(there)
        except UserError:  # the budget is too small: it must pay for a token, and for serving
            step /= 2
            continue
        if not value * ahead > 0:
            return math.exp(_root(excess, (here, value), (there, ahead)))
        here, value = there, ahead
    raise UserError(f"a loss of {goal:g} is above what the law gives even for the smallest run")


def compute_where(excess: Curve, start: float) -> float | None:
    """The FLOPs at which a growing ``excess`` passes zero; None if it does not between 1 and 1e45 FLOPs.

    Brackets by factors of ten from ``start``, then halves the bracket, as ``excess`` may jump.
    """
    value = lambda log_flops: excess(math.exp(log_flops))
    low = high = math.log(start)
    try:
        while value(high) < 0:
            low, high = high, high + math.log(10.0)
            if high > math.log(MOST_FLOPS):
                return None
        while value(low) > 0:
            low, high = low - math.log(10.0), low
    except UserError:  # below, the budget pays for less than one parameter or token
        return None
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) < 0 else (low, middle)
    return math.exp(high)


def _first_affordable(excess: Curve, here: float) -> Point:
    """The first point from ``here`` on, in steps of ten, whose budget pays for a token and for serving."""
    while True:
        try:
            return here, excess(here)
        except UserError:
            here += math.log(10.0)
            if here > math.log(MOST_FLOPS):
                raise


def _root(function: Curve, start: Point, end: Point) -> float:
    """A root between two points (x, value) of opposite signs."""
    (x, y), (a, b) = start, end
    for _ in range(100):
        if abs(b) < 1e-13 or abs(a - x) < 1e-12:
            break
        middle = a - b * (a - x) / (b - y)
        value = function(middle)
        # The end that stays is trusted half as much, so that both ends move.
        (x, y) = (a, b) if value * b < 0 else (x, y / 2)
        a, b = middle, value
    return a
