"""``plan`` and ``scale``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import laws, planning
from ..errors import UserError
from ..files import write_json
from ..planning import Continuation, Shapes, throughput
from ..quantities import format_count, format_flops, parse_number
from ..runs.study import Study
from ..workflow.outcome import planned_run
from ..workflow.saved_fit import load_fit
from ..workflow.study_plan import _finished, _Practice, _under_way, _with_run, study_plan
from .output import answer, answer_json, note

# The options that are numbers a person may write with a suffix, and their names in a budget.
COUNTS = {
    "flops": "--flops",
    "flops_per_second": "--flops-per-second",
    "cost": "--cost",
    "memory": "--memory",
    "tokens_available": "--tokens-available",
    "inference_tokens": "--inference-tokens",
    "num_params": "--params",
    "tokens": "--tokens",
}


def plan(
    source: Path | None,
    *,
    budget: dict[str, Any],
    how: dict[str, Any],
    level: float,
    resume: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """A plan for a budget; a study's plan is ready to train by the study's own recipe.

    ``budget`` holds the fields of a Budget as they were typed, ``how`` "rule", "vocab" and "context"; None: not given.
    """
    if source is None and resume is None:
        raise UserError("give a fit.json or a study, or --resume STUDY")
    predictor = load_fit(source or resume)
    given = {name: value for name, value in budget.items() if value is not None}
    given |= {name: parse_number(given[name], option) for name, option in COUNTS.items() if name in given}
    if resume is not None:
        _resume(predictor, given, Study.open(resume), _how(how, studied=True) | {"level": level}, output, as_json)
        return
    folder = source if source.is_dir() else source.parent
    study = Study(folder) if Study(folder).settings_path.is_file() else None
    options = _how(how, studied=study is not None) | {"level": level}
    made = study_plan(predictor, _budget(given, study), study, **options)
    path = output or (study.path / "plan.json" if study else None)
    if study is not None and path == study.path / "plan.json":
        _spare_trained(study)
    if path is not None:
        write_json(path, made.to_json())
        note(f"written to {path}")
    answer_json(made.to_json()) if as_json else answer(made.summary())


def _how(how: dict[str, Any], *, studied: bool) -> dict[str, Any]:
    """The options of ``planning.plan`` that say how a model is shaped and trained."""
    given = {name: value for name, value in how.items() if value is not None}
    if studied:
        if given:
            options = ", ".join(f"--{name}" for name in given)
            raise UserError(f"a study has shapes and a recipe of its own: leave out {options}")
        return {}
    sizes = {"vocab": "vocab_size", "context": "context"}
    shapes = {name: parse_number(given[key], f"--{key}") for key, name in sizes.items() if key in given}
    options = {"shape": Shapes(**shapes)}
    return options | {"rule": given["rule"]} if "rule" in given else options


def _budget(given: dict[str, Any], study: Study | None) -> planning.Budget:
    """The budget; hours or money without a machine are spent at the rate that the study's own runs reached."""
    machine = {"device", "flops_per_second"} & set(given)
    if study is not None and not machine and {"hours", "cost"} & set(given):
        rate = throughput(laws.Observations.from_records(study.rows("ladder", "target")))
        note(f"{format_flops(rate)} FLOP/s, as the largest runs of {study.path} reached")
        given = given | {"flops_per_second": rate}
    return planning.Budget(**given)


def _spare_trained(study: Study) -> None:
    """A prediction that was tested is not overwritten by one made afterwards."""
    path = study.path / "plan.json"
    standing = planning.Plan.load(path) if path.is_file() else None
    if standing and standing.run and study.record(planned_run(standing).id) is not None:
        raise UserError(f"{path} has been trained already; write the new plan elsewhere with -o")


def _resume(
    predictor: laws.Fit | laws.Forecast,
    given: dict[str, Any],
    study: Study,
    options: dict[str, Any],
    output: Path | None,
    as_json: bool,
) -> None:
    """What is left, spent on a checkpoint of the study or on another model."""
    practice = _Practice(study)
    under_way = _under_way(study)
    checkpoints = [*(checkpoint for checkpoint, _ in under_way), *_finished(study)]
    if not checkpoints:
        raise UserError(f"{study.path}: no run with weights to go on with; `allometry plan {study.path}` plans anew")
    found = planning.resume(predictor, _budget(given, study), checkpoints, **practice.options(), **options)
    runs = {checkpoint.name: config for checkpoint, config in under_way}
    found = replace(found, alternatives=tuple(_with_run(each, practice, runs) for each in found.alternatives))
    _write_best(found, output)
    answer_json(found.to_json()) if as_json else answer(found.summary())


def _write_best(found: Continuation, output: Path | None) -> None:
    """The plan of the best alternative that ``allometry train`` can carry out."""
    best = next((each for each in found.alternatives if each.plan.run), None)
    if output is not None and best is not None:
        write_json(output, best.plan.to_json())
        note(f"{best.name}: written to {output}, for allometry train")


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
    scaled = planning.carry_baseline(
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
