"""Which trunks come next: what they cost, what they tell, and where the best size lies."""

import numpy as np
import pytest

from allometry import laws
from allometry.planning.experiments.next_trunks import TrunkChoice, next_trunks, trunk_belief

TRUTH = {"E": 0.6, "A": 60.0, "B": 300.0, "alpha": 0.45, "beta": 0.45}
WEIGHTS = {"chinchilla": 0.6, "skaling": 0.4}


def observed(sizes, tokens, noise=0.0, seed=0):
    """Runs of the true law, every size at every length; a size is a trunk."""
    n, d = (axis.ravel() for axis in np.meshgrid(np.array(sizes, float), np.array(tokens, float), indexing="ij"))
    trunk = np.repeat(np.arange(len(sizes)), len(tokens))
    shift = noise * np.random.default_rng(seed).standard_normal(len(sizes))[trunk]
    loss = laws.Chinchilla().loss(TRUTH, n, d) * np.exp(shift)
    rows = [{"num_params": a, "tokens": b, "loss": c} for a, b, c in zip(n, d, loss, strict=True)]
    return laws.Observations.from_records(rows), trunk.tolist()


RUNS, TRUNKS = observed([2e4, 5e4, 1e5], [1e5, 3e5, 9e5])
NOISES = [0.01] * len(RUNS)
BEST = (1e5, 4e6)


def choice(num_params, longest=1e6, noise=0.01, cost=1.0):
    return TrunkChoice(num_params, (0.2 * longest, longest), noise, cost)


def chosen(choices, budget, runs=RUNS, trunks=TRUNKS, noises=NOISES, best=BEST):
    return next_trunks(runs, choices, best, budget, WEIGHTS, trunks=trunks, noises=noises, own_noise=0.003)


def belief(choices, noises):
    return trunk_belief(RUNS, choices, BEST, WEIGHTS, trunks=TRUNKS, noises=noises, own_noise=0.003, drift=0.005)


def test_what_is_chosen_costs_no_more_than_the_budget_and_tells_something():
    choices = [
        choice(size, longest, cost=size * longest / 1e11) for size in (2e4, 5e4, 1e5, 2e5) for longest in (1e6, 2e6)
    ]
    places, before, after = chosen(choices, 3.0)
    assert places
    assert len(set(places)) == len(places)
    assert sum(choices[place].cost for place in places) <= 3.0
    assert after.risk < before.risk
    assert after.loss <= before.loss
    assert after.slope <= before.slope


def test_nothing_affordable_is_nothing_chosen():
    places, before, after = chosen([choice(1e5, cost=2.0)], 1.0)
    assert places == []
    assert before == after
    assert chosen([], 1.0)[0] == []


def test_of_two_that_tell_the_same_the_cheaper_one_comes_first():
    assert chosen([choice(1e5, cost=1.0), choice(1e5, cost=0.5)], 0.9)[0] == [1]
    assert chosen([choice(1e5, noise=0.02), choice(1e5, noise=0.002)], 1.0)[0] == [1]


def test_a_ladder_of_small_sizes_asks_for_one_beyond_the_best():
    """Only sizes below the best were run: on which side of it the loss is lower is told by a larger one."""
    runs, trunks = observed([1e4, 2e4], [2e5, 6e5, 2e6])
    choices = [choice(size, cost=1.0) for size in (1e4, 2e4, 2e5)]
    places, *_ = chosen(choices, 1.0, runs, trunks, [0.01] * len(runs))
    assert places == [2]


def test_conditioning_does_not_depend_on_the_order():
    choices = [choice(5e4), choice(2e5), choice(1e5, 3e6)]
    state = belief(choices, NOISES)
    one, other = state.after(0).after(2), state.after(2).after(0)
    np.testing.assert_allclose(one.covariances, other.covariances, rtol=1e-6, atol=1e-12)


def test_the_noise_of_a_trunk_bounds_what_its_runs_tell():
    """However many lengths a trunk has, its level is known no better than its noise."""
    many = TrunkChoice(1e5, tuple(np.geomspace(1e5, 1e6, 40)), 0.02, 1.0)
    state = belief([many], [0.02] * len(RUNS))
    after = state.after(0)
    level = lambda one: np.sqrt(np.mean(one.covariances[0, :40, :40]))
    assert level(after) < level(state)
    single = TrunkChoice(1e5, (1e6,), 1e-6, 1.0)
    sure = belief([single], [0.02] * len(RUNS)).after(0)
    assert np.sqrt(sure.covariances[0, 0, 0]) == pytest.approx(0.003, rel=0.2)  # a run's own noise
    assert level(after) > 2 * np.sqrt(sure.covariances[0, 0, 0])
