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
from allometry.laws.backtest import Backtest, Row
from allometry.laws.forecast import PRIOR_DRIFT, calibrate, correct, law_weights
from allometry.laws.weights import prediction_weights, relevance

from .ladders import TRUTHS, ladder, runs, shared

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
    return Row(law, cut, runs_below, label, factor, error, spread, sigma, 1.0)


def test_backtest_rows_are_what_a_fit_below_the_cut_predicts():
    observations = ladder("chinchilla", noise=0.01)
    tested = backtest(["chinchilla"], observations)
    for cut in tested.cuts():
        one = cut["chinchilla"][-1]
        order = np.argsort(observations.flops, kind="stable")
        below = observations.where(order[: one.runs])
        held_out = observations.where(order[one.runs :])
        assert [r.label for r in cut["chinchilla"]] == list(held_out.labels)
        result = fit("chinchilla", below, weights=prediction_weights(below), bootstrap=0)
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
    np.testing.assert_allclose(relevance(observations), [1, 1.1**-12, 1])
    np.testing.assert_allclose(prediction_weights(observations), [0.1**0.25, 0.1**0.25 * 1.1**-12, 1])


def test_law_weights_follow_score_and_fit():
    rows = [row("power", cut, 0.01) for cut in range(6)] + [row("chinchilla", cut, 0.02) for cut in range(6)]
    tested = Backtest(tuple(rows), 12)
    assert tested.score("power") == pytest.approx(0.01)
    weights = law_weights(tested, {"power": 0.01, "chinchilla": 0.01})
    assert weights["power"] / weights["chinchilla"] == pytest.approx(2**4)
    weights = law_weights(tested, {"power": 0.02, "chinchilla": 0.01})
    assert weights["power"] / weights["chinchilla"] == pytest.approx(2**3)
    assert law_weights(Backtest((), 5), {"power": 0.01}) == {"power": 1.0}


def test_correction_needs_errors_that_drift_one_way():
    def slopes(values):
        return Backtest(tuple(row("power", cut, value) for cut, value in enumerate(values)), 9)

    assert correct(slopes([0.02, 0.02, 0.02]), {"power": 1.0}) == pytest.approx(0.01)
    assert correct(slopes([-0.02, -0.02, -0.02]), {"power": 1.0}) == pytest.approx(-0.01)
    assert correct(slopes([0.02, -0.02, 0.03]), {"power": 1.0}) == 0
    assert correct(slopes([0.02]), {"power": 1.0}) == 0
    values = np.array([0.01, 0.02, 0.03])
    shrunk = 0.5 * 0.02 * (1 - (2 * values.std(ddof=1) / np.sqrt(3) / 0.02) ** 2)
    assert correct(slopes(values), {"power": 1.0}) == pytest.approx(shrunk)


def test_drift_solves_its_equation_and_starts_at_the_prior():
    assert calibrate(Backtest((), 5), {"power": 1.0})[0] == PRIOR_DRIFT
    errors = [0.03, -0.02, 0.04, 0.025]
    drift, freedom = calibrate(Backtest(tuple(row("power", c, e) for c, e in enumerate(errors)), 9), {"power": 1.0})
    assert freedom == 6
    total = 2 * (PRIOR_DRIFT / drift) ** 2 + sum(e**2 / (0.001**2 + drift**2) for e in errors)
    assert total / 6 == pytest.approx(1, rel=1e-9)
    small, _ = calibrate(Backtest(tuple(row("power", c, 1e-5) for c in range(4)), 9), {"power": 1.0})
    assert small < PRIOR_DRIFT < drift


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
    assert back.n == 15
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
    assert result.drift == PRIOR_DRIFT
    with pytest.raises(UserError, match="3 runs are too few for law power"):
        forecast(observations.where(np.array([0, 1, 2])))


def test_wrong_forecasts_are_refused():
    observations = tiny("power", 0)
    one_size = observations.where(observations.num_params < 14e3)
    with pytest.raises(UserError, match="one size"):
        forecast(one_size)
    with pytest.raises(UserError, match="no law 'cubic'"):
        forecast(observations, laws=["cubic"])
    with pytest.raises(UserError, match="no laws to forecast with"):
        forecast(observations, laws=[])
    with pytest.raises(UserError, match="no laws to test"):
        backtest([], observations)
    with pytest.raises(UserError, match="tokens must be finite"):
        forecast(observations, laws=["power"]).predict(1e6, -1)


def test_summary_names_weights_and_drift():
    text = forecast(tiny("power", 0)).summary()
    for name in LAWS:
        assert name in text
    assert "drift" in text
    assert "15 runs" in text


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
