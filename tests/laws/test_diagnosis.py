"""The noise floor and the findings: planted faults are found, with their rows; laws with noise raise no alarm."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from allometry.errors import UserError
from allometry.laws import LAWS, Observations, fit
from allometry.laws.tables.findings.best_by_compute import excess
from allometry.laws.tables.findings.undetermined import check_design
from helpers.ladders import TRUTHS, ladder, runs, shared

GRAVE = {"duplicate", "impossible", "diverged", "outlier", "collinear", "rising"}


def table(**columns) -> Observations:
    """Runs from columns; the shorter ones are repeated."""
    length = max(np.size(values) for values in columns.values())
    full = {name: np.resize(values, length) for name, values in columns.items()}
    return Observations.from_records([dict(zip(full, row, strict=True)) for row in zip(*full.values(), strict=True)])


def findings_of(observations: Observations) -> dict[str, set[str]]:
    kinds: dict[str, set[str]] = {}
    for one in observations.findings:
        kinds.setdefault(one.kind, set()).update(one.rows)
        assert "\n" not in one.text
    return kinds


def changed(observations: Observations, row: int, factor: float) -> Observations:
    """One loss multiplied."""
    loss = observations.loss.copy()
    loss[row] *= factor
    return table(num_params=observations.num_params, tokens=observations.tokens, loss=loss)


def test_the_noise_floor_is_that_of_the_repeats():
    generator = np.random.default_rng(1)
    n, d = np.repeat(np.geomspace(1e7, 1e9, 20), 4), np.repeat(np.geomspace(1e9, 1e11, 20), 4)
    loss = LAWS["chinchilla"].loss(TRUTHS["chinchilla"], n, d) * np.exp(0.002 * generator.standard_normal(80))
    noise = table(num_params=n, tokens=d, loss=loss, seed=np.arange(4), lr=1e-3).noise
    assert noise.freedom == 60
    assert {len(labels) for labels in noise.sets} == {4}
    low, high = stats.chi2(60).ppf([1e-5, 1 - 1e-5])
    assert low < 60 * (noise.sigma / 0.002) ** 2 < high


def test_other_settings_and_copies_are_no_repeats():
    columns = {"num_params": 1e6, "tokens": 2e7, "loss": [3.0, 3.1]}
    assert table(**columns).noise.freedom == 1
    for name in ("lr", "batch_tokens", "unique_tokens", "warmup", "weight_decay"):
        assert table(**columns, **{name: [1e3, 2e3]}).noise is None
    assert table(num_params=1e6, tokens=2e7, loss=[3.0, 3.0]).noise is None
    # Equal losses under two seeds are a repeat that happened to agree.
    assert table(num_params=1e6, tokens=2e7, loss=[3.0, 3.0], seed=[0, 1]).noise.sigma == 0


def test_runs_that_ended_before_the_loss_fell_as_a_law_says_are_told_and_can_be_left_out():
    """A plateau at ln 10 from which the loss falls: 1/L = 1/ln 10 + the law, so that the exponent grows, then falls."""
    grid = [(n, d) for n in (500, 1000, 2000, 4000) for d in (4e3, 8e3, 16e3, 32e3, 64e3)]
    late = lambda n, d: 0.2 + 60 / n**0.5 * (2e4 / d) ** 0.7
    early = lambda n, d: (late(n, d) ** -6 + np.log(10) ** -6) ** (-1 / 6)
    rows = lambda loss: [{"num_params": n, "tokens": d, "loss": float(loss(n, d))} for n, d in grid]
    plateau, law = Observations.from_records(rows(early)), Observations.from_records(rows(late))
    told = {row for one in plateau.findings if "falls faster" in one.text for row in one.rows}
    short = sorted({d for (_, d), label in zip(grid, plateau.labels, strict=True) if label in told})
    assert short == [4e3, 8e3]
    kept = plateau.past_initial_phase()
    assert kept.tokens.min() > short[-1]
    assert any("too short for any law" in note for note in kept.notes)
    assert law.past_initial_phase() is law
    assert not any("falls faster" in one.text for one in law.findings)


@pytest.mark.parametrize("bend", [0.03, 0.0, -0.03])
def test_a_loss_that_falls_ever_faster_up_to_the_longest_runs_is_told(bend):
    """Like a translation in its first 600 000 tokens: the exponent grows from step to step by less than noise does."""
    grid = [(n, x) for n in (1e4, 3e4, 5e4) for x in range(4)]
    loss = lambda n, x: 2.7 * n**-0.02 * np.exp(-np.log(2) * (0.06 * x + bend * x * (x - 1) / 2))
    rows = [{"num_params": n, "tokens": 75_000.0 * 2**x, "loss": float(loss(n, x))} for n, x in grid]
    told = [one for one in Observations.from_records(rows).findings if "describes how learning begins" in one.text]
    assert bool(told) == (bend > 0)


def test_the_noise_floor_of_olmo_is_the_published_one():
    observations = Observations.read(shared("olmo_ladder/final_losses.csv"), columns={"loss": "c4_loss"})
    reruns = {labels for labels in observations.noise.sets if any("rerun" in label for label in labels)}
    assert len(reruns) == 5
    assert 1.5e-4 < observations.noise.sigma < 3e-4


@pytest.mark.parametrize("law", ["power", "power_floor", "chinchilla", "skaling"])
def test_runs_that_follow_a_law_raise_no_alarm(law):
    for seed in range(25):
        assert not GRAVE & set(findings_of(ladder(law, noise=0.003, seed=seed)))
        assert not GRAVE & set(findings_of(ladder(law, noise=0.06, seed=seed, sizes=9, counts=7)))


@pytest.mark.parametrize("law", ["power", "chinchilla", "skaling"])
@pytest.mark.parametrize("factor", [1.3, 3.0])
def test_a_diverged_run_is_found_and_no_other(law, factor):
    for row in (9, 14, 23):
        assert findings_of(changed(ladder(law, noise=0.003), row, factor)).get("diverged") == {f"row {row + 1}"}


def test_the_smallest_run_is_called_diverged_only_when_it_is_far_off():
    clean = ladder("chinchilla", noise=0.003)
    assert findings_of(changed(clean, 0, 3.0))["diverged"] == {"row 1"}
    assert "diverged" not in findings_of(changed(clean, 0, 1.15))


def test_a_loss_on_other_text_is_found():
    assert findings_of(changed(ladder("chinchilla", noise=0.003), 9, 0.7))["outlier"] == {"row 10"}


def test_copies_are_named_and_repeats_are_not():
    copies = table(num_params=[1e6, 1e6, 2e6, 1e6], tokens=2e7, loss=[3.0, 3.0, 2.8, 3.0], seed=[0, 0, 0, 1])
    assert findings_of(copies)["duplicate"] == {"row 2"}


@pytest.mark.parametrize(
    ("columns", "rows", "words"),
    [
        ({"loss": [3, 40, 3, 3]}, {"row 2"}, "perplexity"),
        ({"num_params": [1e6, 2e6, 7, 1e6]}, {"row 3"}, "millions or billions"),
        ({"tokens": [1e7, 2e7, 3e7, 1e17]}, {"row 4"}, "exchanged"),
        ({"tokens": [1e7, 2e7, 3e7, 4e3], "num_params": 1e8}, {"row 4"}, "one token for a thousand parameters"),
        ({"flops": [1.2e14, 1.2e13, 1.2e14, 1.2e14]}, {"row 2"}, "one forward pass"),
    ],
)
def test_impossible_values_are_named(columns, rows, words):
    plain = {"num_params": 1e6, "tokens": 2e7, "loss": [3.0, 2.9, 2.8, 2.7]}
    observations = table(**(plain | columns))
    finding = next(one for one in observations.findings if one.kind == "impossible")
    assert set(finding.rows) == rows
    assert words in finding.text


def test_short_runs_of_large_models_are_called_pre_asymptotic():
    long = ladder("chinchilla")
    n, d = np.append(long.num_params, [3e9, 3e9]), np.append(long.tokens, [2e7, 4e7])
    rows = findings_of(runs(n, d, "chinchilla", TRUTHS["chinchilla"]))["pre-asymptotic"]
    assert {"row 25", "row 26"} <= rows
    assert "row 24" not in rows


def test_runs_that_end_in_warmup_are_called_pre_asymptotic():
    observations = ladder("chinchilla")
    columns = {name: observations.column(name) for name in ("num_params", "tokens", "loss")}
    steps = np.full(len(observations), 5000.0)
    steps[[3, 8]] = 1500
    observations = table(**columns, steps=steps, warmup=1000.0)
    assert any(set(one.rows) == {"row 4", "row 9"} and "warmup" in one.text for one in observations.findings)


def sweeps(sizes) -> Observations:
    """Three budgets, each with these factors of its best size; compute rounded as steps round it."""
    truth = {"E": 1.7, "A": 400.0, "B": 400.0, "alpha": 0.3, "beta": 0.3}
    n = np.concatenate([np.sqrt(budget / 6) * np.array(sizes) for budget in (1e18, 1e19, 1e20)])
    budgets = np.repeat([1e18, 1e19, 1e20], len(sizes)) * (1 + 0.003 * np.sin(np.arange(len(n))))
    return runs(n, budgets / (6 * n), "chinchilla", truth)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [([0.25, 0.5, 1, 2, 4], None), ([1.5, 2, 3, 6], "smallest size"), ([0.1, 0.2, 0.4, 0.7], "largest size")],
)
def test_sweeps_that_stop_before_the_optimum_are_named(sizes, words):
    edges = [one for one in sweeps(sizes).findings if one.kind == "edge"]
    assert len(edges) == (words is not None)
    for one in edges:
        assert words in one.text
        assert len(one.rows) == 3


def test_runs_spread_over_compute_are_no_sweep():
    generator = np.random.default_rng(0)
    n, d = 10 ** generator.uniform(7, 9, 300), 10 ** generator.uniform(9, 11, 300)
    assert "edge" not in findings_of(runs(n, d, "chinchilla", TRUTHS["chinchilla"]))


def test_a_best_rate_at_the_end_of_its_sweep_is_named():
    rates = np.geomspace(1e-4, 1.6e-3, 5)
    for best, edge in ((4e-4, None), (1e-5, "row 1"), (1e-1, "row 5")):
        loss = 3 * np.exp(0.005 * np.log(rates / best) ** 2)
        kinds = findings_of(table(num_params=1e8, tokens=2e9, loss=loss, lr=rates))
        assert kinds.get("edge") == ({edge} if edge else None)
    # Three rates, one of them twice, are too few to speak of a sweep.
    assert "edge" not in findings_of(table(num_params=1e8, tokens=2e9, loss=[3, 3.1, 3.2, 3.3], lr=rates[[0, 1, 2, 2]]))


def test_the_frontier_is_the_best_loss_at_no_more_compute():
    observations = table(num_params=[1e6, 1e6, 4e6, 2e6], tokens=[1e7, 4e7, 1e7, 4e7], loss=[4.0, 3.0, 3.3, 2.5])
    assert excess(observations) == pytest.approx([0, 0, np.log(1.1), 0])
    # Runs of one budget, but for rounding, are measured against each other.
    assert excess(table(num_params=1e6, tokens=[1e7, 1.005e7], loss=[3.3, 3.0])) == pytest.approx([np.log(1.1), 0])


def test_a_loss_that_rises_is_refused_but_by_the_law_that_may_rise():
    observations = ladder("power", {"k": 0.05, "alpha": 0.06, "beta": 0.05})
    assert findings_of(observations)["rising"] == set(observations.labels)
    check_design(observations, "power", 3)
    with pytest.raises(UserError, match="the loss rises with size and with tokens: is the column an accuracy"):
        check_design(observations, "chinchilla", 5)


@pytest.mark.parametrize(
    ("sizes", "tokens", "words"),
    [
        (
            [1e6] * 6,
            [1e7, 2e7, 4e7, 8e7, 1.6e8, 3.2e8],
            ["all 6 runs have one size (1M parameters)", "add a run at 4M"],
        ),
        ([1e6, 2e6, 4e6, 8e6], [2e7] * 4, ["all 4 runs have one token count (20M)", "80M tokens"]),
        ([1e6, 2e6, 4e6, 8e6], [2e7, 4e7, 8e7, 1.6e8], ["one ratio of 20 tokens a parameter", "add a run at"]),
        ([1e6], [1e7], ["the only run has one size (1M parameters)", "add a run at 4M"]),
        ([1e6, 1e6, 4e6], [1e7, 2e7, 1e7], ["3 runs are too few for law power with 3 constants", "up to 4"]),
    ],
)
def test_designs_that_support_no_law_are_refused_with_the_run_to_add(sizes, tokens, words):
    observations = Observations.from_records(
        [
            {"num_params": n, "tokens": d, "loss": 3 - 0.01 * i}
            for i, (n, d) in enumerate(zip(sizes, tokens, strict=True))
        ]
    )
    with pytest.raises(UserError) as caught:
        fit("power", observations)
    for word in words:
        assert word in str(caught.value)
