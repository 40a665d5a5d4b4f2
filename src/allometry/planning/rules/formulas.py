"""The formulas of a rule: a batch size or a learning rate as a function of size, tokens, FLOPs and loss; their range.

A rule is used in two ways. Relatively: a baseline that works (size, batch, learning rate) is carried to another size,
and only the exponents matter, so the units of batch and learning rate cancel. Absolutely: the published constants give
a batch in tokens and a learning rate for a size and a number of tokens.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Protocol

from ...quantities import format_count, require_positive


@dataclass(frozen=True)
class Point:
    """Arguments of a formula: non-embedding parameters, tokens, training FLOPs, final loss (None: not known)."""

    num_params: float | None = None
    tokens: float | None = None
    flops: float | None = None
    loss: float | None = None

    def __post_init__(self) -> None:
        require_positive(**asdict(self))
        if self.flops is None and self.num_params and self.tokens:
            object.__setattr__(self, "flops", 6.0 * self.num_params * self.tokens)

    def arguments(self) -> tuple[float | None, float | None, float | None, float | None]:
        """Parameters, tokens, FLOPs and loss, in this order."""
        return self.num_params, self.tokens, self.flops, self.loss


class RuleFormula(Protocol):
    """A batch size or a learning rate at a point; None if an input is missing or it has no value there."""

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
        exponents = (self.num_params, self.tokens, self.flops, self.loss)
        for exponent, first, last in zip(exponents, start.arguments(), end.arguments(), strict=True):
            if exponent == 0.0:
                continue
            if first is None or last is None:
                return None
            product *= (last / first) ** exponent
        return product


@dataclass(frozen=True)
class LogLinear:
    """intercept + slope · ln N; no value where that is zero or negative."""

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
    """The range in which a rule was measured; None where its source gives none."""

    num_params: tuple[float, float] | None = None
    tokens: tuple[float, float] | None = None
    flops: tuple[float, float] | None = None

    def outside(self, point: Point) -> list[str]:
        """In what respects the point lies outside, one phrase each; what is not known is not outside."""
        return [
            f"{_figure(value)} {word}, measured at {_span(limits)}"
            for word, limits, value in self._known(point)
            if value is not None and not limits[0] <= value <= limits[1]
        ]

    def contains(self, point: Point) -> bool | None:
        """True or False; None if the range, or a number that it limits, is not known."""
        if self.outside(point):
            return False
        values = [value for _, _, value in self._known(point)]
        return True if values and None not in values else None

    def describe(self) -> str:
        """``200M to 1.1B parameters, 4B to 100B tokens``, or that no range is on record."""
        return ", ".join(f"{_span(limits)} {word}" for word, limits, _ in self._known(Point())) or "no range on record"

    def _known(self, point: Point) -> list[tuple[str, tuple[float, float], float | None]]:
        """The limits that are known, each with what it limits, in words, and the point's value."""
        rows = (
            ("parameters", self.num_params, point.num_params),
            ("tokens", self.tokens, point.tokens),
            ("FLOPs", self.flops, point.flops),
        )
        return [(word, limits, value) for word, limits, value in rows if limits is not None]


def _span(limits: tuple[float, float]) -> str:
    return " to ".join(_figure(value) for value in limits)


def _figure(value: float) -> str:
    return format_count(value) if value < 1e15 else f"{value:.3g}"
