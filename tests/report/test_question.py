"""The law that the page asks: its script gives the numbers of ``predict`` and ``optimal`` to six digits, under node."""

import json
from dataclasses import replace

import numpy as np
import pytest

from allometry import laws, planning
from allometry.config.model import ModuleConfig, kind_of_rate
from allometry.errors import UserError
from allometry.laws.forecasting.early_end import EarlyEnd
from allometry.laws.law_table import LEVELS
from allometry.report.question import PageSettings, as_json, question, study_question
from allometry.report.tables import recipe
from helpers import law_tables
from helpers.ladders import ladder

CLOSE = {"rtol": 1e-6, "atol": 0}
PLACE = LEVELS.index(0.9)


def asked(flops=None, num_params=None, tokens=None, inference_tokens=None):
    return {"flops": flops, "num_params": num_params, "tokens": tokens, "inference_tokens": inference_tokens}


def data_of(markup):
    return json.loads(str(markup))


def budgets(predictor):
    """Questions around and beyond the runs of a law, and the budgets that they are."""
    size, tokens = predictor.range["num_params"][1], predictor.range["tokens"][1]
    questions = [asked(flops=flops) for flops in predictor.range["flops"][1] * np.array([0.01, 1.0, 50.0])]
    flops = 10 * predictor.range["flops"][1]
    return [
        *questions,
        asked(flops=flops, inference_tokens=30 * tokens),
        asked(flops=flops, num_params=size),
        asked(flops=flops, num_params=size, inference_tokens=tokens),
        asked(flops=flops, tokens=tokens),
        asked(num_params=3 * size, tokens=2 * tokens),
    ]


def same(answer, best):
    """The script's answer is the optimum that Python gives."""
    for name in ("num_params", "tokens", "flops", "loss", "low", "high", "inference_flops"):
        one, other = answer[name], getattr(best, name)
        assert (one is None) == (other is None)
        if other is not None:
            np.testing.assert_allclose(float(one), other, **CLOSE, err_msg=name)
    assert answer["at_edge"] == best.at_edge
    assert (answer["basin"] is None) == (best.basin is None)
    if best.basin:
        for name in ("within_0_1_percent", "within_0_5_percent"):
            np.testing.assert_allclose(np.array(answer["basin"][name], float), getattr(best.basin, name), **CLOSE)
        for name, cost in (("half", best.basin.cost_of_half_size), ("double", best.basin.cost_of_double_size)):
            told = answer["basin"][name]
            assert (told is None) == (cost is None)  # None: the budget does not pay for that size
            if cost is not None:
                np.testing.assert_allclose(1 + told, 1 + cost, **CLOSE)
    for name, span in best.intervals.items():
        np.testing.assert_allclose(np.array(answer["intervals"][name], float), span, **CLOSE)


def compare(predictor, data, covered=None):
    questions = budgets(predictor)
    sizes, tokens = np.meshgrid(
        *(np.geomspace(low / 3, 30 * high, 5) for low, high in map(predictor.range.get, ("num_params", "tokens")))
    )
    grid = list(zip(sizes.ravel().tolist(), tokens.ravel().tolist(), strict=True))
    points = [["predict", *point, place] for place in range(len(LEVELS)) for point in grid]
    answers = law_tables.node(data, [["optimal", one, PLACE] for one in questions] + points)
    for one, answer in zip(questions, answers[: len(questions)], strict=True):
        budget = planning.Budget(**{name: value for name, value in one.items() if value is not None})
        same(answer, planning.optimal(predictor, budget, fitted_range=covered))
    rows = answers[len(questions) :]
    for place, level in enumerate(LEVELS):
        expected = predictor.predict(sizes.ravel(), tokens.ravel(), level=level)
        part = rows[place * len(grid) : (place + 1) * len(grid)]
        for name in ("value", "low", "high"):
            np.testing.assert_allclose([row[name] for row in part], getattr(expected, name), **CLOSE)


def test_the_forecast_of_a_study(contents):
    rungs = contents.finished("ladder")
    covered = planning.FittedRange.of([contents.size(r) for r in rungs], [r.tokens for r in rungs])
    compare(contents.predictor, data_of(study_question(contents)), covered)


def test_a_forecast_that_knows_what_repeats_cost(contents):
    forecast = contents.predictor
    prior = laws.DriftPrior(unique_tokens=forecast.range["tokens"][1], repeat_slope=0.03, repeat_sd=0.02)
    told = replace(forecast, drift_prior=prior)
    compare(told, data_of(question(told)))


def test_a_forecast_of_runs_that_share_trunks():
    runs = ladder("skaling", noise=0.004, sizes=5)
    rows = [
        {"num_params": n, "tokens": d, "loss": loss, "trunk": float(i // 4)}
        for i, (n, d, loss) in enumerate(zip(runs.num_params, runs.tokens, runs.loss, strict=True))
    ]
    forecast = laws.forecast(laws.Observations.from_records(rows), ["power_floor"])
    data = data_of(question(forecast))
    assert data["table"]["process"]["trunks"] is not None
    compare(forecast, data)


@pytest.mark.parametrize("lower", [0.0, 0.02])
def test_a_forecast_of_runs_that_end_early(contents, lower):
    forecast = contents.predictor
    early = EarlyEnd(
        tokens=forecast.range["tokens"][1] / 2, exponent=0.1, growth=0.3, grows=True, lower=lower, lower_sd=lower
    )
    told = replace(forecast, early_end=early)
    compare(told, data_of(question(told)))


# One law of each family, and one without an optimum.
@pytest.mark.parametrize("name", ["power", "chinchilla", "kaplan", "farseer"])
def test_a_fit(name):
    fit = laws.fit(name, ladder(name, noise=0.004, sizes=5), bootstrap=10)
    compare(fit, data_of(question(fit)))


def test_batch_and_rate_are_those_of_the_recipe_and_of_the_published_rule(contents):
    recipe, point = contents.recipe, (3e6, 4e8)
    (own,) = law_tables.node(data_of(study_question(contents)), [["settings", *point]])
    batch = recipe["batch_tokens"] * (point[1] / recipe["reference_tokens"]) ** recipe["batch_exponent"]
    np.testing.assert_allclose([own["batch"], own["lr"]], [batch, recipe["lr"]], rtol=1e-9)
    data = data_of(question(contents.predictor, settings=PageSettings.published()))
    (published,) = law_tables.node(data, [["settings", *point]])
    np.testing.assert_allclose([published["batch"], published["lr"]], list(planning.rule("step_law").recommend(*point)))


@pytest.mark.parametrize(("parametrization", "words"), [("umup", "u-μP"), ("sp", "standard parametrisation")])
def test_page_and_plan_name_the_parametrisation_of_the_rate(contents, parametrization, words):
    measured = {"input_shape": (8,), "counted": (100, 110, 120), "unit_flops": 600.0, "row_bytes": 32.0}
    names = {"function": "make", "code": "c0de", "source": "net.py:make", "parametrization": parametrization}
    model = ModuleConfig(width=16, **names, **measured).model_dump(mode="json")
    plan = replace(contents.plan, run=contents.plan.run | {"model": model}, rule="recipe")
    changed = replace(contents, plan=plan)
    said = [
        data_of(study_question(changed))["settings"]["source"],
        plan.summary(),
        " ".join(row.cells[1].text for row in recipe(changed.recipe, changed.rate).rows),
    ]
    assert [(words in one, "u-μP" in one) for one in said] == [(True, parametrization == "umup")] * 3
    assert kind_of_rate({"family": "script"}) is None


def test_what_cannot_be_answered_is_refused_in_both(contents):
    data, predictor = data_of(question(contents.predictor)), contents.predictor
    too_far = 1e7 * predictor.range["num_params"][1]
    questions = [
        asked(flops=1e-3),
        asked(num_params=too_far, tokens=1e6),
        asked(num_params=-1.0, tokens=1e6),
        asked(flops=1e10, num_params=1e6, inference_tokens=1e9),
        asked(flops=1e10, tokens=1e11),
    ]
    for one, answer in zip(questions, law_tables.node(data, [["optimal", q, PLACE] for q in questions]), strict=True):
        assert answer.get("refused"), one
        with pytest.raises(UserError):
            planning.optimal(predictor, planning.Budget(**{k: v for k, v in one.items() if v is not None}))


def test_json_in_the_page_ends_no_script():
    text = str(as_json({"name": "</script><!--<script>&\u2028"}))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": "</script><!--<script>&\u2028"}


def test_a_law_that_reads_more_than_size_and_tokens_is_not_asked(contents):
    fit = laws.fit("three_term", ladder("three_term"), bootstrap=0)
    assert study_question(replace(contents, predictor=fit)) is None
    assert study_question(replace(contents, predictor=None)) is None
