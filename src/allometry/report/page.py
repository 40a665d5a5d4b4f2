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
from .study_contents import StudyContents

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
    replace_file(target, render(StudyContents.of(study)).encode("utf-8"))
    return target


def render(contents: StudyContents) -> str:
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
        source=contents.source,
        verdict=words.verdict(contents),
        missing=words.missing(contents),
        figures=_key_figures(contents),
        pictures=_pictures(contents),
        tables=tables.everything(contents),
        law_notes=_law_notes(contents),
        plan_notes=contents.plan.notes if contents.plan else (),
        sample=_sample(contents),
        unit=contents.unit,
        growth=_growth(contents),
        last=max((record.finished_at for record in contents.records), default=None),
    )


def _pictures(contents: StudyContents) -> dict[str, Picture]:
    """Every picture that the study has something to show in."""
    from .pictures import study_drawn as plots  # matplotlib takes longer to import than the rest of the report to write

    data = {
        "loss_by_compute": curves.loss_by_compute(contents) if contents.finished() or contents.predictor else None,
        "size_curves": curves.size_curves(contents) if contents.finished("ladder") else None,
        "isoflop": curves.isoflop(contents),
        "backtest": curves.backtest(contents) or None,
        "sweep": curves.sweep(contents),
        "training_curves": curves.training_curves(contents) if any(contents.curves.values()) else None,
    }
    captions = words.captions(contents)
    return {
        name: Picture(*captions[name], _data_url(getattr(plots, name)(shown)))
        for name, shown in data.items()
        if shown is not None
    }


def _data_url(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8")).decode("ascii")


def _key_figures(contents: StudyContents) -> list[tuple[str, str]]:
    """The few numbers that a reader looks for first."""
    plan, outcome = contents.plan, contents.outcome
    if plan is None and outcome is None:
        return []
    predicted, low, high = (
        (outcome.predicted, outcome.low, outcome.high) if outcome else (plan.loss, plan.low, plan.high)
    )
    figures = [("predicted loss", f"{predicted:.4f}")]
    if low is not None and high is not None:
        figures.append((f"{contents.level:.0%} interval", f"{low:.4f} – {high:.4f}"))
    if outcome:
        figures += [("actual loss", f"{outcome.actual:.4f}"), ("error", f"{abs(outcome.relative_error):.2%}")]
        if outcome.compute_ratio is not None:
            figures.append(("compute / largest rung", f"{outcome.compute_ratio:.3g}×"))
        figures.append(("ladder's share", f"{outcome.ladder_share:.1%}"))
    return figures


def _law_notes(contents: StudyContents) -> list[str]:
    """What the fits say of themselves: drift and correction of a forecast, constants at a bound, rows left out."""
    predictor = contents.predictor
    if predictor is None:
        return []
    notes = []
    if isinstance(predictor, laws.Forecast):
        notes.append(
            "For each e-fold of compute beyond the largest run the interval widens by a drift (one standard deviation) "
            f"of {predictor.drift:.2%} of the loss, and {predictor.correction:.2%} is taken off the prediction, as far "
            "as the backtest reached."
        )
    notes += [f"{name}: {note}" for name, fit in contents.fits.items() for note in fit.active_bounds]
    return [*notes, *predictor.notes]


def _growth(contents: StudyContents) -> str:
    """How batch and rate go on along a run, as the runs recorded it."""
    rules = {(t.reference_tokens, t.batch_exponent, t.lr_exponent) for t in (r.config.train for r in contents.records)}
    if len(rules) != 1:
        return ""
    reference, batch, lr = rules.pop()
    rate = f"the rate falls as tokens^{lr:g}" if lr else "the rate stays"
    return (
        f"Batch (tokens) and rate are those at {reference:,} tokens seen; the batch grows as tokens^{batch:g}, {rate}."
    )


def _sample(contents: StudyContents) -> dict[str, Any] | None:
    """The text that a model wrote, its prompt apart."""
    if not contents.sample:
        return None
    prompt, text = contents.sample["prompt"], contents.sample["text"]
    record = next((record for record in contents.records if record.id == contents.sample["run"]), None)
    return {
        "run": contents.sample["run"],
        "num_params": format_count(record.config.num_params) if record else None,
        "prompt": prompt,
        "text": text.removeprefix(prompt),
    }
