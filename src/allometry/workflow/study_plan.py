"""A plan from a fit or a study; with a study, in its shapes, by its recipe, with the run that carries it out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import laws, planning
from ..config.model import ModelConfig
from ..config.run import RunConfig
from ..config.study import StudyConfig
from ..config.task import Pairs, TextConfig
from ..errors import UserError
from ..files import write_json
from ..ladder.recipe import Recipe
from ..ladder.shape import shape_near
from ..planning.optimum.repeated_data import costs_much, knows_repetition, repetition_note
from ..planning.resources.shapes import size_of
from ..quantities import format_flops
from ..runs.study import COLLECTION, Study
from .fits.repeated_units import RepeatedUnits, repeated_units
from .fits.study_fit import load_fit, study_of
from .listener import Listener, Note, silent
from .outcome import planned_run, score_notes
from .programs.script_practice import ScriptPractice, is_of_a_program


def plan(
    source: Path | str,
    *,
    level: float = 0.9,
    rule: str | None = None,
    vocab_size: int | None = None,
    context: int | None = None,
    output: Path | None = None,
    dry_run: bool = False,
    listener: Listener = silent,
    **amounts: Any,
) -> planning.Plan:
    """A plan for a budget, by a saved fit or by a study, whose plan is ready to train by its own recipe.

    Args:
        source: a fit's file, or a study that has one.
        level: of the intervals.
        rule: the published rule for batch and learning rate; ``vocab_size`` and ``context``: of the model. For a fit
            only, as a study has shapes and a recipe of its own.
        output: where to write the plan; by default ``plan.json`` in a study, unless the plan there has been trained,
            and nowhere for a fit.
        dry_run: write nothing.
        listener: receives where the plan was written.
        **amounts: the fields of a ``planning.Budget``. Hours or money without a machine are those of the machine that
            trained the study.

    Raises:
        UserError: no fit, no such budget, or the study's plan has been trained already.
    """
    source = Path(source)
    predictor = load_fit(source)
    study = study_of(source)
    if study is not None:
        refuse_model_options(rule=rule, vocab_size=vocab_size, context=context)
        options = {}
    else:
        options = _model_options(rule, vocab_size=vocab_size, context=context)
    planned = study_plan(predictor, budget_of(amounts, study, listener), study, level=level, **options)
    planned = _with_ladder_cost(planned, study)
    path = None if dry_run else output or _own_path(study, listener)
    if study is not None and path == study.path / "plan.json":
        _check_not_trained(study)
    if path is not None:
        write_json(path, planned.to_json())
        listener(Note(f"written to {path}"))
    return planned


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
    if is_of_a_program(study):
        return ScriptPractice(study).plan(predictor, budget, **options)
    data = repeated_units(study)
    if study.settings() == COLLECTION:
        planned = _planned(predictor, budget, data, options)
        return data.with_note(planned, known=knows_repetition(predictor)) if data else planned
    practice = StudyPractice(study, predictor)
    if seconds is not None:
        options["seconds"] = lambda model, tokens: seconds(practice.run(model, tokens))
    options |= practice.options(predictor.counted)
    return practice.carried_out(_planned(predictor, budget, data, options))


def _planned(
    predictor: laws.Fit | laws.Forecast, budget: planning.Budget, data: RepeatedUnits | None, options: dict[str, Any]
) -> planning.Plan:
    make = lambda law, budget: planning.plan(law, budget, **options)
    return make(predictor, budget) if data is None else data.plan(make, predictor, budget)


class StudyPractice:
    """How a study shapes and trains a model, and which sizes and tokens its ladder covered, for plans by ``predictor``.

    Raises:
        UserError: no rung of the study has finished.
    """

    def __init__(self, study: Study, predictor: laws.Fit | laws.Forecast) -> None:
        self.study, self.knows_repetition = study, knows_repetition(predictor)
        self.config = StudyConfig.parse(study.settings()["study"], "study.json")
        stored = study.table("recipe.json") or {}
        self.recipe = Recipe(**{key: value for key, value in stored.items() if key != "evidence"})
        self.rungs = [record.config for record in study.records("ladder") if record.status == "finished"]
        if not self.rungs:
            raise UserError(f"{study.path}: no finished run of a ladder to plan by; run `allometry ladder` on it")
        self.task = self.rungs[0].task
        stored = study.read("members.json") or {}
        self.members = [ModelConfig.parse(value, "members.json") for value in stored.get("members", [])]

    def shape(self, num_params: float) -> ModelConfig:
        """The model nearest to a number of non-embedding parameters; of a module, among those that were counted."""
        if self.members:
            return min(self.members, key=lambda model: abs(math.log(model.num_params / num_params)))
        assert isinstance(self.task, TextConfig | Pairs)
        return shape_near(num_params, self.config.context, self.task.vocab_size, self.config.decoder)

    def run(self, model: ModelConfig, tokens: float) -> RunConfig:
        """The run of a model on so many tokens, by the study's recipe."""
        return self.recipe.run(model, self.task, round(tokens), self.config.seed)

    def carried_out(self, plan: planning.Plan, run: RunConfig | None = None) -> planning.Plan:
        """A plan in this study's shapes with the run that carries it out, and the scores to expect of it.

        ``run`` is that run where it goes on with a training; by default the model of the plan is trained anew.
        """
        run = run or self.run(ModelConfig.parse(plan.model or {}), plan.tokens)
        plan = self.with_repetition(plan)
        return replace(plan, notes=(*plan.notes, *score_notes(self.study, plan))).with_run(run.to_dict())

    def with_repetition(self, plan: planning.Plan) -> planning.Plan:
        """A plan that says what it means that its run reads the corpus again and again."""
        epochs = self.run(ModelConfig.parse(plan.model or {}), plan.tokens).epochs
        if plan.budget.tokens_available is not None:
            return plan
        unit = "" if isinstance(self.task, TextConfig) else self.task.unit
        repeats = repetition_note(epochs, self.knows_repetition, unit)
        if not repeats:
            return plan
        if costs_much(epochs):
            return replace(plan, cautions=(*plan.cautions, f"the run {repeats}"))
        return replace(plan, notes=(*plan.notes, f"the run {repeats}"))

    def options(self, counted: str) -> dict[str, Any]:
        """The options of ``planning.plan`` that the study decides on, for a law that counts parameters so."""
        fitted_range = planning.FittedRange.of(
            [size_of(rung.model, counted) for rung in self.rungs], [rung.tokens for rung in self.rungs]
        )
        return {"shape": self.shape, "recipe": lambda _, tokens: self.recipe.at(tokens), "fitted_range": fitted_range}


def budget_of(amounts: dict[str, Any], study: Study | None, listener: Listener = silent) -> planning.Budget:
    """The budget; hours or money without a machine are spent at the speed that the study's own runs reached."""
    given = {name: value for name, value in amounts.items() if value is not None}
    has_machine = {"device", "flops_per_second"} & set(given)
    if study is not None and not has_machine and {"hours", "cost"} & set(given):
        speed = planning.throughput(laws.Observations.from_records(study.rows("ladder", "target")))
        listener(Note(f"{format_flops(speed)} FLOP/s, as the largest runs of {study.path} reached"))
        given["flops_per_second"] = speed
    return planning.Budget(**given)


def standing_plan(study: Study) -> planning.Plan | None:
    """The plan that is in the study; None before there is one."""
    path = study.path / "plan.json"
    return planning.Plan.load(path) if path.is_file() else None


def refuse_model_options(**options: Any) -> None:
    """Refuse options that decide how a model is shaped and trained, where a study decides that.

    Raises:
        UserError: an option is not None.
    """
    flags = {"vocab_size": "--vocab"}
    given = [flags.get(name, f"--{name}") for name, value in options.items() if value is not None]
    if given:
        raise UserError(f"a study has shapes and a recipe of its own: leave out {', '.join(given)}")


def _model_options(rule: str | None, **sizes: int | None) -> dict[str, Any]:
    """The options of ``planning.plan`` that decide how a model is shaped and trained."""
    shapes = planning.Shapes(**{name: size for name, size in sizes.items() if size is not None})
    return {"shape": shapes} | ({} if rule is None else {"rule": rule})


def _with_ladder_cost(plan: planning.Plan, study: Study | None) -> planning.Plan:
    """What the study's runs took, at the price and speed of the plan's machine."""
    if study is None or plan.budget.price_per_hour is None:
        return plan
    spent = sum(record.flops_spent or 0.0 for record in study.records("ladder", "sweep"))
    took = plan.budget.time_and_money(spent)
    return replace(plan, notes=(*plan.notes, f"the ladder took {format_flops(spent)} FLOPs: {took} on this machine"))


def _own_path(study: Study | None, listener: Listener) -> Path | None:
    """Where the plan of a study belongs; None without a study, or if the plan there has been trained."""
    if study is None:
        return None
    path = study.path / "plan.json"
    if not _is_trained(study):
        return path
    listener(Note(f"{path} has been trained and stays; -o writes this plan elsewhere"))
    return None


def _is_trained(study: Study) -> bool:
    """Whether the study's plan was tested by its run."""
    standing = standing_plan(study)
    return bool(standing and standing.run and study.record(planned_run(standing).id) is not None)


def _check_not_trained(study: Study) -> None:
    """Refuse to overwrite a prediction that was tested by one made afterwards."""
    if _is_trained(study):
        raise UserError(f"{study.path / 'plan.json'} has been trained already; write the new plan elsewhere with -o")
