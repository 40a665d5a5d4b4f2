"""Where one law overtakes another: known crossings are recovered, and intervals hold them."""

import numpy as np
import pytest

from allometry import laws, planning
from allometry.errors import UserError
from helpers.ladders import TRUTHS, ladder

STEEP = TRUTHS["chinchilla"] | {"E": 1.5, "A": 700.0, "B": 900.0}


def fitted(values, noise=0.002, seed=0, bootstrap=40):
    return laws.fit("chinchilla", ladder("chinchilla", values, noise, seed), bootstrap=bootstrap, seed=seed)


def true_crossing():
    """Where the true frontiers cross, by Brent's method on optima found by SciPy."""
    from scipy.optimize import brentq, minimize_scalar

    def best(values, flops):
        loss = lambda log: float(laws.LAWS["chinchilla"].loss(values, np.exp(log), flops / 6 / np.exp(log)))
        middle = 0.5 * np.log(flops / 6 / 20)
        return minimize_scalar(loss, bounds=(middle - 4, middle + 4), method="bounded").fun

    gap = lambda log: best(TRUTHS["chinchilla"], np.exp(log)) - best(STEEP, np.exp(log))
    return float(np.exp(brentq(gap, np.log(1e17), np.log(1e26))))


def test_exact_laws_cross_where_their_truths_do():
    flat, steep = (fitted(values, noise=0.0, bootstrap=0) for values in (TRUTHS["chinchilla"], STEEP))
    result = planning.overtaking(flat, steep)
    assert result.leader == 0
    assert result.flops == pytest.approx(true_crossing(), rel=0.02)
    assert (result.low, result.high, result.share) == (None, None, None)


def test_the_order_does_not_matter():
    flat, steep = fitted(TRUTHS["chinchilla"]), fitted(STEEP, seed=1)
    one, other = planning.overtaking(flat, steep), planning.overtaking(steep, flat)
    assert (one.leader, other.leader) == (0, 1)
    assert one.flops == pytest.approx(other.flops, rel=1e-9)
    assert one.low <= one.flops <= one.high
    assert one.share > 0.9


def test_intervals_hold_the_true_crossing_about_as_often_as_they_say():
    truth, inside = true_crossing(), 0
    for seed in range(5):
        flat, steep = fitted(TRUTHS["chinchilla"], seed=2 * seed), fitted(STEEP, seed=2 * seed + 1)
        result = planning.overtaking(flat, steep)
        inside += result.low <= truth <= result.high
    assert inside >= 3


def test_a_law_that_is_better_everywhere_is_never_overtaken():
    better = fitted(TRUTHS["chinchilla"] | {"E": 1.0})
    worse = fitted(TRUTHS["chinchilla"], seed=1)
    result = planning.overtaking(worse, better)
    assert result.leader == 1
    assert result.flops is None
    assert result.share < 0.1


def test_units_move_the_losses_of_one_law():
    flat = fitted(TRUTHS["chinchilla"], bootstrap=0)
    result = planning.overtaking(flat, flat, units=(1.0, 1.3))
    assert result.leader == 0
    np.testing.assert_allclose(result.second.loss, 1.3 * result.first.loss)


def test_wrong_units_and_laws_without_runs_are_refused():
    flat = fitted(TRUTHS["chinchilla"], bootstrap=0)
    with pytest.raises(UserError, match="units"):
        planning.overtaking(flat, flat, units=(1.0, 0.0))

    class Bare:
        def predict(self, num_params, tokens, level=0.9):
            return flat.predict(num_params, tokens, level)

    with pytest.raises(UserError, match="whose runs are known"):
        planning.overtaking(flat, Bare())
