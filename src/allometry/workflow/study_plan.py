"""A plan for a study: in its shapes, by its recipe, with the run that carries it out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import laws, planning
from ..cli.output import note
from ..config.model import DecoderConfig
from ..config.run import RunConfig
from ..config.study import StudyConfig
from ..errors import UserError
from ..ladder.recipe import Recipe
from ..ladder.shape import shape_near
from ..planning import Alternative, Checkpoint
from ..planning.optimum.repeated_data import repetition_note
from ..runs import saved_states
from ..runs.record import RunRecord
from ..runs.study import Study
from .outcome import planned_run


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
    repeats = repetition_note(run.epochs) if budget.tokens_available is None else ""
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
        self.task = self.rungs[0].task

    def shape(self, num_params: float):
        return shape_near(num_params, self.config.context, self.task.vocab_size)

    def run(self, model, tokens: float) -> RunConfig:
        return self.recipe.run(model, self.task, round(tokens), self.config.seed)

    def options(self) -> dict[str, Any]:
        """The options of ``planning.plan`` that a study decides on."""
        fitted = planning.FittedRange.of([rung.num_params for rung in self.rungs], [rung.tokens for rung in self.rungs])
        return {"shape": self.shape, "recipe": lambda _, tokens: self.recipe.at(tokens), "fitted_range": fitted}


def _under_way(study: Study) -> list[tuple[Checkpoint, RunConfig]]:
    """Trainings that were interrupted before their rate fell: with the optimizer's state, so nothing is lost."""
    from ..ladder.design import Design

    path, design = study.path / "plan.json", study.read("ladder.json")
    planned = planning.Plan.load(path) if path.is_file() else None
    configs = [planned_run(planned)] if planned and planned.run else []
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
    folder = saved_states.newest(path, note)
    return 0 if folder is None else int(json.loads((folder / "state.json").read_text())["step"])


def _finished(study: Study) -> list[Checkpoint]:
    """Runs that ended and left their weights, the longest of each model."""
    longest: dict[DecoderConfig, RunRecord] = {}
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
