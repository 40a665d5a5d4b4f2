"""Ladders designed before any run: the expected width is that of refits, and the runs bear a fit and a backtest."""

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from scipy.optimize import least_squares

from allometry import laws
from allometry.errors import UserError
from allometry.laws import LAWS, Observations
from allometry.planning import Budget
from allometry.planning.experiments.gaussian_model import after_runs, log_points, plausible, prior, walk
from allometry.planning.experiments.optimal_ladder import OptimalLadder, _Criterion, optimal_ladder

BUDGET, TARGET = 1e19, (2.9e9, 58e9)


def arrays(design):
    return np.array([run.num_params for run in design.runs]), np.array([run.tokens for run in design.runs])


def observe(law, values, n, d, noise=0.0, seed=0):
    errors = noise * np.random.default_rng(seed).standard_normal(len(n))
    loss = LAWS[law].loss(values, n, d) * np.exp(errors)
    return Observations.from_records(
        [{"num_params": a, "tokens": b, "loss": c} for a, b, c in zip(n, d, loss, strict=True)]
    )


def truths(law, count, seed):
    """Laws as the design assumes them, through a compute-optimal run of the budget."""
    size = (BUDGET / 120) ** 0.5
    drawn = plausible(law, (size, 20 * size), 2.5, count, seed=seed)
    return [dict(zip(LAWS[law].symbols, map(float, values), strict=True)) for values in drawn]


@pytest.fixture(scope="module")
def design():
    return optimal_ladder(BUDGET, TARGET)


@pytest.mark.parametrize(("law", "count"), [("chinchilla", 120), ("skaling", 30)])
def test_expected_variance_is_that_of_refits(design, law, count):
    n, d = arrays(design)
    criterion = _Criterion(BUDGET, TARGET, noise=0.003, drift=0.005)
    spread = next(s for form, _, s in criterion.laws if form.name == law)
    standardised = []
    for seed, values in enumerate(truths(law, count, seed=5)):
        theta = LAWS[law].theta(np.array([list(values.values())]), tuple(criterion.centre))
        criterion.laws = [(LAWS[law], theta, spread)]
        expected = float(np.sqrt(criterion.variances(n, d)[0, 0]))
        refit = laws.fit(law, observe(law, values, n, d, noise=0.003, seed=seed), "log_squares", bootstrap=0)
        standardised.append(np.log(refit.predict(*TARGET).value / LAWS[law].loss(values, *TARGET)) / expected)
    # χ² of as many errors, within four standard errors of its mean; and 90 % of them inside their interval.
    assert np.mean(np.square(standardised)) == pytest.approx(1, abs=4 * np.sqrt(2 / count))
    inside = np.mean(np.abs(standardised) < 1.6449)
    assert abs(inside - 0.9) < 4 * np.sqrt(0.9 * 0.1 / count)


def test_conditioning_is_the_inverse_of_prior_and_fisher_information():
    centre = log_points(1e8, 2e9)[0]
    points = np.concatenate([log_points([2e7, 1e8, 5e8, 2e7], [1e9, 1e10, 3e9, 2e10]), log_points(*TARGET)])
    theta, spread = prior("chinchilla", (5e8, 3e9), 2.5, centre)
    _, jacobian = LAWS["chinchilla"].log_loss(theta[None], *(points - centre).T)
    runs, goal = jacobian[0, :, :-1], jacobian[0, :, -1]
    _, covariance = after_runs(jacobian[0].T @ spread @ jacobian[0], slice(4), noise=0.01**2 * np.eye(4))
    information = np.linalg.inv(spread) + runs @ runs.T / 0.01**2
    assert covariance[-1, -1] == pytest.approx(goal @ np.linalg.inv(information) @ goal, rel=1e-6)


def test_drift_is_a_random_walk_from_the_target():
    target = log_points(1e9, 2e10)
    points = target + np.array([[-1.0, -2.0], [-3.0, -0.5], [-3.0, 1.0], [0.0, 0.0]])
    generator, steps = np.random.default_rng(0), 0.05
    sampled = np.zeros((20000, 4))
    for axis in range(2):
        for side in (-1, 1):
            moves = 0.1 * np.sqrt(steps) * generator.standard_normal((20000, 60))
            walked = np.concatenate([np.zeros((20000, 1)), np.cumsum(moves, axis=1)], axis=1)
            away = np.maximum(side * (points - target)[:, axis], 0)
            sampled += walked[:, np.round(away / steps).astype(int)]
    np.testing.assert_allclose(np.cov(sampled.T), walk(points, target, 0.1), atol=5 * 0.035 * np.sqrt(1 / 20000) * 2)


@pytest.mark.parametrize("law", ["chinchilla", "skaling"])
def test_a_third_of_the_budget_does_better_than_a_ladder_of_one_ratio(law):
    cheap = optimal_ladder(BUDGET / 3, TARGET)
    n = 2.0 ** np.arange(6)
    n *= np.sqrt(BUDGET / (120 * n**2).sum())
    ours, theirs = [], []
    for seed, values in enumerate(truths(law, 40 if law == "chinchilla" else 15, seed=9)):
        true = LAWS[law].loss(values, *TARGET)
        runs = observe(law, values, *arrays(cheap), noise=0.003, seed=seed)
        ours.append(np.log(laws.fit(law, runs, "log_squares", bootstrap=0).predict(*TARGET).value / true))
        runs = observe(law, values, n, 20 * n, noise=0.003, seed=seed)
        theirs.append(np.log(power_in_compute(runs, 6 * TARGET[0] * TARGET[1]) / true))
    assert np.mean(np.square(ours)) < np.mean(np.square(theirs))


def power_in_compute(runs, flops):
    """L = E + k·C^−γ, as is usual for runs of one ratio."""
    compute = np.log(runs.flops / runs.flops.max())

    def curve(x, at):
        return x[0] + np.exp(x[1] - x[2] * at)

    starts = [(share * runs.loss.min(), np.log(0.5), gamma) for share in (0.3, 0.8) for gamma in (0.05, 0.15, 0.3)]
    bounds = [0, -20, 1e-3], [runs.loss.min(), 20, 3]
    fits = [
        least_squares(lambda x: curve(x, compute) / runs.loss - 1, start, bounds=bounds, x_scale="jac")
        for start in starts
    ]
    return float(curve(min(fits, key=lambda fit: fit.cost).x, np.log(flops / runs.flops.max())))


@pytest.mark.parametrize(
    ("budget", "target", "options"),
    [
        (BUDGET, TARGET, {}),
        (1e13, 1e15, {}),
        (1e21, 1e22, {"most_runs": 12}),
        (1e19, (5e8, 1e12), {"most_runs": 18}),
        (1e19, 1e20, {"least_params": 2e7}),
        (1e19, 1e23, {"noise": 0.02, "drift": 1e-6}),
    ],
)
def test_every_design_can_be_fitted_and_backtested(budget, target, options):
    design = optimal_ladder(budget, target, **options)
    n, d = arrays(design)
    assert len(n) <= options.get("most_runs", 16)
    assert 0.95 * budget < design.flops <= budget
    assert [run.flops for run in design.runs] == pytest.approx(list(6 * n * d))
    assert n.min() >= options.get("least_params", 1e4)
    assert len(set(n)) >= 4
    assert len(set(d)) >= 3
    assert (d / n).min() > 4.9
    law = "chinchilla"
    runs = observe(law, truths(law, 1, seed=1)[0], n, d, noise=0.003)
    laws.fit(law, runs, bootstrap=0)  # refuses runs on one line
    assert laws.backtest([law], runs).rows


def test_width_grows_with_noise_drift_and_distance_and_falls_with_the_budget(design):
    widths = lambda *arguments, **options: optimal_ladder(*arguments, **options).expected_half_width
    base = design.expected_half_width
    assert 0 < design.half_width_without_drift < base
    assert widths(BUDGET, TARGET, noise=0.006) > base
    assert widths(BUDGET, TARGET, drift=0.01) > base
    assert widths(BUDGET, (9e9, 180e9)) > base
    assert widths(BUDGET, TARGET, least_params=2e7) > base
    assert widths(3 * BUDGET, TARGET) < base
    assert widths(BUDGET, TARGET, level=0.5) == pytest.approx(base * 0.6745 / 1.6449, rel=1e-3)


def test_budget_and_target_in_every_form(design):
    assert optimal_ladder(Budget(flops=BUDGET), TARGET) == design  # also: equal input, equal output
    by_flops = optimal_ladder(BUDGET, 1.2e21)
    assert by_flops.target == pytest.approx((1e19**0.5, 20 * 1e19**0.5))


def test_a_design_is_a_frozen_value_with_words_and_json(design):
    assert OptimalLadder.from_json(json.loads(json.dumps(design.to_json()))) == design
    with pytest.raises(FrozenInstanceError):
        design.budget = 1.0
    text = design.summary()
    assert f"{len(design.runs)} runs" in text
    assert "target 2.9B parameters, 58B tokens" in text
    assert f"±{design.expected_half_width:.1%} of the loss" in text
    assert text.count("parameters on") == len({run.num_params for run in design.runs})
    with pytest.raises(UserError, match="not an optimal ladder"):
        OptimalLadder.from_json({"kind": "plan"})


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((1e10, 1e21), {}, "too small for a ladder of models from 10k parameters on: give"),
        ((1e19, 1e21), {"least_params": 1e10}, "too small for a ladder of models from 10B parameters on: give"),
        ((1e21, 1e21), {}, "pays for the target itself"),
        ((1e21, (1e8, 1e9)), {}, "pays for the target itself"),
        ((-1, 1e21), {}, "budget must be a finite number above zero"),
        ((np.nan, 1e21), {}, "budget must be a finite number above zero"),
        ((1e19, (1e9,)), {}, r"a target is \(num_params, tokens\)"),
        ((1e19, "big"), {}, "target must be a finite number above zero"),
        ((1e19, (1e9, 0)), {}, "target tokens must be a finite number above zero"),
        ((Budget(num_params=1e9, tokens=2e10), 1e21), {}, "the budget has no FLOPs"),
        ((1e19, 1e21), {"most_runs": 5}, "most_runs is 5; a ladder that can be backtested takes 12 or more"),
        ((1e19, 1e21), {"noise": 0}, "noise must be a finite number above zero"),
        ((1e19, 1e21), {"drift": -1}, "drift must be a finite number above zero"),
        ((1e19, 1e21), {"level": 90}, "level is 90"),
    ],
)
def test_what_cannot_be_designed_is_refused(arguments, options, words):
    with pytest.raises(UserError, match=words) as caught:
        optimal_ladder(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_the_least_budget_named_is_enough():
    with pytest.raises(UserError) as caught:
        optimal_ladder(1e10, 1e21)
    least = float(str(caught.value).split("give ")[1].split()[0])
    assert min(run.num_params for run in optimal_ladder(1.01 * least, 1e21).runs) >= 1e4
    with pytest.raises(UserError):
        optimal_ladder(0.97 * least, 1e21)


def test_a_machine_gives_time_and_money_of_ladder_and_target():
    machine = Budget(flops=1e19, device="h100", num_devices=8, price_per_hour=2.0)
    ladder = optimal_ladder(machine, TARGET)
    hours = ladder.flops / machine.rate / 3600
    assert f"{hours * 16:.3g} in money; the target" in ladder.summary()
    assert optimal_ladder(1e19, TARGET).takes == ""
    assert OptimalLadder.from_json(ladder.to_json()) == ladder
