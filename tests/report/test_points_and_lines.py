"""Points and lines of the pictures: the target is plan and outcome, FLOPs are exact."""

from dataclasses import replace

import numpy as np
import pytest

from allometry.report.pictures import loss_curves, points_and_lines


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
