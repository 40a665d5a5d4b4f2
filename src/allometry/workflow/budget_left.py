"""When the budget changes half way: go on with a training of the study, or begin another model with what is left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import planning
from ..config.model import ModelConfig
from ..config.run import RunConfig
from ..errors import UserError
from ..files import write_json
from ..ladder.design import Design
from ..ladder.recipe import Recipe
from ..ladder.stages import read_stages
from ..planning import Alternative, Checkpoint, Continuation
from ..runs import saved_states
from ..runs.record import RunRecord
from ..runs.study import COLLECTION, Study
from .fits.study_fit import load_fit
from .listener import Listener, Note, note_to, silent
from .outcome import planned_run
from .programs.script_practice import is_of_a_program
from .study_plan import StudyPractice, budget_of, standing_plan


def resume_plan(
    source: Path | str,
    *,
    fit: Path | str | None = None,
    level: float = 0.9,
    output: Path | None = None,
    listener: Listener = silent,
    **amounts: Any,
) -> Continuation:
    """The best use of what is left of a budget: the trainings of a study to go on with, or another model.

    Args:
        source: the study.
        fit: the law to go by; by default the study's own.
        level: of the intervals.
        output: where to write the plan of the best alternative that ``allometry train`` can carry out; by default
            nowhere.
        listener: receives states of trainings that are damaged, and where the plan was written.
        **amounts: what is left, as the fields of a ``planning.Budget``.

    Raises:
        UserError: no fit, nothing to go on with, or a budget that is no amount.
    """
    predictor = load_fit(fit or source)
    study = Study.open(Path(source))
    if is_of_a_program(study) or study.settings() == COLLECTION:
        raise UserError(f"{study.path}: only trainings of the built-in trainer can be gone on with; plan anew")
    practice = StudyPractice(study, predictor)
    under_way = _under_way(study, practice.recipe, listener)
    checkpoints = [*(checkpoint for checkpoint, _ in under_way), *_finished(study)]
    if not checkpoints:
        raise UserError(f"{study.path}: no run with weights to go on with; `allometry plan {study.path}` plans anew")
    budget = budget_of(amounts, study, listener)
    options = practice.options(predictor.counted)
    continuation = planning.resume(predictor, budget, checkpoints, level=level, **options)
    runs = {checkpoint.name: config for checkpoint, config in under_way}
    alternatives = tuple(_with_run(each, practice, runs) for each in continuation.alternatives)
    continuation = replace(continuation, alternatives=alternatives)
    best = next((each for each in alternatives if each.plan.run), None)
    if output is not None and best is not None:
        write_json(output, best.plan.to_json())
        listener(Note(f"{best.name}: written to {output}, for allometry train"))
    return continuation


def _under_way(study: Study, recipe: Recipe, listener: Listener) -> list[tuple[Checkpoint, RunConfig]]:
    """Trainings interrupted before their learning rate decayed: with the optimizer's state, so nothing is lost."""
    planned, design = standing_plan(study), study.read("ladder.json")
    configs = [planned_run(planned)] if planned and planned.run else []
    if design:
        ladder = Design.from_json(design)
        later = [run for stage in read_stages(study) for run in stage.runs]
        configs += [*ladder.rungs_by(recipe), *later, *ladder.sweep]
    trainings: dict[str, tuple[Checkpoint, RunConfig]] = {}
    for config in configs:
        if config.trunk in trainings:
            continue
        tokens = config.schedule.tokens_before(_newest_step(study.trunk_path(config.trunk), listener))
        if tokens > 0:
            name = f"the training under way ({config.trunk})"
            trainings[config.trunk] = (Checkpoint(config.num_params, tokens, config.model, name), config)
    return list(trainings.values())


def _newest_step(path: Path, listener: Listener) -> int:
    """The step of the newest good state of a training; 0 if there is no state."""
    folder = saved_states.newest(path, note_to(listener))
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


def _with_run(each: Alternative, practice: StudyPractice, under_way: dict[str, RunConfig]) -> Alternative:
    """With the run that carries it out, where the trainer can: it goes on with a training, not with bare weights."""
    plan = each.plan
    if not each.continues:
        return replace(each, plan=practice.carried_out(plan))
    config = under_way.get(each.checkpoint or "")
    if config is None:
        note = f"allometry train begins anew and cannot go on with bare weights: export {each.checkpoint} for that"
        return replace(each, plan=practice.with_repetition(replace(plan, notes=(*plan.notes, note))))
    return replace(each, plan=practice.carried_out(plan, config.with_train(tokens=round(plan.tokens))))
