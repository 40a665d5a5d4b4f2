"""The report: one HTML file that opens offline, asks the network for nothing and runs no script.

Pictures are images in ``data:`` URLs, where a browser runs nothing whatever an SVG holds; all text is escaped by the
template; a Content-Security-Policy in the page forbids the rest. The same study gives the same bytes.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from .. import laws
from ..files import replace_file
from ..quantities import format_count
from ..runs.study import Study
from . import sentences as words
from . import tables
from .pictures import study_data as curves
from .study_contents import Findings

TEMPLATE = "report.html.j2"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
# Characters that a reader would not see, or that would turn the text around them: shown as pictures of themselves, or
# as the replacement character. Models of bytes write them.
UNSEEN = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}
    | {0x7F: 0x2421}
    | dict.fromkeys(
        (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)), 0xFFFD
    )
)


@dataclass(frozen=True)
class Picture:
    """A drawn figure with what stands around it."""

    heading: str
    caption: str
    source: str


def write_report(study: Study, path: Path | None = None) -> Path:
    """Write the report of a study, whatever stage it is at, to ``path`` (``report.html`` in the study).

    The old file stays until the new one is whole.

    Returns:
        where it was written.

    Raises:
        UserError: a file of the study is damaged.
        OSError: the report cannot be written there.
    """
    target = study.path / "report.html" if path is None else Path(path)
    replace_file(target, render(Findings.of(study)).encode("utf-8"))
    return target


def render(found: Findings) -> str:
    """The page as text."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value.translate(UNSEEN) if type(value) is str else value,
    )
    template = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        policy=POLICY,
        source=found.source,
        verdict=words.verdict(found),
        missing=words.missing(found),
        figures=_key_figures(found),
        pictures=_pictures(found),
        tables=tables.everything(found),
        law_notes=_law_notes(found),
        plan_notes=found.plan.notes if found.plan else (),
        sample=_sample(found),
        unit=found.unit,
        growth=_growth(found),
        last=max((record.finished_at for record in found.records), default=None),
    )


def _pictures(found: Findings) -> dict[str, Picture]:
    """Every picture that the study has something to show in."""
    from .pictures import study_drawn as plots  # matplotlib takes longer to import than the rest of the report to write

    data = {
        "loss_by_compute": curves.loss_by_compute(found) if found.finished() or found.predictor else None,
        "size_curves": curves.size_curves(found) if found.finished("ladder") else None,
        "isoflop": curves.isoflop(found),
        "backtest": curves.backtest(found) or None,
        "sweep": curves.sweep(found),
        "training_curves": curves.training_curves(found) if any(found.curves.values()) else None,
    }
    captions = words.captions(found)
    return {
        name: Picture(*captions[name], _data_url(getattr(plots, name)(shown)))
        for name, shown in data.items()
        if shown is not None
    }


def _data_url(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8")).decode("ascii")


def _key_figures(found: Findings) -> list[tuple[str, str]]:
    """The few numbers that a reader looks for first."""
    plan, outcome = found.plan, found.outcome
    if plan is None and outcome is None:
        return []
    predicted, low, high = (
        (outcome.predicted, outcome.low, outcome.high) if outcome else (plan.loss, plan.low, plan.high)
    )
    figures = [("predicted loss", f"{predicted:.4f}")]
    if low is not None and high is not None:
        figures.append((f"{found.level:.0%} interval", f"{low:.4f} – {high:.4f}"))
    if outcome:
        figures += [("actual loss", f"{outcome.actual:.4f}"), ("error", f"{abs(outcome.relative_error):.2%}")]
        if outcome.compute_ratio is not None:
            figures.append(("compute / largest rung", f"{outcome.compute_ratio:.3g}×"))
        figures.append(("ladder's share", f"{outcome.ladder_share:.1%}"))
    return figures


def _law_notes(found: Findings) -> list[str]:
    """What the fits say of themselves: drift and correction of a forecast, constants at a bound, rows left out."""
    predictor = found.predictor
    if predictor is None:
        return []
    notes = []
    if isinstance(predictor, laws.Forecast):
        notes.append(
            "For each e-fold of compute beyond the largest run the interval widens by a drift (one standard deviation) "
            f"of {predictor.drift:.2%} of the loss, and {predictor.correction:.2%} is taken off the prediction, as far "
            "as the backtest reached."
        )
    notes += [f"{name}: {note}" for name, fit in found.fits.items() for note in fit.active_bounds]
    return [*notes, *predictor.notes]


def _growth(found: Findings) -> str:
    """How batch and rate go on along a run, as the runs recorded it."""
    rules = {(t.reference_tokens, t.batch_exponent, t.lr_exponent) for t in (r.config.train for r in found.records)}
    if len(rules) != 1:
        return ""
    reference, batch, lr = rules.pop()
    rate = f"the rate falls as tokens^{lr:g}" if lr else "the rate stays"
    return (
        f"Batch (tokens) and rate are those at {reference:,} tokens seen; the batch grows as tokens^{batch:g}, {rate}."
    )


def _sample(found: Findings) -> dict[str, Any] | None:
    """The text that a model wrote, its prompt apart."""
    if not found.sample:
        return None
    prompt, text = found.sample["prompt"], found.sample["text"]
    record = next((record for record in found.records if record.id == found.sample["run"]), None)
    return {
        "run": found.sample["run"],
        "num_params": format_count(record.config.num_params) if record else None,
        "prompt": prompt,
        "text": text.removeprefix(prompt),
    }
