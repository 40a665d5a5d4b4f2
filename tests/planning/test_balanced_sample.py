"""Samples of candidates: chances kept, budgets kept, evenly spread over prices and places."""

import numpy as np
import pytest

from allometry.planning.experiments.balanced_sample import balanced_sample, chances, spend_evenly

PRICE = np.exp(np.random.default_rng(0).uniform(0, 7, 200))
EVEN = np.ones(200)


def test_chances_cost_the_budget_and_are_alike_where_that_gives_enough_runs():
    budget = 0.1 * PRICE.sum()
    chance = chances(PRICE, EVEN, budget, enough=10, most=1000)
    assert (chance * PRICE).sum() == pytest.approx(budget, rel=1e-6)
    assert chance == pytest.approx(np.full(200, 0.1), rel=1e-6)
    assert chances(PRICE, EVEN, budget, enough=1, most=12).sum() == pytest.approx(12, rel=1e-6)
    assert (chances(PRICE, EVEN, 2 * PRICE.sum(), enough=10, most=1000) == 1).all()


def test_more_runs_are_cheaper_runs():
    budget = 0.1 * PRICE.sum()
    few, many = (chances(PRICE, EVEN, budget, enough=number, most=1000) for number in (20, 80))
    assert few.sum() >= 20 * (1 - 1e-6)
    assert many.sum() >= 80 * (1 - 1e-6)
    assert (many * PRICE).sum() == pytest.approx(budget, rel=1e-6)
    assert (many * PRICE).sum() / many.sum() < (few * PRICE).sum() / few.sum()
    assert (np.diff(many[np.argsort(PRICE)]) <= 1e-12).all()


def test_what_is_wanted_twice_as_much_is_taken_twice_as_often():
    weight = np.where(np.arange(200) % 2, 2.0, 1.0)
    chance = chances(np.ones(200), weight, 30.0, enough=1, most=1000)
    assert chance[1] == pytest.approx(2 * chance[0])


def test_samples_keep_the_chances():
    generator = np.random.default_rng(1)
    places, chance = generator.standard_normal((20, 2)), generator.uniform(0.1, 0.9, 20)
    times = np.zeros(20)
    for _ in range(2000):
        times[balanced_sample(chance, places, generator)] += 1
    assert times / 2000 == pytest.approx(chance, abs=0.05)  # four standard errors


def test_a_sample_is_spread_better_than_a_random_one():
    """Ten of a hundred places in a square: the farthest that a place lies from the sample."""
    generator = np.random.default_rng(2)
    places = np.stack(np.meshgrid(range(10), range(10)), axis=-1).reshape(-1, 2) / 9

    def gap(rows):
        return np.linalg.norm(places[:, None] - places[rows][None], axis=-1).min(axis=1).max()

    spread = np.mean([gap(balanced_sample(np.full(100, 0.1), places, generator)) for _ in range(50)])
    chance = np.mean([gap(generator.permutation(100)[:10]) for _ in range(50)])
    assert spread < 0.9 * chance


@pytest.mark.parametrize("share", [0.001, 0.03, 0.3, 1.0, 5.0])
def test_a_budget_is_spent_until_it_pays_for_no_other(share):
    budget = share * PRICE.sum()
    rows = spend_evenly(PRICE, EVEN, PRICE[:, None], budget, 24, 1000, np.random.default_rng(3))
    assert len(set(rows)) == len(rows)
    assert PRICE[rows].sum() <= budget * (1 + 1e-9)
    rest = np.setdiff1d(np.arange(200), rows)
    assert not len(rest) or PRICE[rows].sum() + PRICE[rest].min() > budget
    assert len(spend_evenly(PRICE, EVEN, PRICE[:, None], budget, 3, 5, np.random.default_rng(3))) <= 5


def test_a_budget_that_does_not_pay_for_enough_goes_to_the_cheapest():
    order = np.argsort(PRICE)
    budget = PRICE[order[:10]].sum() * 1.0001
    rows = spend_evenly(PRICE, EVEN, PRICE[:, None], budget, 24, 1000, np.random.default_rng(4))
    assert rows == order[:10].tolist()


def test_runs_of_one_price_are_spread_however_few_they_are():
    places = np.linspace(0, 1, 200)[:, None]
    rows = spend_evenly(EVEN, EVEN, places, 10.0, 24, 1000, np.random.default_rng(5))
    assert len(rows) == 10
    assert np.diff(np.sort(places[rows, 0])).max() < 0.25


def test_every_price_has_its_runs():
    rows = spend_evenly(PRICE, EVEN, np.log(PRICE)[:, None], 0.15 * PRICE.sum(), 24, 1000, np.random.default_rng(4))
    counts, _ = np.histogram(np.log(PRICE[rows]), bins=np.arange(8))
    assert (counts > 0).all()
