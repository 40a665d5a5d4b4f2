"""The data of the loss pictures: points are the records, lines are the law."""

from dataclasses import replace

import numpy as np
import pytest

from allometry import laws
from allometry.report.pictures import evidence, loss_curves, points_and_lines
from helpers.studies import LENGTHS, WIDTHS


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
