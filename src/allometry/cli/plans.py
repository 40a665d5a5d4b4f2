"""``plan`` and ``scale``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import laws, planning
from ..config import ModelConfig, RunConfig, StudyConfig
from ..errors import UserError
from ..files import write_json
from ..planning import Alternative, Checkpoint, Continuation, Shapes, throughput
from ..planning import repeat as repetition
from ..quantities import format_count, format_flops, parse_number
from ..runs import sealed
from ..runs.outcome import planned_run
from ..runs.recipe import Recipe, shape_near
from ..runs.record import RunRecord
from ..runs.store import Study
from .laws import load_fit
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
    standing = study.read("plan.json")
    if standing and standing.get("run") and study.record(planned_run(standing).id) is not None:
        raise UserError(f"{study.path / 'plan.json'} has been trained already; write the new plan elsewhere with -o")


def study_plan(
    predictor: laws.Fit | laws.Forecast,
    budget: planning.Budget,
    study: Study | None,
    *,
    seconds: Callable[[RunConfig], float] | None = None,
    **options: Any,
) -> planning.Plan:
    """A plan; with a study, in its shapes, by its recipe, with the run that carries it out and its ``seconds``."""
    if study is None:
        return planning.plan(predictor, budget, **options)
    practice = _Practice(study)
    if seconds is not None:
        options["seconds"] = lambda model, tokens: seconds(practice.run(model, tokens))
    made = planning.plan(predictor, budget, **practice.options(), **options)
    run = practice.run(practice.shape(made.num_params), made.tokens)
    repeats = repetition.told(run.epochs) if budget.tokens_available is None else ""
    notes = (*made.notes, f"the run {repeats}") if repeats else made.notes
    return replace(made, notes=notes).with_run(run.to_dict())


class _Practice:
    """How a study shapes and trains a model, and what its ladder covered."""

    def __init__(self, study: Study) -> None:
        self.config = StudyConfig.parse(study.settings()["study"], "study.json")
        stored = study.read("recipe.json") or {}
        self.recipe = Recipe(**{key: value for key, value in stored.items() if key != "evidence"})
        self.rungs = [record.config for record in study.records("ladder") if record.status == "finished"]
        if not self.rungs:
            raise UserError(f"{study.path}: no finished run of a ladder to plan by; run `allometry ladder` on it")
        self.data = self.rungs[0].data

    def shape(self, num_params: float):
        return shape_near(num_params, self.config.context, self.data.vocab_size)

    def run(self, model, tokens: float) -> RunConfig:
        return self.recipe.run(model, self.data, round(tokens), self.config.seed)

    def options(self) -> dict[str, Any]:
        """The options of ``planning.plan`` that a study decides on."""
        covered = planning.Covered.of([rung.num_params for rung in self.rungs], [rung.tokens for rung in self.rungs])
        return {"shape": self.shape, "recipe": lambda _, tokens: self.recipe.at(tokens), "covered": covered}


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


def _under_way(study: Study) -> list[tuple[Checkpoint, RunConfig]]:
    """Trainings that were interrupted before their rate fell: with the optimizer's state, so nothing is lost."""
    from ..runs.ladder import Design

    planned, design = study.read("plan.json"), study.read("ladder.json")
    configs = [planned_run(planned)] if planned and planned.get("run") else []
    if design:
        made = Design.from_json(design)
        configs += [*made.rungs, *made.sweep]
    found = {}
    for config in configs:
        path = study.trunk_path(config.trunk)
        if config.trunk not in found:
            tokens = config.schedule.tokens_before(_step(path))
            if tokens > 0:
                name = f"the training under way ({config.trunk})"
                found[config.trunk] = (Checkpoint(config.num_params, tokens, config.model, name), config)
    return list(found.values())


def _step(path: Path) -> int:
    """The step of the newest good state of a training, 0 where there is none."""
    folder = sealed.newest(path, note)
    return 0 if folder is None else int(json.loads((folder / "state.json").read_text())["step"])


def _finished(study: Study) -> list[Checkpoint]:
    """Runs that ended and left their weights, the longest of each model."""
    longest: dict[ModelConfig, RunRecord] = {}
    for record in study.records():
        if record.status == "finished" and study.weights_path(record.id).is_file():
            longest[record.config.model] = record  # by FLOPs: a longer one comes later
    return [
        Checkpoint(model.num_params, record.config.tokens, model, f"run {record.id}", decayed=True)
        for model, record in longest.items()
    ]


def _with_run(each: Alternative, practice: _Practice, under_way: dict[str, RunConfig]) -> Alternative:
    """With the run that carries it out, where this trainer can: it goes on with a training, not with bare weights."""
    made = each.plan
    if not each.goes_on:
        return replace(each, plan=made.with_run(practice.run(practice.shape(made.num_params), made.tokens).to_dict()))
    config = under_way.get(each.checkpoint)
    if config is None:
        told = f"allometry train begins anew and cannot go on with bare weights: export {each.checkpoint} for that"
        return replace(each, plan=replace(made, notes=(*made.notes, told)))
    longer = config.model_copy(update={"train": config.train.model_copy(update={"tokens": round(made.tokens)})})
    return replace(each, plan=made.with_run(longer.to_dict()))


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
