"""``report``: the page of a study, or of several side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from .terminal.command import use_of_run
from .terminal.options import Json

EXAMPLES = (
    "allometry report quickstart",
    "allometry report quickstart -o page.html",
    "allometry report first second -o comparison.html",
)


def report(
    studies: Annotated[list[Path], typer.Argument(metavar="STUDY...", help="A study; two or more are compared.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Where to; default: report.html in the study, comparison.html here for several."
        ),
    ] = None,
    json: Json = False,
) -> list[str]:
    """Write the report of a study, with a law to ask: one HTML file that opens offline. Several are compared."""
    from ..report import write_comparison, write_report
    from ..runs.next_step import next_step
    from ..runs.study import Study
    from .terminal.output import answer, answer_json

    opened = [Study.open(path) for path in studies]
    if len(opened) == 1:
        path = write_report(opened[0], output)
    else:
        path = write_comparison(opened, output or Path("comparison.html"))
    answer_json({"report": str(path)}) if json else answer(f"{path}")
    following = next_step(studies[0])
    if "report" not in following[1:2]:
        return following
    best = min(opened[0].records(), key=lambda record: math.inf if record.loss is None else record.loss, default=None)
    return use_of_run(opened[0], best) or ["allometry", "runs", str(studies[0])]
