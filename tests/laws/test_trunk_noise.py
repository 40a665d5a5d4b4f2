"""Runs that branch from one trunk: the covariance, its parts, and what fits, backtests and intervals make of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from allometry.errors import UserError
from allometry.laws import LAWS, DriftPrior, Fit, Forecast, Observations, fit, forecast
from allometry.laws.fitting.fit import make_problem
from allometry.laws.fitting.trunk_noise import codes, estimate, trunk_differences
from allometry.laws.whitening import Trunks
from allometry.planning.optimum.repeated_data import Repeated
from helpers.ladders import TRUTHS, runs

LAW, VALUES = "chinchilla", TRUTHS["chinchilla"]


def branched(sizes=6, lengths=3, seeds=1, trunk=0.01, own=0.001, seed=0, falls=0.0, known=False) -> Observations:
    """A ladder whose runs of one size and seed share the noise of their trunk, which may fall as a power of N."""
    generator = np.random.default_rng(seed)
    n, _, d = (x.ravel() for x in np.meshgrid(
        np.geomspace(2e7, 3e9, sizes), np.arange(seeds), np.geomspace(5e9, 1e11, lengths), indexing="ij"
    ))  # fmt: skip
    code = np.repeat(np.arange(sizes * seeds), lengths)
    sd = trunk * (n / n.min()) ** falls
    shared = generator.standard_normal(sizes * seeds)[code] * sd
    observed = runs(n, d, LAW, VALUES, noise=own, seed=seed + 1)
    loss = observed.loss * np.exp(shared)
    columns = {"trunk": code} | ({"trunk_noise": sd} if known else {})
    rows = [{"num_params": a, "tokens": b, "loss": c} for a, b, c in zip(n, d, loss, strict=True)]
    return Observations.from_records(rows).with_columns(**columns)


def test_whitened_squares_are_those_of_the_covariance_solved_directly():
    generator = np.random.default_rng(0)
    code = np.array([2, 0, 1, 0, 2, 2, 0])
    ratio, weights = np.array([3.0, 0.0, 20.0]), generator.uniform(0.2, 2, 7)
    covariance = np.diag(1 / weights) + (code[:, None] == code) * ratio[code]
    trunks, x = Trunks(code, ratio), generator.standard_normal((4, 7))
    (white,) = trunks.whiten(weights, x)
    np.testing.assert_allclose(
        (weights * white**2).sum(axis=1), np.einsum("bi,ij,bj->b", x, np.linalg.inv(covariance), x)
    )
    np.testing.assert_allclose(trunks.colour(weights, white), x)
    expected = np.linalg.slogdet(covariance)[1] + np.log(weights).sum()
    assert trunks.log_determinant(weights) == pytest.approx(expected)
    # A trunk that a resample takes twice counts twice, and one that it leaves out not at all.
    times = np.array([2, 1, 0])
    (twice,) = trunks.drawn(times).whiten(times[code] * weights, x)
    kept = code != 2
    left = trunks.where(kept)
    (once,) = left.whiten(weights[kept], x[:, kept])
    np.testing.assert_allclose(
        (times[code] * weights * twice**2).sum(axis=1), (times[code][kept] * weights[kept] * once**2).sum(axis=1)
    )


def test_a_fit_is_generalised_least_squares():
    """Against SciPy on residuals multiplied by the inverse root of the covariance that the fit found."""
    from scipy.optimize import least_squares

    observed = branched(seeds=2)
    result = fit(LAW, observed, bootstrap=0)
    noise = result.trunk_noise
    code = codes(observed)
    covariance = noise.own**2 * np.eye(len(code)) + (code[:, None] == code) * noise.level**2
    root = np.linalg.inv(np.linalg.cholesky(covariance))
    problem, centre = make_problem(LAWS[LAW], observed, "log_squares", 1.0)
    theta = LAWS[LAW].theta(np.array([VALUES[s] for s in LAWS[LAW].symbols]), centre)
    solved = least_squares(
        lambda x: root @ (LAWS[LAW].log_loss(x[None], *problem.inputs)[0][0] - problem.log_loss),
        theta, x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14,
    )  # fmt: skip
    expected = dict(zip(LAWS[LAW].symbols, LAWS[LAW].values(solved.x, centre), strict=True))
    assert result.values == pytest.approx(expected, rel=1e-5)
    assert result.objective_value == pytest.approx(solved.cost * noise.own**2, rel=1e-6)


def test_the_parts_of_the_noise_are_found_from_repeats():
    found = [fit(LAW, branched(seeds=3, seed=seed), bootstrap=0).trunk_noise for seed in range(12)]
    assert np.sqrt(np.mean([noise.level**2 for noise in found])) == pytest.approx(0.01, rel=0.2)
    assert np.mean([noise.own for noise in found]) == pytest.approx(0.001, rel=0.15)
    # Twelve differences between seeds of one size, and what the constants leave of those between sizes.
    assert 12 <= found[0].freedom <= 17


def test_a_known_noise_is_taken_and_carried_to_other_sizes():
    noise = fit(LAW, branched(seeds=2, falls=-0.4, known=True), bootstrap=0).trunk_noise
    assert noise.slope == pytest.approx(-0.4, abs=1e-6)
    assert noise.at(2e7 * 16) == pytest.approx(noise.factor * 0.01 * 16**-0.4)
    short = branched(seeds=3, seed=3)
    told = fit(LAW, short.with_columns(trunk_noise=0.003), bootstrap=0).trunk_noise
    assert told.factor > 1  # three times too small: the runs say so


def test_no_fit_takes_less_than_the_known_noise_of_a_run():
    """With the noise of trunks known, estimated, and where no run shares a trunk; more is taken where runs show it."""
    observed = branched(seeds=2, own=0.001)
    alone = observed.with_columns(trunk=np.arange(len(observed)))
    for table in (observed, observed.with_columns(trunk_noise=0.01), alone):
        noise = fit(LAW, table.with_columns(run_noise=0.02), bootstrap=0).trunk_noise
        assert noise.own == pytest.approx(0.02, rel=1e-6)
        shown = fit(LAW, table.with_columns(run_noise=1e-4), bootstrap=0).trunk_noise.own
        assert shown > 5e-4
    told = fit(LAW, alone.with_columns(run_noise=0.02), bootstrap=0).trunk_noise
    assert told.level == 0.0
    assert told.sentence() == "noise: 2.00% of the loss of a run"


def test_a_forecast_finds_the_noise_of_runs_from_trunks_of_one_size():
    """Its weights alone make it half of that, and its intervals too narrow."""
    found = [forecast(branched(sizes=5, seeds=2, trunk=0.006, own=0.005, seed=seed)) for seed in range(6)]
    assert np.mean([one.trunk_noise.own for one in found]) == pytest.approx(0.005, rel=0.15)
    levels, changes = trunk_differences(branched(sizes=4, lengths=5, seeds=3, trunk=0.01, own=0.002))
    assert (len(levels), len(changes)) == (4 * 3 * 5, 4 * 3 * 4)
    assert np.sqrt(np.mean(changes**2)) / 2 == pytest.approx(0.002, rel=0.2)
    assert np.sqrt(np.mean(levels**2) / 2) == pytest.approx(0.01, rel=0.3)


def test_the_noise_of_independent_runs_is_not_taken_for_that_of_trunks():
    found = [fit(LAW, branched(sizes=10, trunk=0.0, own=0.01, seed=seed), bootstrap=0).trunk_noise for seed in range(8)]
    assert np.mean([noise.level for noise in found]) < 0.005
    assert np.mean([noise.own for noise in found]) == pytest.approx(0.01, rel=0.2)


def test_without_the_column_nothing_changes():
    observed = branched()
    plain = Observations.from_records(
        [
            {"num_params": a, "tokens": b, "loss": c}
            for a, b, c in zip(observed.num_params, observed.tokens, observed.loss, strict=True)
        ]
    )
    assert fit(LAW, plain, bootstrap=0).trunk_noise is None
    assert forecast(plain).trunk_noise is None
    # Trunks of one run each say nothing of what runs share.
    for trunk in (np.full(len(plain), np.nan), np.arange(len(plain))):
        alone = fit(LAW, plain.with_columns(trunk=trunk), bootstrap=0)
        assert alone.trunk_noise is None
        assert alone.values == fit(LAW, plain, bootstrap=0).values


def test_intervals_of_exponents_hold_the_truth_when_runs_share_trunks():
    """Taken for independent, fifteen runs of five trunks give intervals that are far too narrow."""
    inside = {"trunks": [], "ignored": []}
    for seed in range(30):
        observed = branched(sizes=8, seeds=2, seed=seed)
        ignored = observed.with_columns(trunk=np.nan)
        for name, table in (("trunks", observed), ("ignored", ignored)):
            low, high = fit(LAW, table, bootstrap=200).intervals["alpha"]
            inside[name].append(low <= VALUES["alpha"] <= high)
    assert 0.75 <= np.mean(inside["trunks"]) <= 1.0
    assert np.mean(inside["trunks"]) > np.mean(inside["ignored"]) + 0.1


@pytest.mark.parametrize("resample", ["pairs", "residual"])
def test_refits_spread_as_the_constants_of_new_ladders(resample):
    spread = np.std([fit(LAW, branched(sizes=40, seed=s), bootstrap=0).values["alpha"] for s in range(40)])
    found = [fit(LAW, branched(sizes=40, seed=s), bootstrap=200, resample=resample) for s in (50, 51, 52)]
    assert np.mean([one.standard_errors["alpha"] for one in found]) == pytest.approx(spread, rel=0.4)


def test_a_forecast_of_one_run_has_the_noise_of_one_trunk_and_of_many_less():
    result = forecast(branched(seeds=2, known=True, own=0.0005), laws=["chinchilla"])
    halves = [
        np.log(p.high / p.low) / 2
        for p in (result.predict(3e9, 1e11, repeats=k) for k in (1, 4, np.inf))
    ]  # fmt: skip
    assert halves[0] > halves[1] > halves[2]
    # Variances differ as 1, 1/4 and 0 of that of one run.
    assert (halves[0] ** 2 - halves[2] ** 2) == pytest.approx(4 * (halves[1] ** 2 - halves[2] ** 2))
    assert halves[0] > 1.6 * 0.01
    one = fit(LAW, branched(known=True), bootstrap=500)
    single, expected = one.predict(3e9, 1e11), one.predict(3e9, 1e11, repeats=np.inf)
    assert np.log(single.high / single.low) > np.log(expected.high / expected.low)
    with pytest.raises(UserError, match="repeats is 0"):
        result.predict(1e9, 1e10, repeats=0)


def test_backtest_knows_that_runs_above_share_a_trunk():
    rows = [row for row in forecast(branched(known=True)).backtest.rows if row.law == "forecast"]
    assert all(row.spread >= 0.01 for row in rows)
    assert all(row.sigma < 0.01 for row in rows)


def test_what_is_known_of_exponents_narrows_a_forecast_and_survives_json(tmp_path):
    observed = branched(sizes=5, known=True)
    priors = {"chinchilla": {"alpha": (0.34, 0.02), "beta": (0.28, 0.02)}}
    known = forecast(observed, laws=["chinchilla"], priors=priors)
    fits = fit(LAW, observed, bootstrap=100), known.fits[LAW]
    widths = [np.log(p.high / p.low) for p in (one.predict(3e10, 1e12, repeats=np.inf) for one in fits)]
    assert widths[1] < 0.8 * widths[0]
    assert known.fits["chinchilla"].standard_errors["alpha"] < 0.022
    back = Forecast.from_json(json.loads(json.dumps(known.to_json())))
    assert back.to_json() == known.to_json()
    assert back.predict(3e10, 1e12) == known.predict(3e10, 1e12)
    with pytest.raises(UserError, match="has no constant 'gamma'"):
        fit(LAW, observed, priors={"gamma": (0.3, 0.1)})
    with pytest.raises(UserError, match="the second above zero"):
        fit(LAW, observed, priors={"alpha": (0.3, 0.0)})
    with pytest.raises(UserError, match="skaling is none of the laws"):
        forecast(observed, laws=["chinchilla"], priors={"skaling": {"alpha": (0.3, 0.1)}})


def test_a_prior_is_one_more_residual():
    """A tight prior holds a constant, a wide one changes nothing, and both agree with the letters of the paper."""
    observed = branched(trunk=0.0, own=0.003).with_columns(trunk=np.nan)
    for name in ("chinchilla", "skaling"):
        plain = fit(name, observed, "log_squares", bootstrap=0)
        wide = fit(name, observed, bootstrap=0, priors={"alpha": (0.3, 1e3)})
        assert wide.predict(1e9, 1e11).value == pytest.approx(plain.predict(1e9, 1e11).value, rel=1e-5)
        tight = fit(name, observed, bootstrap=0, priors={"alpha": (0.5, 1e-6)})
        assert tight.values["alpha"] == pytest.approx(0.5, abs=1e-4)


def test_drift_of_earlier_studies_moves_and_sizes_the_interval():
    observed = branched(known=True, sizes=8)
    point = 3e10, 1e12
    public = forecast(observed)
    narrow = forecast(observed, drift=DriftPrior(sd=0.001, cuts=30))
    assert narrow.drift < public.drift / 3
    assert np.log(narrow.predict(*point).high / narrow.predict(*point).low) < np.log(
        public.predict(*point).high / public.predict(*point).low
    )
    moved = forecast(observed, drift=DriftPrior(slope=0.01))
    distance = np.log(public.factor(*point))
    change = np.log(moved.predict(*point).value / public.predict(*point).value)
    assert change == pytest.approx(0.01 * distance, rel=0.5)
    with pytest.raises(UserError, match="parts of the loss"):
        DriftPrior(sd=-1)


def test_what_repeats_cost_by_earlier_studies_moves_and_widens_beyond_the_unique_tokens():
    observed = branched(known=True, sizes=8)
    size, unique = 3e10, 5e11
    once = forecast(observed, drift=DriftPrior(unique_tokens=unique))
    again = forecast(observed, drift=DriftPrior(unique_tokens=unique, repeat_slope=0.02, repeat_sd=0.03))
    assert again.predict(size, unique) == once.predict(size, unique)
    moved = [np.log(again.predict(size, k * unique).value / once.predict(size, k * unique).value) for k in (2, 4)]
    np.testing.assert_allclose(moved, [0.02 * np.log(2), 0.02 * np.log(4)], rtol=1e-6)
    width = lambda one: np.log(one.predict(size, 4 * unique).high / one.predict(size, 4 * unique).low)
    assert width(again) > width(once)
    (_, draws), (_, plain) = (
        one.weighted_samples(np.array([size]), np.array([4 * unique]))[0] for one in (again, once)
    )
    np.testing.assert_allclose(draws - plain, 0.02 * np.log(4), rtol=1e-6)
    assert "beyond them a loss is higher by 2.00% ± 3.00%" in again.summary()
    assert Forecast.from_json(json.loads(json.dumps(again.to_json()))).drift_prior == again.drift_prior
    # A budget with other unique tokens is told to the forecast, and nothing is counted twice.
    told = Repeated(again, 2 * unique)
    assert told.measured
    np.testing.assert_allclose(
        told.predict(size, 8 * unique).value / once.predict(size, 8 * unique).value, 4**0.02, rtol=1e-6
    )


def test_a_table_names_its_trunks_by_words_and_keeps_them(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(
        "params,tokens,val_loss,run_group,seed_sd\n"
        "1e7,1e9,3.0,a7f,0.01\n1e7,2e9,2.9,a7f,0.01\n2e7,1e9,2.8,0b1,0.008\n2e7,2e9,2.7,,0.008\n"
    )
    read = Observations.read(path, columns={"trunk": "run_group", "trunk_noise": "seed_sd"})
    np.testing.assert_array_equal(read.extra["trunk"], [0, 0, 1, np.nan])
    assert len(np.unique(codes(read))) == 3
    written = tmp_path / "again.csv"
    read.write_csv(written)
    again = Observations.read(written)
    np.testing.assert_array_equal(codes(again), codes(read))
    np.testing.assert_array_equal(again.extra["trunk_noise"], read.extra["trunk_noise"])
    for name in ("trunk_noise", "run_noise"):
        assert Observations.read(path, columns={name: 0.02}).extra[name].tolist() == [0.02] * 4
        with pytest.raises(UserError, match=f"{name} is 1; .* so write 0"):
            Observations.read(path, columns={name: 1.0})
    with pytest.raises(UserError, match="one number, or as 4"):
        read.with_columns(trunk=[1, 2])


def test_estimate_counts_only_the_constants_that_were_free():
    observed = branched(seeds=2)
    problem, _ = make_problem(LAWS[LAW], observed, "log_squares", 1.0)
    result = fit(LAW, observed, bootstrap=0)
    theta = LAWS[LAW].theta(
        np.array(list(result.values.values())), make_problem(LAWS[LAW], observed, "log_squares", 1.0)[1]
    )
    jacobian = LAWS[LAW].log_loss(theta[None], *problem.inputs)[1][0]
    every, some = (
        estimate(observed, result.residuals, rows, np.ones(len(observed))) for rows in (jacobian, jacobian[:3])
    )
    assert every.freedom < some.freedom


def test_a_fit_with_trunks_survives_json():
    result = fit(LAW, branched(known=True), bootstrap=20, priors={"alpha": (0.3, 0.1)})
    back = Fit.from_json(json.loads(json.dumps(result.to_json())))
    assert back.to_json() == result.to_json()
    assert "between trunks" in result.summary()
    assert back.predict(1e9, 1e11) == result.predict(1e9, 1e11)
