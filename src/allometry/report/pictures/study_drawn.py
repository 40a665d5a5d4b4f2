"""Draw the pictures of a study from the arrays of ``loss_curves`` and ``evidence``.

Each function returns a drawing, the same on every run; of the study's own text only ids of runs enter a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ...quantities import format_count, format_flops
from .canvas import (
    BAND,
    FAINT,
    HALO,
    INK,
    LAWS,
    NEAR,
    SOFT,
    TARGET,
    UNSEARCHED,
    WIDE,
    Drawing,
    cycle,
    drawing,
    end_labels,
    finite,
    is_slim,
    limit,
    log_x,
    log_y,
    name_points,
    panels,
    power_of_ten,
    size_colours,
)
from .evidence import BudgetSlice, LawErrors, ScoreByCompute, SweepArm, SweepArms
from .loss_curves import LossByCompute, SizeCurves, TrainingCurves
from .points_and_lines import PredictedLine, RunPoint, Target


def loss_by_compute(data: LossByCompute) -> Drawing:
    """Runs, frontier with its band, target: loss against exact FLOPs, both logarithmic."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        sizes = sorted({run.num_params for run in data.rungs})
        colours = size_colours(sizes)
        if data.frontier is not None:
            _band(axes, data.frontier.flops, data.frontier)
        _dots(axes, [run.flops for run in data.sweep], data.sweep, FAINT, size=4, label="sweep of batch and rate")
        _dots(axes, [run.flops for run in data.others], data.others, SOFT, size=4.5, label="other runs")
        for size in sizes:
            runs = [run for run in data.rungs if run.num_params == size]
            x, y = [run.flops for run in runs], [run.loss for run in runs]
            axes.plot(x, y, color=colours[size], linewidth=0.8, alpha=0.45)
            _dots(axes, x, runs, colours[size], size=6.5, label=f"{format_count(size)} parameters")
        if data.frontier is not None:
            axes.plot(data.frontier.flops, data.frontier.loss, color=INK, label="predicted, each budget split best")
            axes.fill_between([], [], [], color=BAND, label=f"{data.level:.0%} interval")
        if data.target is not None:
            _target(axes, data.target.flops, data.target)
            _label_target(axes, data.target.flops, data.target)
        losses = [run.loss for run in (*data.rungs, *data.others)] + _target_losses(data.target)
        losses += [] if data.frontier is None else [*finite(data.frontier.low), *data.frontier.loss]
        limit(axes, losses or [run.loss for run in data.sweep])
        log_x(axes, "training compute (FLOPs, counted exactly)", power_of_ten)
        log_y(axes, f"held-out loss ({data.unit})")
        axes.legend(loc="lower left", fontsize=8, handlelength=1.4, labelspacing=0.35)

    return drawing(draw, 4.9, 5.0)


def size_curves(data: SizeCurves) -> Drawing:
    """Loss against tokens, one colour for each size, and the law as a line through its runs."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        colours = size_colours([curve.num_params for curve in data.curves])
        losses = _target_losses(data.target)
        for curve in data.curves:
            colour, x, y = colours[curve.num_params], *zip(*((r.tokens, r.loss) for r in curve.runs), strict=True)
            path, width = (x, y), 0.6
            if curve.law is not None:
                path, width = (curve.law.tokens, curve.law.loss), 1.2
            axes.plot(*path, color=colour, linewidth=width)
            _dots(axes, x, curve.runs, colour, size=6.5, label=f"{format_count(curve.num_params)} parameters")
            losses += [*y, path[1][-1]]
        if data.target_law is not None:
            axes.plot(data.target_law.tokens, data.target_law.loss, color=TARGET, linestyle=(0, (4, 2)))
        if data.target is not None:
            _target(axes, data.target.tokens, data.target)
            axes.plot(
                [], [], color=TARGET, linestyle=(0, (4, 2)), label=f"{format_count(data.target.num_params)}, target"
            )
        limit(axes, losses)
        log_x(axes, "training tokens", format_count)
        log_y(axes, f"held-out loss ({data.unit})")
        axes.legend(loc="upper right", fontsize=8, handlelength=1.6, labelspacing=0.35)

    return drawing(draw, 4.2)


def training_curves(data: TrainingCurves) -> Drawing:
    """Training loss against tokens: pale with its noise, strong its mean; a dot is the held-out loss at a run's end."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        colours = size_colours([curve.num_params for curve in data.curves if curve.kind == "ladder"])
        losses, named = [], set()
        for curve in data.curves:
            ladder = curve.kind == "ladder"
            colour = colours[curve.num_params] if ladder else TARGET if curve.kind == "target" else SOFT
            name = f"{format_count(curve.num_params)} " + ("parameters" if ladder else curve.kind)
            axes.plot(curve.tokens, curve.train_loss, color=colour, linewidth=0.5, alpha=0.16)
            axes.plot(
                curve.mean_tokens, curve.mean_loss, color=colour, label=None if name in named else name, linewidth=1.1
            )
            named.add(name)
            if curve.held_out is not None:
                place = curve.tokens[-1], curve.held_out
                (dot,) = axes.plot(*place, "o", color=colour, markersize=5, markeredgecolor="white")
                name_points(axes, dot, [curve.describe()])
                losses.append(curve.held_out)
            # In the first steps the loss falls from ln(vocabulary), which would take half of the picture.
            losses += [*curve.mean_loss[curve.mean_tokens >= curve.tokens[-1] / 10]]
        limit(axes, losses)
        ends = [curve.tokens[-1] for curve in data.curves]
        if data.expected is not None:
            shown = data.expected
            axes.fill_between(
                shown.tokens,
                shown.low,
                shown.high,
                color=TARGET,
                alpha=0.16,
                linewidth=0,
                label="expected of the target",
            )
            ends.append(shown.tokens[-1])
        axes.set_xlim(min(ends) / 20, max(ends) * 1.2)
        log_x(axes, "tokens seen", format_count)
        log_y(axes, f"loss ({data.unit})")
        axes.legend(loc="lower left", fontsize=8, handlelength=1.6, labelspacing=0.35)

    return drawing(draw, 4.0)


def sweep(data: SweepArms) -> Drawing:
    """What another learning rate and another batch cost, side by side."""

    def draw(figure: Figure) -> None:
        left, right = panels(figure, 2, 1, sharey=True)
        reference = format_count(data.reference_tokens)
        for axes, lines, chosen, label, form in (
            (left, data.lr, data.chosen_lr, "learning rate (base)", lambda x: f"{x:.3g}"),
            (right, data.batch, data.chosen_batch, f"batch when {reference} tokens are seen (tokens)", format_count),
        ):
            _arms(axes, lines)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(FixedLocator(sorted({x for line in lines for x in line.setting})))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _, form=form: form(x)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel(label)
            if chosen is not None:
                axes.axvline(chosen, color=TARGET, linewidth=1)
                place = axes.get_xaxis_transform()
                text = axes.text(chosen, 0.97, f" chosen {form(chosen)}", color=TARGET, transform=place, va="top")
                text.set_path_effects(HALO)
        left.set_ylabel("loss above the best of its line (%)")
        left.set_ylim(bottom=0)
        figure.legend(
            *left.get_legend_handles_labels(), loc="outside upper left", ncols=1 if is_slim(figure) else 2, fontsize=8
        )

    return drawing(draw, 2.9, 5.2)


def backtest(data: Sequence[LawErrors]) -> Drawing:
    """A panel for each law: the errors of its predictions by how far they extrapolated."""

    def draw(figure: Figure) -> None:
        cells = panels(figure, len(data), min(len(data), 2), sharex=True, sharey=True)
        worst = 100 * max(np.abs(law.error).max() for law in data)
        for axes, law, colour in zip(cells, data, cycle(LAWS, len(data)), strict=True):
            # Runs that say little about a well-trained one have little weight, and are drawn pale.
            alpha = np.clip(law.relevance, 0.12, 1.0)
            axes.axhline(0, color=SOFT, linewidth=0.8)
            dots = axes.scatter(law.factor, 100 * law.error, s=18, color=colour, alpha=alpha, linewidths=0)
            name_points(axes, dots, law.describe())
            axes.set_title(f"{law.law}\nweight {law.weight:.2f}, error {law.score:.1%}", parse_math=False)
            axes.set_xscale("log")
            axes.set_ylim(-1.08 * worst, 1.08 * worst)
        factors = np.concatenate([law.factor for law in data])
        cells[0].set_xlim(min(1.0, factors.min()) / 1.1, factors.max() * 1.2)
        ticks = [x for x in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if x <= factors.max() * 1.2]
        most = 3 if len(data) > 3 and not is_slim(figure) else 4  # that stand beside each other in a panel
        cells[0].xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // most)]))
        cells[0].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
        cells[0].xaxis.set_minor_locator(NullLocator())
        cells[0].set_ylabel("predicted against actual (%)")
        figure.supxlabel("compute of the predicted run over the largest fitted", fontsize=8.5)

    return drawing(draw, 2.8, 2.4 * -(-len(data) // 2) + 0.5)


def scores(data: Sequence[ScoreByCompute]) -> Drawing:
    """A panel for each score: dots are runs by their compute, coloured by size; the target is an orange diamond."""

    def draw(figure: Figure) -> None:
        colours = size_colours([size for one in data for size in one.num_params])
        for axes, one in zip(panels(figure, len(data), 1, most=3), data, strict=True):
            shades = [TARGET if aim else colours[size] for size, aim in zip(one.num_params, one.is_target, strict=True)]
            axes.errorbar(one.flops, one.value, yerr=2 * one.error, fmt="none", ecolor=SOFT, elinewidth=0.7, alpha=0.6)
            dots = axes.scatter(one.flops, one.value, c=shades, s=26, linewidths=0.5, edgecolors="white", zorder=3)
            name_points(axes, dots, one.names)
            axes.set_title(one.score, parse_math=False)
            log_x(axes, "training compute (FLOPs)", power_of_ten)

    return drawing(draw, 2.7 * -(-len(data) // 3), 2.5 * len(data))


def isoflop(data: BudgetSlice) -> Drawing:
    """Predicted loss against model size for the plan's budget."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        line, sizes = data.line, data.line.num_params
        for (rise, (low, high)), colour in zip(data.within, (WIDE, NEAR), strict=True):
            axes.axvspan(low, high, color=colour, linewidth=0, label=f"within {rise:.1%} of the best")
        outside = [(sizes[0], data.searched[0]), (data.searched[1], sizes[-1])]
        for low, high in (span for span in outside if span[0] < span[1]):
            axes.axvspan(low, high, color=UNSEARCHED, linewidth=0, label="not searched")
        ends = [(sizes[-1], line.loss[-1], "prediction", INK)]
        if len(data.weights) > 1:
            for name, colour in zip(data.weights, cycle(LAWS, len(data.weights)), strict=True):
                axes.plot(sizes, data.laws[name], color=colour, linewidth=0.9)
                ends.append((sizes[-1], data.laws[name][-1], f"{name} ({data.weights[name]:.2f})", colour))
        axes.plot(sizes, line.loss, color=INK, linewidth=1.8)
        axes.plot(*data.optimum, "|", color=INK, markersize=12, markeredgewidth=1.4)
        axes.plot(*data.chosen, "D", color="white", markeredgecolor=TARGET, markeredgewidth=1.6, markersize=7)
        place = np.log(data.chosen[0] / sizes[0]) / np.log(sizes[-1] / sizes[0])
        text, side = f"planned: {format_count(data.chosen[0])} parameters", "left" if place < 0.5 else "right"
        shift = {"xytext": (0, 13), "textcoords": "offset points", "ha": side}
        axes.annotate(text, data.chosen, color=TARGET, path_effects=HALO, **shift)
        limit(axes, [*line.loss, *(value for values in data.laws.values() for value in values)])
        axes.set_xlim(sizes[0], sizes[-1])
        log_x(axes, f"model size (non-embedding parameters), at {format_flops(data.flops)} FLOPs", format_count)
        log_y(axes, f"predicted loss ({data.unit})")
        shown = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(
            shown.values(), shown.keys(), loc="outside upper left", ncols=1 if is_slim(figure) else 3, fontsize=8
        )
        end_labels(figure, axes, ends)

    return drawing(draw, 3.9)


def _band(axes: Axes, x: np.ndarray, line: PredictedLine) -> None:
    axes.fill_between(x, line.low, line.high, color=BAND, linewidth=0)


def _dots(axes: Axes, x: Sequence[float], runs: Sequence[RunPoint], colour: str, size: float, label: str = "") -> None:
    """Runs with bars of two standard errors of their loss, visible if they are longer than the dot."""
    if not runs:
        return
    y = [run.loss for run in runs]
    bars = [2 * (run.loss_se or 0) for run in runs]
    axes.errorbar(x, y, yerr=bars, fmt="none", ecolor=colour, elinewidth=0.7, alpha=0.6)
    (dots,) = axes.plot(
        x, y, "o", color=colour, markersize=size, markeredgecolor="white", markeredgewidth=0.6, label=label
    )
    name_points(axes, dots, [run.describe() for run in runs])


def _target(axes: Axes, x: float, target: Target) -> None:
    """The prediction as an open diamond with its interval, the actual loss as a dot."""
    if target.low is not None and target.high is not None:
        bars = [[target.loss - target.low], [target.high - target.loss]]
        axes.errorbar(x, target.loss, yerr=bars, fmt="none", ecolor=TARGET, elinewidth=1.3, capsize=4, zorder=4)
    axes.plot(x, target.loss, "D", color="white", markeredgecolor=TARGET, markeredgewidth=1.3, markersize=9, zorder=5)
    if target.actual is not None:
        (dot,) = axes.plot(x, target.actual.loss, "o", color=TARGET, markeredgewidth=0, markersize=5, zorder=6)
        name_points(axes, dot, [target.actual.describe()])


def _label_target(axes: Axes, x: float, target: Target) -> None:
    """The predicted and the actual loss as text, in the corner that decreasing losses leave empty."""
    interval = "" if target.low is None else f" [{target.low:.4f}, {target.high:.4f}]"
    lines = [f"target, {format_count(target.num_params)} parameters", f"predicted {target.loss:.4f}{interval}"]
    if target.actual is not None:
        lines.append(f"actual {target.actual.loss:.4f}")
    top = max([target.loss] + ([target.high] if target.high else []) + ([target.actual.loss] if target.actual else []))
    axes.annotate(
        "\n".join(lines),
        (x, top),
        xytext=(0.985, 0.97),
        textcoords="axes fraction",
        ha="right",
        va="top",
        color=TARGET,
        linespacing=1.4,
        arrowprops={"arrowstyle": "-", "color": TARGET, "linewidth": 0.7, "shrinkB": 4, "relpos": (0.5, 0)},
    )


def _target_losses(target: Target | None) -> list[float]:
    if target is None:
        return []
    values = [target.loss, target.low, target.high, target.actual.loss if target.actual else None]
    return [value for value in values if value is not None]


def _arms(axes: Axes, lines: Sequence[SweepArm]) -> None:
    for line, colour in zip(lines, cycle(LAWS, len(lines)), strict=True):
        label = f"{format_count(line.num_params)} parameters, {format_count(line.tokens)} tokens"
        (dots,) = axes.plot(
            line.setting, 100 * line.excess, "o-", color=colour, markersize=5, markeredgecolor="white", label=label
        )
        name_points(axes, dots, line.describe())
