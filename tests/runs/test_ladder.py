"""The ladder's design: it fits the minutes, covers sizes and lengths, and says so when it cannot."""

import itertools

import numpy as np
import pytest

from allometry.config import DataConfig, StudyConfig
from allometry.errors import UserError
from allometry.runs import ladder
from allometry.runs.cost import Throughput
from allometry.runs.ladder import FIXED_SECONDS, TARGET_RATIO, Design, Speed, design, jobs, rungs
from allometry.runs.recipe import Recipe
from allometry.runs.store import Study

DATA = DataConfig(source="text", fingerprint="f")
# About what two laptop cores do: milliseconds a step, tens of GFLOP/s.
SPEED = Speed(Throughput(0.001, 1e-8, 1.5e-11), Throughput(0.0015, 5e-9, 1e-11), workers=2)


def made(minutes, speed=SPEED, tokens=30_000_000, **more):
    return design(StudyConfig(minutes=minutes, **more), DATA, tokens, speed)


@pytest.mark.parametrize("minutes", [3, 5, 20, 120, 2000])
def test_the_whole_fits_the_minutes_and_uses_them(minutes):
    one = made(minutes, tokens=10**10)
    total = one.ladder_seconds + one.target_seconds + FIXED_SECONDS
    assert 0.85 * 60 * minutes < total <= 60 * minutes


@pytest.mark.parametrize("minutes", [3, 5, 60])
def test_five_sizes_three_lengths_and_two_ratios_each(minutes):
    rungs_ = made(minutes).rungs
    sizes = {rung.num_params for rung in rungs_}
    assert len(sizes) >= 5
    for size in sizes:
        assert len({rung.tokens for rung in rungs_ if rung.num_params == size}) == 3
    assert max(sizes) / min(sizes) > 4


def test_what_is_expected_grows_with_the_ladder():
    times = [_ladder_seconds(flops) for flops in np.geomspace(2e11, 2e12, 40)]
    assert all(later > earlier * 0.99 for earlier, later in itertools.pairwise(times))


def _ladder_seconds(flops):
    config = StudyConfig(minutes=5)
    one = ladder._with_seconds(ladder._ladder(config, DATA, Recipe(), ladder.SIZES - 1, flops), SPEED)
    return one.ladder_seconds + one.target_seconds


def test_more_minutes_are_never_a_smaller_ladder():
    flops = [made(minutes, tokens=10**10).largest.flops for minutes in (3, 5, 10, 30, 100, 1000)]
    assert flops == sorted(flops)


def test_the_target_is_eight_times_the_largest_rung():
    one = made(5)
    assert one.target_flops == pytest.approx(TARGET_RATIO * max(rung.flops for rung in one.rungs))


def test_too_few_minutes_name_the_least_and_the_least_is_enough():
    with pytest.raises(UserError, match="the least is") as told:
        made(0.5)
    least = float(str(told.value).rsplit(" ", 1)[1])
    assert made(least).rungs


def test_too_little_text_is_refused():
    with pytest.raises(UserError, match="tokens of training text are too few"):
        made(5, tokens=20_000)


def test_the_sweep_varies_rate_and_batch_around_the_recipe():
    sweep = made(5).sweep
    assert {run.train.lr for run in sweep} == {0.25, 0.5, 1.0}
    assert {run.train.batch_tokens for run in sweep} == {256, 512, 1024}
    assert len({run.num_params for run in sweep}) == 1
    assert made(5, sweep=False).sweep == ()


def test_a_design_survives_its_file():
    one = made(5)
    assert Design.from_json(one.to_json()) == one


def test_runs_of_one_trunk_go_together_and_recorded_ones_are_left_out(tmp_path):
    study = Study.create(tmp_path / "s", {})
    one = made(5)
    groups = jobs(study, rungs(one, Recipe(lr=0.3)), "ladder")
    assert len(groups) == 5
    assert sorted(len(job.configs) for job in groups) == [3] * 5
    assert all(len({config.trunk for config in job.configs}) == 1 for job in groups)


def test_widths_and_tokens_may_be_given_instead():
    config = StudyConfig(widths=(32, 16), tokens=(40_000, 20_000), sweep=False)
    one = design(config, DATA, 10**6, None)
    assert [(rung.model.width, rung.train.tokens) for rung in one.rungs] == [
        (16, 20_000),
        (16, 40_000),
        (32, 20_000),
        (32, 40_000),
    ]
    with pytest.raises(UserError, match="either minutes, or widths and tokens"):
        StudyConfig.parse({"widths": [16, 32]})
