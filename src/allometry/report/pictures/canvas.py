"""What all pictures share: colours, style, axes with few and round ticks, labels that do not overlap.

A ``Drawing`` becomes a file, with text as paths so that it looks the same wherever it is opened, or part of a page,
with text as text, once for a wide window and once for a phone. The same data give the same bytes.
"""

from __future__ import annotations

import io
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

INK, SOFT, FAINT, BAND = "#222222", "#6b6b6b", "#b9b9b9", "#e4e4e4"
GRID, WHITE, UNSEARCHED = "#ececec", "#ffffff", "#f1f1f1"
WIDE, NEAR = "#fdeee3", "#fadcc6"  # sizes whose loss is within 0.5 and 0.1 % of the lowest
TARGET = "#d55e00"
# Okabe and Ito's colours, which people with any colour vision can distinguish; only the target is vermilion.
LAWS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": SOFT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "allometry",
    "text.color": INK,
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
}
WIDTH, SLIM = 8.2, 4.2  # inches; the page shows about 110 pixels per inch, a phone about 90
HALO = [withStroke(linewidth=2.5, foreground="white")]
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def size_colours(sizes: Sequence[float]) -> dict[float, str]:
    """A colour for each size, dark to light as sizes grow, without the palest ones, which white hides."""
    ordered = sorted(set(sizes))
    places = np.linspace(0.0, 0.8, len(ordered)) if len(ordered) != 1 else [0.4]
    return {size: to_hex(matplotlib.colormaps["viridis"](place)) for size, place in zip(ordered, places, strict=True)}


_NAMED: weakref.WeakKeyDictionary[Figure, list[tuple[Artist, Sequence[str]]]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Drawing:
    """A picture that is drawn when its size is known: a function that draws into a figure, and heights in inches."""

    draw: Callable[[Figure], None]
    height: float
    slim_height: float

    def as_file(self) -> str:
        """The text of an SVG file."""
        return self._drawn(WIDTH, self.height, "path")[0]

    def for_page(self, slim: bool) -> tuple[str, dict[str, Sequence[str]]]:
        """The text of an SVG with text as text, and id of a group of points → what each point says."""
        return self._drawn(SLIM, self.slim_height, "none") if slim else self._drawn(WIDTH, self.height, "none")

    def _drawn(self, width: float, height: float, text: str) -> tuple[str, dict[str, Sequence[str]]]:
        """Drawn into a new figure in this module's style, whatever the user's own settings are."""
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            matplotlib.rcParams["svg.fonttype"] = text
            figure = Figure(figsize=(width, height), layout="constrained")
            self.draw(figure)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", metadata=NO_METADATA)
            titles = {str(points.get_gid()): _in_sight(figure, points, each) for points, each in _NAMED.get(figure, [])}
        return buffer.getvalue().decode("utf-8"), titles


def drawing(draw: Callable[[Figure], None], height: float, slim_height: float | None = None) -> Drawing:
    """A drawing; on a phone it is half as wide, and so high as it is here if nothing else is given."""
    return Drawing(draw, height, height if slim_height is None else slim_height)


def is_slim(figure: Figure) -> bool:
    """Whether a figure is for a phone: panels stand below each other, legends have one column."""
    return figure.get_figwidth() < (WIDTH + SLIM) / 2


def panels(figure: Figure, count: int, slim_columns: int, most: int = 9, **shared: Any) -> list[Any]:
    """So many axes, at most ``most`` side by side; on a phone in so many columns."""
    width = slim_columns if is_slim(figure) else min(count, most)
    axes = figure.subplots(-(-count // width), width, squeeze=False, **shared).ravel().tolist()
    for unused in axes[count:]:
        unused.set_visible(False)
    return axes[:count]


def name_points(axes: Axes, points: Artist, titles: Sequence[str]) -> None:
    """Let each point of a line or scatter say what it is where the page is read with a pointer."""
    figure = axes.get_figure(root=True)
    if titles and isinstance(figure, Figure):
        named = _NAMED.setdefault(figure, [])
        points.set_gid(f"points-{len(named)}")
        named.append((points, titles))


def _in_sight(figure: Figure, points: Artist, titles: Sequence[str]) -> Sequence[str]:
    """The titles of those markers of a line that lie within the figure: an SVG holds no others."""
    if not isinstance(points, Line2D):
        return titles
    places = points.get_transform().transform(points.get_xydata())
    inside = np.all((places >= 0) & (places <= [figure.bbox.width, figure.bbox.height]), axis=1)
    return [title for title, seen in zip(titles, inside, strict=True) if seen]


def finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def limit(axes: Axes, losses: Sequence[float]) -> None:
    """Set a logarithmic axis to these losses with some room around them; an interval may reach down to zero."""
    shown = [loss for loss in losses if 0 < loss < math.inf]
    if shown:
        low, high = min(shown), max(shown)
        room = max((high / low) ** 0.06, 1.005)
        axes.set_ylim(low / room, high * room)


def log_x(axes: Axes, label: str, form: Callable[[float], str]) -> None:
    """Make the axis logarithmic with few ticks: at decades, or at 1, 2 and 5 if there are fewer than two of them."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(decades(*axes.get_xlim()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: form(x)))
    axes.xaxis.set_minor_locator(LogLocator(subs=range(1, 10), numticks=99))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)


def decades(low: float, high: float) -> LogLocator:
    """Ticks at the powers of ten, or at 1, 3 or 1, 2, 5 of each where there are few of them."""
    count = np.log10(high / low)
    subs = (1.0,) if count > 2.5 else (1.0, 3.0) if count > 1.6 else (1.0, 2.0, 5.0)
    return LogLocator(subs=subs, numticks=20)


def log_y(axes: Axes, label: str) -> None:
    """Make the axis logarithmic with round losses as ticks, because losses rarely span a whole decade."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.6g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(label)


def power_of_ten(value: float) -> str:
    exponent = int(np.floor(np.log10(value) + 1e-9))
    mantissa = round(value / 10**exponent)
    return f"$10^{{{exponent}}}$" if mantissa == 1 else rf"${mantissa}\times10^{{{exponent}}}$"


def end_labels(figure: Figure, axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names at the ends of lines, moved apart vertically where they would overlap.

    Args:
        figure: its layout is computed here, because it determines where labels overlap.
        axes: must have its final limits and scales.
        ends: (x, y, text, colour) of each line's end.
    """
    figure.draw_without_rendering()
    points = 72 / figure.dpi
    places = [axes.transData.transform((x, y)) * points for x, y, _, _ in ends]
    heights = apart([place[1] for place in places], gap=10.5)
    for (x, y, text, colour), place, height in zip(ends, places, heights, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(6, height - place[1]),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=8,
            path_effects=HALO,
            annotation_clip=False,
            parse_math=False,
        )


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Move the values as little as necessary, in their order, until neighbours are ``gap`` apart."""
    order = np.argsort(values, kind="stable")
    moved = np.array(values, float)[order]
    for _ in range(200):
        for low, high in pairwise(range(len(moved))):
            lack = gap - (moved[high] - moved[low])
            if lack > 1e-6:
                moved[low] -= lack / 2
                moved[high] += lack / 2
    placed = np.empty_like(moved)
    placed[order] = moved
    return placed.tolist()


def cycle(colours: Sequence[str], count: int) -> list[str]:
    return [colours[index % len(colours)] for index in range(count)]
