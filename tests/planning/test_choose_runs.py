"""Runs chosen one batch after another: never over the budget, each once, where they tell most; and what is refused."""

import numpy as np
import pytest

from allometry import planning
from allometry.errors import UserError
from allometry.planning.experiments import choose_runs as module
from allometry.planning.experiments.input_process import ProcessScales, standardised, telling

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
    """Without the forecast, which takes longer than all the choices."""
    monkeypatch.setattr(module, "forecast", lambda runs, seed=0: runs)


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


def test_an_input_that_does_not_matter_is_learnt(unfitted):
    """Of two inputs only one moves the loss: the process gives it the greater relevance."""
    generator = np.random.default_rng(1)
    points, _ = standardised(np.exp(generator.standard_normal((60, 2))), np.ones((1, 2)))
    learnt = ProcessScales().learnt(points, np.zeros(60, int), points[:, 0] + 0.01 * generator.standard_normal(60))
    assert learnt.relevance[0] > 3 * learnt.relevance[1]


def test_what_a_run_tells_is_what_it_takes_from_the_variance_of_the_targets():
    """Against the normal equations with and without the run."""
    generator = np.random.default_rng(2)
    points, at = generator.standard_normal((12, 2)), generator.standard_normal((3, 2))
    group, at_group = np.arange(12) % 2, np.array([0, 1, 0])
    scales, known = ProcessScales(), [3, 7, 1, 10]

    def variance(rows):
        inner = scales.covariance(points[rows], points[rows], group[rows], group[rows])
        cross = scales.covariance(points[rows], at, group[rows], at_group)
        own = scales.covariance(at, at, at_group, at_group).diagonal()
        solved = np.linalg.solve(inner + scales.noise**2 * np.eye(len(rows)), cross)
        return (own - np.einsum("ij,ij->j", cross, solved)).mean()

    told = telling(scales, points, group, at, at_group, known)
    for index in (0, 5, 11):
        assert told[index] ** 2 == pytest.approx(variance(known) - variance([*known, index]), rel=1e-6)


def test_the_process_expects_what_it_was_shown():
    generator = np.random.default_rng(3)
    points, group = generator.standard_normal((30, 2)), np.zeros(30, int)
    values = 2 + points @ [0.5, -0.3] + 0.1 * points[:, 0] ** 2
    expected = ProcessScales(noise=0.001).expected(points[:25], group[:25], values[:25], points, group)
    assert expected[:25] == pytest.approx(values[:25], abs=1e-3)
    assert expected[25:] == pytest.approx(values[25:], abs=0.05)


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
