"""Prediction against outcome: what the plan said, what came out, and what the ladder cost for it."""

from __future__ import annotations

from typing import Any

from ..config.run import RunConfig
from ..errors import UserError
from ..runs.record import RunRecord
from ..runs.study import Study


def planned_run(plan: dict[str, Any]) -> RunConfig:
    """The run that a plan stands for.

    Raises:
        UserError: it names none.
    """
    if not plan.get("run"):
        raise UserError("the plan names no run to train; make it from a study, not from a bare fit")
    return RunConfig.parse(plan["run"], "plan: run")


def settle(study: Study, plan: dict[str, Any], record: RunRecord) -> dict[str, Any]:
    """Compare a plan's prediction with the run that came of it, and write ``outcome.json``.

    ``relative_error`` is predicted over actual, less one. ``compute_ratio`` is the run's FLOPs over those of the
    largest rung, ``ladder_share`` the share of all FLOPs spent that went into sweep and rungs.

    Raises:
        UserError: the run diverged, or the plan was written after it ended and so predicts nothing.
    """
    if record.status != "finished":
        raise UserError(f"the planned run diverged ({record.note}); there is no loss to compare; see {study.path}")
    if plan["created"] > record.finished_at:
        raise UserError(f"run {record.id} had ended before this plan was written: that is no prediction")
    rungs = study.records("ladder")
    largest = max((rung.config.flops for rung in rungs), default=None)
    spent = sum(run.flops_spent for run in study.records("sweep", "ladder"))
    outcome = {
        "run": record.id,
        "predicted": plan["loss"],
        "low": plan["low"],
        "high": plan["high"],
        "level": plan["level"],
        "actual": record.loss,
        "bits_per_byte": record.bits_per_byte,
        "relative_error": plan["loss"] / record.loss - 1,
        "inside": bool(plan["low"] <= record.loss <= plan["high"]),
        "compute_ratio": None if largest is None else record.config.flops / largest,
        "ladder_share": spent / (spent + record.flops_spent),
        "seconds": record.seconds,
        "note": record.note,
    }
    study.write("outcome.json", outcome)
    return outcome
