"""Backtest and forecast: what is held out, how laws are weighed, and whether the interval tells the truth."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from allometry.errors import UserError
from allometry.laws import LAWS, Forecast, Observations, backtest, fit, forecast, load, save
from allometry.laws.fitting.fit import make_problem, optimum
from allometry.laws.forecasting.backtest import Backtest, BacktestRow
from allometry.laws.forecasting.calibration import (
    FLOORLESS,
    FORECAST,
    Correction,
    calibrate,
    correct,
    law_weights,
)
from allometry.laws.forecasting.cuts import DEFAULT_LAWS, by_compute, origins
from allometry.laws.forecasting.drift import PUBLIC_TABLES
from allometry.laws.forecasting.residuals import LENGTH, RATIOS, ResidualProcess
from allometry.laws.forecasting.run_weights import prediction_weights, relevance
from allometry.laws.tables.findings.best_by_compute import excess
from helpers.ladders import TRUTHS, ladder, runs, shared

# Truths of a tiny byte-level model: losses from about 2.2 down to about 1.2 over 13k–200k parameters, 0.2–2M tokens.
TINY = {
    "power": {"k": 2.2 * 13e3**0.11 * 2e5**0.13, "alpha": -0.11, "beta": -0.13},
    "power_floor": {"E": 0.6, "k": 1.6 * 13e3**0.18 * 2e5**0.21, "alpha": -0.18, "beta": -0.21},
    "chinchilla": {"E": 0.5, "A": 0.85 * 13e3**0.3, "B": 0.85 * 2e5**0.36, "alpha": 0.3, "beta": 0.36},
    "skaling": {"E": 0.5, "A": 1.0 * 13e3**0.3, "B": 1.1 * 2e5**0.4, "alpha": 0.3, "beta": 0.4, "k": 0.7},
}


def tiny(law: str, seed: int) -> Observations:
    n, d = np.meshgrid(np.geomspace(13e3, 200e3, 5), np.geomspace(2e5, 2e6, 3), indexing="ij")
    return runs(n.ravel(), d.ravel(), law, TINY[law], noise=0.005, seed=seed)


def row(law, cut, error, factor=np.e, runs_below=9, label="a", spread=0.0, sigma=0.001):
    return BacktestRow(law, cut, runs_below, label, factor, error, spread, sigma, 1.0)


def test_backtest_rows_are_what_a_fit_below_the_cut_predicts():
    observations = ladder("chinchilla", noise=0.01)
    tested = backtest(["chinchilla"], observations)
    for cut in tested.cuts():
        one = cut["chinchilla"][-1]
        order = np.argsort(observations.flops, kind="stable")
        below = observations.where(order[: one.runs])
        held_out = observations.where(order[one.runs :])
        assert [r.label for r in cut["chinchilla"]] == list(held_out.labels)
        result = fit("chinchilla", below, "log_squares", weights=prediction_weights(below), bootstrap=0)
        predicted = result.predict(held_out.num_params, held_out.tokens).value
        np.testing.assert_allclose([r.error for r in cut["chinchilla"]], np.log(predicted / held_out.loss), atol=1e-7)
        np.testing.assert_allclose([r.factor for r in cut["chinchilla"]], held_out.flops / below.flops.max())


def test_cuts_hold_out_whole_budgets_and_leave_a_design_below():
    n, d = [], []
    for budget in np.geomspace(1e17, 1e20, 6):
        for size in np.sqrt(budget / 120) * np.array([0.5, 1, 2, 4]):
            n.append(size)
            d.append(budget / (6 * size))
    observations = runs(np.array(n), np.array(d), "chinchilla", TRUTHS["chinchilla"])
    tested = backtest(None, observations)
    assert tested.rows
    for one in tested.rows:
        assert one.runs % 4 == 0
        assert one.runs >= 8
        assert one.factor > 3.9


def test_true_law_wins_the_backtest_and_the_table_says_so():
    tested = backtest(None, ladder("chinchilla", noise=0.001))
    ranking = [name for name, _ in tested.ranking()]
    assert ranking[-2:] == ["power_floor", "power"] or ranking[-2:] == ["power", "power_floor"]
    lines = tested.table().splitlines()
    assert lines[0].split()[:3] == ["law", "score", "1–2×"]
    assert [line.split()[0] for line in lines[1:]] == ranking
    assert Backtest.from_json(json.loads(json.dumps(tested.to_json()))) == tested
    assert Backtest((), 3).table() == "backtest: too few runs for any cut"


def test_relevance_counts_runs_on_the_frontier_fully():
    observations = Observations.from_records(
        [
            {"num_params": 1e6, "tokens": 1e8, "loss": 3.0},
            {"num_params": 1e7, "tokens": 1e7, "loss": 3.3},
            {"num_params": 1e7, "tokens": 1e8, "loss": 2.5},
        ]
    )
    np.testing.assert_allclose(relevance(observations), [1, 1.1**-24, 1])
    np.testing.assert_allclose(prediction_weights(observations), [0.1**0.25, 0.1**0.25 * 1.1**-24, 1])
    above = excess(observations, np.array([1e12, 6e14, 1e18, 1e18]), np.log([3.3, 3.3, 3.3, 2.4]))
    np.testing.assert_allclose(above, [np.log(1.1), np.log(1.1), np.log(3.3 / 2.5), 0], atol=1e-12)


def bumpy(noise, seed=0, height=0.03):
    """Residuals over a grid of (ln N, ln D): a smooth bump and noise."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 9), np.geomspace(1e9, 1e11, 9)))
    bump = height * np.exp(-((np.log(n / 1e8) ** 2 + np.log(d / 1e10) ** 2) / 8))
    return n, d, bump, bump + noise * np.random.default_rng(seed).standard_normal(len(n))


def test_residuals_are_those_of_a_gaussian_process_solved_directly():
    n, d, _, residuals = bumpy(noise=0.003)
    at_n, at_d = np.array([2e8, 4e9]), np.array([5e9, 4e11])
    *_, noises, shares = ResidualProcess(n, d, residuals, np.zeros(81), 6.0)._solved
    points, targets = (np.stack([np.log(x), np.log(y)], axis=1) for x, y in ((n, d), (at_n, at_d)))

    def correlation(one, other):
        reach = np.sqrt(5) * np.linalg.norm(one[:, None] - other[None], axis=2) / LENGTH
        return (1 + reach + reach**2 / 3) * np.exp(-reach)

    mean, variance, logs = 0.0, 0.0, []
    cross = correlation(targets, points)
    for ratio, share, noise in zip(RATIOS, shares, noises, strict=True):
        total = np.eye(81) + ratio * correlation(points, points)
        mean = mean + share * ratio * cross @ np.linalg.solve(total, residuals)
        gain = np.einsum("pr,rp->p", cross, np.linalg.solve(total, cross.T))
        variance = variance + share * noise * ratio * (1 - ratio * gain)
        mass = residuals @ np.linalg.solve(total, residuals) / 81 + 1e-8
        logs.append(np.log(0.5 if ratio == 0 else 0.5 / 8) - 81 / 2 * np.log(mass) - np.linalg.slogdet(total)[1] / 2)
        assert noise == pytest.approx(mass * 81 / 75)
    estimate = ResidualProcess(n, d, residuals, np.zeros(81), 6.0).at(at_n, at_d, np.zeros(2))
    np.testing.assert_allclose(shares, np.exp(logs - np.logaddexp.reduce(logs)), atol=1e-8)
    np.testing.assert_allclose(estimate.mean, mean, atol=1e-8)
    np.testing.assert_allclose(estimate.spread**2, variance, atol=1e-10)


def test_residuals_give_back_a_bump_and_ignore_noise():
    n, d, bump, residuals = bumpy(noise=0.003)
    left = ResidualProcess(n, d, residuals, np.zeros(81), 0.0)
    estimate = left.at(n, d, np.zeros(81))
    assert np.sqrt(np.mean((estimate.mean - bump) ** 2)) < 0.0018
    assert estimate.noise[0] == pytest.approx(0.003, rel=0.25)
    far = left.at(np.array([1e13]), np.array([1e15]), np.zeros(1))
    assert abs(far.mean[0]) < 1e-3
    assert far.spread[0] > 2 * estimate.spread.max()
    for seed in range(5):
        *_, noise = bumpy(noise=0.003, seed=seed, height=0.0)
        nothing = ResidualProcess(n, d, noise, np.zeros(81), 0.0).at(n, d, np.zeros(81))
        assert np.sqrt(np.mean(nothing.mean**2)) < 0.001


def test_residuals_grow_off_the_frontier():
    n, d, _, residuals = bumpy(noise=0.003)
    left = ResidualProcess(n, d, residuals, np.zeros(81), 0.0)
    near, off = left.at(n[:1], d[:1], np.zeros(1)), left.at(n[:1], d[:1], np.full(1, 0.1))
    for one, other in zip(near, off, strict=True):
        assert other[0] == pytest.approx(np.exp(0.6) * one[0])


def test_law_weights_follow_score_and_fit():
    errors = {"power": 0.01, "chinchilla": 0.02}
    rows = [row(law, cut, error, label=f"run {cut}") for law, error in errors.items() for cut in range(6)]
    tested = Backtest(tuple(rows), 12)
    assert tested.score("power") == pytest.approx(0.01)
    weights = law_weights(tested, {"power": 0.01, "chinchilla": 0.01})
    assert weights["power"] / weights["chinchilla"] == pytest.approx(FLOORLESS["power"] * 2**4)
    weights = law_weights(tested, {"power": 0.02, "chinchilla": 0.01})
    assert weights["power"] / weights["chinchilla"] == pytest.approx(FLOORLESS["power"] * 2**3)
    assert law_weights(Backtest((), 5), {"power": 0.01}) == {"power": 1.0}


def test_few_runs_held_out_draw_the_weights_together():
    """Six cuts of one and the same run are one prediction: a sixth of the evidence of six runs."""
    errors = {"power_floor": 0.01, "chinchilla": 0.02}
    weigh = lambda rows: law_weights(Backtest(tuple(rows), 12), dict.fromkeys(errors, 0.01))
    one = weigh(row(law, cut, error) for law, error in errors.items() for cut in range(6))
    six = weigh(row(law, cut, error, label=f"run {cut}") for law, error in errors.items() for cut in range(6))
    assert six["power_floor"] / six["chinchilla"] == pytest.approx(2**4)
    assert one["power_floor"] / one["chinchilla"] == pytest.approx(2 ** (4 / 6))


def test_runs_of_one_name_are_as_many_as_a_cut_holds_out():
    """A column of labels may hold the model's name: three runs above the first cut, two of them above the second."""
    rows = [row(law, cut, 0.01, label="gpt") for law in ("power", "chinchilla") for cut in (0, 0, 0, 1, 1)]
    assert Backtest(tuple(rows), 12).predicted == 3


def slopes(values, spread=0.0, sigma=0.0):
    return Backtest(tuple(row(FORECAST, cut, value, spread=spread, sigma=sigma) for cut, value in enumerate(values)), 9)


def test_correction_needs_errors_that_drift_one_way():
    assert correct(slopes([0.02, 0.02, 0.02])) == pytest.approx((0.02, 1.0))
    assert correct(slopes([-0.02, -0.02, -0.02])).slope == pytest.approx(-0.02)
    assert abs(correct(slopes([0.02, -0.02, 0.03])).slope) < 0.001
    assert correct(slopes([0.02])) == (0, 0)
    assert correct(Backtest((), 5)) == (0, 0)
    values, prior = np.array([0.01, 0.02, 0.03]), PUBLIC_TABLES.sd**2
    assert correct(slopes(values)).slope == pytest.approx(0.02 * prior / (prior + values.var(ddof=1)))
    assert correct(slopes([0.02] * 3, spread=PUBLIC_TABLES.sd)).slope == pytest.approx(0.01)
    assert correct(slopes([0.02] * 3, sigma=PUBLIC_TABLES.sd)).slope == pytest.approx(0.01)
    near = Backtest(tuple(row(FORECAST, cut, 0.02, factor=1.1) for cut in range(3)), 9)
    assert correct(near) == (0, 0)


def test_correction_goes_no_further_than_the_backtest():
    np.testing.assert_allclose(Correction(0.01, 2.0).at(np.array([0, 1, 2, 5])), [0, 0.01, 0.02, 0.02])


def test_scale_is_the_prior_where_errors_are_as_expected():
    assert calibrate(Backtest((), 5)) == (1, 2)
    expected = np.hypot(0.001, PUBLIC_TABLES.sd)
    scale, freedom = calibrate(slopes([expected, -expected, expected, -expected], sigma=0.001))
    assert (scale, freedom) == (pytest.approx(1), 6)
    scale, _ = calibrate(slopes([3 * expected] * 4, sigma=0.001))
    assert scale == pytest.approx(np.sqrt((PUBLIC_TABLES.cuts + 4 * 9) / (PUBLIC_TABLES.cuts + 4)))
    assert calibrate(slopes([1.0] * 4))[0] == pytest.approx(
        np.sqrt((PUBLIC_TABLES.cuts + 4 * 25) / (PUBLIC_TABLES.cuts + 4))
    )


def test_origins_find_the_optimum_below_every_cut():
    """The batch from shared starts against the search over all starts, cut by cut."""
    observations = by_compute(ladder("skaling", noise=0.01))
    forms = [LAWS[name] for name in DEFAULT_LAWS]
    for origin in origins(forms, observations):
        below = origin.below
        weights = prediction_weights(below)
        for form in forms:
            best = optimum(make_problem(form, below, "log_squares", 1.0)[0], weights).objective_value
            residuals = origin.log_loss[form.name][: len(below)] - np.log(below.loss)
            assert (weights * residuals**2).sum() / 2 <= best * 1.001


def test_forecast_is_within_its_interval_on_small_ladders_of_every_law():
    """Fifteen runs with 0.5 % noise, target at 9 times the largest run's compute."""
    errors, inside = [], []
    for law, values in TINY.items():
        for seed in range(4):
            target = runs(6e5, 6e6, law, values, noise=0.005, seed=1000 + seed)
            prediction = forecast(tiny(law, seed)).predict(6e5, 6e6)
            assert prediction.low < prediction.value < prediction.high
            errors.append(abs(prediction.value / target.loss[0] - 1))
            inside.append(prediction.low <= target.loss[0] <= prediction.high)
    assert np.median(errors) < 0.0125
    assert np.mean(np.square(errors)) ** 0.5 < 0.015
    assert np.mean(inside) >= 0.85


def test_interval_widens_with_level_and_distance():
    result = forecast(tiny("chinchilla", 0))
    assert sum(result.weights.values()) == pytest.approx(1)
    widths = []
    for factor in (1, 3, 10, 30, 100):
        n, d = 200e3 * factor**0.5, 2e6 * factor**0.5
        assert result.factor(n, d) == pytest.approx(factor)
        prediction = result.predict(n, d)
        widths.append(np.log(prediction.high / prediction.low))
    assert all(after > 1.1 * before for before, after in pairwise(widths))
    assert result.predict(1e6, 1e7, level=0.5).high < result.predict(1e6, 1e7, level=0.95).high
    many = result.predict(np.array([[1e5], [1e6]]), np.array([1e6, 2e6, 4e6]))
    assert many.value.shape == (2, 3)
    assert many.high[1, 2] == pytest.approx(result.predict(1e6, 4e6).high, rel=1e-9)


def test_forecast_on_a_table_of_thousands_of_points_is_chunked_alike():
    result = forecast(tiny("power", 0), laws=["power", "chinchilla"])
    n = np.geomspace(1e4, 1e7, 4500)
    many = result.predict(n, 1e7)
    np.testing.assert_allclose(many.value[[0, 2500, 4499]], result.predict(n[[0, 2500, 4499]], 1e7).value, rtol=1e-9)


def test_forecast_is_deterministic_and_survives_json(tmp_path):
    first, second = forecast(tiny("skaling", 1)), forecast(tiny("skaling", 1))
    assert first.to_json() == second.to_json()
    save(tmp_path / "fit.json", first)
    back = load(tmp_path / "fit.json")
    assert isinstance(back, Forecast)
    assert back.to_json() == first.to_json()
    assert back.predict(1e6, 1e7) == first.predict(1e6, 1e7)
    assert back.num_runs == 15
    with pytest.raises(UserError, match="not a forecast"):
        Forecast.from_json({"fits": {}})


def test_order_of_rows_does_not_matter():
    observations = tiny("chinchilla", 2)
    shuffled = observations.where(np.random.default_rng(0).permutation(len(observations)))
    one, other = forecast(observations).predict(6e5, 6e6), forecast(shuffled).predict(6e5, 6e6)
    assert one.value == pytest.approx(other.value, rel=1e-6)


def test_few_runs_use_the_laws_that_they_can_carry_and_say_so():
    observations = tiny("power", 0).where(np.array([0, 2, 4, 9, 14]))
    result = forecast(observations)
    assert set(result.weights) == {"power"}
    assert "5 runs are too few for power_floor, chinchilla, skaling: left out" in result.notes
    assert any("too few runs for a backtest" in note for note in result.notes)
    assert result.drift == PUBLIC_TABLES.sd
    assert "rests on what public tables show" in result.evidence(1e6, 1e7)
    with pytest.raises(UserError, match="3 runs are too few for law power"):
        forecast(observations.where(np.array([0, 1, 2])))


def test_wrong_forecasts_are_refused():
    observations = tiny("power", 0)
    one_size = observations.where(observations.num_params < 14e3)
    with pytest.raises(UserError, match="one size"):
        forecast(one_size)
    with pytest.raises(UserError, match="no law 'cubic'"):
        forecast(observations, laws=["cubic"])
    with pytest.raises(UserError, match="no laws to test or to forecast with"):
        forecast(observations, laws=[])
    with pytest.raises(UserError, match="no laws to test or to forecast with"):
        backtest([], observations)
    with pytest.raises(UserError, match="law three_term reads num_params, batch_tokens, steps"):
        forecast(observations, laws=["power", "three_term"])
    with pytest.raises(UserError, match="tokens must be finite"):
        forecast(observations, laws=["power"]).predict(1e6, -1)


def test_summary_holds_weights_backtest_and_drift():
    result = forecast(tiny("power", 0))
    text = result.summary()
    for name in DEFAULT_LAWS:
        assert name in text
    assert result.backtest.table() in text
    assert "drift" in text
    assert "15 runs" in text


def test_evidence_says_how_far_and_what_the_backtest_found_there():
    result = forecast(tiny("power", 0))
    inside, beyond, far = (result.evidence(2e5 * k, 2e6 * k) for k in (0.5, 2, 20))
    assert inside.startswith("inside the data\nbacktest at 1–2×")
    assert beyond.startswith("4× the largest compute of the runs\nbacktest at 4–8×")
    assert far.startswith("400× the largest compute of the runs\n")
    assert far.endswith("nothing larger than 8–16× could be tested")
    assert result.evidence(2e6, 2e5).startswith("10× the largest size of the runs\n")
    errors = result.backtest.errors(FORECAST, 4, 8)
    assert (
        f"{np.sqrt(np.mean(errors**2)):.2%} off (rms), {np.mean(errors):+.2%} on average, {len(errors)} pred" in beyond
    )


def test_residuals_mend_what_no_law_can_follow():
    """A law with a bend at few tokens a parameter: the forecast follows it nearby, its laws alone cannot."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 2e9, 10), np.geomspace(1e9, 1e11, 10), indexing="ij"))
    observed = runs(n, d, "chinchilla", TRUTHS["chinchilla"], noise=0.002)
    bent = observed.loss * (1 + 0.03 * np.exp(-(np.log(d / n / 100) ** 2) / 2))
    observations = Observations.from_records(
        [{"num_params": a, "tokens": b, "loss": c} for a, b, c in zip(n, d, bent, strict=True)]
    )
    small = observations.flops <= observations.flops.max() / 4
    result = forecast(observations.where(small))
    held = observations.where(~small)
    mixed = sum(
        w * np.log(result.fits[name].predict(held.num_params, held.tokens).value) for name, w in result.weights.items()
    )
    alone = np.abs(np.exp(mixed) / held.loss - 1).mean()
    assert np.abs(result.predict(held.num_params, held.tokens).value / held.loss - 1).mean() < 0.8 * alone


def test_thousands_of_runs_are_thinned_for_the_residuals_alone():
    generator = np.random.default_rng(0)
    n, d = np.exp(generator.uniform(np.log(1e7), np.log(1e9), 1200)), np.exp(generator.uniform(21, 25, 1200))
    result = forecast(runs(n, d, "chinchilla", TRUTHS["chinchilla"], noise=0.003), laws=["power", "chinchilla"])
    truth = LAWS["chinchilla"].loss(TRUTHS["chinchilla"], 3e9, 3e11)
    assert result.num_runs == 1200
    assert result.predict(3e9, 3e11).value == pytest.approx(truth, rel=0.005)


@pytest.mark.parametrize("loss", ["c4_loss", "pile_loss"])
def test_olmo_ladder_predicts_its_largest_models(loss):
    """Runs up to 3B parameters; the 7B and 13B finals take up to 330 times the compute of the cut."""
    observations = Observations.read(shared("olmo_ladder/final_losses.csv"), columns={"loss": loss})
    finals = np.isin(observations.labels, ["peteish7_eval_anneal", "peteish13_eval_final"])
    below = np.array(["peteish" not in label for label in observations.labels])
    prediction = forecast(observations.where(below)).predict(
        observations.num_params[finals], observations.tokens[finals]
    )
    assert np.all(np.abs(prediction.value / observations.loss[finals] - 1) < 0.03)


def test_import_is_light():
    """The laws never need torch, and scipy.optimize only when a forecast is calibrated."""
    code = (
        "import sys, allometry.laws; print([m for m in ('torch', 'scipy.optimize', 'matplotlib') if m in sys.modules])"
    )
    path = [p for p in sys.path if p]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
