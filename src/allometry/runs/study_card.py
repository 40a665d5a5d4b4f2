"""How a study shows itself in a notebook: its runs, what they cost, and the command that comes next."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import Any

from ..cards import Card, Chart
from ..cards.chart import Dot, power_of_ten, shade_colour, shades
from ..quantities import format_count, format_flops, format_seconds, plural
from .next_step import next_step


def study_card(study: Any) -> Card:
    """Of a ``Study``: its finished runs as loss against compute, one line for each size."""
    records = study.records()
    finished = [each for each in records if each.status == "finished" and each.loss is not None]
    failed = len(records) - sum(each.status == "finished" for each in records)
    kinds = ", ".join(f"{number} {kind}" for kind, number in Counter(each.kind for each in records).items())
    says = f"{kinds}; {format_flops(sum(each.flops_spent for each in records))} FLOPs in " if records else ""
    says += format_seconds(sum(each.seconds for each in records)) + " of processes." if records else "No run has ended."
    if finished:
        best = min(finished, key=lambda each: each.loss)
        says += (
            f" The lowest loss is {best.loss:.4f}, of run {best.id} with {format_count(best.num_params)} parameters."
        )
    following = next_step(study.path)
    return Card(
        f"Study {study.path}: {plural(len(records), 'run')}",
        "A folder of trainings; each is a point of the scaling law, and its record is a file that one can read.",
        says,
        f"{plural(failed, 'run')} did not finish." if failed else "",
        f"`{shlex.join(following)}`" if following else "",
        _picture(finished),
    )


def _picture(records: list[Any]) -> str:
    chart = Chart(
        "training compute (FLOPs)",
        "held-out loss",
        "Loss of the runs against compute",
        log_y=True,
        form_x=power_of_ten,
        form_y=lambda y: f"{y:.3g}",
    )
    sizes = sorted({each.num_params for each in records})
    for size, shade in zip(sizes, shades(sizes), strict=True):
        runs = sorted((each for each in records if each.num_params == size), key=lambda each: each.flops)
        chart.line([each.flops for each in runs], [each.loss for each in runs], "", shade_colour(shade))
        chart.dots += [
            Dot(
                each.flops,
                each.loss,
                f"{each.id} ({each.kind}): {format_count(size)} parameters, {format_count(each.tokens)} tokens, "
                f"loss {each.loss:.4f}",
                shade,
            )
            for each in runs
        ]
    return chart.svg()
