"""IsoFLOP: the truth recovered where parabolas miss it, intervals that cover, refusals, published figures."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.stats import binom

from allometry.errors import UserError
from allometry.laws import Observations
from allometry.laws.isoflop_slices.isoflop import IsoFlop, isoflop
from allometry.laws.isoflop_slices.shared_shape import RunsByBudget, fit_shape
from allometry.laws.isoflop_slices.slice import group
from helpers.ladders import runs, shared

BUDGETS = np.geomspace(1e18, 1e21, 6)
CHINCHILLA = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
ASYMMETRIC = {"E": 1.69, "A": 20320.0, "B": 16.4, "alpha": 0.465, "beta": 0.155}
TURNED = {"E": 1.69, "A": 8.0, "B": 24642.0, "alpha": 0.155, "beta": 0.465}
SHARP = {"E": 1.6, "A": 6.6e5, "B": 6.7e5, "alpha": 0.68, "beta": 0.5, "k": 0.5}
BLUNT = {"E": 1.5, "A": 15.2, "B": 18.3, "alpha": 0.16, "beta": 0.11, "k": 2.5}
# half width, factor off centre, factor by which that drifts from the first budget to the middle and on to the last
SWEEPS = [(4, 1, 1), (16, 1, 1), (4, 2, 1), (16, 3, 1), (4, 1, 2), (8, 1, 3)]


def best(values, flops):
    """N* of A/N^α + B/D^β at C = 6·N·D, whatever power k it has."""
    a, b, alpha, beta = (values[key] for key in ("A", "B", "alpha", "beta"))
    return (alpha * a / (beta * b) * (flops / 6) ** beta) ** (1 / (alpha + beta))


def exponent(values):
    return values["beta"] / (values["alpha"] + values["beta"])


def sweep(values, half=4.0, off=1.0, drift=1.0, noise=0.0, seed=0, sizes=7, budgets=BUDGETS, jitter=0.0):
    """Sizes around N* in each budget; ``jitter`` is the standard deviation of ln C within a budget."""
    place = np.linspace(-1, 1, len(budgets))[:, None]
    centre = best(values, budgets)[:, None] * off * drift**place
    n = centre * np.geomspace(1 / half, half, sizes)
    c = budgets[:, None] * np.exp(jitter * np.random.default_rng(seed + 1).uniform(-1, 1, n.shape))
    law = "skaling" if "k" in values else "chinchilla"
    return runs(n.ravel(), (c / 6 / n).ravel(), law, values, noise, seed)


@pytest.mark.parametrize("values", [CHINCHILLA, ASYMMETRIC, TURNED], ids=["chinchilla", "asymmetric", "turned"])
@pytest.mark.parametrize("shape", SWEEPS, ids=str)
def test_noiseless_chinchilla_is_recovered_from_any_sweep(values, shape):
    result = isoflop(sweep(values, *shape), bootstrap=100)
    assert len(result.accepted) >= 4
    assert result.exponents["num_params"] == pytest.approx(exponent(values), abs=1e-5)
    assert result.exponents["tokens"] == pytest.approx(1 - exponent(values), abs=1e-5)
    for one in result.accepted:
        assert one.num_params == pytest.approx(best(values, one.flops), rel=1e-4)
        assert 6 * one.num_params * one.tokens == pytest.approx(one.flops, rel=1e-9)
    assert result.num_params(1e24).value == pytest.approx(best(values, 1e24), rel=1e-3)
    assert result.reach == np.inf


@pytest.mark.parametrize("values", [SHARP, BLUNT], ids=["k = 0.5", "k = 2.5"])
def test_skaling_is_outside_the_family_and_still_nearly_recovered(values):
    errors = {"slices": [], "parabola": []}
    for shape in SWEEPS:
        observations = sweep(values, *shape)
        for method, of_method in errors.items():
            of_method.append(
                np.log(isoflop(observations, method, bootstrap=100).num_params(1e23).value / best(values, 1e23))
            )
    assert np.abs(errors["slices"]).max() < 0.02
    assert np.abs(errors["parabola"]).max() > 0.05


def test_parabolas_are_biased_where_the_sweep_is_wide_or_drifts():
    wide = isoflop(sweep(ASYMMETRIC, half=16), "parabola", bootstrap=100)
    assert wide.num_params(1e21).value > 1.3 * best(ASYMMETRIC, 1e21)
    drifting = isoflop(sweep(ASYMMETRIC, half=8, drift=3), "parabola", bootstrap=100)
    assert drifting.exponents["num_params"] - exponent(ASYMMETRIC) > 0.005


def test_budgets_need_not_be_exact():
    result = isoflop(sweep(CHINCHILLA, half=8, off=2, jitter=0.09), bootstrap=100)
    assert len(result.accepted) == len(BUDGETS)
    assert result.exponents["num_params"] == pytest.approx(exponent(CHINCHILLA), abs=1e-3)
    for one in result.accepted:
        assert one.num_params == pytest.approx(best(CHINCHILLA, one.flops), rel=0.01)


def test_flops_that_are_not_six_n_d():
    observations = sweep(CHINCHILLA, half=6)
    n, d = observations.num_params, observations.tokens
    count = lambda n, d: 6 * n * d * (1 + (3e6 / n) ** 0.5)
    # Each run gets the tokens that its budget leaves it under this count.
    d = d / (1 + (3e6 / n) ** 0.5)
    loss = runs(n, d, "chinchilla", CHINCHILLA).loss
    rows = zip(n, d, count(n, d), loss, strict=True)
    table = [dict(zip(("num_params", "tokens", "flops", "loss"), map(float, row), strict=True)) for row in rows]
    for one in isoflop(Observations.from_records(table), bootstrap=100).accepted:
        sizes = one.num_params * np.geomspace(0.5, 2, 2001)
        tokens = one.flops / 6 / sizes / (1 + (3e6 / sizes) ** 0.5)
        truth = sizes[runs(sizes, tokens, "chinchilla", CHINCHILLA).loss.argmin()]
        assert one.num_params == pytest.approx(truth, rel=0.02)
        assert count(one.num_params, one.tokens) == pytest.approx(one.flops, rel=0.01)


def test_intervals_cover():
    repeats, levels, far = 126, (0.8, 0.9, 0.95), 1e22
    hits = dict.fromkeys([(level, what) for level in levels for what in ("a", "b", "N", "D")], 0)
    minima = []
    for seed in range(repeats):
        values = (CHINCHILLA, ASYMMETRIC, SHARP)[seed % 3]
        half, off, drift = ((4, 1, 1), (8, 2, 1), (5, 1, 1.5))[seed // 3 % 3]
        result = isoflop(sweep(values, half, off, drift, noise=0.003, seed=seed), bootstrap=200, seed=seed)
        a, n = exponent(values), best(values, far)
        for level in levels:
            ends, at = result.intervals_at(level), (result.num_params(far, level), result.tokens(far, level))
            truths = {"a": (ends["num_params"], a), "b": (ends["tokens"], 1 - a)}
            truths |= {"N": ((at[0].low, at[0].high), n), "D": ((at[1].low, at[1].high), far / 6 / n)}
            for what, ((low, high), truth) in truths.items():
                hits[level, what] += low <= truth <= high
        minima += [one.low <= best(values, one.flops) <= one.high for one in result.accepted]
    for (level, what), count in hits.items():
        low, high = binom.interval(0.99, repeats, level)
        assert low <= count <= high, (level, what, count)
    # Minima of one table share their noise, so they pin coverage less than their number says.
    assert 0.87 <= np.mean(minima) <= 0.94


def test_slices_are_less_noisy_than_the_other_methods():
    errors = {
        method: [
            isoflop(sweep(CHINCHILLA, noise=0.003, seed=seed), method, bootstrap=100).exponents["num_params"]
            for seed in range(20)
        ]
        for method in ("slices", "parabola", "interpolation")
    }
    spread = {method: np.std(values) for method, values in errors.items()}
    assert spread["slices"] < 1.1 * spread["parabola"]
    assert spread["slices"] < 0.5 * spread["interpolation"]


def test_the_shape_is_at_least_as_good_as_scipys():
    observations = sweep(TURNED, half=8, off=2, noise=0.005, seed=3)
    table = RunsByBudget.of(observations, group(observations)[0])
    ours = fit_shape(table)
    assert ours.reach == np.inf

    def residuals(theta):
        alpha, beta = np.exp(theta)
        rows = []
        for n, d, loss in zip(table.n, table.d, table.loss, strict=True):
            columns = np.stack([np.ones_like(n), np.exp(-alpha * n), np.exp(-beta * d)], axis=1) / loss[:, None]
            solution, *_ = np.linalg.lstsq(columns, np.ones_like(n), rcond=None)
            rows.append(columns @ solution - 1)
        return np.concatenate(rows)

    bounds = np.log([0.02, 0.02]), np.log([3.0, 3.0])
    starts = np.log([(0.1, 0.1), (0.3, 1.0), (1.0, 0.3), (0.05, 0.5), (2.0, 2.0)])
    least = min(2 * least_squares(residuals, start, bounds=bounds, xtol=1e-12).cost for start in starts)
    assert ours.projection.squares[0] <= least * (1 + 1e-8)


def test_runs_far_above_the_floor_count_less_where_the_shape_fails():
    observations = sweep(CHINCHILLA, half=16, sizes=11, noise=0.0005, seed=1)
    excess = observations.num_params / best(CHINCHILLA, observations.flops)
    # Beyond a factor of four from N* another law holds, and one that differs from budget to budget.
    wings = np.maximum(np.abs(np.log(excess)) - np.log(4), 0)
    bent = observations.loss * np.exp(wings**2 * np.sin(7 * np.log(observations.flops)) / 10)
    rows = zip(observations.num_params, observations.tokens, bent, strict=True)
    table = Observations.from_records([{"num_params": n, "tokens": d, "loss": float(x)} for n, d, x in rows])
    result = isoflop(table, bootstrap=100)
    assert result.reach < 0.2
    assert result.exponents["num_params"] == pytest.approx(exponent(CHINCHILLA), abs=0.01)


def test_scatter_beyond_noise_widens_the_intervals():
    budgets, generator = np.geomspace(1e18, 1e22, 12), np.random.default_rng(5)
    calm = sweep(CHINCHILLA, half=6, noise=0.0005, budgets=budgets)
    shift = np.repeat(np.exp(0.15 * generator.standard_normal(12)), 7)
    # A valley that is moved keeps its budget: N up, D down.
    rows = zip(calm.num_params * shift, calm.tokens / shift, calm.loss, strict=True)
    moved = Observations.from_records([dict(zip(("num_params", "tokens", "loss"), row, strict=True)) for row in rows])
    still, result = isoflop(calm), isoflop(moved)
    assert still.scatter == 0
    assert 0.08 < result.scatter < 0.25
    width = lambda result: np.diff(result.intervals["num_params"])[0]
    assert width(result) > 3 * width(still)
    low, high = result.intervals_at(0.95)["num_params"]
    assert low < exponent(CHINCHILLA) < high
    assert "scatter" in result.summary()


def test_refusals_name_the_budget_and_the_run_that_would_help():
    observations = sweep(CHINCHILLA, half=4, noise=0.0005)
    n, c = observations.num_params, observations.flops
    budget = np.searchsorted(BUDGETS, c * 1.001) - 1
    ratio = n / best(CHINCHILLA, c)
    keep = ~((budget == 0) & (ratio > 0.9)) & ~((budget == 1) & (ratio < 1.1)) & ~((budget == 2) & (ratio > 0.5))
    # Three and three sizes are too few, so the first two get a finer sweep on one side of N* only.
    extra = [(0, r) for r in (0.3, 0.35, 0.4)] + [(1, r) for r in (2.0, 2.5, 3.0)]
    more = [(best(CHINCHILLA, BUDGETS[row]) * r, BUDGETS[row]) for row, r in extra]
    sizes = np.concatenate([n[keep], [size for size, _ in more]])
    flops = np.concatenate([c[keep], [flops for _, flops in more]])
    result = isoflop(runs(sizes, flops / 6 / sizes, "chinchilla", CHINCHILLA, 0.0005))
    assert [bool(one.refused) for one in result.budgets] == [True, True, True, False, False, False]
    assert "largest size: add a run at" in result.budgets[0].refused
    assert "smallest size: add a run at" in result.budgets[1].refused
    assert result.budgets[2].refused.startswith("2 of the 4 sizes")
    assert np.isnan(result.budgets[0].num_params)
    assert result.exponents["num_params"] == pytest.approx(exponent(CHINCHILLA), abs=0.03)
    for one in result.budgets[:3]:
        assert one.refused in result.summary()


def test_a_suggested_run_lies_on_the_budget_and_outside_its_sizes():
    observations = sweep(CHINCHILLA, half=3, off=12)
    with pytest.raises(UserError, match="0 budgets have a minimum between their sizes and 3 are needed") as caught:
        isoflop(observations)
    assert "smallest size: add a run at" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_concave_budgets_are_refused():
    observations = sweep(CHINCHILLA, half=4)
    third = np.isclose(observations.flops, BUDGETS[2], rtol=1e-3)
    loss = np.where(third, observations.loss[third].max() * 2 - observations.loss, observations.loss)
    rows = zip(observations.num_params, observations.tokens, loss, strict=True)
    table = Observations.from_records([dict(zip(("num_params", "tokens", "loss"), row, strict=True)) for row in rows])
    for method in ("slices", "parabola"):
        result = isoflop(table, method, bootstrap=100)
        assert "concave" in result.budgets[2].refused
        assert sum(not one.refused for one in result.budgets) == 5
    assert isoflop(table, bootstrap=100).exponents["num_params"] == pytest.approx(exponent(CHINCHILLA), abs=1e-4)


@pytest.mark.parametrize("method", ["slices", "parabola", "interpolation"])
def test_repeated_sizes(method):
    once = sweep(CHINCHILLA, noise=0.001, seed=1)
    twice = np.concatenate([once.loss, sweep(CHINCHILLA, noise=0.001, seed=2).loss])
    rows = zip(np.tile(once.num_params, 2), np.tile(once.tokens, 2), twice, strict=True)
    table = Observations.from_records([dict(zip(("num_params", "tokens", "loss"), row, strict=True)) for row in rows])
    result = isoflop(table, method)
    assert len(result.accepted) == 6
    assert result.exponents["num_params"] == pytest.approx(exponent(CHINCHILLA), abs=0.02)


def test_runs_in_no_budget_are_named():
    table = sweep(CHINCHILLA)
    alone = runs(1e9, 1e12, "chinchilla", CHINCHILLA)
    rows = [dict(zip(("num_params", "tokens", "loss"), row, strict=True)) for source in (table, alone)
            for row in zip(source.num_params, source.tokens, source.loss, strict=True)]  # fmt: skip
    result = isoflop(Observations.from_records(rows), bootstrap=100)
    assert any("1 of 43 runs share their compute with no other size: row 43" in note for note in result.notes)
    chosen = isoflop(table, budgets=BUDGETS[:4], bootstrap=100)
    assert len(chosen.budgets) == 4
    assert any("14 of 42 runs are near none of the budgets" in note for note in chosen.notes)


def test_loss_along_the_frontier():
    result = isoflop(sweep(CHINCHILLA, half=6), bootstrap=100)
    n = best(CHINCHILLA, 1e23)
    truth = runs(n, 1e23 / 6 / n, "chinchilla", CHINCHILLA).loss[0]
    assert result.loss(1e23).value == pytest.approx(truth, rel=1e-3)
    noisy = isoflop(sweep(CHINCHILLA, half=6, noise=0.003)).loss([1e19, 1e23])
    assert noisy.low.shape == (2,)
    assert noisy.low[1] < truth < noisy.high[1]
    assert np.diff(noisy.high - noisy.low)[0] > 0


def test_what_a_picture_needs():
    result = isoflop(sweep(CHINCHILLA, noise=0.001))
    for one, (log_n, loss) in zip(result.budgets, result.slices(), strict=True):
        assert log_n.shape == loss.shape
        assert np.exp(log_n[[0, -1]]) == pytest.approx(one.run_params[[0, -1]])
        assert np.exp(log_n[loss.argmin()]) == pytest.approx(one.num_params, rel=0.05)
        assert loss.min() == pytest.approx(one.loss, rel=1e-3)
        assert np.interp(np.log(one.run_params), log_n, loss) == pytest.approx(one.run_loss, rel=0.005)


def test_json_round_trip_and_equal_results():
    observations = sweep(CHINCHILLA, noise=0.003)
    result, again = isoflop(observations), isoflop(observations)
    record = json.dumps(result.to_json(), allow_nan=False)
    assert record == json.dumps(again.to_json(), allow_nan=False)
    back = IsoFlop.from_json(json.loads(record))
    assert back.summary() == result.summary()
    assert back.intervals_at(0.8, of="coefficients") == result.intervals_at(0.8, of="coefficients")
    assert back.num_params(1e23, 0.95) == result.num_params(1e23, 0.95)
    assert isoflop(observations, seed=1).intervals != result.intervals
    with pytest.raises(UserError, match="not an isoflop result"):
        IsoFlop.from_json({"kind": "isoflop"})


def test_coefficients_and_lines_agree():
    result = isoflop(sweep(CHINCHILLA, noise=0.002))
    for name, at in (("num_params", result.num_params), ("tokens", result.tokens)):
        line = result.coefficients[name] * 3e20 ** result.exponents[name]
        assert at(3e20).value == pytest.approx(line, rel=1e-9)
        low, high = result.intervals_at(0.9, of="coefficients")[name]
        assert low < result.coefficients[name] < high
        assert at(3e20, 0.5).high < at(3e20, 0.99).high


def test_wrong_input():
    observations = sweep(CHINCHILLA)
    for options, message in (
        ({"method": "cubic"}, "no method 'cubic'; known are slices, parabola, interpolation"),
        ({"bootstrap": 10}, "at least 100"),
        ({"tolerance": 1.5}, "tolerance is 1.5"),
        ({"budgets": [1e18, -1]}, "budgets must be"),
        ({"budgets": [1e3]}, "0 budgets have a minimum"),
    ):
        with pytest.raises(UserError, match=message):
            isoflop(observations, **options)
    with pytest.raises(UserError, match="3 are needed"):
        isoflop(sweep(CHINCHILLA, budgets=BUDGETS[:2]))
    with pytest.raises(UserError, match="3 are needed"):
        isoflop(sweep(CHINCHILLA, sizes=3))
    with pytest.raises(UserError, match="give one row a run"):
        isoflop(observations.where(np.zeros(4000, dtype=int)))
    result = isoflop(observations, bootstrap=100)
    with pytest.raises(UserError, match="flops must be finite and above zero"):
        result.num_params(0)
    with pytest.raises(UserError, match="level is 2"):
        result.tokens(1e20, level=2)
    with pytest.raises(UserError, match="no intervals of 'slopes'"):
        result.intervals_at(0.9, of="slopes")


def test_four_sizes_and_three_budgets_are_enough():
    result = isoflop(sweep(CHINCHILLA, sizes=4, budgets=BUDGETS[:3], noise=0.0002))
    assert result.exponents["num_params"] == pytest.approx(exponent(CHINCHILLA), abs=0.05)


def test_which_parameters_are_counted_is_said():
    observations = sweep(CHINCHILLA)
    columns = zip(observations.num_params, observations.tokens, observations.loss, strict=True)
    rows = [dict(zip(("num_params", "tokens", "loss"), row, strict=True)) for row in columns]
    result = isoflop(Observations.from_records(rows, counted="non_embedding"), bootstrap=100)
    assert "N is non-embedding parameters" in result.summary()
    assert IsoFlop.from_json(result.to_json()).counted == "non_embedding"


# Porian et al. 2024, table isoflop_points.csv: 15 experiments with their published exponents and bootstrap intervals.
KEYS = ("file", "dataset", "hparams", "warmup", "decay", "param_count", "val")
# The noise that the paper puts on a loss before it interpolates, in nats.
SEED_NOISE = {"rw": 0.002, "owt2": 0.01}


@pytest.fixture(scope="module")
def porian():
    """Experiment → its published row and runs."""
    with shared("porian/isoflop_points.csv").open(newline="") as handle:
        points = list(csv.DictReader(handle))
    with shared("porian/published_fits.csv").open(newline="") as handle:
        fits = list(csv.DictReader(handle))
    experiments = {}
    for fit in fits:
        chosen = [p for p in points if all(p[key] == fit[key] for key in KEYS)]
        rows = [
            {"num_params": p["n"], "tokens": p["t"], "flops": p["flops"], "loss": p["loss"]}
            | {"loss_se": SEED_NOISE[fit["dataset"]]}
            for p in chosen
        ]
        experiments[" ".join(fit[key] for key in KEYS[1:])] = fit, Observations.from_records(rows)
    assert len(experiments) == 15
    return experiments


def test_interpolation_gives_porians_exponents(porian):
    for name, (fit, observations) in porian.items():
        result = isoflop(observations, "interpolation")
        # Over seeds of the noise, medians of 1000 draws move by 0.002.
        assert result.exponents["num_params"] == pytest.approx(float(fit["n_exponent"]), abs=0.004), name
        assert result.coefficients["num_params"] == pytest.approx(float(fit["n_coef"]), rel=0.2), name


@pytest.fixture(scope="module")
def porian_slices(porian):
    """Experiment → what the default method gives."""
    return {name: isoflop(observations, bootstrap=400) for name, (_, observations) in porian.items()}


def test_slices_agree_with_porians_exponents(porian, porian_slices):
    apart, differences = [], []
    for name, (fit, _) in porian.items():
        result = porian_slices[name]
        low, high = result.intervals_at(0.95)["num_params"]
        if high < float(fit["boot_n_lo"]) or low > float(fit["boot_n_hi"]):
            apart.append(name)
        differences.append(result.exponents["num_params"] - float(fit["n_exponent"]))
    assert np.abs(differences).max() < 0.035
    assert np.median(np.abs(differences)) < 0.01
    # Here a spline's minimum lies 0.24 off the line in ln N at one budget; noise of the loss, all that the published
    # interval holds, does not explain that.
    assert apart == ["rw tuned long const kaplan train"]


def test_the_stages_that_resolve_the_discrepancy_come_out_in_order(porian_slices):
    stages = (
        "base long kaplan kaplan train",
        "base long kaplan standard val",
        "base short kaplan standard val",
        "base short chinchilla standard val",
        "tuned short const standard val",
    )
    for corpus, published in (
        ("rw", (0.834, 0.701, 0.604, 0.571, 0.497)),
        ("owt2", (0.870, 0.700, 0.602, 0.569, 0.518)),
    ):
        exponents = [porian_slices[f"{corpus} {stage}"].exponents["num_params"] for stage in stages]
        assert exponents == sorted(exponents, reverse=True)
        assert exponents == pytest.approx(published, abs=0.035)


def test_the_chinchilla_points():
    observations = Observations.read(shared("chinchilla/svg_extracted_data.csv"))
    result = isoflop(observations.where(np.sort(np.argsort(observations.loss)[:240])))
    # β/(α + β) at the optimum of the joint fit to the same points.
    joint = 0.3671724 / (0.3473105 + 0.3671724)
    assert result.exponents["num_params"] == pytest.approx(joint, abs=0.02)
    low, high = result.intervals_at(0.95)["num_params"]
    assert low < joint < high
    assert high - low < 0.15
    assert any("runs share their compute with no other size" in note for note in result.notes)
