"""Prediction against outcome: what counts as one, and what is said of it."""

from dataclasses import replace

import pytest

from allometry.errors import UserError
from allometry.runs.study import Study
from allometry.workflow.outcome import planned_run, settle
from helpers.builders import record, run_config

PLAN = {"created": "2025-12-31T23:00:00+00:00", "loss": 1.1, "low": 1.0, "high": 1.3, "level": 0.9}


@pytest.fixture
def study(tmp_path):
    where = Study.create(tmp_path / "s", {})
    for seed, kind in ((1, "sweep"), (2, "ladder"), (3, "ladder")):
        where.save(record(run_config(seed=seed, tokens=50_000 * seed), kind=kind), [])
    return where


def test_the_outcome_is_arithmetic_on_the_records(study):
    target = replace(record(run_config(tokens=800_000), kind="target"), loss=1.25, flops_spent=7e9)
    spent = sum(run.flops_spent for run in study.records())
    outcome = settle(study, PLAN, target)
    assert outcome["relative_error"] == pytest.approx(1.1 / 1.25 - 1)
    assert outcome["inside"] is True
    assert outcome["ladder_share"] == pytest.approx(spent / (spent + 7e9))
    assert outcome["compute_ratio"] == pytest.approx(target.config.flops / study.records("ladder")[-1].config.flops)
    assert outcome == study.read("outcome.json")
    assert settle(study, PLAN, replace(target, loss=1.31))["inside"] is False


def test_a_plan_written_after_the_run_predicts_nothing(study):
    with pytest.raises(UserError, match="no prediction"):
        settle(study, PLAN | {"created": "2026-01-01T00:00:01+00:00"}, record(run_config(), kind="target"))
    assert study.read("outcome.json") is None


def test_a_diverged_target_has_no_outcome(study):
    with pytest.raises(UserError, match="diverged"):
        settle(study, PLAN, replace(record(run_config(), kind="target"), status="diverged", loss=None))


def test_a_plan_of_a_bare_fit_names_no_run():
    with pytest.raises(UserError, match="names no run"):
        planned_run(PLAN)
