"""The data behind recipe, laws and plan: the sweep, the backtest, the slice at the plan's budget."""

from dataclasses import replace

import numpy as np
import pytest

from allometry import laws
from allometry.ladder.recipe import Recipe
from allometry.ladder.shape import shape
from allometry.report.page import render
from allometry.report.pictures import evidence
from allometry.report.study_contents import StudyContents
from helpers.pages import Page
from helpers.studies import cut, record


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


def test_isoflop_has_the_plans_budget_and_contains_the_plan(contents):
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


def test_isoflop_of_a_law_without_an_optimum_continues_beyond_the_edge(study, contents):
    power = laws.fit("power", laws.Observations.from_records(study.rows()), bootstrap=20)
    data = evidence.isoflop(replace(contents, predictor=power))
    edges = data.searched
    assert data.optimum[0] in [pytest.approx(edge) for edge in edges]
    assert data.line.num_params[0] < edges[0] or data.line.num_params[-1] > edges[1]
    for _, (low, high) in data.within:
        assert edges[0] <= low <= data.optimum[0] <= high <= edges[1]


def test_valleys_are_drawn_where_three_budgets_have_several_sizes(contents):
    assert evidence.valleys(contents) is None
    task, recipe = contents.records[0].config.task, Recipe(lr=0.4, batch_tokens=400, measured="10 runs")
    configs = [
        recipe.run(shape(width), task, round(flops / shape(width).flops_per_token), 0)
        for flops in (1.5e11, 3e11, 6e11)
        for width in (24, 32, 48, 64, 96, 128)
    ]
    runs = tuple(record(config, "ladder") for config in configs)
    budgets = replace(contents, records=runs, curves={run.id: [] for run in runs})
    data = evidence.valleys(budgets)
    assert len(data.accepted) == 3
    assert sum(len(one.labels) for one in data.budgets) == len(configs)
    page = Page(render(budgets))
    assert "Best sizes, budget by budget" in page.words["figcaption"]
    assert "Best sizes, budget by budget" not in Page(render(contents)).words["figcaption"]
    for config in configs:
        assert f"{config.id}: " in page.words["title"]
