"""The command that a study asks for next, from the files that are in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import parse_json


def next_step(study: Path) -> list[str]:
    """The command, as its parts: the ladder, then fit, plan, training of the plan, and last the report.

    A plan is asked for by hours where the study has measured its machine, else by FLOPs; one that names no run, as of
    runs that were trained elsewhere, is not trained here. A study of a fine-tuning has nothing to come, and its list is
    empty.
    """
    place = str(study)
    if _is_of_finetuning(study):
        return []
    if not any((study / "runs").glob("*/record.json")):
        return ["allometry", "ladder", place]
    if not (study / "fit.json").is_file():
        return ["allometry", "fit", place]
    if not (study / "plan.json").is_file():
        measured = (study / "calibration.json").is_file()
        return ["allometry", "plan", place, *(["--hours", "1"] if measured else ["--flops", _ten_times(study)])]
    if not (study / "outcome.json").is_file() and _read(study / "plan.json").get("run"):
        return ["allometry", "train", str(study / "plan.json")]
    return ["allometry", "report", place]


def _is_of_finetuning(study: Path) -> bool:
    return "finetune" in _read(study / "study.json")


def _ten_times(study: Path) -> str:
    """Ten times the compute of the largest run that the study's law was fitted to."""
    fit = _read(study / "fit.json")
    flops = fit.get("reach") or (fit.get("range") or {}).get("flops", (0, 0))[1]
    return f"{10 * flops:.1e}".replace("e+", "e") if isinstance(flops, int | float) and flops > 0 else "1e18"


def _read(path: Path) -> dict[str, Any]:
    """The table in a JSON file; an empty one where there is none."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
