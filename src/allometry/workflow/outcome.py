"""Prediction against outcome: what the plan predicted, what came out, what the ladder cost; scores beside the loss."""

from __future__ import annotations

import numpy as np

from .. import laws, planning
from ..config.run import RunConfig
from ..config.task import ImagesConfig, QuestionsConfig, TaskConfig
from ..errors import UserError
from ..planning import Outcome, Plan
from ..runs.record import RunRecord
from ..runs.study import Study

LEAST_RUNS = 6  # of a ladder, for a law of scores
FAR_BELOW = 0.5  # of the range of the ladder's losses: scores predicted further below it were off (docs/log.md)


def planned_run(plan: Plan) -> RunConfig:
    """The run that carries out a plan.

    Raises:
        UserError: the plan names no run.
    """
    if not plan.run:
        raise UserError(
            "the plan names no run to train here: it was made from a bare fit, or for runs that were trained elsewhere"
        )
    return RunConfig.parse(plan.run, "plan: run")


def record_outcome(study: Study, plan: Plan, record: RunRecord) -> Outcome:
    """Compare a plan's prediction with the run that was trained by it, and write ``outcome.json`` to the study.

    Raises:
        UserError: the run diverged, or the plan was written after the run ended and so predicts nothing.
    """
    if record.loss is None or record.status != "finished":
        raise UserError(f"the planned run diverged ({record.note}); there is no loss to compare; see {study.path}")
    if plan.created > record.finished_at:
        raise UserError(f"run {record.id} had ended before this plan was written: that is no prediction")
    largest = max((rung.flops for rung in study.records("ladder")), default=None)
    spent = sum(run.flops_spent for run in study.records("sweep", "ladder"))
    outcome = Outcome(
        run=record.id,
        predicted=plan.loss,
        low=plan.low,
        high=plan.high,
        level=plan.level,
        actual=record.loss,
        bits_per_byte=record.bits_per_byte,
        relative_error=plan.loss / record.loss - 1,
        inside=None if plan.low is None or plan.high is None else bool(plan.low <= record.loss <= plan.high),
        compute_ratio=None if largest is None else record.flops / largest,
        ladder_share=spent / (spent + record.flops_spent),
        seconds=record.seconds,
        note=record.note,
    )
    study.write("outcome.json", outcome.to_json())
    return outcome


def fit_score(study: Study, name: str) -> laws.MetricFit:
    """The law from the held-out loss to a score, fitted to the ladder of a study.

    Raises:
        UserError: too few runs have the score, or it does not rise as the loss falls.
    """
    rungs = [record for record in study.records("ladder") if record.loss is not None and name in record.scores]
    if len(rungs) < LEAST_RUNS:
        raise UserError(f"{study.path}: {len(rungs)} runs of its ladder have {name}; {LEAST_RUNS} are the least")
    losses = np.array([record.loss for record in rungs], float)
    scores = np.array([record.scores[name].value for record in rungs], float)
    return laws.fit_metric(losses, scores, chance=chance_of(rungs[0].config.task, name))


def chance_of(task: TaskConfig, name: str) -> float | None:
    """The score of guessing, where it is known."""
    if name != "accuracy":
        return None
    if isinstance(task, ImagesConfig):
        return 1 / task.classes
    return 0.25 if isinstance(task, QuestionsConfig) else None


def predict_scores(study: Study, plan: planning.Plan) -> dict[str, laws.Prediction]:
    """The scores of the model that a plan names, by name; those that the ladder has no law for are left out."""
    return {name: one for name, (_, one) in _laws_of_scores(study, plan).items()}


def _laws_of_scores(study: Study, plan: planning.Plan) -> dict[str, tuple[laws.MetricFit, laws.Prediction]]:
    """The law of each score, and what it predicts."""
    if plan.low is None or plan.high is None:
        return {}
    loss = laws.Prediction(plan.loss, plan.low, plan.high, plan.level)
    predicted = {}
    for name in sorted({name for record in study.records("ladder") for name in record.scores}):
        try:
            fit = fit_score(study, name)
            predicted[name] = fit, fit.predict(loss, plan.level)
        except UserError:
            continue
    return predicted


def score_notes(study: Study, plan: planning.Plan) -> list[str]:
    """A sentence for each predicted score, with its interval; and for those whose law says little."""
    notes = []
    for name, (fit, one) in _laws_of_scores(study, plan).items():
        notes.append(f"{name} {one.value:.3f} [{one.low:.3f}, {one.high:.3f}] by its law over the ladder's losses")
        rungs = [record for record in study.records("ladder") if name in record.scores]
        chance = chance_of(rungs[0].config.task, name)
        best = max((record.scores[name] for record in rungs), key=lambda score: score.value)
        if chance is not None and best.value < chance + 3 * best.error:
            notes.append(f"{name}: no run of the ladder is clear of chance ({chance:.2f}); this law says little")
        least, most = fit.range["loss"]
        beyond = (least - plan.loss) / (most - least)
        if beyond > FAR_BELOW:
            notes.append(
                f"{name}: the planned loss lies below the ladder's by {beyond:.2g} times their range; a score can rise "
                "faster there than anywhere in the ladder, which this interval does not know"
            )
    return notes
