"""The intervals of forecasts over any inputs: deeper splits, what they say of widths, and coverage of known truths."""

from typing import NamedTuple

import numpy as np
import pytest

from allometry import laws
from allometry.laws.any_inputs.backtest_forms import Trial
from allometry.laws.any_inputs.held_out import COST, INSIDE, HeldOut, deeper_splits, splits
from allometry.laws.any_inputs.mixing import inflations, of_those_that_know, shown_errors


def runs_of(sizes, streams, noise=0.0, seed=0):
    generator = np.random.default_rng(seed)
    size, stream = (axis.ravel() for axis in np.meshgrid(sizes, streams))
    loss = 1.7 + 400 / size**0.34 + 0.1 / stream**0.5
    loss = loss * (1 + noise * generator.standard_normal(len(loss)))
    frame = {"size": size, "streams": stream, "loss": loss}
    return laws.Observations.read(frame, target="loss", inputs=["size", "streams"])


def test_deeper_splits_lie_before_the_end_and_leave_out_what_is_beyond():
    runs = runs_of(np.geomspace(1e6, 1e9, 8), [1, 2, 4, 8, 16])
    base = splits(runs)
    deep = deeper_splits(runs, base)
    assert {split.along for split in deep} == {split.along for split in base} - {INSIDE}
    for split in deep:
        assert not (split.held & split.fitted).any()
        beyond = ~(split.held | split.fitted)
        first = next(one for one in base if one.along == split.along)
        assert (beyond & first.held).any()
        if split.along >= 0:
            values = runs.points[:, split.along]
            assert values[split.fitted].max() < values[split.held].min() <= values[split.held].max() < values.max()
            assert len(np.unique(values[split.fitted])) >= 3


def test_too_few_values_have_no_deeper_split():
    runs = runs_of(np.geomspace(1e6, 1e9, 8), [1, 2, 4, 8])
    assert 1 not in {split.along for split in deeper_splits(runs, splits(runs))}


def trial_of(along, error, noise=1e-3, unsure=1.0):
    ones = np.ones(len(error))
    split = HeldOut.of("", along, np.ones(len(error), bool))
    return Trial(split, np.asarray(error, float), noise * ones, unsure * ones, ones)


def test_errors_along_a_line_widen_it_and_all_lines_share_a_part():
    along = np.array([COST, 0, INSIDE])
    wide = [trial_of(COST, [3.0] * 8), trial_of(0, [1.0] * 8), trial_of(INSIDE, [1.0] * 8)]
    even = [trial_of(COST, [1.0] * 8), trial_of(0, [1.0] * 8), trial_of(INSIDE, [1.0] * 8)]
    more, less = inflations(along, wide), inflations(along, even)
    assert more[0] > 1.3 * less[0]
    assert more[1] > less[1]
    deeper = inflations(along, [*wide, trial_of(COST, [3.0] * 8)])
    assert deeper[0] > more[0]


def test_one_split_beyond_an_end_says_less_than_runs_among_others():
    """Eight small errors beyond the end may be one piece of luck; among other runs they are eight."""
    beyond, inside = (inflations(np.array([along]), [trial_of(along, [0.05] * 8)])[0] for along in (0, INSIDE))
    assert inside < beyond < 1


def test_the_errors_of_a_line_are_the_geometric_mean_of_its_trials():
    trials = [trial_of(COST, [0.1] * 4), trial_of(0, [0.3] * 4), trial_of(COST, [0.4] * 4)]
    assert shown_errors(np.array([COST, 0]), trials) == pytest.approx([0.2, 0.3])


class Truth(NamedTuple):
    """A law of two inputs with a floor, and how the runs deviate from it."""

    floor: float
    power: float
    noise: float


@pytest.mark.parametrize("noise", [0.002, 0.01])
def test_intervals_hold_known_truths_beyond_the_runs(noise):
    """Six tables; of runs at four times the largest size at least three quarters are inside, and not by being wide."""
    inside, wide = [], []
    for seed in range(6):
        generator = np.random.default_rng(100 + seed)
        truth = Truth(generator.uniform(1.2, 2.2), generator.uniform(0.2, 0.45), noise)
        size, stream = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 7), [1.0, 2, 4, 8]))
        law = lambda n, p, t=truth: t.floor + 1.5 * (n / 1e7) ** -t.power + 0.2 * p**-0.5
        loss = law(size, stream) * (1 + noise * generator.standard_normal(len(size)))
        frame = {"size": size, "streams": stream, "loss": loss}
        forecast = laws.forecast(laws.Observations.read(frame, target="loss", inputs=["size", "streams"]))
        at = {"size": [4e9] * 4, "streams": [1.0, 2, 4, 8]}
        actual = law(np.array(at["size"]), np.array(at["streams"])) * (1 + noise * generator.standard_normal(4))
        predicted = forecast.predict(at)
        inside.append(((predicted.low <= actual) & (actual <= predicted.high)).mean())
        wide.append(((predicted.high - predicted.low) / 2 / predicted.value).mean())
    assert np.mean(inside) >= 0.75
    assert np.median(wide) < 0.01 + 8 * noise


def test_a_form_that_says_that_it_knows_nothing_of_a_point_has_no_weight_there():
    shares = np.array([[0.7, 0.7], [0.2, 0.2], [0.1, 0.1], [0.0, 0.0]])
    variances = np.array([[1e-4, 40.0], [4e-4, 4e-4], [9e-4, 9e-4], [1e-9, 1e-9]])
    kept = of_those_that_know(shares, variances, np.full(2, 1e-4))
    assert kept[:, 0] == pytest.approx(shares[:, 0])
    assert kept[:, 1] == pytest.approx([0, 2 / 3, 1 / 3, 0])
    # A form that is surer than the noise of a run is no measure of the others.
    alike = np.array([[0.1], [0.9]])
    assert of_those_that_know(alike, np.array([[1e-12], [1e-3]]), np.full(1, 1e-4)) == pytest.approx(alike)


def test_a_group_of_few_runs_is_not_extrapolated_by_what_knows_nothing_of_it():
    """A third group has the two smallest sizes only."""
    generator = np.random.default_rng(0)
    size, stream, kind = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e6, 1e8, 5), [1.0, 2.0], [0, 1, 2]))
    rows = (kind < 2) | (size < 5e6)
    loss = 1.7 + 400 / size**0.34 + 0.1 / stream**0.5 + 0.05 * kind + 0.003 * generator.standard_normal(len(size))
    frame = {"size": size, "streams": stream, "kind": [f"k{int(one)}" for one in kind], "loss": loss}
    kept = {name: [value for value, row in zip(values, rows, strict=True) if row] for name, values in frame.items()}
    runs = laws.Observations.read(kept, target="loss", inputs=["size", "streams"], group="kind")
    predicted = laws.forecast(runs).predict({"size": [1e9], "streams": [2.0], "kind": ["k2"]})
    assert abs(predicted.value[0] / (1.7 + 400 / 1e9**0.34 + 0.1 / 2**0.5 + 0.1) - 1) < 0.1
