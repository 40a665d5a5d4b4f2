"""``report``."""

from __future__ import annotations

from pathlib import Path

from ..report import write_report
from ..runs.study import Study
from .output import answer, answer_json


def report(study: Path, *, output: Path | None, as_json: bool) -> None:
    """Write a study's page and say where it is."""
    path = write_report(Study.open(study), output)
    answer_json({"report": str(path)}) if as_json else answer(f"{path}")
