"""The report: one HTML file that opens offline, loads nothing from the network and runs no script but our own.

The template escapes all text, and what the page is told as JSON too; a Content-Security-Policy in the page allows our
scripts by their hashes and forbids the rest. The same study gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import replace_file
from ..quantities import format_count
from ..runs.study import Study
from . import cells, sentences, tables
from .html import Picture, rendered
from .pictures import evidence, loss_curves
from .question import LAW_SCRIPTS, study_question
from .study_contents import StudyContents

# Pictures that a study shares with the page of any law → what they are called there.
OF_ANY_LAW = {"calibration": "calibration", "surface": "surface", "valleys": "isoflop"}


def write_report(study: Study, path: Path | None = None) -> Path:
    """Write the report of a study, at any stage, to ``path`` (by default ``report.html`` in the study).

    The old file stays until the new one is complete.

    Returns:
        the path of the report.

    Raises:
        UserError: a file of the study is damaged.
        OSError: the report cannot be written there.
    """
    target = study.path / "report.html" if path is None else Path(path)
    replace_file(target, render(StudyContents.of(study)).encode("utf-8"))
    return target


def render(contents: StudyContents) -> str:
    """The page as text."""
    asked = study_question(contents)
    return rendered(
        "report.html.j2",
        LAW_SCRIPTS if asked else (),
        question=asked,
        few_units=sentences.few_units(contents.plan),
        unaskable=contents.predictor is not None and asked is None,
        source=contents.source,
        verdict=sentences.verdict(contents),
        missing=sentences.missing(contents),
        figures=_key_figures(contents),
        pictures=_pictures(contents),
        tables=tables.all_tables(contents),
        law_notes=sentences.law_notes(contents.predictor) if contents.predictor else [],
        cautions=contents.plan.cautions if contents.plan else (),
        optimum_note=sentences.optimum_note(contents.plan),
        plan_notes=contents.plan.notes if contents.plan else (),
        sample=_sample(contents),
        unit=contents.unit,
        rate=contents.rate,
        runs_note=sentences.runs_note(contents),
        last=cells.moment(max(record.finished_at for record in contents.records)).text if contents.records else None,
    )


def _pictures(contents: StudyContents) -> dict[str, Picture]:
    """Every picture for which the study has data."""
    # Importing matplotlib takes longer than writing the rest of the report.
    from .pictures import law_drawn, study_drawn
    from .pictures.inline_svg import on_page

    data = {
        "loss_by_compute": loss_curves.loss_by_compute(contents) if contents.finished() or contents.predictor else None,
        "size_curves": loss_curves.size_curves(contents) if contents.finished("ladder") else None,
        "isoflop": evidence.isoflop(contents),
        "valleys": evidence.valleys(contents),
        "backtest": evidence.backtest(contents) or None,
        "calibration": evidence.calibration(contents),
        "sweep": evidence.sweep(contents),
        "surface": evidence.sweep_surface(contents),
        "scores": evidence.scores(contents) or None,
        "training_curves": loss_curves.training_curves(contents) if any(contents.curves.values()) else None,
    }
    captions = sentences.captions(contents)
    pictures = {}
    for name, shown in data.items():
        if shown is not None:
            draw = getattr(law_drawn if name in OF_ANY_LAW else study_drawn, OF_ANY_LAW.get(name, name))
            pictures[name] = Picture(*captions[name], on_page(draw(shown), name, ". ".join(captions[name])))
    return pictures


def _key_figures(contents: StudyContents) -> list[tuple[str, str]]:
    """The few numbers that a reader looks for first."""
    plan, outcome = contents.plan, contents.outcome
    if outcome:
        predicted, low, high = outcome.predicted, outcome.low, outcome.high
    elif plan:
        predicted, low, high = plan.loss, plan.low, plan.high
    else:
        return []
    figures = [("predicted loss", f"{predicted:.4f}")]
    if low is not None and high is not None:
        figures.append((f"{contents.level:.0%} interval", f"{low:.4f} – {high:.4f}"))
    if outcome:
        figures += [("actual loss", f"{outcome.actual:.4f}"), ("error", f"{abs(outcome.relative_error):.2%}")]
        if outcome.compute_ratio is not None:
            figures.append(("compute / largest rung", f"{outcome.compute_ratio:.3g}×"))
        figures.append(("ladder's share of compute", f"{outcome.ladder_share:.1%}"))
    return figures


def _sample(contents: StudyContents) -> dict[str, Any] | None:
    """The text that a model wrote, separate from its prompt."""
    if not contents.sample:
        return None
    prompt, text = contents.sample["prompt"], contents.sample["text"]
    record = next((record for record in contents.records if record.id == contents.sample["run"]), None)
    return {
        "run": contents.sample["run"],
        "num_params": format_count(record.num_params) if record else None,
        "prompt": prompt,
        "text": text.removeprefix(prompt),
    }
