"""Draw the frontiers of several laws in one picture, with their runs and where one overtakes another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ...planning import BestLosses, Overtaking
from .canvas import FAINT, LAWS, SOFT, Drawing, cycle, drawing, finite, limit, log_x, log_y, name_points, power_of_ten
from .points_and_lines import run_line

Run = tuple[str, float, float, float]  # name, parameters, tokens, loss


def frontiers(
    lines: Mapping[str, BestLosses], runs: Mapping[str, Sequence[Run]], crossings: Sequence[Overtaking], unit: str
) -> Drawing:
    """Loss against compute: a line with its interval for each study, the runs as dots, crossings upright."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        losses = []
        for each in crossings:
            if each.flops is None:
                continue
            if each.low is not None and each.high is not None:
                ends = np.clip([each.low, each.high], each.first.flops[0], each.first.flops[-1])
                axes.axvspan(*ends, color=FAINT, alpha=0.22, linewidth=0)
            axes.axvline(each.flops, color=SOFT, linewidth=0.9, linestyle=(0, (3, 2)))
        for (name, line), colour in zip(lines.items(), cycle(LAWS, len(lines)), strict=True):
            axes.fill_between(line.flops, line.low, line.high, color=colour, alpha=0.14, linewidth=0)
            axes.plot(line.flops, line.loss, color=colour, linewidth=1.5, label=name)
            shown = runs.get(name, ())
            if shown:
                flops, reached = [6 * n * d for _, n, d, _ in shown], [loss for *_, loss in shown]
                (dots,) = axes.plot(flops, reached, "o", color=colour, markersize=4.5, markeredgecolor="white")
                name_points(axes, dots, [run_line(f"{name}, {one[0]}", *one[1:]) for one in shown])
                losses += reached
            losses += [*line.loss, *finite(np.asarray(line.low))]
        limit(axes, losses)
        log_x(axes, "training compute (FLOPs, 6·N·D)", power_of_ten)
        log_y(axes, f"loss ({unit})")
        legend = axes.legend(loc="upper right", fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)  # names are the user's

    return drawing(draw, 4.4, 4.4)
