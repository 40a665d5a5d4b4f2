"""Prediction against outcome: what the plan predicted, what came out, and what the ladder cost."""

from __future__ import annotations

from ..config.run import RunConfig
from ..errors import UserError
from ..planning import Outcome, Plan
from ..runs.record import RunRecord
from ..runs.study import Study


def planned_run(plan: Plan) -> RunConfig:
    """The run that carries out a plan.

    Raises:
        UserError: the plan names no run.
    """
    if not plan.run:
        raise UserError("the plan names no run to train; make it from a study, not from a bare fit")
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
