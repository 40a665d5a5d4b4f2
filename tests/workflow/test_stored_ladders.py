"""The ladders of the tournament, fitted again: noise and constants are those that their runs and targets show."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from allometry.ladder.noise import RUN_NOISE, trunk_noise
from allometry.laws.fitting.trunk_noise import trunk_differences

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def refit_ladders():
    """The benchmark, as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("refit_ladders")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_the_noise_of_trunks_and_of_runs_is_that_of_trunks_of_one_size(refit_ladders):
    ladders = refit_ladders.LADDERS.read()
    pairs = [trunk_differences(refit_ladders.observations_of(ladder)) for ladder in ladders]
    levels, changes = (np.concatenate([pair[part] for pair in pairs]) for part in (0, 1))
    own = np.sqrt(np.mean(changes**2)) / 2
    shared = np.sqrt(np.mean(levels**2) / 2 - own**2)
    assert len(changes) > 40
    assert 0.8 < own / RUN_NOISE < 1.25
    assert 0.8 < shared / trunk_noise(100_000) < 1.25


def near_refits(refit_ladders, of_bytes):
    """The laws of stored ladders at 8 times, and how far targets lie from them in standard deviations of intervals."""
    refits = map(refit_ladders.refit, refit_ladders.LADDERS.read())
    near = [one for one in refits if one.of_bytes is of_bytes and one.ratio < 20]
    return near, np.array([miss for one in near for miss in one.misses])


def test_targets_at_8_times_are_as_far_off_as_intervals_say(refit_ladders):
    """Noises, drift and deviations fail here if halved or doubled, but for those of α and β and the cost of passes."""
    near, misses = near_refits(refit_ladders, of_bytes=True)
    assert len(near) >= 48
    assert 1.0 < np.sqrt(np.mean(misses**2)) < 1.035
    assert abs(np.mean([one.error for one in near])) < 0.003
    assert 0.85 < np.mean(np.abs(misses) < refit_ladders.NINETY) < 0.97


def test_targets_of_subwords_at_8_times_are_as_far_off_as_intervals_say(refit_ladders):
    """The drift of early runs fails here if it is doubled or nothing, its deviation if it is halved or doubled."""
    near, misses = near_refits(refit_ladders, of_bytes=False)
    assert len(near) >= 13
    assert 0.9 < np.sqrt(np.mean(misses**2)) < 1.1
    assert abs(np.mean([one.error for one in near])) < 0.01
