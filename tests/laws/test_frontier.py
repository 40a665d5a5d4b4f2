"""Which runs say most of those worth making: by cost, by distance from the frontier, by the level of their targets."""

import numpy as np
import pytest

from allometry import laws
from allometry.laws.any_inputs.backtest_forms import CommonScale, fit_to
from allometry.laws.any_inputs.composing.candidates import PLAIN, candidates
from allometry.laws.any_inputs.frontier import ALL, BEST, BOTH, FRONTIER, Levels, emphases, emphasis_weights, relevance
from allometry.laws.any_inputs.padded import middle_of
from allometry.laws.any_inputs.search_forms import _shortlist


def checkpoints(shift=0.0, sign=1.0, sizes=5):
    """Curves of models of several sizes, each of which first learns what every model learns, by steps alone."""
    size, step = (axis.ravel() for axis in np.meshgrid(1e7 * 2.0 ** np.arange(sizes), np.arange(1, 21)))
    seen = step * size**0.5
    loss = 1.5 + 60 / size**0.25 + 300 / seen**0.6 + 5 * np.exp(-seen / 2e4)
    frame = {"size": size, "seen": seen, "score": sign * loss + shift}
    return frame, laws.Observations.read(frame, target="score", inputs=["size", "seen"])


@pytest.mark.parametrize(("shift", "sign", "ways"), [(0, 1, 4), (-30, 1, 2), (0, -1, 2), (30, -1, 2)])
def test_levels_do_not_depend_on_the_unit_of_the_target_nor_on_its_direction(shift, sign, ways):
    _, plain = checkpoints()
    _, other = checkpoints(shift, sign)
    assert emphases(other) == [FRONTIER, BEST, BOTH][: ways - 1] if ways == 4 else emphases(other) == [BEST]
    expected = emphasis_weights(plain, plain.values, BEST)
    np.testing.assert_allclose(emphasis_weights(other, other.values, BEST), expected, rtol=1e-9)
    assert expected.max() == 1 == expected[plain.values.argmin()]
    order = plain.values.argsort()
    assert (np.diff(expected[order]) <= 0).all()


def test_the_middle_run_of_each_group_has_level_one():
    frame, _ = checkpoints()
    frame["corpus"] = np.where(np.arange(100) % 2 == 0, "web", "code")
    frame["score"] = frame["score"] * np.where(frame["corpus"] == "web", 1.0, 3.0)
    runs = laws.Observations.read(frame, target="score", inputs=["size", "seen"], group="corpus")
    levels = Levels.of(runs, runs.values).at(runs.values, runs.group)
    for group in (0, 1):
        assert np.median(levels[runs.group == group]) == pytest.approx(1, abs=0.05)


def test_a_target_that_does_not_go_with_the_cost_has_no_best():
    frame, _ = checkpoints()
    frame["score"] = np.random.default_rng(0).normal(size=100)
    runs = laws.Observations.read(frame, target="score", inputs=["size", "seen"])
    assert emphases(runs) == []
    assert (relevance(runs, runs.values) == 1).all()


def test_groups_of_very_different_targets_do_not_hide_that_they_fall_with_the_cost():
    frame, _ = checkpoints()
    frame["corpus"] = np.where(np.arange(100) % 2 == 0, "web", "code")
    frame["score"] = frame["score"] + np.where(frame["corpus"] == "web", 0.0, 500.0)
    runs = laws.Observations.read(frame, target="score", inputs=["size", "seen"], group="corpus")
    assert emphases(runs) == [FRONTIER, BEST, BOTH]


@pytest.mark.parametrize("shift", [0.0, -8.0])
def test_a_form_near_the_best_is_not_bent_by_the_first_checkpoints(shift):
    """A sum of powers cannot say the first phase of learning; it says the rest where that counts more."""
    frame, every = checkpoints(shift)
    runs, held = every.where(every.points[:, 0] < 1.5e8), every.points[:, 0] > 1.5e8
    held &= frame["seen"] > 1.5e5
    common, middle = CommonScale.of(runs.values), middle_of(runs)
    form = next(one for one in candidates(runs) if one.name == PLAIN[1])
    off = {}
    for emphasis in (ALL, BEST):
        fitted = fit_to(form, runs, middle, common, form.starts(8, 0), emphasis=emphasis)
        predicted = common.back(common.moments(fitted, every.points[held], every.group[held])[0])
        off[emphasis] = float(np.abs(predicted - every.values[held]).mean())
    assert off[BEST] < 0.5 * off[ALL]
    predicted = laws.forecast(runs).predict({name: frame[name][held] for name in ("size", "seen")})
    assert np.abs(predicted.value - every.values[held]).mean() < 0.5 * off[ALL]


def test_one_form_of_each_family_is_tested_besides_the_plain_ones():
    _, runs = checkpoints()
    common, middle = CommonScale.of(runs.values), middle_of(runs)
    fits = [fit_to(form, runs, middle, common, form.starts(1, 0)) for form in candidates(runs)]
    chosen = _shortlist(fits, runs, common, ALL, 99)
    families = [one.form.family for one in chosen if one.form.name not in PLAIN]
    assert len(families) == len(set(families)) > 5
    assert set(PLAIN) <= {one.form.name for one in chosen}
    assert len(_shortlist(fits, runs, common, ALL, 2)) == 2 + len(PLAIN)
