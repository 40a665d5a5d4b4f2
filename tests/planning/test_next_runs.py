"""The next runs: what they are said to narrow is what refits show, and they beat other runs of the same cost."""

import json
from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pytest

from allometry import laws
from allometry.errors import UserError
from allometry.laws import LAWS, Observations
from allometry.planning import Budget
from allometry.planning.experiments.gaussian_model import plausible
from allometry.planning.experiments.next_runs import next_runs

TARGET, BUDGET, NOISE = (2.9e9, 58e9), 1e19, 0.003
SIZES, TOKENS = np.geomspace(1e7, 8e7, 4), np.geomspace(2e8, 1.6e9, 3)


def observe(law, values, seed=0, extra=(), noise=NOISE):
    """A small ladder, and runs besides."""
    n, d = (axis.ravel() for axis in np.meshgrid(SIZES, TOKENS, indexing="ij"))
    n, d = np.append(n, [run[0] for run in extra]), np.append(d, [run[1] for run in extra])
    loss = LAWS[law].loss(values, n, d) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return Observations.from_records(
        [{"num_params": a, "tokens": b, "loss": c} for a, b, c in zip(n, d, loss, strict=True)]
    )


def truth(law, seed):
    values = plausible(law, TARGET, 2.5, 1, seed=seed)[0]
    return dict(zip(LAWS[law].symbols, map(float, values), strict=True))


@dataclass(frozen=True)
class OneLaw:
    """A forecast that believes in one law, and is as sure as it is told."""

    weights: dict
    low: float = 1.9
    high: float = 2.1

    def predict(self, num_params, tokens, level=0.9):
        return laws.Prediction(2.0, self.low, self.high, level)


@pytest.fixture(scope="module")
def observations():
    return observe("chinchilla", truth("chinchilla", 1))


@pytest.fixture(scope="module")
def answer(observations):
    return next_runs(observations, TARGET, BUDGET)


def test_before_and_after_are_the_spread_of_refits():
    values, draws = {"k": 25.0, "alpha": -0.06, "beta": -0.05}, 600
    given = next_runs(
        observe("power", values), TARGET, BUDGET, forecasted=OneLaw({"power": 1.0}), drift=1e-9, level=0.9
    )
    run = given.runs[0]
    true = np.log(LAWS["power"].loss(values, *TARGET))

    def spread(extra):
        """Of a new run's ln L around the prediction of a refit."""
        drawn = [observe("power", values, seed, extra) for seed in range(draws)]
        found = [laws.fit("power", runs, "log_squares", bootstrap=0) for runs in drawn]
        return np.mean([(np.log(fit.predict(*TARGET).value) - true) ** 2 for fit in found]) + NOISE**2

    before, after = spread([]), spread([(run.num_params, run.tokens)])
    assert after < 0.8 * before
    # Two variances of as many draws: four standard errors of their ratio.
    assert (run.after / run.before) ** 2 == pytest.approx(after / before, rel=4 * 2 / np.sqrt(draws))


@pytest.mark.parametrize("law", ["chinchilla", "skaling"])
def test_they_beat_random_runs_of_the_same_cost(law):
    chosen, random = [], []
    for seed in range(8 if law == "chinchilla" else 5):
        values = truth(law, seed)
        picked = next_runs(observe(law, values, seed), TARGET, BUDGET, forecasted=OneLaw({law: 1.0})).runs
        generator = np.random.default_rng(seed)
        for repeat in range(4):
            others = []
            for run in picked:
                ratio = np.exp(generator.uniform(np.log(5), np.log(320)))
                size = np.sqrt(run.flops / 6 / ratio)
                others.append((size, ratio * size))
            runs = [(run.num_params, run.tokens) for run in picked]
            for errors, extra in ((chosen, runs), (random, others)):
                fit = laws.fit(law, observe(law, values, 100 * seed + repeat, extra), "log_squares", bootstrap=0)
                errors.append(np.log(fit.predict(*TARGET).value / LAWS[law].loss(values, *TARGET)))
    assert np.mean(np.square(chosen)) < 0.75 * np.mean(np.square(random))


def test_the_interval_is_that_of_the_forecast_and_narrows_run_by_run(observations, answer):
    prediction = laws.forecast(observations).predict(*TARGET, level=0.9)
    assert answer.ranking[0].before == pytest.approx(np.log(prediction.high / prediction.low) / 2)
    assert {run.before for run in answer.ranking} == {answer.ranking[0].before}
    assert answer.runs[0].before == answer.ranking[0].before
    for earlier, later in zip(answer.runs, answer.runs[1:], strict=False):
        assert later.before == pytest.approx(earlier.after, rel=1e-9)
    assert all(run.after < run.before for run in answer.runs)


def test_what_is_offered_is_affordable_and_ranked(answer):
    assert sum(run.flops for run in answer.runs) == pytest.approx(answer.flops)
    assert answer.flops <= BUDGET
    assert 1 <= len(answer.runs) <= 4
    gains = [run.gain_per_flop for run in answer.ranking]
    assert gains == sorted(gains, reverse=True)
    for run in answer.ranking:
        assert BUDGET / 64 <= run.flops <= BUDGET
        assert run.flops == pytest.approx(6 * run.num_params * run.tokens)
        assert 5 <= run.tokens / run.num_params <= 320
        assert run.gain_per_flop == pytest.approx((run.before - run.after) / run.flops)


def test_more_money_buys_a_narrower_interval(observations):
    sure = OneLaw({"chinchilla": 0.5, "skaling": 0.5})
    after = [next_runs(observations, TARGET, budget, forecasted=sure).runs[-1].after for budget in (1e18, 1e19, 1e20)]
    assert after == sorted(after, reverse=True)
    assert after[2] < 0.5 * after[0]
    several = [next_runs(observations, TARGET, 1e19, num_runs=count, forecasted=sure) for count in (1, 3)]
    assert len(several[0].runs) == 1
    assert several[1].runs[-1].after <= several[0].runs[-1].after


def test_equal_input_gives_equal_output(observations, answer):
    assert next_runs(observations, TARGET, Budget(flops=BUDGET)) == answer
    with pytest.raises(FrozenInstanceError):
        answer.budget = 1.0
    assert json.loads(json.dumps(answer.to_json()))["ranking"][0]["flops"] == answer.ranking[0].flops


def test_summary_says_what_to_train(answer):
    text = answer.summary(most=5)
    assert "target 2.9B parameters, 58B tokens: 90% interval ±" in text
    assert "of 1.00e+19 FLOPs" in text
    assert text.count("parameters on") == len(answer.runs) + 5


@pytest.mark.parametrize("rows", [[0], [0, 3, 6], [0, 1, 2], [0, 4, 8]])
def test_runs_that_bear_no_forecast_get_those_that_make_one_possible(observations, rows):
    few = observations.where(np.array(rows))
    with pytest.raises(UserError):
        laws.forecast(few)
    given = next_runs(few, TARGET, BUDGET)
    assert "no forecast from these runs yet" in given.notes[0]
    assert given.runs[-1].after < given.runs[0].before
    n = np.append(few.num_params, [run.num_params for run in given.runs])
    d = np.append(few.tokens, [run.tokens for run in given.runs])
    axes = np.stack([np.log(n), np.log(d)], axis=1)
    assert np.linalg.svd(axes - axes.mean(axis=0))[1][-1] / np.sqrt(len(n)) > 0.1


def test_laws_without_a_prior_are_left_out_aloud(observations):
    given = next_runs(observations, TARGET, BUDGET, forecasted=OneLaw({"chinchilla": 0.75, "farseer": 0.25}))
    assert given.notes == ("laws with 25% of the forecast's weight are left out: no prior for their constants",)
    with pytest.raises(UserError, match="none of the laws that next_runs models: power, power_floor, chinchilla"):
        next_runs(observations, TARGET, BUDGET, forecasted=OneLaw({"farseer": 1.0}))


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((TARGET, 1e10), {}, "pays for no run as large as the smallest one here: give"),
        ((TARGET, 0), {}, "budget must be a finite number above zero"),
        (((1e9, -1), 1e19), {}, "target tokens must be a finite number above zero"),
        (((1e9, 1e9, 1e9), 1e19), {}, r"a target is \(num_params, tokens\)"),
        ((TARGET, 1e19), {"num_runs": 0}, "num runs must be a finite number above zero"),
        ((TARGET, 1e19), {"num_runs": 1.5}, "num_runs must be a whole number, not 1.5"),
        ((TARGET, 1e19), {"level": 1.0}, "level is 1.0"),
        ((TARGET, 1e19), {"drift": 0.0}, "drift must be a finite number above zero"),
    ],
)
def test_wrong_input_is_refused(observations, arguments, options, words):
    with pytest.raises(UserError, match=words) as caught:
        next_runs(observations, *arguments, **options)
    assert "\n" not in str(caught.value)
