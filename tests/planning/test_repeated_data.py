"""Repeated data: the published formula, the plain law where nothing is repeated, and the optimum by brute force."""

import math

import numpy as np
import pytest

from allometry import laws
from allometry.errors import UserError
from allometry.planning import Budget, optimal
from allometry.planning.optimum.repeated_data import Repeated, Repetition
from helpers.ladders import TRUTHS, ladder
from helpers.predictors import Chinchilla, Power

LAW = Chinchilla()


def test_what_repeated_tokens_are_worth():
    """D' = U + U·R_D·(1 − e^(−(D/U − 1)/R_D)): four passes are worth nearly four, forty far less."""
    law = Repeated(LAW, 1e9)
    size = law.best_size / 2
    for passes, worth in ((0.5, 0.5), (1.0, 1.0), (4.0, 3.73), (40.0, 15.17)):
        tokens = law.effective(size, passes * 1e9)[1]
        assert tokens / 1e9 == pytest.approx(worth, abs=5e-3)
    assert law.effective(size, 1e15)[1] == pytest.approx((1 + 15.387756) * 1e9)
    assert law.predict(size, 4e9).value == LAW.predict(size, float(law.effective(size, 4e9)[1])).value


def test_the_size_that_the_tokens_suffice_for():
    """U_N in closed form: α·A/N^α = β·B/U^β is where the law's compute-optimal tokens are U."""
    for unique in (1e8, 1e11):
        size = (LAW.alpha * LAW.A / (LAW.beta * LAW.B) * unique**LAW.beta) ** (1 / LAW.alpha)
        law = Repeated(LAW, unique)
        assert law.best_size == pytest.approx(size, rel=1e-6)
        assert optimal(LAW, 6 * size * unique).tokens == pytest.approx(unique, rel=1e-5)
        beyond = law.effective(3 * size, unique)[0]
        assert beyond / size == pytest.approx(1 + 5.309743 * (1 - math.exp(-2 / 5.309743)))


def test_the_plain_law_where_nothing_is_repeated():
    law = Repeated(LAW, 2e10)
    sizes, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, law.best_size, 20), np.geomspace(1e6, 2e10, 20)))
    assert np.array_equal(law.predict(sizes, tokens).value, LAW.predict(sizes, tokens).value)
    for flops in (1e18, 1e20):
        plain, repeated = optimal(LAW, flops), optimal(LAW, Budget(flops=flops, tokens_available=2e10))
        assert plain.tokens < 2e10
        assert repeated.loss == plain.loss
        assert repeated.num_params == pytest.approx(plain.num_params, rel=1e-7)


def test_the_loss_has_no_step_where_repetition_begins():
    law = Repeated(LAW, 1e10)
    for size in (law.best_size / 3, 3 * law.best_size):
        before, after = (law.predict(size, 1e10 * factor).value for factor in (1 - 1e-9, 1 + 1e-9))
        assert after == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("unique", [1e9, 3e10])
def test_optimum_against_brute_force(unique):
    flops = 1e22
    best = optimal(LAW, Budget(flops=flops, tokens_available=unique), tokens_per_param_range=(0.1, 1e4))
    law = Repeated(LAW, unique)
    sizes = np.geomspace(*best.searched, 400_001)
    losses = law.predict(sizes, flops / 6 / sizes).value
    assert best.num_params == pytest.approx(sizes[losses.argmin()], rel=1e-4)
    assert best.loss <= losses.min() * (1 + 1e-14)
    assert best.loss > optimal(LAW, flops).loss


def test_repetition_that_costs_nothing_is_the_plain_law():
    free = Repeated(LAW, 1e9, Repetition(tokens=1e9, params=1e9))
    assert optimal(free, 1e22).loss == pytest.approx(optimal(LAW, 1e22).loss, rel=1e-7)


def test_a_law_without_an_optimum_keeps_its_sizes():
    law = Repeated(Power(), 1e9)
    assert law.best_size == math.inf
    assert law.effective(1e12, 1e8) == (1e12, 1e8)
    assert law.predict(1e12, 1e8).value == Power().predict(1e12, 1e8).value


def test_intervals_come_from_the_refits_at_what_the_tokens_are_worth():
    fitted = laws.fit("chinchilla", ladder("chinchilla", noise=0.003))
    law = Repeated(fitted, 1e10)
    sizes, tokens = np.array([1e8, 1e9]), np.array([1e11, 5e9])
    ((weight, losses),) = law.weighted_samples(sizes, tokens)
    assert weight == 1.0
    assert np.array_equal(losses, fitted.log_samples(*law.effective(sizes, tokens)))
    best = optimal(fitted, Budget(flops=1e22, tokens_available=1e10))
    assert best.intervals["num_params"][0] < best.num_params < best.intervals["num_params"][1]
    assert law.range == fitted.range


def test_a_fitted_law_of_repeated_data_is_asked_itself():
    truth = TRUTHS["chinchilla"] | {"R_N": 3.0, "R_D": 6.0}
    form, rows = laws.LAWS["data_constrained"], []
    for size in np.geomspace(1e7, 1e9, 4):
        for unique in (2e8, 2e9):
            for passes in (1, 3, 10, 40):
                loss = form.loss(truth, size, unique * passes, unique)
                rows.append({"num_params": size, "tokens": unique * passes, "unique_tokens": unique, "loss": loss})
    fitted = laws.fit("data_constrained", laws.Observations.from_records(rows), bootstrap=50)
    law = Repeated(fitted, 1e9)
    assert law.measured
    assert law.predict(1e8, 1e10).value == pytest.approx(form.loss(truth, 1e8, 1e10, 1e9), rel=1e-6)
    best = optimal(fitted, Budget(flops=1e20, tokens_available=1e9), tokens_per_param_range=(0.1, 1e4))
    sizes = np.geomspace(*best.searched, 20_001)
    losses = form.loss(truth, sizes, 1e20 / 6 / sizes, np.full_like(sizes, 1e9))
    assert best.num_params == pytest.approx(sizes[losses.argmin()], rel=2e-3)
    assert best.intervals["num_params"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Repeated(LAW, -1.0), "tokens available must be"),
        (lambda: Repetition(tokens=0.0), "decay of repeated tokens must be"),
        (lambda: Repetition(params=math.inf), "decay of excess parameters must be"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_up_to_the_longest_run_on_the_same_data_the_law_holds_as_it_is():
    law, plain = Repeated(LAW, 1e9, seen_tokens=5e9), Repeated(LAW, 1e9)
    size = law.best_size / 2
    for tokens in (5e8, 1e9, 5e9):
        assert law.predict(size, tokens) == LAW.predict(size, tokens)
    assert plain.predict(size, 5e9).value > LAW.predict(size, 5e9).value
    # Beyond it tokens lose their worth at the pace of the unique ones, not of those that were seen.
    assert law.effective(size, 1e15)[1] == pytest.approx((5 + 15.387756) * 1e9)
    just = law.predict(size, 5e9 * (1 + 1e-9)).value
    assert just == pytest.approx(LAW.predict(size, 5e9).value, rel=1e-9)


def test_the_interval_knows_that_other_data_wear_out_faster_or_more_slowly():
    fitted = laws.fit("chinchilla", ladder("chinchilla", noise=0.003))
    law = Repeated(fitted, 1e9)
    size, tokens = law.best_size / 2, np.array([5e8, 4e9, 4e10, 4e11])
    unsure, sure = law.predict(size, tokens), Repeated(fitted, 1e9, Repetition(sd=0.0)).predict(size, tokens)
    assert np.array_equal(unsure.value, sure.value)
    up, down = np.log(unsure.high / sure.high), np.log(sure.low / unsure.low)
    assert up[0] == down[0] == pytest.approx(0, abs=1e-12)
    assert np.all(np.diff(up) > 0)
    assert np.all(up[1:] > down[1:])  # what is lost by less worth is more than what is won by more
    for factor, end in ((np.exp(-1.6449), unsure.high), (np.exp(1.6449), unsure.low)):
        other = Repeated(fitted, 1e9, Repetition(tokens=15.387756 * factor)).predict(size, tokens).value
        assert np.all(np.abs(np.log(end / unsure.value)) > 0.7 * np.abs(np.log(other / unsure.value)))
