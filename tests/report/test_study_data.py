"""The pictures' data: points are the records, lines are the law, the plan lies where it was planned."""

from dataclasses import replace

import numpy as np
import pytest

from allometry import laws
from allometry.report.pictures import evidence, loss_curves, points_and_lines
from allometry.report.study_contents import StudyContents
from helpers.studies import LENGTHS, WIDTHS, cut


def test_points_are_the_records(study, contents):
    data = loss_curves.loss_by_compute(contents)
    finished = [record for record in study.records("ladder") if record.status == "finished"]
    assert [(run.id, run.flops, run.loss, run.loss_se) for run in data.rungs] == [
        (record.id, record.config.flops, record.loss, record.loss_se) for record in finished
    ]
    assert len(data.rungs) == len(WIDTHS) * len(LENGTHS) - 1  # one diverged
    assert {run.id for run in data.sweep} == {record.id for record in study.records("sweep")}
    assert data.others == ()
    assert data.unit == "nats per byte"


def test_frontier_spans_and_bounds(contents):
    data = loss_curves.loss_by_compute(contents)
    line = data.frontier
    assert line.flops[0] == pytest.approx(min(run.flops for run in data.rungs))
    assert line.flops[-1] == pytest.approx(loss_curves.BEYOND * data.target.flops)
    assert np.all(np.diff(line.flops) > 0)
    assert np.all((line.low < line.loss) & (line.loss < line.high))
    again = contents.predictor.predict(line.num_params, line.tokens, level=contents.level)
    np.testing.assert_allclose(line.loss, again.value)
    np.testing.assert_allclose(line.low, again.low)


def test_no_other_split_is_better_than_the_frontier(contents):
    line, count = loss_curves.loss_by_compute(contents).frontier, points_and_lines.exact_flops_per_token(contents)
    for factor in (0.8, 0.95, 1.05, 1.25):
        size = line.num_params * factor
        other = contents.predictor.predict(size, line.flops / count(size), level=contents.level).value
        assert np.all(other >= line.loss * (1 - 1e-5))


def test_target_is_plan_and_outcome(study, contents):
    data = loss_curves.loss_by_compute(contents)
    aim, outcome = data.target, study.read("outcome.json")
    assert (aim.loss, aim.low, aim.high) == (outcome["predicted"], outcome["low"], outcome["high"])
    assert (aim.actual.id, aim.actual.loss) == (outcome["run"], outcome["actual"])
    assert aim.flops == pytest.approx(contents.target.config.flops, rel=1e-9)
    on_line = np.interp(np.log(aim.flops), np.log(data.frontier.flops), data.frontier.loss)
    assert on_line == pytest.approx(aim.loss, rel=2e-3)


def test_flops_a_token_are_exact_at_the_studys_sizes(contents):
    count = points_and_lines.exact_flops_per_token(contents)
    models = [record.config.model for record in contents.records]
    for model in models:
        assert count(model.num_params) == pytest.approx(model.flops_per_token, rel=1e-12)
    sizes = np.geomspace(min(m.num_params for m in models) / 10, 100 * max(m.num_params for m in models), 200)
    assert np.all(np.diff(count(sizes)) > 0)
    assert np.all(count(sizes) > 6 * sizes)


def test_flops_a_token_without_shapes(contents):
    bare = replace(contents, records=(), plan=None, outcome=None)
    assert points_and_lines.exact_flops_per_token(bare)(1e6) == 6e6


def test_size_curves_pass_through_the_prediction_of_every_run(contents):
    data = loss_curves.size_curves(contents)
    assert [curve.num_params for curve in data.curves] == sorted(
        {run.num_params for c in data.curves for run in c.runs}
    )
    for curve in data.curves:
        for run in curve.runs:
            drawn = curve.law.loss[np.flatnonzero(curve.law.tokens == run.tokens)]
            expected = contents.predictor.predict(run.num_params, run.tokens, level=contents.level).value
            assert drawn == pytest.approx([expected], rel=1e-12)
    at_target = np.interp(data.target.tokens, data.target_law.tokens, data.target_law.loss)
    assert at_target == pytest.approx(data.target.loss, rel=1e-4)


def test_training_curves_are_the_metrics(study, contents):
    data = loss_curves.training_curves(contents)
    assert {curve.id for curve in data.curves} == {r.id for r in study.records("ladder", "target")}
    for curve in data.curves:
        assert list(zip(curve.tokens, curve.train_loss, strict=True)) == study.curve(curve.id)
        assert curve.held_out == study.record(curve.id).loss
        assert curve.tokens[0] * (1 - 1e-9) <= curve.mean_tokens[0]
        assert curve.mean_tokens[-1] <= curve.tokens[-1] * (1 + 1e-9)
        assert np.all(np.diff(curve.mean_tokens) > 0)
        assert curve.mean_loss.min() >= curve.train_loss.min()


def test_sweep_has_three_runs_an_arm_and_keeps_a_run_that_became_a_rung(study, contents, tmp_path):
    expected = evidence.sweep(contents)
    for line in (*expected.lr, *expected.batch):
        assert len(line.setting) == 3
        assert np.all(np.diff(line.setting) > 0)
        assert line.excess.min() >= 0
    assert (expected.chosen_lr, expected.chosen_batch) == (0.4, 400)

    copy = cut(study, tmp_path / "copy", "runs")
    centre = next(r for r in copy.records("sweep") if r.config.train.lr == 0.5 and r.config.train.batch_tokens == 512)
    copy.save(replace(centre, kind="ladder"), copy.curve(centre.id))
    again = evidence.sweep(StudyContents.of(copy))
    assert all(len(line.setting) == 3 for line in (*again.lr, *again.batch))


def test_backtest_keeps_every_error(contents):
    data = evidence.backtest(contents)
    tested = contents.predictor.backtest
    assert sum(len(law.factor) for law in data) == sum(row.law != "forecast" for row in tested.rows)
    assert [law.weight for law in data] == sorted((law.weight for law in data), reverse=True)
    best = data[0]
    errors = [row.error for row in tested.rows if row.law == best.law]
    np.testing.assert_allclose(np.log1p(best.error), errors)
    assert best.score == tested.score(best.law)


def test_isoflop_is_the_plans_budget_and_holds_the_plan(contents):
    data, plan = evidence.isoflop(contents), contents.plan
    assert data.flops == pytest.approx(plan.flops_exact)
    np.testing.assert_allclose(data.line.flops, data.flops)
    drawn = data.line.loss[np.flatnonzero(data.line.num_params == plan.num_params)]
    assert drawn == pytest.approx([plan.loss])
    sizes, loss = data.line.num_params, data.line.loss
    searched = (sizes >= data.searched[0]) & (sizes <= data.searched[1])
    assert data.optimum[1] == loss[searched].min() <= plan.loss
    for rise, (low, high) in data.within:
        inside = (sizes >= low) & (sizes <= high)
        np.testing.assert_array_equal(inside, searched & (loss <= (1 + rise) * data.optimum[1]))


def test_isoflop_of_a_law_without_an_optimum_goes_on_beyond_the_edge(study, contents):
    power = laws.fit("power", laws.Observations.from_records(study.rows()), bootstrap=20)
    data = evidence.isoflop(replace(contents, predictor=power))
    edges = data.searched
    assert data.optimum[0] in [pytest.approx(edge) for edge in edges]
    assert data.line.num_params[0] < edges[0] or data.line.num_params[-1] > edges[1]
    for _, (low, high) in data.within:
        assert edges[0] <= low <= data.optimum[0] <= high <= edges[1]


@pytest.mark.parametrize("bootstrap", [0, 50])
def test_a_single_law_serves_as_well_as_a_forecast(study, contents, bootstrap):
    fit = laws.fit("chinchilla", laws.Observations.from_records(study.rows()), bootstrap=bootstrap)
    alone = replace(contents, predictor=fit)
    line = loss_curves.loss_by_compute(alone).frontier
    assert np.all(np.isfinite(line.loss))
    assert np.all(np.isfinite(line.low)) == (bootstrap > 0)
    assert evidence.backtest(alone) == ()
    assert list(evidence.isoflop(alone).laws) == ["chinchilla"]


def test_what_is_missing_is_not_drawn(contents):
    before = replace(contents, predictor=None, plan=None, outcome=None)
    data = loss_curves.loss_by_compute(before)
    assert (data.frontier, data.target) == (None, None)
    assert evidence.isoflop(before) is None
    assert evidence.backtest(before) == ()
    assert all(curve.law is None for curve in loss_curves.size_curves(before).curves)
    assert evidence.sweep(replace(before, records=(), sweep_ids=frozenset())) is None
