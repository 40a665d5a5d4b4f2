"""``report``: the page of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal.options import Json


def report(
    study: Annotated[Path, typer.Argument(help="Folder of a study.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to; default: report.html in the study.")
    ] = None,
    json: Json = False,
) -> None:
    """One HTML file that opens offline: pictures, runs, law, plan, proof."""
    from ..report import write_report
    from ..runs.study import Study
    from .terminal.output import answer, answer_json

    path = write_report(Study.open(study), output)
    answer_json({"report": str(path)}) if json else answer(f"{path}")
