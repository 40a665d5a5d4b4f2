"""Draw the pictures of laws and plans from the arrays of ``law_data``; each function returns a drawing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ... import laws
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
    WIDE,
    Drawing,
    decades,
    drawing,
    finite,
    is_slim,
    limit,
    log_x,
    log_y,
    name_points,
    panels,
    power_of_ten,
)
from .law_data import BasinSlice, Calibration, FitResiduals, Frontier, SurfaceSlice

SIZES = "viridis"
LEVELS = (0.001, 0.003, 0.01, 0.03, 0.1)


def frontier(data: Frontier) -> Drawing:
    """Loss against compute: runs coloured by size, the predicted frontier with its interval, the end of the data."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        best = data.best
        axes.fill_between(best.flops, best.low, best.high, color=BAND, linewidth=0, label=f"{data.level:.0%} interval")
        _by_size(figure, axes, data.flops, data.loss, data.num_params, data.titles)
        axes.plot(best.flops, best.loss, color=INK, label="predicted, each budget split best")
        axes.axvline(data.reach, color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)))
        place = axes.get_xaxis_transform()
        axes.text(data.reach, 0.98, " largest run", color=SOFT, fontsize=8, va="top", transform=place)
        limit(axes, [*finite(best.low), *best.loss, *data.loss])
        log_x(axes, "training compute (FLOPs)", power_of_ten)
        log_y(axes, "loss")
        axes.legend(loc="lower left", fontsize=8)

    return drawing(draw, 4.2)


def residuals(data: FitResiduals) -> Drawing:
    """The residuals of a law by compute and by tokens per parameter: a pattern in them is a fault of the law."""

    def draw(figure: Figure) -> None:
        left, right = panels(figure, 2, 1, sharey=True)
        for axes, x, label, form in (
            (left, data.flops, "training compute (FLOPs)", power_of_ten),
            (right, data.tokens_per_param, "tokens per parameter", format_count),
        ):
            axes.axhspan(-100 * data.rms, 100 * data.rms, color=BAND, linewidth=0)
            axes.axhline(0, color=SOFT, linewidth=0.8)
            bar = _by_size(figure if axes is right else None, axes, x, 100 * data.residual, data.num_params)
            log_x(axes, label, form)
        assert bar is not None
        left.set_ylabel(f"observed over {data.law}, less 1 (%)")

    return drawing(draw, 2.9, 5.2)


def isoflop(data: laws.IsoFlop) -> Drawing:
    """Loss along each budget with the fitted slice and its minimum; the best size against compute."""

    def draw(figure: Figure) -> None:
        left, right = panels(figure, 2, 1)
        for one, colour in zip(data.budgets, _colours([one.flops for one in data.budgets]), strict=True):
            (dots,) = left.plot(one.run_params, one.run_loss, "o", color=colour, markersize=3.5, markeredgewidth=0)
            rows = zip(one.labels, one.run_params, one.run_loss, strict=True)
            name_points(
                left, dots, [f"{name}: {format_count(size)} parameters, loss {loss:.4f}" for name, size, loss in rows]
            )
            refused = {"linestyle": (0, (2, 2))} if one.refused else {}
            left.plot(one.curve_params, one.curve_loss, color=colour, linewidth=1.0, **refused)
            if not one.refused:
                left.plot(one.num_params, one.loss, "|", color=INK, markersize=9, markeredgewidth=1.3)
        log_x(left, "parameters", format_count)
        log_y(left, "loss")
        _best_sizes(right, data)

    return drawing(draw, 3.6, 6.4)


def basin(data: BasinSlice) -> Drawing:
    """Predicted loss against size along one budget; the sizes whose loss is nearly the lowest are marked."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        line = data.line
        for (rise, (low, high)), colour in zip(data.within, (WIDE, NEAR), strict=True):
            axes.axvspan(low, high, color=colour, linewidth=0, label=f"within {rise:.1%} of the best")
        axes.fill_between(line.num_params, line.low, line.high, color=BAND, linewidth=0, alpha=0.7)
        axes.plot(line.num_params, line.loss, color=INK, linewidth=1.6)
        axes.plot(data.num_params, data.loss, "D", color="white", markeredgecolor=TARGET, markeredgewidth=1.6)
        text = f"{format_count(data.num_params)} parameters, {format_count(data.flops / 6 / data.num_params)} tokens"
        place = {"xytext": (0, 12), "textcoords": "offset points", "ha": "center"}
        axes.annotate(text, (data.num_params, data.loss), color=TARGET, path_effects=HALO, **place)
        limit(axes, [*line.loss, *finite(line.low), *finite(line.high)])
        axes.set_xlim(line.num_params[0], line.num_params[-1])
        log_x(axes, f"parameters, at {format_flops(data.flops)} FLOPs (6·N·D)", format_count)
        log_y(axes, f"predicted loss, {data.level:.0%} interval")
        figure.legend(loc="outside upper left", ncols=1 if is_slim(figure) else 2, fontsize=8)

    return drawing(draw, 3.4)


def surface(data: SurfaceSlice) -> Drawing:
    """Contours of what a learning rate and a batch cost; dots are runs, the cross is the optimum with its interval."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        shades = ["#ffffff", "#f3f3f3", "#e6e6e6", "#d6d6d6", "#c4c4c4", "#b0b0b0"]
        axes.contourf(data.lr, data.batch_tokens, np.maximum(data.regret, 0), [0, *LEVELS], colors=shades, extend="max")
        lines = axes.contour(data.lr, data.batch_tokens, data.regret, LEVELS, colors=SOFT, linewidths=0.7)
        axes.clabel(lines, fmt=lambda regret: f"{100 * regret:g} %", fontsize=7.5)
        lr, batch, regret = data.runs
        dots = axes.scatter(
            lr,
            batch,
            c=np.maximum(100 * regret, 0.03),
            s=26,
            cmap="viridis_r",
            norm=LogNorm(0.03, 10),
            edgecolors="white",
        )
        figure.colorbar(dots, ax=axes, label="run: loss above the best run (%)", format=lambda x, _: f"{x:g}")
        bars = {"ecolor": TARGET, "elinewidth": 1.4, "capsize": 3, "fmt": "none", "zorder": 5}
        (best_lr, best_batch), (a, b), (c, d) = data.best, data.best_lr, data.best_batch
        axes.errorbar(best_lr, best_batch, xerr=[[best_lr - a], [b - best_lr]], **bars)
        axes.errorbar(best_lr, best_batch, yerr=[[best_batch - c], [d - best_batch]], **bars)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(data.lr[0], data.lr[-1])
        axes.set_ylim(data.batch_tokens[0], data.batch_tokens[-1])
        log_x(axes, "learning rate", lambda x: f"{x:.1g}")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: format_count(y)))
        axes.set_ylabel("batch (tokens)")
        axes.set_title(f"{format_count(data.num_params)} parameters, {format_count(data.tokens)} tokens")

    return drawing(draw, 3.8)


def calibration(data: Calibration) -> Drawing:
    """Share of unseen runs inside their intervals, by nominal level; calibrated intervals lie on the diagonal."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=SOFT, linewidth=0.8)
        if data.names:
            for row in data.groups:
                axes.plot(100 * data.nominal, 100 * row, color=FAINT, linewidth=0.7)
            axes.plot([], [], color=FAINT, linewidth=0.7, label="each table")
        label = f"{data.points} predictions"
        axes.plot(100 * data.nominal, 100 * data.observed, "o-", color=LAWS[0], markersize=4.5, label=label)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 103)
        axes.set_aspect("equal")
        axes.set_xlabel("nominal level (%)")
        axes.set_ylabel("runs inside (%)")
        axes.legend(loc="upper left", fontsize=8)

    return drawing(draw, 4.2)


def _best_sizes(axes: Axes, data: laws.IsoFlop) -> None:
    flops, sizes, low, high = (
        np.array([getattr(one, name) for one in data.accepted]) for name in ("flops", "num_params", "low", "high")
    )
    grid = np.geomspace(flops.min() / 2, flops.max() * 10, 40)
    best = data.num_params(grid)
    axes.fill_between(grid, best.low, best.high, color=BAND, linewidth=0, label=f"{best.level:.0%} interval")
    axes.plot(grid, best.value, color=INK, label=f"exponent {data.exponents['num_params']:.3f}")
    bars = [np.maximum(sizes - low, 0), np.maximum(high - sizes, 0)]
    axes.errorbar(flops, sizes, yerr=bars, fmt="none", ecolor=TARGET, elinewidth=0.8)
    axes.plot(flops, sizes, "o", color=TARGET, markersize=4.5, markeredgecolor="white", label="minimum of a budget")
    axes.set_yscale("log")
    log_x(axes, "training compute (FLOPs)", power_of_ten)
    axes.yaxis.set_major_locator(decades(*axes.get_ylim()))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: format_count(y)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("best size (parameters)")
    axes.legend(loc="upper left", fontsize=8)


def _by_size(
    figure: Figure | None, axes: Axes, x: np.ndarray, y: np.ndarray, sizes: np.ndarray, titles: Sequence[str] = ()
):
    """Dots coloured by size, with a colour bar if a figure is given."""
    least, most = float(sizes.min()), float(sizes.max())
    norm = LogNorm(least, most * (most / least) ** 0.25 * 1.0001)  # without the palest colours, invisible on white
    dots = axes.scatter(x, y, c=sizes, s=16, cmap=SIZES, norm=norm, linewidths=0.4, edgecolors="white", zorder=2)
    name_points(axes, dots, titles)
    if figure is None:
        return None
    bar = figure.colorbar(ScalarMappable(norm, SIZES), ax=axes, pad=0.02)
    bar.ax.set_ylim(least, most * 1.0001)
    ticks = [tick for tick in 10.0 ** np.arange(0, 16) if least <= tick <= most] or [least, most]
    bar.ax.yaxis.set_major_locator(FixedLocator(ticks))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: format_count(y)))
    bar.set_label("parameters")
    return bar


def _colours(values: list[float]) -> list:
    import matplotlib

    ranks = np.argsort(np.argsort(values)) / max(len(values) - 1, 1)
    return [matplotlib.colormaps[SIZES](0.85 * rank) for rank in ranks]
