"""Pictures of a law of any inputs: predicted against measured, and the law along each input; data and drawing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from ...quantities import format_count
from ..law_parts import LawPart
from .canvas import BAND, FAINT, INK, LAWS, SOFT, TARGET, Drawing, drawing, log_x, name_points, panels
from .law_data import spread_over

Array = np.ndarray
MOST_POINTS, MOST_BESIDE = 400, 120  # runs drawn, and runs beside each slice
POINTS = 61
MOST_SLICES, MOST_COLOURS = 9, 5
BEYOND = 10.0  # times the largest value, to which a slice is drawn
WIDE = 8.0  # a target that varies by more is drawn by its logarithm


@dataclass(frozen=True, eq=False)
class PredictedAgainstMeasured:
    """Runs by what was measured and what the law gives there, with its interval; ``titles`` says what each is."""

    target: str
    measured: Array
    predicted: Array
    low: Array
    high: Array
    group: Array
    group_names: tuple[str, ...]
    titles: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class InputSlice:
    """The law along one input, the others as in one run; runs beside it, each as near as its other inputs are."""

    target: str
    name: str
    by_logarithm: bool
    at: Array
    value: Array
    low: Array
    high: Array
    asked: tuple[float, float]
    run_at: Array
    run_value: Array
    nearness: Array
    titles: tuple[str, ...]


def predicted_against_measured(part: LawPart, level: float) -> PredictedAgainstMeasured:
    """Every run, or some of very many."""
    runs = part.runs
    some = spread_over(runs.values, MOST_POINTS)
    one = part.predict(runs.points[some], runs.group[some], level)
    value, low, high = (np.asarray(each) for each in (one.value, one.low, one.high))
    titles = tuple(
        f"{part.describe(int(place))}: measured {runs.values[place]:.5g}, predicted {value[number]:.5g}"
        for number, place in enumerate(some)
    )
    return PredictedAgainstMeasured(
        runs.target, runs.values[some], value, low, high, runs.group[some], runs.group_names, titles
    )


def input_slices(part: LawPart, level: float) -> list[InputSlice]:
    """The law along each input that varies, the first ``MOST_SLICES`` of them."""
    return [_slice(part, place, level) for place in part.varying[:MOST_SLICES]]


def _slice(part: LawPart, place: int, level: float) -> InputSlice:
    runs, first = part.runs, part.first_asked
    own, by_logarithm = runs.points[:, place], bool(runs.by_logarithm[place])
    group = runs.group[first]
    low, high = float(own.min()), float(own.max())
    if by_logarithm:
        at = np.geomspace(low / 2, BEYOND * high, POINTS)
    elif runs.are_shares:
        at = np.linspace(0, high, POINTS)
    else:
        at = np.linspace(low - (high - low) / 10, high + (high - low) / 10, POINTS)
    line = part.predict(part.moved(place, at), np.full(POINTS, group), level)
    asked = part.predict(runs.points[[first]], np.array([group]), level)
    nearness = _nearness(part, place)
    beside = np.flatnonzero(runs.group == group)
    beside = np.sort(beside[np.argsort(-nearness[beside], kind="stable")[:MOST_BESIDE]])
    return InputSlice(
        runs.target,
        runs.inputs[place],
        by_logarithm,
        at,
        np.asarray(line.value),
        np.asarray(line.low),
        np.asarray(line.high),
        (float(own[first]), float(np.asarray(asked.value)[0])),
        own[beside],
        runs.values[beside],
        nearness[beside],
        tuple(f"{part.describe(int(one))}: {runs.target} {runs.values[one]:.5g}" for one in beside),
    )


def _nearness(part: LawPart, place: int) -> Array:
    """How near the other inputs of each run are to those of the first question, 0 to 1."""
    runs = part.runs
    logarithms = np.where(runs.by_logarithm, np.log(np.where(runs.by_logarithm, runs.points, 1.0)), runs.points)
    span = np.ptp(logarithms, axis=0)
    units = 6 * (logarithms - logarithms[part.first_asked]) / np.where(span > 0, span, 1.0)
    units[:, place] = 0
    return np.exp(-(units**2).sum(axis=1) / 2)


def agreement(data: PredictedAgainstMeasured) -> Drawing:
    """Predicted against measured: a dot is a run, on the line the law gives what was measured."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        few = len(data.group_names) <= MOST_COLOURS
        ends = np.array([data.measured.min(), data.measured.max()])
        axes.plot(ends, ends, color=SOFT, linewidth=0.8, zorder=1)
        reach = [np.maximum(data.predicted - data.low, 0), np.maximum(data.high - data.predicted, 0)]
        axes.errorbar(
            data.measured, data.predicted, yerr=reach, fmt="none", ecolor=FAINT, elinewidth=0.6, alpha=0.6, zorder=0
        )
        for number, name in enumerate(data.group_names if few else ("",)):
            mine = data.group == number if few else np.ones(len(data.measured), bool)
            if not mine.any():
                continue
            dots = axes.scatter(
                data.measured[mine],
                data.predicted[mine],
                s=16,
                color=LAWS[number],
                linewidths=0.4,
                edgecolors="white",
                zorder=2,
                label=name if few and len(data.group_names) > 1 else None,
            )
            name_points(axes, dots, [title for title, one in zip(data.titles, mine, strict=True) if one])
        _limits(axes, np.concatenate([data.measured, data.predicted]))
        if _is_wide(data.measured, data.predicted):
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.set_xlabel(f"measured {data.target}", parse_math=False)
        axes.set_ylabel(f"predicted {data.target}", parse_math=False)
        if few and len(data.group_names) > 1:
            for text in axes.legend(loc="upper left", fontsize=8).get_texts():
                text.set_parse_math(False)

    return drawing(draw, 4.2)


def slices(data: list[InputSlice]) -> Drawing:
    """The law along each input, with its interval, and the runs beside it."""

    def draw(figure: Figure) -> None:
        for axes, one in zip(panels(figure, len(data), 1, most=3 if len(data) > 2 else 2), data, strict=True):
            _draw_slice(axes, one)

    width = 3 if len(data) > 2 else 2
    return drawing(draw, 2.9 * -(-len(data) // width), 2.7 * len(data))


def _draw_slice(axes: Axes, one: InputSlice) -> None:
    axes.fill_between(one.at, one.low, one.high, color=BAND, linewidth=0)
    axes.plot(one.at, one.value, color=INK)
    shades = [to_rgba(LAWS[0], max(float(near), 0.15)) for near in one.nearness]
    dots = axes.scatter(one.run_at, one.run_value, s=14, color=shades, linewidths=0, zorder=2)
    name_points(axes, dots, one.titles)
    axes.plot(*one.asked, "D", color="white", markeredgecolor=TARGET, markeredgewidth=1.6, zorder=3)
    seen = np.concatenate([one.value, one.low, one.high, one.run_value[one.nearness > 0.3]])
    seen = seen[np.isfinite(seen)]
    _limits(axes, seen)
    if _is_wide(seen):
        axes.set_yscale("log")
    if one.by_logarithm:
        axes.set_xlim(one.at[0], one.at[-1])
        log_x(axes, one.name, format_count)
    else:
        room = 0.02 * (one.at[-1] - one.at[0])  # or a run at zero would be cut through
        axes.set_xlim(one.at[0] - room, one.at[-1] + room)
    axes.set_xlabel(one.name, parse_math=False)
    axes.set_ylabel(one.target, parse_math=False)


def _is_wide(*values: Array) -> bool:
    least, most = min(float(one.min()) for one in values), max(float(one.max()) for one in values)
    return least > 0 and most / least > WIDE


def _limits(axes: Axes, values: Array) -> None:
    low, high = float(values.min()), float(values.max())
    if _is_wide(values):
        room = (high / low) ** 0.05
        axes.set_ylim(low / room, high * room)
    else:
        room = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
        axes.set_ylim(low - room, high + room)
