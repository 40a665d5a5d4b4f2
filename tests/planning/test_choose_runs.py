"""Runs chosen one batch after another: never over the budget, each once, where they tell most; and what is refused."""

import numpy as np
import pytest

from allometry import planning
from allometry.errors import UserError
from allometry.planning.experiments import choose_runs as module
from allometry.planning.experiments.greedy_choice import best_choice, spend
from allometry.planning.experiments.input_process import InputProcess, ProcessScales, standardised

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


def test_the_process_is_that_of_the_normal_equations():
    """Variances after rows, one by one, against the inverse of their covariance."""
    generator = np.random.default_rng(2)
    points, at = generator.standard_normal((12, 2)), generator.standard_normal((3, 2))
    group, at_group = np.arange(12) % 2, np.array([0, 1, 0])
    scales, rows = ProcessScales(), [3, 7, 1, 10]
    process = InputProcess.of(scales, points, group, at, at_group, np.ones(12), rows)
    inner = scales.covariance(points[rows], points[rows], group[rows], group[rows]) + scales.noise**2 * np.eye(4)
    cross = scales.covariance(points[rows], at, group[rows], at_group)
    own = scales.covariance(at, at, at_group, at_group).diagonal()
    left = own - np.einsum("ij,ij->j", cross, np.linalg.solve(inner, cross))
    assert process.spread() == pytest.approx(np.sqrt(left.mean()), rel=1e-8)
    for index in (0, 5):
        assert process.spread_after()[index] == pytest.approx(process.after(index).spread(), rel=1e-8)


def test_the_choice_is_as_good_as_any_single_strategy():
    points, at = standardised(np.stack([N, D], axis=1)[~FAR], np.stack([N, D], axis=1)[FAR])
    zero = np.zeros(len(points), int)
    process = InputProcess.of(ProcessScales(), points, zero, at, np.zeros(len(at), int), PRICE)
    best = best_choice(process, 0.1 * PRICE.sum(), 100)
    for power in (1.0, 0.5, 0.0):
        assert best[-1].after <= spend(process, 0.1 * PRICE.sum(), 100, power)[-1].after
    few = best_choice(process, 0.1 * PRICE.sum(), 100, enough=20)
    assert len(few) >= 20


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
