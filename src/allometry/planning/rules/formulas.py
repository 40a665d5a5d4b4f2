"""What a batch-size and learning-rate rule is: two formulas, where they come from, and where they were measured.

A rule is used in two ways. Relatively: a baseline that works (size, batch, rate) is carried to another size, and only
the exponents count, so the units of batch and rate cancel. Absolutely: the published constants give a batch in tokens
and a rate for a size and a number of tokens.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Protocol

from ...quantities import format_count, require_positive

_AXES = ("num_params", "tokens", "flops", "loss")
_WORDS = {"num_params": "parameters", "tokens": "tokens", "flops": "FLOPs"}


@dataclass(frozen=True)
class Point:
    """Where a formula is asked: non-embedding parameters, tokens, training FLOPs, final loss (None: not known)."""

    num_params: float | None = None
    tokens: float | None = None
    flops: float | None = None
    loss: float | None = None

    def __post_init__(self) -> None:
        require_positive(**asdict(self))
        if self.flops is None and self.num_params and self.tokens:
            object.__setattr__(self, "flops", 6.0 * self.num_params * self.tokens)


class RuleFormula(Protocol):
    """A batch size or a learning rate as a function of a point; None where an input is missing or it has no value."""

    def at(self, point: Point) -> float | None: ...

    def ratio(self, start: Point, end: Point) -> float | None: ...


@dataclass(frozen=True)
class PowerLaw:
    """coefficient · (N / reference)^num_params · D^tokens · C^flops · L^loss; no coefficient: only ratios are known."""

    coefficient: float | None = None
    num_params: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0
    loss: float = 0.0
    reference: float = 1.0

    def at(self, point: Point) -> float | None:
        power = self.ratio(Point(self.reference, 1.0, 1.0, 1.0), point)
        return None if power is None or self.coefficient is None else self.coefficient * power

    def ratio(self, start: Point, end: Point) -> float | None:
        # Quotients before powers: a factor of 2 stays exactly 2, whatever the sizes.
        product = 1.0
        for name in _AXES:
            exponent, first, last = getattr(self, name), getattr(start, name), getattr(end, name)
            if exponent == 0.0:
                continue
            if first is None or last is None:
                return None
            product *= (last / first) ** exponent
        return product


@dataclass(frozen=True)
class LogLinear:
    """intercept + slope · ln N: has no value where it falls to zero or below."""

    intercept: float
    slope: float

    def at(self, point: Point) -> float | None:
        if point.num_params is None:
            return None
        value = self.intercept + self.slope * math.log(point.num_params)
        return value if value > 0 else None

    def ratio(self, start: Point, end: Point) -> float | None:
        first, last = self.at(start), self.at(end)
        return None if first is None or last is None else last / first


@dataclass(frozen=True)
class MeasuredRange:
    """The range in which a rule was measured; None where the facts at hand give none."""

    num_params: tuple[float, float] | None = None
    tokens: tuple[float, float] | None = None
    flops: tuple[float, float] | None = None

    def outside(self, point: Point) -> list[str]:
        """What of the point lies outside, one phrase each; empty when nothing that is known does."""
        found = []
        for name, limits in self._known():
            value = getattr(point, name)
            if value is not None and not limits[0] <= value <= limits[1]:
                found.append(f"{_figure(value)} {_WORDS[name]}, measured at {_span(limits)}")
        return found

    def contains(self, point: Point) -> bool | None:
        """True or False; None where the range, or a number that it speaks of, is not known."""
        if self.outside(point):
            return False
        known = self._known()
        return True if known and all(getattr(point, name) is not None for name, _ in known) else None

    def describe(self) -> str:
        """``200M to 1.1B parameters, 4B to 100B tokens``, or that no range is on record."""
        return ", ".join(f"{_span(limits)} {_WORDS[name]}" for name, limits in self._known()) or "no range on record"

    def _known(self) -> list[tuple[str, tuple[float, float]]]:
        return [(name, getattr(self, name)) for name in _WORDS if getattr(self, name) is not None]


def _span(limits: tuple[float, float]) -> str:
    return " to ".join(_figure(value) for value in limits)


def _figure(value: float) -> str:
    return format_count(value) if value < 1e15 else f"{value:.3g}"
