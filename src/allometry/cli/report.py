"""``report``: the page of a study, or of several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal.options import Json


def report(
    studies: Annotated[list[Path], typer.Argument(metavar="STUDY...", help="A study; two or more are compared.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Where to; default: report.html in the study, comparison.html here for several."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """One HTML file that opens offline: pictures, runs, law, plan, proof, and the law to ask."""
    from ..report import write_comparison, write_report
    from ..runs.study import Study
    from .terminal.output import answer, answer_json

    opened = [Study.open(path) for path in studies]
    if len(opened) == 1:
        path = write_report(opened[0], output)
    else:
        path = write_comparison(opened, output or Path("comparison.html"))
    answer_json({"report": str(path)}) if json else answer(f"{path}")
