"""Runs that end before their power law begins: found in the ladder itself, told, and reflected in the interval."""

from __future__ import annotations

import numpy as np
import pytest

from allometry import laws, planning
from allometry.laws.forecasting.early_end import EarlyEnd
from allometry.laws.tables.rows.initial_phase import in_initial_phase
from allometry.laws.tables.rows.late_slopes import best_settings, late_slopes, size_against_tokens
from helpers.ladders import LADDER, ladder, shared

# GPT-2 by the Trainer on 2.4 MB of WikiText, in nats a byte (docs/tutorial/gpt2-trainer.md), and what came of its plan.
GPT2 = {
    6144: (2.473, 2.378, 2.316),
    24576: (2.559, 2.347, 2.247),
    55296: (2.406, 2.304, 2.211),
    98304: (2.383, 2.288, 2.217),
}
GPT2_TARGET, GPT2_CAME = (55296, 14.913e6), 1.636


def observed(rows):
    return laws.Observations.from_records([{"num_params": n, "tokens": d, "loss": loss} for n, d, loss in rows])


def gpt2():
    return observed((n, 2**18 * 2**i, loss) for n, row in GPT2.items() for i, loss in enumerate(row))


def bent(bend, noise=0.0, seed=0, sizes=3, lengths=4):
    """Sizes whose exponent in ln D grows by −2·``bend`` for each e-fold of tokens."""
    generator = np.random.default_rng(seed)
    x = np.log(2) * np.arange(lengths)
    rows = []
    for n in np.geomspace(1e4, 6e4, sizes):
        log_loss = 1 - 0.1 * np.log(n / 1e4) - 0.12 * x + bend * x**2
        loss = np.exp(log_loss + noise * generator.standard_normal(lengths))
        rows += [(n, 1e5 * np.exp(step), one) for step, one in zip(x, loss, strict=True)]
    return observed(rows)


def told(runs):
    return [one.text for one in runs.findings if "describes how learning" in one.text or "short for" in one.text]


def test_slope_and_bend_are_those_of_the_curves():
    late = late_slopes(bent(-0.02))
    assert late.bend == pytest.approx(-0.02)
    assert late.exponent == pytest.approx(0.12 + 2 * 0.02 * 3 * np.log(2))


def test_an_exponent_that_grows_within_the_noise_is_not_told():
    """The chance of a false alarm at a steady exponent is what it claims, whatever the noise."""
    for noise in (0.01, 0.03):
        alarms = [late_slopes(bent(0.0, noise, seed)).grow for seed in range(300)]
        assert np.mean(alarms) < 0.152  # 0.1, and three standard deviations of 300
    assert np.mean([late_slopes(bent(-0.02, 0.004, seed)).grow for seed in range(50)]) > 0.9


@pytest.mark.parametrize("law", LADDER)
def test_ladders_that_follow_a_law_are_healthy(law):
    for seed in range(10):
        for noise in (0.0, 0.003, 0.01):
            runs = ladder(law, noise=noise, seed=seed)
            assert EarlyEnd.of(runs) is None
            assert not told(runs)


def steady(worth, noise=0.0, seed=0):
    """A power law without a floor in which size is worth this part of what tokens are, everywhere."""
    generator = np.random.default_rng(seed)
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 2e8, 5), np.geomspace(2e8, 2e9, 3), indexing="ij"))
    log_loss = 1 - 0.08 * (worth * np.log(n / 1e7) + np.log(d / 2e8)) + noise * generator.standard_normal(len(n))
    return observed(zip(n, d, np.exp(log_loss), strict=True))


def test_size_worth_a_tenth_of_tokens_is_the_bound():
    for worth, short in ((0.0, True), (0.09, True), (0.11, False), (0.5, False)):
        against = size_against_tokens(steady(worth))
        assert against.by_size == pytest.approx(worth * against.by_tokens, abs=1e-12)
        assert against.short_of_tokens is short


def test_where_tokens_are_worth_nothing_runs_are_not_short_of_them():
    for power in (0.001, 0.02):
        rows = [(n, d, n**0.05 * d**power) for n in (1e6, 4e6, 16e6) for d in (1e8, 4e8, 16e8)]
        assert not size_against_tokens(observed(rows)).short_of_tokens


def test_a_steady_law_in_which_size_is_worth_less_than_tokens_keeps_its_interval():
    """Quiet tables: no alarm, and an interval that nothing widens."""
    short = [
        size_against_tokens(steady(worth, noise, seed)).short_of_tokens
        for worth in (0.25, 0.4, 0.6) for noise in (0.001, 0.003) for seed in range(20)
    ]  # fmt: skip
    assert not any(short)
    runs = steady(0.4, 0.001)
    plain = laws.forecast(runs, drift=laws.DriftPrior())
    assert laws.forecast(runs).predict(2e9, 2e10) == plain.predict(2e9, 2e10)


def test_public_tables_are_healthy():
    """Those in Kaplan's settings too, whose long warmup made small models learn late (arXiv 2406.19146)."""
    columns = {"num_params": "n", "tokens": "t", "loss": "loss"}
    read = lambda **where: laws.Observations.read(shared("porian/isoflop_points.csv"), columns=columns, where=where)
    common = {"decay": "const", "warmup": "short", "hparams": "tuned", "param_count": "standard", "val": "val"}
    kaplan = {"decay": "kaplan", "warmup": "long", "hparams": "base", "param_count": "kaplan", "val": "train"}
    for dataset in ("owt2", "rw"):
        for settings in (common, kaplan):
            assert EarlyEnd.of(read(dataset=dataset, **settings)) is None
    olmo = laws.Observations.read(shared("olmo_ladder/final_losses.csv"), columns={"loss": "c4_loss"})
    assert EarlyEnd.of(olmo) is None


def test_a_ladder_all_of_whose_runs_are_short_for_their_sizes_is_told_by_a_line_and_by_its_interval():
    runs = gpt2()
    (line,) = told(runs)
    assert "train longer" in line
    forecast = laws.forecast(runs)
    lower, plain = (one.predict(*GPT2_TARGET) for one in (forecast, laws.forecast(runs, drift=laws.DriftPrior())))
    assert not plain.low < GPT2_CAME
    assert lower.low < GPT2_CAME < lower.value == plain.value
    assert lower.high == plain.high
    inside = forecast.predict(55296, 1e6)
    assert inside.low == laws.forecast(runs, drift=laws.DriftPrior()).predict(55296, 1e6).low
    cautions = planning.optimal(forecast, planning.Budget(flops=5e12)).cautions
    assert sum("train longer" in one for one in cautions) == 1
    assert "train longer" in forecast.summary()


def test_a_prediction_beyond_an_exponent_that_grows_is_lowered():
    """Of ladders whose exponent goes on growing, the law alone is too high, and the interval reaches what comes."""
    runs, target = bent(-0.02, 0.003), (3e4, 1e5 * 64)
    came = float(np.exp(1 - 0.1 * np.log(3) - 0.12 * np.log(64) - 0.02 * np.log(64) ** 2))
    late, plain = (laws.forecast(runs, drift=drift).predict(*target) for drift in (None, laws.DriftPrior()))
    assert came < late.value < plain.value
    assert late.low < came < late.high
    assert late.high < laws.forecast(runs).predict(3e4, 8e5).high * 1.001  # no worse than the longest run


def test_the_interval_widens_steadily_from_the_longest_run_on():
    forecast = laws.forecast(gpt2())
    tokens = 2**20 * np.geomspace(1, 20, 40)
    low = np.log(forecast.predict(55296, tokens).low)
    assert np.all(np.diff(low) < 0)
    assert np.abs(np.diff(low)).max() < 0.1
    half = [forecast.predict(55296, 2e7, level=level).low for level in (0.5, 0.8, 0.9, 0.95)]
    assert half == sorted(half, reverse=True)


def test_a_forecast_keeps_what_it_knows():
    forecast = laws.forecast(gpt2())
    again = laws.Forecast.from_json(forecast.to_json())
    assert again.early_end == forecast.early_end
    assert again.predict(*GPT2_TARGET) == forecast.predict(*GPT2_TARGET)


def test_of_a_sweep_the_best_runs_count_and_repeats_all_do():
    rows = [
        {"num_params": n, "tokens": d, "loss": 3 * (1 + 0.1 * abs(np.log2(lr))) * (n * d) ** -0.05, "lr": lr}
        for n in (1e4, 2e4, 4e4) for d in (1e5, 2e5, 4e5) for lr in (0.5, 1.0, 2.0)
    ]  # fmt: skip
    runs = laws.Observations.from_records(rows)
    assert np.all(best_settings(runs).extra["lr"] == 1.0)
    repeats = laws.Observations.from_records([row | {"lr": 1.0, "seed": i % 3} for i, row in enumerate(rows)])
    assert best_settings(repeats) is repeats
    assert late_slopes(runs).exponent == pytest.approx(0.05)


def test_too_few_lengths_or_sizes_say_nothing():
    assert late_slopes(bent(-0.1, lengths=2)) is None
    assert late_slopes(bent(-0.1, sizes=1)) is None
    assert size_against_tokens(bent(-0.1, sizes=2)) is None
    assert size_against_tokens(bent(-0.1, sizes=3, lengths=2)) is None


def test_where_even_the_longest_runs_do_not_get_so_far_none_is_left_out():
    runs = bent(-0.04, lengths=5)
    assert in_initial_phase(runs.num_params, runs.tokens, runs.loss).any()
    assert runs.past_initial_phase() is runs
    assert late_slopes(runs).bend == pytest.approx(-0.04)
