"""Runs chosen one batch after another: never over the budget, each once, where they tell most; and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from allometry import laws, planning
from allometry.errors import UserError
from allometry.planning.experiments import choose_runs as module
from allometry.planning.experiments.input_process import InputProcess, InputUnits, ProcessScales, likely_scales

N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e6, 1e9, 8), np.geomspace(1e8, 1e11, 8)))
COST = 6 * N * D
FAR = np.quantile(COST, 0.9) < COST
CANDIDATES, AT = ({"N": N[rows].tolist(), "D": D[rows].tolist()} for rows in (~FAR, FAR))
PRICE = COST[~FAR]
TRUTH = 1.7 + 400 / N**0.34 + 1000 / D**0.3


def measure(rows):
    return (TRUTH * np.exp(0.002 * np.random.default_rng(0).standard_normal(N.size)))[~FAR][rows]


@pytest.fixture
def unfitted(monkeypatch):
    """Without the law, which takes longer than all the choices."""

    def refuse(runs, seed=0):
        raise UserError("not fitted here")

    monkeypatch.setattr(module, "forecast", refuse)


def choose(measured=measure, candidates=CANDIDATES, **changes):
    given = {"inputs": ["N", "D"], "cost": PRICE, "at": AT, "budget": 0.1 * PRICE.sum()} | changes
    return planning.choose_runs(candidates, measured, **given)


def test_the_forecast_of_the_chosen_runs_predicts_the_target():
    chosen = choose()
    predicted = np.asarray(chosen.forecast.predict(AT).value)
    assert np.abs(predicted / TRUTH[FAR] - 1).mean() < 0.03
    assert chosen.spent == pytest.approx(PRICE[chosen.order].sum())
    assert f"{len(chosen.order)} runs" in chosen.summary()


@pytest.mark.parametrize("share", [0.002, 0.02, 0.1, 0.5])
def test_a_budget_is_spent_and_never_exceeded(unfitted, share):
    budget = share * PRICE.sum()
    chosen = choose(budget=budget)
    assert chosen.spent <= budget * (1 + 1e-12)
    assert len(set(chosen.order.tolist())) == len(chosen.order) == len(chosen.losses)
    left = np.setdiff1d(np.arange(len(PRICE)), chosen.order)
    assert chosen.spent + PRICE[left].min() > budget or len(left) == 0


def test_very_many_candidates_are_sampled(unfitted, monkeypatch):
    """A pool of some thousands stands for them; the cheapest are in it, so that a small budget pays for runs."""
    monkeypatch.setattr(module, "MOST_CANDIDATES", 200)
    generator = np.random.default_rng(0)
    size, tokens = np.exp(generator.uniform(14, 21, 1500)), np.exp(generator.uniform(18, 25, 1500))
    price, loss = 6 * size * tokens, 1.7 + 400 / size**0.34 + 1000 / tokens**0.3
    cheap = 4 * np.sort(price)[:3].sum()
    for budget in (cheap, 0.001 * price.sum()):
        chosen = choose(lambda rows: loss[rows], {"N": size.tolist(), "D": tokens.tolist()}, cost=price, budget=budget)
        assert 3 <= len(chosen.order) <= 200
        assert chosen.spent <= budget * (1 + 1e-9)


def test_the_same_call_chooses_the_same(unfitted):
    assert choose().order.tolist() == choose().order.tolist()


def test_runs_are_measured_once_and_in_batches(unfitted):
    calls = []

    def counted(rows):
        calls.append(rows.tolist())
        return measure(rows)

    chosen = choose(counted)
    assert [row for rows in calls for row in rows] == chosen.order.tolist()
    assert 2 <= len(calls) <= 4


def test_an_input_that_does_not_matter_is_learnt():
    """Of two inputs only one moves the loss: the process gives it the greater relevance."""
    generator = np.random.default_rng(1)
    inputs = np.exp(generator.standard_normal((60, 2)))
    points = InputUnits.of(inputs).at(inputs)
    values = points[:, 0] + 0.01 * generator.standard_normal(60)
    scales, shares = likely_scales(points, np.zeros(60, int), values)
    assert scales[0].relevance[0] > 3 * scales[0].relevance[1]
    assert shares.sum() == pytest.approx(1)
    assert shares[0] == shares.max()


def process(seed, scales=None):
    """A process after twelve runs in two groups, by one set of scales."""
    generator = np.random.default_rng(seed)
    points, group = generator.standard_normal((12, 2)), np.arange(12) % 2
    one = InputProcess.of(points, group, generator.standard_normal(12))
    return replace(one, scales=[scales or ProcessScales()], shares=np.ones(1))


def test_what_a_run_tells_is_what_it_takes_from_the_variance_of_the_targets():
    """Against the normal equations with and without the run."""
    known, generator = process(2), np.random.default_rng(4)
    candidates, group = generator.standard_normal((5, 2)), np.array([0, 1, 1, 0, 1])
    at, at_group, scales = generator.standard_normal((3, 2)), np.array([0, 1, 0]), known.scales[0]

    def variance(extra):
        points = np.concatenate([known.points, candidates[extra]])
        groups = np.concatenate([known.group, group[extra]])
        inner = scales.covariance(points, points, groups, groups) + scales.noise**2 * np.eye(len(points))
        cross = scales.covariance(points, at, groups, at_group)
        own = scales.covariance(at, at, at_group, at_group).diagonal()
        return (own - np.einsum("ij,ij->j", cross, np.linalg.solve(inner, cross))).mean()

    belief = known.belief(candidates, group, at, at_group)
    assert belief.risk() == pytest.approx(variance([]), rel=1e-6)
    for index, after in enumerate(belief.risk_after()):
        assert after == pytest.approx(variance([index]), rel=1e-6)
    assert belief.after(1).after(3).risk() == pytest.approx(variance([1, 3]), rel=1e-6)


def test_the_process_expects_what_it_was_shown():
    generator = np.random.default_rng(3)
    points, group = generator.standard_normal((30, 2)), np.zeros(30, int)
    values = 2 + points @ [0.5, -0.3] + 0.1 * points[:, 0] ** 2
    one = InputProcess.of(points[:25], group[:25], values[:25])
    expected, deviation = one.predict(points, group)
    assert expected[:25] == pytest.approx(values[:25], abs=0.01)
    assert expected[25:] == pytest.approx(values[25:], abs=0.05)
    assert (np.abs(expected - values) < 3 * deviation).all()


def test_intervals_of_the_process_hold_beyond_the_runs():
    """Parabolas with noise, predicted half a deviation to two deviations beyond the runs; 90 % intervals."""
    inside = []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        points, at = generator.uniform(-1.5, 1, (25, 2)), generator.uniform(1.5, 3, (5, 2))
        slopes, bends, noise = generator.normal(0, 0.5, 2), generator.normal(0, 0.1, 2), 0.02
        value = lambda x: x @ slopes + x**2 @ bends + noise * generator.standard_normal(len(x))  # noqa: B023
        expected, deviation = InputProcess.of(points, np.zeros(25, int), value(points)).predict(at, np.zeros(5, int))
        inside.append(np.abs(expected - value(at)) < 1.645 * deviation)
    assert 0.8 < np.mean(inside) < 0.99


def test_candidates_of_other_groups_than_the_targets_are_wanted_less(unfitted):
    labels = ["a", "b"] * (len(PRICE) // 2) + ["a"] * (len(PRICE) % 2)
    chosen = choose(candidates=CANDIDATES | {"kind": labels}, at=AT | {"kind": ["a"] * int(FAR.sum())}, group="kind")
    own = [labels[row] for row in chosen.order]
    assert own.count("a") > own.count("b") > 0


def test_a_run_without_a_loss_is_paid_for_and_left_out(unfitted):
    chosen = choose(lambda rows: np.where(rows % 5 == 0, np.nan, measure(rows)))
    lost = np.isnan(chosen.losses)
    assert lost.any()
    assert chosen.spent == pytest.approx(PRICE[chosen.order].sum())
    assert len(chosen.forecast) == (~lost).sum()
    assert "gave no finite value" in chosen.notes[0]


def test_without_a_law_the_process_predicts_and_says_why(unfitted):
    chosen = choose()
    assert chosen.forecast.law is None
    predicted = chosen.forecast.predict(AT)
    assert np.abs(np.asarray(predicted.value) / TRUTH[FAR] - 1).mean() < 0.1
    assert ((predicted.low < predicted.value) & (predicted.value < predicted.high)).all()
    assert "alone: not fitted here" in chosen.summary()
    assert json.loads(json.dumps(chosen.to_json()))["forecast"]["law"] is None
    one = chosen.forecast.predict(N=float(N[FAR][0]), D=float(D[FAR][0]))
    assert one.value == pytest.approx(float(np.asarray(predicted.value)[0]))


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ({"N": [1e9]}, "the frame has no column D"),
        ({"N": [1e9], "D": [-1.0]}, "D must be above zero"),
        ({"N": ["much"], "D": [1e9]}, "the frame: N is missing, or no finite number, in row 1"),
    ],
)
def test_what_cannot_be_predicted_is_refused(unfitted, frame, words):
    with pytest.raises(UserError, match=words):
        choose().forecast.predict(frame)


def test_a_group_without_runs_is_predicted_from_the_others(unfitted):
    """Of three kinds only one lies in reach of the budget; that of a fourth is refused."""
    labels = ["a" if price < np.quantile(PRICE, 0.6) else "b" for price in PRICE]
    at = AT | {"kind": ["a", "b"] * (int(FAR.sum()) // 2) + ["b"] * (int(FAR.sum()) % 2)}
    budget = np.sort(PRICE)[:4].sum()
    chosen = choose(candidates=CANDIDATES | {"kind": labels}, at=at, group="kind", budget=budget)
    assert set(chosen.forecast.group_names) == {"a"}
    assert np.isfinite(chosen.forecast.predict(at).value).all()
    with pytest.raises(UserError, match="no candidate was of group 'c'"):
        chosen.forecast.predict({"N": [1e9], "D": [1e9], "kind": ["c"]})


def test_the_law_counts_where_runs_are_quiet_and_is_never_far_from_the_process(unfitted):
    class Law:
        """Far too high everywhere."""

        sizes, errors = None, {"split": 0.1}

        def predict(self, frame, level):
            value = np.full(len(frame["N"]), 100.0)
            return laws.Prediction(value, value * 0.9, value * 1.1, level)

    shares = []
    for noise in (0.0, 0.3):
        loss = TRUTH[~FAR] * np.exp(noise * np.random.default_rng(0).standard_normal(len(PRICE)))
        chosen = choose(lambda rows: loss[rows], budget=0.5 * PRICE.sum()).forecast  # noqa: B023
        alone, both = replace(chosen, law=None), replace(chosen, law=Law())
        moved = np.log(both.predict(AT).value) - np.log(alone.predict(AT).value)
        half = np.log(alone.predict(AT, level=0.6827).high) - np.log(alone.predict(AT).value)
        assert moved == pytest.approx(both.law_share * half, rel=1e-3)
        # The interval is as wide as that of the process: a law that disagrees makes nothing surer.
        wide, plain = both.predict(AT), alone.predict(AT)
        assert np.log(wide.high / wide.low) == pytest.approx(np.log(plain.high / plain.low))
        shares.append(both.law_share)
    assert shares[0] > 0.9 > 0.5 > shares[1] > 0


def test_groups_are_all_measured(unfitted):
    labels = ["a", "b"] * (len(PRICE) // 2) + ["a"] * (len(PRICE) % 2)
    at = AT | {"kind": ["a", "b"] * (int(FAR.sum()) // 2) + ["a"] * (int(FAR.sum()) % 2)}
    chosen = choose(candidates=CANDIDATES | {"kind": labels}, at=at, group="kind")
    assert {labels[row] for row in chosen.order} == {"a", "b"}
    assert set(chosen.forecast.group_names) == {"a", "b"}


def test_one_input_may_be_named_alone(unfitted):
    candidates, at = ({"size": columns["N"]} for columns in (CANDIDATES, AT))
    assert choose(candidates=candidates, at=at, inputs="size").forecast.inputs == ("size",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cost": np.zeros(len(PRICE))}, "cost must be finite and above zero: in row 1 it is 0"),
        ({"cost": "flops"}, "cost is no row of numbers"),
        ({"cost": PRICE[:-1]}, "give one number for each of the"),
        ({"budget": 0}, "budget must be"),
        ({"budget": PRICE.min()}, "does not pay for 3 runs"),
        ({"inputs": ["N", "tokens"]}, "candidates has no column tokens"),
        ({"inputs": []}, "name the columns to predict from"),
        ({"at": {"N": [1e9]}}, "at has no column D"),
        ({"candidates": CANDIDATES | {"N": ["x"] * len(PRICE)}}, "candidates: N is missing, or no finite number"),
        ({"at": {"N": [], "D": []}}, "at has no rows"),
        ({"candidates": {"N": [], "D": []}}, "candidates has no rows"),
        ({"seed": -1}, "seed must be a whole number, 0 or more, not -1"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"measured": lambda rows: np.full(len(rows), np.nan)}, "no finite value for any of"),
        ({"measured": lambda rows: 1 / 0}, "measure failed for"),
        ({"measured": lambda rows: [1.0]}, "measure gave 1 value for"),
        ({"measured": lambda rows: ["much"] * len(rows)}, "measure must give one number"),
    ],
)
def test_wrong_input(unfitted, changes, words):
    with pytest.raises(UserError) as caught:
        choose(**changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_faults_of_the_candidates_are_found_before_any_run_is_paid_for(unfitted):
    paid = []

    def measure(rows):
        paid.extend(rows)
        return np.ones(len(rows))

    same = {"N": [1e9] * 40, "D": [1e9] * 40}
    with pytest.raises(UserError, match="the same in every run"):
        planning.choose_runs(same, measure, inputs=["N", "D"], cost=np.ones(40), at=same, budget=20)
    first = np.linspace(0.1, 0.9, 40)
    off = np.where(np.arange(40) == 12, 0.1, 0.0)
    shares = {"a": first, "b": (1 - first) / 3, "c": 2 * (1 - first) / 3 - off}
    with pytest.raises(
        UserError, match=r"add up to one in most runs, but to 0.9 in 1 run, first with candidate row = 12"
    ):
        planning.choose_runs(shares, measure, inputs=list("abc"), cost=np.ones(40), at=shares, budget=20)
    assert not paid
