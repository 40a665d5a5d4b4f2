"""How the study of a program sizes and trains a model, and what a plan needs of that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ... import laws, planning
from ...config.script import ScriptStudyConfig
from ...errors import UserError
from ...ladder.script_ladder import MILLION, ScriptRecipe, Sizes, given_recipe, run_of
from ...planning import Plan
from ...planning.optimum.repeated_data import knows_repetition
from ...quantities import plural
from ...runs.record import RunRecord
from ...runs.study import Study
from ..fits.repeated_units import RepeatedUnits, unknown_units

SETTINGS = "script"  # the key of study.json under which the settings of such a study stand


def is_of_a_program(study: Study) -> bool:
    """Whether the runs of a study are those of a program."""
    return SETTINGS in study.settings()


def finished_rungs(study: Study) -> list[RunRecord]:
    """The finished rungs of a study.

    Raises:
        UserError: there is none: a ladder whose runs all diverged is no success.
    """
    records = study.records("ladder")
    finished = [record for record in records if record.status == "finished"]
    if not finished:
        if not records:
            raise UserError(f"{study.path}: no run of its ladder has ended; run `allometry ladder` on it")
        many = plural(len(records), "run")
        advice = "give the study a lower lr and another --out"
        raise UserError(f"{study.path}: all {many} of the ladder diverged ({records[0].note}); {advice}")
    return finished


class ScriptPractice:
    """How the study of a program sizes and trains a model; see :class:`~.study_plan.StudyPractice`.

    Raises:
        UserError: no rung of the study has finished.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.config = ScriptStudyConfig.parse(study.table("program.json") or {}, f"{study.path}/program.json")
        stored = study.table("recipe.json") or given_recipe(self.config).to_json()
        self.recipe = ScriptRecipe(**{key: value for key, value in stored.items() if key != "evidence"})
        self.rungs = finished_rungs(study)
        self.sizes = Sizes.of(self.config, study.records())

    def plan(self, predictor: laws.Fit | laws.Forecast, budget: planning.Budget, **options: Any) -> Plan:
        """A plan in widths of the program, by the study's rates, with the run that carries it out."""
        sizes, tokens = [r.num_params for r in self.rungs], [r.tokens for r in self.rungs]
        make = lambda law, budget: planning.plan(
            law,
            budget,
            shape=self.sizes.near,
            recipe=lambda size, _: (self.config.batch_tokens, self._rate(size)),
            fitted_range=planning.FittedRange.of(sizes, tokens),
            **options,
        )
        data = RepeatedUnits.of(self.study)
        if data is not None:
            bare = data.with_note(data.plan(make, predictor, budget), known=knows_repetition(predictor))
        else:
            bare = make(predictor, budget)
            bare = replace(bare, notes=(*bare.notes, *filter(None, [unknown_units(self.study)])))
        model = self.sizes.near(bare.num_params)
        return bare.with_run(run_of(self.config, model.width, round(bare.tokens), self.recipe, self.sizes).to_dict())

    def _rate(self, size: float) -> float:
        width = self.sizes.near(size).width
        return self.config.train(width, MILLION, self.recipe.lr, self.recipe.lr_exponent).lr
