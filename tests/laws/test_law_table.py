"""The law table says what ``predict`` says: read by its own text, in plain NumPy, one point at a time."""

import json
from dataclasses import replace

import numpy as np
import pytest

from allometry import laws
from allometry.laws.forecasting.early_end import EarlyEnd
from allometry.laws.law_table import LEVELS, has_table, law_table
from helpers import law_tables
from helpers.ladders import LADDER, ladder

SIZES, TOKENS = (1e7, 1.5e8, 4e9, 3e10), (4e8, 3e10, 6e11)


def agree(predictor):
    table = json.loads(json.dumps(law_table(predictor), allow_nan=False))
    for size in SIZES:
        for tokens in TOKENS:
            for place, level in enumerate(LEVELS):
                one = predictor.predict(size, tokens, level=level)
                read = law_tables.read(table, size, tokens, place)
                np.testing.assert_allclose(read, (one.value, one.low, one.high), rtol=1e-7)
    return table


@pytest.fixture(scope="module")
def forecasts():
    runs = ladder("skaling", noise=0.004, sizes=5)
    rows = [
        {"num_params": n, "tokens": d, "loss": loss, "trunk": float(i // 4)}
        for i, (n, d, loss) in enumerate(zip(runs.num_params, runs.tokens, runs.loss, strict=True))
    ]
    with_trunks = laws.Observations.from_records(rows)
    return laws.forecast(runs, ["chinchilla", "power"]), laws.forecast(with_trunks, ["power_floor"])


def test_a_forecast(forecasts):
    assert len(agree(forecasts[0])["laws"]) > 1


def test_a_forecast_of_runs_that_share_trunks(forecasts):
    assert agree(forecasts[1])["trunks"] is not None


def test_a_forecast_that_knows_what_repeats_cost(forecasts):
    prior = laws.DriftPrior(slope=0.004, sd=0.003, unique_tokens=1e9, repeat_slope=0.012, repeat_sd=0.02)
    told = replace(forecasts[0], drift_prior=prior)
    agree(told)
    read_once, read_again = (
        one.predict(4e9, 3e10).value
        for one in (replace(told, drift_prior=laws.DriftPrior(slope=0.004, sd=0.003)), told)
    )
    assert np.log(read_again / read_once) == pytest.approx(0.012 * np.log(30), rel=1e-6)


@pytest.mark.parametrize("lower", [0.0, 0.02])
def test_a_forecast_of_runs_that_end_early(forecasts, lower):
    early = EarlyEnd(tokens=1e10, exponent=0.1, growth=0.3, grows=True, lower=lower, lower_sd=lower)
    told = replace(forecasts[0], early_end=early)
    agree(told)
    plain, below = (one.predict(4e9, 6e11) for one in (forecasts[0], told))
    assert below.low < plain.low
    assert (below.value < plain.value) == (lower > 0)


@pytest.mark.parametrize("name", LADDER)
def test_a_fit_of_every_law_of_size_and_tokens(name):
    fit = laws.fit(name, ladder(name, noise=0.004, sizes=5), bootstrap=10)
    assert has_table(fit)
    agree(fit)


def test_a_fit_without_refits_has_no_interval():
    fit = laws.fit("chinchilla", ladder("chinchilla", noise=0.004), bootstrap=0)
    table = agree(fit)
    assert table["own"] is None


def test_laws_of_other_inputs_have_no_table():
    assert not has_table(laws.fit("three_term", ladder("three_term"), bootstrap=0))
    assert not has_table(object())
