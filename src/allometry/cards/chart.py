"""A small picture as inline SVG: dots, lines, bands and a target on two axes. All text in it is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

from .axis import Axis

WIDTH, HEIGHT = 640, 330
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 12, 46
BAND_ROOM = 2.0  # a band reaches this factor beyond all else at most
MOST_DOTS = 1500  # of more, every so-manyth is drawn, and the chart says so
TARGET = "#d95f02"
SMALL, LARGE = (112, 173, 214), (20, 70, 130)  # colours of the smallest and the largest size
BAND_OPACITY, GRID_OPACITY = 0.16, 0.12


@dataclass(frozen=True)
class Dot:
    """A point of data; ``title`` is shown when it is pointed at, ``shade`` from 0 to 1 is its size's colour."""

    x: float
    y: float
    title: str = ""
    shade: float = 0.5


@dataclass
class Chart:
    """What is drawn so far. Points that are not finite, or not above zero on a logarithmic axis, are left out."""

    x_label: str
    y_label: str
    title: str
    log_x: bool = True
    log_y: bool = True
    form_x: Callable[[float], str] = "{:g}".format
    form_y: Callable[[float], str] = "{:g}".format
    dots: list[Dot] = field(default_factory=list)
    lines: list[tuple[list[float], list[float], str, str]] = field(default_factory=list)
    bands: list[tuple[list[float], list[float], list[float], str]] = field(default_factory=list)
    spans: list[tuple[float, float, str]] = field(default_factory=list)
    targets: list[tuple[float, float, float | None, float | None, str]] = field(default_factory=list)

    def line(self, x: Sequence[float], y: Sequence[float], label: str = "", colour: str = "currentColor") -> None:
        """A line through points."""
        self.lines.append(([float(v) for v in x], [float(v) for v in y], label, colour))

    def band(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], label: str = "") -> None:
        """The space between two lines."""
        self.bands.append(([float(v) for v in x], [float(v) for v in low], [float(v) for v in high], label))

    def span(self, low: float, high: float, label: str) -> None:
        """A stretch of the horizontal axis, from bottom to top."""
        self.spans.append((float(low), float(high), label))

    def target(self, x: float, y: float, low: float | None, high: float | None, label: str) -> None:
        """A prediction: a diamond with its interval."""
        self.targets.append((float(x), float(y), low, high, label))

    def svg(self) -> str:
        """The picture; an empty text where there is nothing to draw."""
        across, upwards = self._values()
        if not across or not upwards:
            return ""
        x = Axis.around(across, LEFT, WIDTH - LEFT - RIGHT, logarithmic=self.log_x)
        y = Axis.around(upwards, HEIGHT - BOTTOM, -(HEIGHT - TOP - BOTTOM), logarithmic=self.log_y)
        parts = [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" style="max-width:{WIDTH}px;height:auto" role="img" '
            f'aria-label="{escape(self.title)}" font-family="system-ui,sans-serif" font-size="12" fill="currentColor">',
            f"<title>{escape(self.title)}</title>",
            *self._spans(x),
            *self._axes(x, y),
            *(self._band(band, x, y) for band in self.bands),
            *(self._line(line, x, y) for line in self.lines),
            *self._dots(x, y),
            *(self._target(target, x, y) for target in self.targets),
            *self._legend(),
            "</svg>",
        ]
        return "".join(parts)

    def _values(self) -> tuple[list[float], list[float]]:
        """All that the axes must hold; where one of a pair cannot be shown, neither counts."""
        pairs = [(dot.x, dot.y) for dot in self.dots]
        pairs += [pair for x, y, _, _ in self.lines for pair in zip(x, y, strict=True)]
        for x, y, low, high, _ in self.targets:
            pairs += [(x, value) for value in (y, low, high) if value is not None]
        shown = [(x, y) for x, y in pairs if self._can_show(x, y)]
        shown += self._ends_of_bands([y for _, y in shown])
        ends = [value for low, high, _ in self.spans for value in (low, high)] if shown else []
        return [x for x, _ in shown] + [v for v in ends if self._can_show(v, 1.0)], [y for _, y in shown]

    def _ends_of_bands(self, values: list[float]) -> list[tuple[float, float]]:
        """What of the bands the axes must hold: a band far wider than all else is cut off."""
        pairs = [pair for x, low, high, _ in self.bands for side in (low, high) for pair in zip(x, side, strict=True)]
        pairs = [pair for pair in pairs if self._can_show(*pair)]
        if not values or not self.log_y:
            return pairs
        least, most = min(values) / BAND_ROOM, max(values) * BAND_ROOM
        return [(x, min(max(y, least), most)) for x, y in pairs]

    def _can_show(self, x: float, y: float) -> bool:
        fits = math.isfinite(x) and math.isfinite(y)
        return fits and (x > 0 or not self.log_x) and (y > 0 or not self.log_y)

    def _axes(self, x: Axis, y: Axis) -> list[str]:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = []
        for place, text in x.labels(self.form_x):
            parts.append(_stroke(place, TOP, place, bottom, GRID_OPACITY))
            parts.append(_text(place, bottom + 16, text, "middle"))
        for place, text in y.labels(self.form_y):
            parts.append(_stroke(LEFT, place, right, place, GRID_OPACITY))
            parts.append(_text(LEFT - 7, place + 4, text, "end"))
        parts.append(_stroke(LEFT, bottom, right, bottom, 0.6))
        parts.append(_text((LEFT + right) / 2, HEIGHT - 8, self.x_label, "middle"))
        middle = (TOP + bottom) / 2
        parts.append(
            f'<text x="14" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 14 {middle:.1f})">'
            f"{escape(self.y_label)}</text>"
        )
        return parts

    def _spans(self, x: Axis) -> list[str]:
        parts = []
        for low, high, label in self.spans:
            if self._can_show(low, 1.0) and self._can_show(high, 1.0):
                left, right = sorted((x.at(low), x.at(high)))
                parts.append(
                    f'<rect x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{HEIGHT - TOP - BOTTOM}" '
                    f'fill="{TARGET}" fill-opacity="{BAND_OPACITY}"><title>{escape(label)}</title></rect>'
                )
        return parts

    def _band(self, band: tuple[list[float], list[float], list[float], str], x: Axis, y: Axis) -> str:
        across, low, high, label = band
        rows = [row for row in zip(across, low, high, strict=True) if all(self._can_show(row[0], v) for v in row[1:])]
        if len(rows) < 2:
            return ""
        corners = [(a, b) for a, b, _ in rows] + [(a, c) for a, _, c in reversed(rows)]
        places = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in corners)
        return f'<polygon points="{places}" fill-opacity="{BAND_OPACITY}"><title>{escape(label)}</title></polygon>'

    def _line(self, line: tuple[list[float], list[float], str, str], x: Axis, y: Axis) -> str:
        across, upwards, label, colour = line
        places = " ".join(
            f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in zip(across, upwards, strict=True) if self._can_show(a, b)
        )
        return (
            f'<polyline points="{places}" fill="none" stroke="{escape(colour)}" stroke-width="1.6">'
            f"<title>{escape(label)}</title></polyline>"
        )

    def _dots(self, x: Axis, y: Axis) -> list[str]:
        shown = [dot for dot in self.dots if self._can_show(dot.x, dot.y)]
        every = math.ceil(len(shown) / MOST_DOTS)
        return [
            f'<circle cx="{x.at(dot.x):.1f}" cy="{y.at(dot.y):.1f}" r="4" fill="{shade_colour(dot.shade)}" '
            f'stroke="#fff" stroke-width=".7"><title>{escape(dot.title)}</title></circle>'
            for dot in shown[:: every or 1]
        ]

    def _target(self, target: tuple[float, float, float | None, float | None, str], x: Axis, y: Axis) -> str:
        across, upwards, low, high, label = target
        if not self._can_show(across, upwards):
            return ""
        a, b = x.at(across), y.at(upwards)
        parts = [f"<g><title>{escape(label)}</title>"]
        if low is not None and high is not None and self._can_show(across, low) and self._can_show(across, high):
            parts.append(f'<path d="M{a:.1f} {y.at(low):.1f}V{y.at(high):.1f}" stroke="{TARGET}" stroke-width="2"/>')
        diamond = f"M{a:.1f} {b - 7:.1f}l7 7l-7 7l-7 -7z"
        parts.append(f'<path d="{diamond}" fill="{TARGET}" stroke="#fff" stroke-width=".8"/></g>')
        return "".join(parts)

    def _legend(self) -> list[str]:
        """The names of lines and targets, in the upper corner that the lines leave empty."""
        rising = any(y and y[-1] > y[0] for _, y, label, _ in self.lines if label)
        x, anchor = (LEFT + 8, "start") if rising else (WIDTH - RIGHT - 6, "end")
        named = [(label, colour) for _, _, label, colour in self.lines if label]
        named += [(label, TARGET) for *_, label in self.targets if label]
        parts = []
        for number, (label, colour) in enumerate(named[:6]):
            place = TOP + 14 + 16 * number
            parts.append(
                f'<text x="{x:.0f}" y="{place}" text-anchor="{anchor}" fill="{escape(colour)}">{escape(label)}</text>'
            )
        return parts


def power_of_ten(value: float) -> str:
    """A large number as a tick: 1e12, 2.5e13."""
    return f"{value:.3g}".replace("e+", "e")


def shades(values: Sequence[float]) -> list[float]:
    """A shade from 0 to 1 for each value, by its place among the different ones."""
    ranks = {value: rank for rank, value in enumerate(sorted(set(values)))}
    return [ranks[value] / max(len(ranks) - 1, 1) for value in values]


def shade_colour(share: float) -> str:
    """The colour of a shade."""
    red, green, blue = (round(a + (b - a) * min(max(share, 0.0), 1.0)) for a, b in zip(SMALL, LARGE, strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _stroke(x1: float, y1: float, x2: float, y2: float, opacity: float) -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="currentColor" stroke-opacity="{opacity}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
