"""A page for laws of any inputs: formula, constants, pictures, and the law to ask if its numbers fit the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import laws
from ..files import replace_file
from ..laws.law_table import LEVELS
from ..quantities import plural
from . import inputs_tables, law_tables
from .cells import ReportTable
from .html import Picture, rendered
from .law_parts import LEVEL, LawPart
from .question import as_json

MOST_BYTES = 3_000_000
MOST_SHOWN = 4  # laws with pictures and tables; all of them can be asked

TOO_LARGE = (
    "The page cannot ask this law: its runs and constants would make the page larger than "
    f"{MOST_BYTES // 1_000_000} MB. Ask it with allometry predict."
)
OWN_FORMULA = (
    "The page cannot ask this law: a formula of your own does what the page cannot. Ask it with allometry predict."
)
Fitted = laws.InputForecast | laws.Forecasts


def write_inputs_page(fitted: Fitted, path: Path | str, source: str, wording: Callable[[str], str] = str) -> Path:
    """Write the page of laws of any inputs; the old file stays until the new one is complete.

    Args:
        fitted: what ``workflow.fit_inputs`` returns: one law, or several of one table.
        source: the name of the table, for people.
        wording: of the notes; the command line names its options instead of arguments.

    Raises:
        OSError: the page cannot be written there.
    """
    replace_file(Path(path), render_inputs(fitted, source, wording).encode("utf-8"))
    return Path(path)


def render_inputs(fitted: Fitted, source: str, wording: Callable[[str], str] = str) -> str:
    """The page as text; where asking the law would make it too large, it only shows it."""
    parts = LawPart.each(fitted)
    shown = parts[:MOST_SHOWN]
    values: dict[str, Any] = {
        "source": source,
        "targets": ", ".join(dict.fromkeys(part.runs.target for part in parts)),
        "verdicts": [_verdict(part) for part in shown],
        "cautions": list(dict.fromkeys(wording(note) for part in parts for note in part.forecast.notes)),
        "parts": [_described(number, part) for number, part in enumerate(shown)],
        "pictures": _pictures(shown),
        "tables": _tables(shown),
        "left_out": [f"{plural(len(parts) - len(shown), 'more law')}: ask for them above"]
        if len(parts) > len(shown)
        else [],
    }
    if not all(part.can_be_asked for part in parts):
        return rendered("inputs.html.j2", question=None, unaskable=OWN_FORMULA, **values)
    scripts = ("ground.js", "runs_process.js", "law.js", "inputs_law.js", "form_parts.js", "curve.js", "ask_inputs.js")
    page = rendered("inputs.html.j2", scripts, question=as_json(_question(parts)), unaskable="", **values)
    if len(page.encode("utf-8")) <= MOST_BYTES:
        return page
    return rendered("inputs.html.j2", question=None, unaskable=TOO_LARGE, **values)


def _question(parts: Sequence[LawPart]) -> dict[str, Any]:
    """What the page is told: the table of each law, and where to begin."""
    return {
        "levels": list(LEVELS),
        "level": LEVELS.index(LEVEL),
        "parts": [
            {
                "label": part.label,
                "table": part.table,
                "start": {
                    "point": part.runs.points[part.first_asked].tolist(),
                    "group": int(part.runs.group[part.first_asked]),
                    "axis": part.varying[0],
                },
            }
            for part in parts
        ],
    }


def _described(number: int, part: LawPart) -> dict[str, Any]:
    runs, most = part.runs, inputs_tables.MOST_ROWS
    return {
        "key": str(number),
        "label": part.label,
        "formulas": inputs_tables.formulas(part),
        "runs_note": f"The first {most} of {len(runs)} runs." if len(runs) > most else "",
    }


def _verdict(part: LawPart) -> str:
    """The law in one paragraph."""
    runs = part.runs
    groups = f" in {plural(len(runs.group_names), 'group')}" if len(runs.group_names) > 1 else ""
    words = f"{part.label} from {', '.join(runs.inputs)}: {plural(len(runs), 'run')}{groups}."
    if part.named_laws is not None:
        best = next(iter(law_tables.weights_of(part.named_laws)))
        scores = dict(part.named_laws.backtest.ranking())
        off = f", {scores['forecast']:.2%} off on held-out runs" if "forecast" in scores else ""
        return f"{words} The named laws of size and tokens predict it, {best} with the largest weight{off}."
    assert isinstance(part.forecast, laws.InputForecast)
    if not part.forecast.errors:
        return f"{words} They are too few to hold some out, so nothing shows how well the law predicts."
    split, worst = max(part.forecast.errors.items(), key=lambda pair: pair[1])
    spread = float(np.std(runs.values))
    return (
        f"{words} Of runs that were held out it was off by {worst:.3g} at worst (rms; {split}); all runs deviate from "
        f"their mean by {spread:.3g}."
    )


def _pictures(parts: Sequence[LawPart]) -> dict[str, Picture]:
    from .pictures import inputs_drawn
    from .pictures.inline_svg import on_page

    pictures = {}
    for number, part in enumerate(parts):
        data = inputs_drawn.predicted_against_measured(part, LEVEL)
        some = " Of very many runs some are drawn." if len(part.runs) > len(data.measured) else ""
        drawn = {
            "agreement": (
                "Predicted against measured",
                f"Each dot is a run of the table, all of which were fitted; bars are {LEVEL:.0%} intervals.{some}",
                inputs_drawn.agreement(data),
            ),
            "slices": (
                "Along each input",
                f"The other inputs are those of one run, the diamond: {part.describe(part.first_asked)}. Line: the "
                f"law; band: its {LEVEL:.0%} interval; dots: runs, the fainter the farther their other inputs are.",
                inputs_drawn.slices(inputs_drawn.input_slices(part, LEVEL)),
            ),
        }
        for name, (heading, caption, drawing) in drawn.items():
            key = f"{name}-{number}"
            pictures[key] = Picture(heading, caption, on_page(drawing, key, f"{heading}. {caption}"))
    return pictures


def _tables(parts: Sequence[LawPart]) -> dict[str, ReportTable]:
    tables: dict[str, ReportTable] = {}
    for number, part in enumerate(parts):
        own: dict[str, ReportTable | None] = {"runs": inputs_tables.runs(part)}
        if part.named_laws is not None:
            own |= {"laws": law_tables.law_weights(part.named_laws), "constants": law_tables.constants(part.named_laws)}
        elif isinstance(part.forecast, laws.InputForecast):
            forecast = part.forecast
            own |= {"forms": inputs_tables.forms(forecast), "constants": inputs_tables.constants(forecast)}
            own["held_out"] = inputs_tables.held_out(forecast)
        tables |= {f"{name}-{number}": table for name, table in own.items() if table is not None}
    return tables
