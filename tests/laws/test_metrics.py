"""Metrics from the loss: recovery, SciPy as judge, coverage alone and behind a forecast, wrong input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import curve_fit

from allometry.errors import UserError
from allometry.laws import Prediction, fit
from allometry.laws.metrics import MetricFit, MetricSigmoid, fit_metric
from helpers.ladders import TRUTHS, ladder, runs

TRUTH = {"L0": 2.6, "k": 6.0, "low": 0.25, "high": 0.85}


def accuracy(loss, values=TRUTH):
    """The sigmoid as it is written."""
    return values["low"] + (values["high"] - values["low"]) / (1 + np.exp(values["k"] * (loss - values["L0"])))


def points(count=15, noise=0.0, seed=0, values=TRUTH):
    loss = np.linspace(2.3, 3.4, count)
    return loss, np.clip(accuracy(loss, values) + noise * np.random.default_rng(seed).standard_normal(count), 0, 1)


@pytest.mark.parametrize("seed", range(6))
def test_noiseless_truth_is_recovered(seed):
    generator = np.random.default_rng(seed)
    values = {
        "L0": generator.uniform(2.4, 3.2),
        "k": generator.uniform(3, 12),
        "low": generator.uniform(0, 0.3),
        "high": generator.uniform(0.6, 1),
    }
    for chance in (None, values["low"]):
        result = fit_metric(*points(values=values), chance=chance, bootstrap=2)
        assert result.values == pytest.approx(values, rel=1e-5, abs=1e-7)
        assert result.predict(2.0).value == pytest.approx(accuracy(2.0, values), rel=1e-6)


def test_derivatives_match_differences():
    theta, loss = np.array([[2.6, np.log(6), 0.25, 0.85]]), np.linspace(2, 3.5, 9)
    _, slopes = MetricSigmoid().log_loss(theta, loss)
    for index in range(4):
        step = np.zeros(4)
        step[index] = 1e-6
        difference = (
            MetricSigmoid().log_loss(theta + step, loss)[0] - MetricSigmoid().log_loss(theta - step, loss)[0]
        ) / 2e-6
        np.testing.assert_allclose(slopes[:, index], difference, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_never_worse_than_scipy_from_the_truth(seed):
    loss, metric = points(20, 0.02, seed)
    optimum, _ = curve_fit(
        lambda loss, *constants: accuracy(loss, dict(zip(TRUTH, constants, strict=True))),
        loss,
        metric,
        [*TRUTH.values()],
        bounds=([0, 0.1, 0, 0], [5, 100, 1, 1]),
    )
    squares = ((accuracy(loss, dict(zip(TRUTH, optimum, strict=True))) - metric) ** 2).sum()
    result = fit_metric(loss, metric, bootstrap=2)
    assert (result.residuals**2).sum() <= squares * (1 + 1e-9)
    np.testing.assert_allclose(result.residuals, metric - accuracy(loss, result.values), atol=1e-12)


@pytest.mark.parametrize("chance", [None, 0.25])
def test_intervals_cover_new_runs_and_constants(chance):
    inside, constants, trials = [], [], 150
    for seed in range(trials):
        result = fit_metric(*points(14, 0.01, seed), chance=chance, bootstrap=200, seed=seed)
        generator = np.random.default_rng(10_000 + seed)
        here = []
        for loss in (2.2, 2.7):
            prediction = result.predict(loss)
            here.append(prediction.low <= accuracy(loss) + 0.01 * generator.standard_normal() <= prediction.high)
        # The loss itself is a forecast, 0.03 off as its interval says.
        forecast = 2.3 + 0.03 * generator.standard_normal()
        prediction = result.predict(Prediction(forecast, forecast - 0.04934, forecast + 0.04934, 0.9))
        here.append(prediction.low <= accuracy(2.3) + 0.01 * generator.standard_normal() <= prediction.high)
        inside.append(here)
        low, high = result.intervals["L0"]
        constants.append(low <= TRUTH["L0"] <= high)
    # 90 % ± three standard errors of 150 trials.
    for share in (*np.mean(inside, axis=0), np.mean(constants)):
        assert 0.826 <= share <= 0.974


def test_two_steps_from_a_ladder_to_an_accuracy():
    """The loss by a law, the metric by the loss: the interval of the second holds what the first does not know."""
    observations = ladder("chinchilla", noise=0.003)
    step = fit_metric(observations.loss, accuracy(observations.loss), chance=0.25)
    loss = fit("chinchilla", observations).predict(7e9, 1e12)
    truth = accuracy(runs(7e9, 1e12, "chinchilla", TRUTHS["chinchilla"]).loss[0])
    one, exact = step.predict(loss), step.predict(loss.value)
    assert one.value == exact.value
    assert one.low < truth < one.high
    assert one.high - one.low > 2 * (exact.high - exact.low)
    many = step.predict(fit("chinchilla", observations).predict(np.array([[1e9], [7e9]]), np.array([1e11, 5e11, 1e12])))
    assert many.value.shape == many.low.shape == (2, 3)
    assert many.value[1, 2] == pytest.approx(one.value, rel=1e-12)


def test_predictions_stay_between_nothing_and_everything():
    loss, metric = points(12, 0.03, values={**TRUTH, "low": 0.0, "high": 1.0})
    result = fit_metric(loss, metric)
    ends = result.predict(np.array([0.5, 2.6, 9.0]))
    assert np.all((ends.low >= 0) & (ends.high <= 1) & (ends.low <= ends.value) & (ends.value <= ends.high))
    assert np.all(result.predict(2.6, level=0.5).high < ends.high[1])


def test_chance_holds_the_foot():
    loss, metric = points(10, 0.01)
    held = fit_metric(loss[:6], metric[:6], chance=0.25)
    assert held.values["low"] == 0.25
    assert held.standard_errors["low"] == 0
    assert "held at chance" in held.summary()
    free = fit_metric(loss[:6], metric[:6])
    assert free.standard_errors["L0"] > held.standard_errors["L0"] > 0


def test_the_foot_alone_says_that_the_ceiling_is_not_seen():
    loss = np.linspace(2.9, 3.4, 12)
    result = fit_metric(loss, accuracy(loss) + 0.002 * np.random.default_rng(0).standard_normal(12), chance=0.25)
    low, high = result.intervals["high"]
    assert high - low > 0.3 or result.active_bounds == ("high ended at its upper bound",)
    prediction = result.predict(2.3)
    assert prediction.high - prediction.low > 0.1


def test_equal_input_gives_equal_output_and_json_keeps_it():
    loss, metric = points(12, 0.01)
    first, second = (fit_metric(loss, metric, bootstrap=50) for _ in range(2))
    assert first.to_json() == second.to_json()
    back = MetricFit.from_json(json.loads(json.dumps(first.to_json())))
    assert back.to_json() == first.to_json()
    assert back.predict(2.5) == first.predict(2.5)
    for words in ("metric = low + (high − low)", "std. error", "90 % interval", "12 points, noise 0.0"):
        assert words in first.summary()
    with pytest.raises(UserError, match="not a fit of a metric"):
        MetricFit.from_json({"kind": "metric_fit"})


LOSS = np.linspace(2.3, 3.4, 8)


@pytest.mark.parametrize(
    ("loss", "metric", "options", "words"),
    [
        (LOSS, ["a"] * 8, {}, "loss and metric must be numbers"),
        (LOSS, accuracy(LOSS)[:7], {}, "equally many finite numbers"),
        (LOSS, np.where(LOSS < 2.4, np.nan, accuracy(LOSS)), {}, "leave out failed runs"),
        (LOSS[:4], accuracy(LOSS[:4]), {}, "4 points are too few for a sigmoid; give 5 or more"),
        (LOSS, 100 * accuracy(LOSS), {}, "percent divided by 100"),
        (LOSS, 1 - accuracy(LOSS), {}, "rises with the loss; give one that falls with it, such as 1 − error"),
        (LOSS * 0 + 3, accuracy(LOSS), {}, "one loss or one metric"),
        (LOSS, accuracy(LOSS), {"chance": 0.9}, "chance is 0.9; it must lie between 0 and the best metric"),
        (LOSS, accuracy(LOSS), {"bootstrap": 0}, "bootstrap is 0"),
    ],
)
def test_metrics_that_cannot_be_fitted_are_refused(loss, metric, options, words):
    with pytest.raises(UserError, match=words):
        fit_metric(loss, metric, **options)


def test_impossible_predictions_are_refused():
    result = fit_metric(*points(), bootstrap=10)
    without = fit("power", ladder("power"), bootstrap=0).predict(1e9, 1e10)
    for loss, level, words in ((np.nan, 0.9, "must be finite"), (without, 0.9, "an interval"), (2.5, 0, "level is 0")):
        with pytest.raises(UserError, match=words):
            result.predict(loss, level)


def test_a_metric_that_rises_without_a_ceiling_is_a_power_with_positive_exponents():
    """P = k·N^α·D^β of any positive metric: BLEU, tokens a second, the length of a solved proof."""
    values = {"k": 0.02, "alpha": 0.11, "beta": 0.06}
    observations = ladder("power", values, noise=0.01)
    result = fit("power", observations)
    for symbol, value in values.items():
        low, high = result.intervals_at(0.99)[symbol]
        assert low <= value <= high, symbol
    bigger = result.predict(np.array([1e9, 1e10]), 1e11)
    assert bigger.value[1] > bigger.value[0]
    assert bigger.low[1] <= runs(1e10, 1e11, "power", values).loss[0] <= bigger.high[1]
