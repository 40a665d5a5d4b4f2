"""Data that are read again: a program, a module or a recorded loop says how many there are, and plans count it."""

import json
import sys

import pytest

import allometry
from allometry import laws, planning, workflow
from allometry.config.script import ScriptStudyConfig
from allometry.runs.study import Study
from allometry.workflow.fits.repeated_units import repeated_units
from helpers import program

UNIQUE = 25_000
COMMAND = (
    f"{sys.executable} {program.__file__} --width {{width}} --tokens {{tokens}} --lr {{lr}} --out {{out}} "
    f"--unique {UNIQUE}"
)


def config(**changes) -> ScriptStudyConfig:
    given = {
        "widths": [16, 24, 32, 48],
        "tokens": [5_000, 10_000, 20_000],
        "batch_tokens": 512,
        "lr": 0.01,
        "lr_exponent": 0.5,
        "unit": "image",
        "target": 64,
        "trainer": {"name": "script", "command": COMMAND, "result": "{out}/m.json"},
    }
    return ScriptStudyConfig.parse(given | changes, "study.toml")


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """The ladder of a program that does not say how many images there are, its law, and its plan."""
    out = tmp_path_factory.mktemp("few") / "s"
    workflow.train_script_ladder(config(), out)
    workflow.fit_runs(out)
    return out, workflow.plan(out, flops=1e13, dry_run=True)


def test_a_program_that_does_not_say_how_many_units_there_are_is_asked(ladder):
    note = next(text for text in ladder[1].notes if "taken for new" in text)
    assert "every image" in note
    assert "unique_tokens" in note
    assert ladder[1].budget.tokens_available is None


def test_the_number_may_be_stated_later_and_is_in_prediction_plan_outcome_and_page(ladder):
    out, _ = ladder
    before = {path: path.read_bytes() for path in out.rglob("record.json")}
    outcome = workflow.quickstart_script(config(unique_tokens=UNIQUE), out=out)
    kept = {path: path.read_bytes() for path in before}
    assert kept == before
    plan = planning.Plan.load(out / "plan.json")
    assert plan.budget.tokens_available == UNIQUE
    assert any(f"reads the data {plan.tokens / UNIQUE:.3g} times" in text for text in plan.notes)
    assert not any("taken for new" in text for text in plan.notes)
    assert plan.loss > workflow.plan(out, flops=plan.flops, dry_run=True, tokens_available=1e12).loss
    assert outcome.inside
    page = (out / "report.html").read_text()
    assert "takes every unit of data for new" in page
    assert Study(out).ended(outcome.run).epochs == pytest.approx(plan.tokens / UNIQUE, rel=0.01)
    fit = workflow.load_fit(out)
    point = {"num_params": plan.num_params, "tokens": 50 * UNIQUE}
    prediction, cautions = workflow.predict_run(out, fit, point, 0.9)
    assert prediction.value > fit.predict(**point).value
    assert any("reads its 25k images 50 times" in text for text in cautions)
    inside = point | {"tokens": 10_000.0}
    assert workflow.predict_run(out, fit, inside, 0.9) == (fit.predict(**inside), [])


def test_a_plan_counts_passes_from_the_second_on_as_a_prediction_does(ladder):
    out, _ = ladder
    data = repeated_units(Study(out)) or pytest.fail("no units")
    data = data.__class__(200_000, min(data.seen, 200_000), data.unit)
    predictor = workflow.load_fit(out)
    make = lambda law, budget: planning.plan(law, budget, shape=None)
    plan = data.plan(make, predictor, planning.Budget(num_params=2e4, tokens=5e5))
    assert plan.budget.tokens_available == 200_000
    assert any("reads the data 2.5 times" in text for text in plan.notes)
    assert plan.loss == pytest.approx(float(data.law(predictor).predict(plan.num_params, plan.tokens).value))
    losses = [data.plan(make, predictor, planning.Budget(num_params=2e4, tokens=n)).loss for n in (3e5, 7.8e5, 8.2e5)]
    assert losses == sorted(losses, reverse=True)
    once = data.plan(make, predictor, planning.Budget(num_params=2e4, tokens=1e5))
    assert data.with_note(once, known=False) == once


def test_the_cost_says_how_often_the_longest_run_reads_them(tmp_path):
    seen = []

    def stop(cost):
        seen.extend(cost.notes())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workflow.train_script_ladder(config(unique_tokens=4_000), tmp_path / "s", confirm=stop)
    assert any("reads its images 5 times" in text for text in seen)


def test_a_recorded_loop_states_it_too(tmp_path):
    for size in (1e3, 2e3, 4e3, 8e3):
        for tokens in (5_000, 10_000, 20_000, 40_000):
            stated = {"num_params": int(size), "batch_tokens": 50, "lr": 0.1, "tokens": tokens, "unit": "image"}
            with allometry.Recorder(tmp_path / "s", unique_tokens=10_000, **stated) as run:
                run.finish(loss=program.truth(size, tokens))
    workflow.fit_runs(tmp_path / "s")
    plan = workflow.plan(tmp_path / "s", num_params=8e3, tokens=1e6, dry_run=True)
    assert plan.budget.tokens_available == 10_000
    assert len(laws.Observations.read(tmp_path / "s")) == 16
    assert json.loads((tmp_path / "s" / "fit.json").read_text())["kind"] == "forecast"
