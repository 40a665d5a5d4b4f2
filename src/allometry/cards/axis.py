"""One axis of a chart: from a value to a place, and where its ticks stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

MOST_TICKS = 6
LEAST, LEAST_SHARE = 1e-290, 1e-30  # of a logarithmic axis: its low end, also as a share of its high end
_ROUND = (1, 2, 5)


@dataclass(frozen=True)
class Axis:
    """A stretch of values from ``low`` to ``high``, on ``pixels``; ``start`` is the place of ``low``.

    A negative number of pixels runs the other way, as heights do in SVG.
    """

    low: float
    high: float
    start: float
    pixels: float
    logarithmic: bool = False

    @classmethod
    def around(
        cls, values: Iterable[float], start: float, pixels: float, *, logarithmic: bool = False, margin: float = 0.06
    ) -> Axis:
        """The axis that holds all values, with a margin at both ends; values that cannot be shown are passed over."""
        shown = [value for value in values if math.isfinite(value) and (value > 0 or not logarithmic)]
        if not shown:
            return cls(1.0, 10.0, start, pixels, logarithmic)
        low, high = min(shown), max(shown)
        if logarithmic:
            low, high = max(low, high * LEAST_SHARE, LEAST), max(high, LEAST)
            room = margin * math.log(high / low) if high > low else math.log(2)
            return cls(low / math.exp(room), high * math.exp(room), start, pixels, True)
        room = margin * (high - low) if high > low else max(abs(high), 1.0) / 2
        return cls(low - room, high + room, start, pixels)

    def at(self, value: float) -> float:
        """The place of a value; values beyond an end stand at that end."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + self.pixels * share

    def ticks(self) -> list[float]:
        """Round values on the axis, some two to six of them."""
        if not self.logarithmic:
            return _even_ticks(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        decades = [10.0**power for power in range(first, last + 1) if self.low <= 10.0**power <= self.high]
        if len(decades) > 2:
            return decades[:: math.ceil(len(decades) / MOST_TICKS)]
        within = [digit * 10.0**power for power in range(first, last + 1) for digit in _ROUND]
        within = [value for value in within if self.low <= value <= self.high]
        return within if 3 <= len(within) <= MOST_TICKS else _even_ticks(self.low, self.high)

    def labels(self, form: Callable[[float], str]) -> list[tuple[float, str]]:
        """Place and text of each tick; a text that two ticks would share stands once."""
        texts: dict[str, float] = {}
        for tick in self.ticks():
            texts.setdefault(form(tick), self.at(tick))
        return [(place, text) for text, place in texts.items()]


def _even_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step), math.floor(high / step)
    return [number * step for number in range(first, last + 1)]
