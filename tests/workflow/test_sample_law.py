"""The law of sample counts: known constants come back, and what a loss needs is the inverse of what a count gives."""

import math

import pytest

from allometry.workflow.models.sample_law import fit_sample_law

COUNTS = (100, 200, 400, 800, 1600)


@pytest.mark.parametrize(("floor", "factor", "exponent"), [(1.5, 8.0, 0.4), (0.0, 3.0, 0.1), (2.0, 200.0, 1.2)])
def test_known_constants_come_back(floor, factor, exponent):
    law = fit_sample_law([(d, floor + factor * d**-exponent) for d in COUNTS])
    assert law.rms < 1e-6
    assert law.exponent == pytest.approx(exponent, rel=1e-2)
    assert law.floor == pytest.approx(floor, abs=2e-2)
    value, low, high = law.predict(6400)
    assert value == pytest.approx(floor + factor * 6400**-exponent, rel=1e-3)
    assert low <= value <= high
    needed = law.samples_for(value)
    assert needed[0] == pytest.approx(6400, rel=1e-6)
    assert needed[1] <= needed[0] <= needed[2]


def test_a_loss_below_the_floor_is_never_reached():
    law = fit_sample_law([(d, 1.5 + 8 * d**-0.4) for d in COUNTS])
    assert law.samples_for(1.4)[0] == math.inf


def test_losses_that_do_not_fall_give_a_floor():
    law = fit_sample_law([(d, 2.0) for d in COUNTS[:3]])
    assert law.predict(1e6)[0] == pytest.approx(2.0, rel=1e-6)
