"""The constants behind an interval, each against what it stands for: public tables, SciPy, or distance itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.special import stdtrit

from allometry.laws import LAWS, DriftPrior, Observations, forecast
from allometry.laws.fitting.fit import make_problem, optimum
from allometry.laws.fitting.refits import covariance
from allometry.laws.forecasting.backtest import Backtest, BacktestRow
from allometry.laws.forecasting.calibration import FORECAST, calibrate, ignorance
from allometry.laws.forecasting.cuts import by_compute
from allometry.laws.forecasting.drift import PUBLIC_TABLES
from allometry.laws.forecasting.residuals import ResidualProcess
from allometry.laws.forecasting.run_weights import EXCESS_POWER, prediction_weights, relevance
from allometry.laws.forecasting.smoothing import smoothed
from allometry.laws.tables.findings.best_by_compute import excess
from helpers.ladders import TRUTHS, ladder, runs, shared

ISOFLOP = [
    ("owt2", "base", "long", "kaplan", "standard", "val"),
    ("owt2", "tuned", "short", "const", "standard", "val"),
    ("rw", "base", "short", "kaplan", "standard", "val"),
    ("rw", "base", "short", "chinchilla", "standard", "val"),
    ("rw", "tuned", "long", "const", "kaplan", "train"),
]


def public_sources():
    """Four of the public sources: IsoFLOP sweeps, Chinchilla's points, one corpus of Gadre's, OLMo's ladder."""
    names = ("dataset", "hparams", "warmup", "decay", "param_count", "val")
    yield [
        Observations.read(
            shared("porian/isoflop_points.csv"),
            columns={"num_params": "n", "tokens": "t", "loss": "loss"},
            where=dict(zip(names, experiment, strict=True)),
        )
        for experiment in ISOFLOP
    ]
    yield [Observations.read(shared("chinchilla/svg_extracted_data.csv"))]
    gadre = {"num_params": "N", "tokens": "D", "loss": "loss_c4_val"}
    yield [Observations.read(shared("gadre/models.csv"), columns=gadre, where={"train": "c4_original"})]
    yield [Observations.read(shared("olmo_ladder/final_losses.csv"), columns={"loss": "c4_loss"})]


def slope(table: Observations) -> float:
    """Of the forecast's errors over the logarithm of the factor, from a tenth of the table's compute."""
    small = table.flops <= 1.0001 * table.flops.max() / 10
    held_out = table.where(~small)
    result = forecast(table.where(small))
    error = np.log(result.predict(held_out.num_params, held_out.tokens).value / held_out.loss)
    distance = np.log(np.maximum(result.factor(held_out.num_params, held_out.tokens), 1))
    return float((error * distance).sum() / (distance**2).sum())


def test_the_drift_is_that_of_public_tables():
    """The size of the slopes of a source, and its geometric mean over sources: no source decides alone."""
    sizes = [np.sqrt(np.mean([slope(table) ** 2 for table in tables])) for tables in public_sources()]
    typical = np.exp(np.mean(np.log(sizes)))
    assert PUBLIC_TABLES.sd / 1.6 < typical < PUBLIC_TABLES.sd * 1.6


def perfect(cuts: int, error: float = 0.0) -> Backtest:
    rows = (BacktestRow(FORECAST, cut, 9, "a", np.e, error, 0.0, 0.001, 1.0) for cut in range(cuts))
    return Backtest(tuple(rows), 12)


def test_few_cuts_that_share_their_runs_change_an_interval_by_little():
    """Four lucky cuts may not narrow it by more than a fifth; many cuts say more than what was known before."""
    assert 0.8 < calibrate(perfect(4))[0] < 0.9
    assert calibrate(perfect(100))[0] < 0.3
    told = [calibrate(perfect(8), DriftPrior(cuts=cuts))[0] for cuts in (1, 8, 64)]
    assert told == sorted(told)
    assert told[1] ** 2 == pytest.approx(0.5)


def test_where_residuals_are_noise_the_spread_of_constants_and_laws_counts_fully():
    mixed, left = np.array([3.0]), np.array([1.0])
    assert ignorance(mixed, 0 * left, 1.0) == pytest.approx(mixed)
    # Three views of one ignorance, two of them in the first argument, are that ignorance.
    assert ignorance(2 * left, left, 0.0) == pytest.approx(left)
    generator = np.random.default_rng(0)
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 9), np.geomspace(1e9, 1e11, 9)))
    noise = 0.01 * generator.standard_normal(81)
    bend = 0.03 * np.exp(-((np.log(n / 1e8) ** 2 + np.log(d / 1e10) ** 2) / 8))
    shares = [ResidualProcess(n, d, x, np.zeros(81), 5.0).noise_share for x in (noise, bend + noise / 30)]
    assert shares[0] > 0.8
    assert shares[1] < 0.1


def test_covariance_is_that_of_scipy():
    """Of constants by least squares with weights: the inverse of JᵀWJ times the mean square."""
    observed = ladder("chinchilla", noise=0.01)
    form, weights = LAWS["chinchilla"], prediction_weights(observed)
    problem, _ = make_problem(form, observed, "log_squares", 1.0)
    theta = optimum(problem, weights).theta
    _, expected = curve_fit(
        lambda _, *x: form.log_loss(np.array([x]), *problem.inputs)[0][0],
        np.zeros(len(observed)),
        problem.log_loss,
        p0=theta,
        sigma=1 / np.sqrt(weights),
    )
    np.testing.assert_allclose(covariance(problem, theta, weights), expected, rtol=0.01, atol=1e-9)


@pytest.mark.parametrize(("size", "tokens"), [(50, 0.01), (0.02, 40), (3, 3)])
def test_distance_is_the_farthest_of_size_tokens_and_compute(size, tokens):
    """What the drift adds to the variance is (sd·distance)², inside the compute of the runs too."""
    observed = ladder("chinchilla", noise=0.003)
    point = size * observed.num_params.max(), tokens * observed.tokens.max()
    halves = []
    for sd in (0.0, 0.02):
        result = forecast(observed, laws=["chinchilla"], drift=DriftPrior(sd=sd, cuts=1e9))
        prediction = result.predict(*point)
        halves.append(np.log(prediction.high / prediction.low) / 2 / stdtrit(result.freedom, 0.95))
    distance = np.log(max(size, tokens, size * tokens))
    assert np.sqrt(halves[1] ** 2 - halves[0] ** 2) == pytest.approx(0.02 * distance, rel=1e-3)


def test_lucky_runs_have_no_more_weight_than_others():
    """By observed losses the frontier would be the runs with luck, and the fit too low."""
    luck, weight, observed_weight = [], [], []
    for seed in range(6):
        observed = by_compute(ladder("chinchilla", noise=0.04, seed=seed))
        truth = LAWS["chinchilla"].loss(TRUTHS["chinchilla"], observed.num_params, observed.tokens)
        luck += list(np.log(observed.loss / truth))
        weight += list(relevance(observed))
        observed_weight += list(np.exp(-EXCESS_POWER * excess(observed)))
    assert np.average(luck, weights=observed_weight) < -0.01
    assert abs(np.average(luck, weights=weight)) < 0.6 * abs(np.average(luck, weights=observed_weight))


def test_quiet_losses_stay_as_they_are_and_noisy_ones_come_near_the_truth():
    quiet = ladder("skaling", noise=0.001)
    np.testing.assert_allclose(smoothed(quiet).loss, quiet.loss, rtol=1e-3)
    truth = ladder("skaling").loss
    noisy = ladder("skaling", noise=0.05)
    before, after = (np.sqrt(np.mean(np.log(x / truth) ** 2)) for x in (noisy.loss, smoothed(noisy).loss))
    assert after < 0.8 * before
    few = runs([1e7, 1e8, 1e9, 1e9], [1e9, 1e9, 1e9, 1e10], "chinchilla", TRUTHS["chinchilla"])
    assert smoothed(few) is few
