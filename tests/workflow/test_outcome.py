"""Prediction against outcome: what counts as one, and what is written about it."""

from dataclasses import replace

import pytest

from allometry import planning
from allometry.errors import UserError
from allometry.planning import Outcome
from allometry.quantities import Score
from allometry.runs.study import Study
from allometry.workflow.outcome import planned_run, predict_scores, record_outcome, score_notes
from helpers.builders import record, run_config
from helpers.predictors import Chinchilla


@pytest.fixture(scope="module")
def plan():
    """A plan of a law alone, with a loss and an interval that are easy to reckon with."""
    by_law = planning.plan(Chinchilla(), 1e20, created="2025-12-31T23:00:00+00:00")
    return replace(by_law, loss=1.1, low=1.0, high=1.3, level=0.9)


@pytest.fixture
def study(tmp_path):
    where = Study.create(tmp_path / "s", {})
    for seed, kind in ((1, "sweep"), (2, "ladder"), (3, "ladder")):
        where.save(record(run_config(seed=seed, tokens=50_000 * seed), kind=kind), [])
    return where


def test_the_outcome_is_arithmetic_on_the_records(study, plan):
    target = replace(record(run_config(tokens=800_000), kind="target"), loss=1.25, flops_spent=7e9)
    spent = sum(run.flops_spent for run in study.records())
    outcome = record_outcome(study, plan, target)
    assert outcome.relative_error == pytest.approx(1.1 / 1.25 - 1)
    assert outcome.inside is True
    assert outcome.ladder_share == pytest.approx(spent / (spent + 7e9))
    assert outcome.compute_ratio == pytest.approx(target.config.flops / study.records("ladder")[-1].config.flops)
    assert outcome.to_json() == study.read("outcome.json")
    assert Outcome.from_json(study.read("outcome.json")) == outcome
    assert record_outcome(study, plan, replace(target, loss=1.31)).inside is False


def test_scores_are_predicted_and_a_loss_far_below_the_ladders_is_told(tmp_path, plan):
    study = Study.create(tmp_path / "scored", {})
    for step in range(12):
        loss = 2.5 - 0.05 * step
        score = {"accuracy": Score(0.6 - 0.15 * loss, 0.01)}
        study.save(replace(record(run_config(seed=step), loss=loss), scores=score), [])
    near, far = (replace(plan, loss=loss, low=loss - 0.01, high=loss + 0.01) for loss in (1.9, 1.4))
    assert predict_scores(study, near)["accuracy"].value == pytest.approx(0.6 - 0.15 * 1.9, abs=0.02)
    [line] = score_notes(study, near)
    assert line.startswith("accuracy 0.3")
    assert "below the ladder's by 1 times their range" in score_notes(study, far)[-1]


def test_a_plan_without_an_interval_has_nothing_to_be_inside_of(study, plan):
    target = replace(record(run_config(tokens=800_000), kind="target"), loss=1.25)
    assert record_outcome(study, replace(plan, low=None, high=None), target).inside is None


def test_an_outcome_of_another_version_is_refused():
    with pytest.raises(UserError, match="missing or unknown fields actual"):
        Outcome.from_json({"run": "a"})


def test_a_plan_written_after_the_run_predicts_nothing(study, plan):
    late = replace(plan, created="2026-01-01T00:00:01+00:00")
    with pytest.raises(UserError, match="no prediction"):
        record_outcome(study, late, record(run_config(), kind="target"))
    assert study.read("outcome.json") is None


def test_a_diverged_target_has_no_outcome(study, plan):
    with pytest.raises(UserError, match="diverged"):
        record_outcome(study, plan, replace(record(run_config(), kind="target"), status="diverged", loss=None))


def test_a_plan_of_a_bare_fit_names_no_run(plan):
    with pytest.raises(UserError, match="names no run"):
        planned_run(plan)
