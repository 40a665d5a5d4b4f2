"""``plan`` and ``scale``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import laws, planning
from ..config import DataConfig, RunConfig, StudyConfig
from ..errors import UserError
from ..files import write_json
from ..quantities import format_count, parse_number
from ..runs.outcome import planned_run
from ..runs.recipe import Recipe, shape_near
from ..runs.store import Study
from .laws import load_fit
from .output import answer, answer_json, note


def plan(
    source: Path,
    *,
    budget: dict[str, Any],
    params: str | None,
    tokens: str | None,
    level: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """A plan for a budget; a study's plan is ready to train by the study's own recipe."""
    predictor = load_fit(source)
    folder = source if source.is_dir() else source.parent
    study = Study(folder) if Study(folder).settings_path.is_file() else None
    given = {name: value for name, value in budget.items() if value is not None}
    if "flops" in given:
        given["flops"] = parse_number(given["flops"], "--flops")
    made_budget = planning.Budget(**given) if given else None
    made = study_plan(
        predictor,
        made_budget,
        study,
        level=level,
        num_params=None if params is None else parse_number(params, "--params"),
        tokens=None if tokens is None else parse_number(tokens, "--tokens"),
    )
    path = output or (study.path / "plan.json" if study else None)
    if study is not None and path == study.path / "plan.json":
        _spare_trained(study)
    if path is not None:
        write_json(path, made.to_json())
        note(f"written to {path}")
    answer_json(made.to_json()) if as_json else answer(made.summary())


def _spare_trained(study: Study) -> None:
    """A prediction that was tested is not overwritten by one made afterwards."""
    standing = study.read("plan.json")
    if standing and standing.get("run") and study.record(planned_run(standing).id) is not None:
        raise UserError(f"{study.path / 'plan.json'} has been trained already; write the new plan elsewhere with -o")


def study_plan(
    predictor: laws.Fit | laws.Forecast,
    budget: planning.Budget | None,
    study: Study | None,
    *,
    seconds: Callable[[RunConfig], float] | None = None,
    **options: Any,
) -> planning.Plan:
    """A plan; with a study, in its shapes, by its recipe, with the run that carries it out and its ``seconds``."""
    if study is None:
        return planning.plan(predictor, budget, **options)
    settings = study.settings()
    config = StudyConfig.parse(settings["study"], "study.json")
    stored = study.read("recipe.json") or {}
    recipe = Recipe(**{key: value for key, value in stored.items() if key != "evidence"})
    shape = lambda num_params: shape_near(num_params, config.context)
    data = DataConfig(source=config.data, fingerprint=settings["fingerprint"])
    run = lambda model, tokens: recipe.run(model, data, round(tokens), config.seed)
    if seconds is not None:
        options["seconds"] = lambda model, tokens: seconds(run(model, tokens))
    made = planning.plan(
        predictor, budget, shape=shape, recipe=lambda n, d: recipe.at(d), covered=_covered(study), **options
    )
    return made.with_run(run(shape(made.num_params), made.tokens).to_dict())


def _covered(study: Study) -> planning.Covered:
    """The sizes, tokens and ratios that the ladder really visited."""
    rungs = [record for record in study.records("ladder") if record.status == "finished"]
    return planning.Covered.of([rung.config.num_params for rung in rungs], [rung.config.tokens for rung in rungs])


def scale(
    params: str,
    batch: str,
    lr: float,
    factor: float,
    *,
    tokens: str | None,
    names: list[str] | None,
    optimizer: str,
    as_json: bool,
) -> None:
    """A baseline at another size, by every rule that applies."""
    scaled = planning.rules.scale(
        parse_number(params, "--params"),
        parse_number(batch, "--batch"),
        parse_number(str(lr), "--lr"),
        parse_number(str(factor), "--factor"),
        tokens=None if tokens is None else parse_number(tokens, "--tokens"),
        names=names or None,
        optimizer=optimizer,
    )
    if as_json:
        answer_json({name: one.to_json() for name, one in scaled.items()})
        return
    answer(_scale_table(scaled))


def _scale_table(scaled: dict[str, Any]):
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rule", "params", "batch", "lr"):
        table.add_column(name, no_wrap=True, justify="left" if name == "rule" else "right")
    table.add_column("source and what speaks for or against it", overflow="fold")
    say = lambda value, form: "–" if value is None else form(value)
    for name, one in scaled.items():
        words = escape(" ".join(filter(None, (f"{one.source}.", one.note, one.evidence))))
        table.add_row(
            name, say(one.params, format_count), say(one.batch, format_count), say(one.lr, lambda x: f"{x:.4g}"), words
        )
    return table
