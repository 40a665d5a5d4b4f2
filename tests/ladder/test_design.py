"""The ladder's design: it fits the minutes, covers sizes and lengths, and says so when it cannot."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from allometry.config.study import StudyConfig
from allometry.config.task import TextConfig
from allometry.errors import UserError
from allometry.ladder import fill_minutes
from allometry.ladder.climb import missing_jobs
from allometry.ladder.design import Design, target_run, trunk_flops, with_seconds
from allometry.ladder.fill_minutes import FIXED_SECONDS, LADDER_RUNGS, make_design
from allometry.ladder.recipe import TEXT_TIMESCALE, Recipe
from allometry.ladder.speed import Speed
from allometry.runs.cost import Throughput
from allometry.runs.study import Study
from allometry.workflow.ladder_cost import LadderCost
from helpers.builders import record

DATA = TextConfig(source="text", fingerprint="f")
# About what two laptop cores do, with compiled kernels and without.
SPEED = Speed(Throughput(0.00012, 3e-10, 1.1e-11), Throughput(0.0003, 8e-10, 9e-12), workers=2)
SLOW = Speed(Throughput(0.001, 1e-8, 1.5e-11), Throughput(0.0015, 5e-9, 1e-11), workers=2)


def design_of(minutes, speed=SPEED, tokens=30_000_000, **more):
    return make_design(StudyConfig(minutes=minutes, **more), DATA, tokens, speed)


@pytest.mark.parametrize("minutes", [3, 5, 20, 120, 2000])
def test_the_whole_fits_the_minutes_and_uses_them(minutes):
    one = design_of(minutes, tokens=10**10)
    total = one.ladder_seconds + one.target_seconds + FIXED_SECONDS
    assert 0.85 * 60 * minutes < total <= 60 * minutes


@pytest.mark.parametrize("minutes", [3, 5, 60])
def test_first_rungs_are_four_sizes_of_exact_shape_and_their_runs_are_no_shorter_than_says_something(minutes):
    rungs_ = design_of(minutes).rungs
    models = {rung.model for rung in rungs_}
    assert len(models) == 4
    assert all(model.hidden == 3 * model.width for model in models)
    assert min(rung.tokens for rung in rungs_) > 0.99 * fill_minutes.LEAST_TOKENS
    assert {len([rung for rung in rungs_ if rung.model == model]) for model in models} <= {1, 2}
    sizes = {model.num_params for model in models}
    assert 8 < max(sizes) / min(sizes) < 30


@pytest.mark.parametrize("minutes", [3, 10, 120])
def test_a_ladder_of_subwords_has_four_sizes_too_and_none_too_narrow_to_copy(minutes):
    task = TextConfig(source="text", fingerprint="f", tokenizer="bpe:4096", vocab_size=4096, bytes_per_token=3.0)
    rungs_ = make_design(StudyConfig(minutes=minutes), task, 10**9, SPEED).rungs
    widths = sorted({rung.model.width for rung in rungs_})
    best = fill_minutes._best_model(StudyConfig(minutes=minutes), task, 8 * max(rung.flops for rung in rungs_) / 0.4)
    assert len(widths) == 4
    assert widths[0] >= 40
    assert 1.2 * best.width < widths[-1] < 1.5 * best.width


def test_the_sizes_are_centred_where_earlier_studies_found_the_best():
    for flops in (3e11, 1e12, 1e13, 1e15):
        size, budget, exponent = fill_minutes.BEST_SIZE
        best = size * (8 * flops / budget) ** exponent
        sizes = sorted(
            rung.num_params for rung in fill_minutes._ladder(StudyConfig(minutes=9), DATA, Recipe(), flops).rungs
        )
        assert sizes[0] < best / 5
        assert 1.4 * best < sizes[-1] < 3 * best


def test_what_is_expected_grows_with_the_ladder():
    """By a quarter more FLOPs at least; where the widths change, a little more may be a little faster."""
    times = [_ladder_seconds(flops) for flops in np.geomspace(2e11, 2e12, 11)]
    assert all(later > earlier for earlier, later in itertools.pairwise(times))


def _ladder_seconds(flops):
    config = StudyConfig(minutes=5)
    one = with_seconds(fill_minutes._ladder(config, DATA, Recipe(), flops), SPEED)
    return one.ladder_seconds + one.target_seconds


def test_more_minutes_are_never_a_smaller_ladder():
    flops = [design_of(minutes, tokens=10**10).largest_flops for minutes in (3, 5, 10, 30, 100, 1000)]
    assert flops == sorted(flops)


@pytest.mark.parametrize(("ratio", "most"), [(8, 0.5), (64, 0.11), (100, 0.1)])
def test_the_ladder_takes_its_share_and_the_target_is_a_multiple_of_the_largest_rung(ratio, most):
    one = design_of(30, target_ratio=ratio)
    assert one.target_flops == pytest.approx(ratio * one.largest_flops)
    assert one.largest_flops > max(rung.flops for rung in one.rungs)
    ladder_flops = trunk_flops(one.rungs) + trunk_flops(one.sweep) + one.later_flops
    assert ladder_flops == pytest.approx(LADDER_RUNGS * one.largest_flops)
    assert ladder_flops / (ladder_flops + one.target_flops) <= most


def test_the_cost_of_trunks_counts_shared_steps_once():
    one, *_ = design_of(5).rungs
    half = one.with_train(tokens=one.tokens // 2)
    assert trunk_flops([one]) == one.flops
    assert trunk_flops([one, half]) == pytest.approx(one.flops + 0.2 * half.flops)
    assert trunk_flops([one, one.with_train(seed=9)]) == 2 * one.flops


@pytest.mark.parametrize("vocabulary", [256, 4096, 50257])
def test_too_few_minutes_name_the_least_and_the_least_is_enough(vocabulary):
    task = TextConfig(source="text", fingerprint="f", vocab_size=vocabulary)
    design = lambda minutes: make_design(StudyConfig(minutes=minutes), task, 10**9, SPEED)
    with pytest.raises(UserError, match="the least is") as refusal:
        design(0.5)
    least = float(re.search(r"the least is ([0-9.]+),", str(refusal.value))[1])
    assert len({rung.model for rung in design(least).rungs}) == 4


def test_a_slow_machine_gets_a_ladder_in_three_minutes_too():
    slow, fast = design_of(3, SLOW), design_of(3)
    assert slow.largest_flops < fast.largest_flops / 2
    assert slow.total_seconds + FIXED_SECONDS <= 180


def test_wide_heads_still_give_three_sizes():
    one = design_of(30, decoder={"head_dim": 64})
    assert len({rung.model.width for rung in one.rungs}) >= 3
    assert all(rung.model.width % 64 == 0 for rung in one.rungs)


def test_too_little_text_is_refused_and_what_is_asked_for_is_enough():
    with pytest.raises(UserError, match="20000 tokens of training text are too few for any ladder") as refusal:
        design_of(5, tokens=20_000)
    needed = float(re.search(r"give ([0-9.]+) MB", str(refusal.value))[1])
    enough = [design_of(5, tokens=round(1e6 * (needed + more))).target_flops for more in (0, 0.1)]
    assert enough[0] == enough[1]  # the smallest ladder there is


@pytest.mark.parametrize("epochs", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("tokens", [2_000_000, 4_000_000])
def test_a_short_text_gets_the_ladder_whose_target_reads_it_as_often_as_asked(tokens, epochs):
    """The size of the target is the one expected; a longer text gives a larger ladder, up to the minutes."""
    short, long = design_of(60, tokens=tokens, epochs=epochs), design_of(60, tokens=10**10)
    size, budget, exponent = fill_minutes.BEST_SIZE
    read = short.target_flops / (6 * size * (short.target_flops / budget) ** exponent) / tokens
    # 6·N·D leaves out the readout and attention, up to half of a small model's FLOPs.
    assert 0.85 * epochs < read < 1.65 * epochs
    assert short.largest_flops < long.largest_flops / 2
    assert short.largest_flops < design_of(60, tokens=2 * tokens, epochs=epochs).largest_flops


def test_a_plan_that_a_short_text_made_smaller_says_so():
    """As often as its study asks; the plan of the smallest ladder there is may read a very short text more often."""

    def says(tokens, **asked):
        task = DATA.model_copy(update={"train_tokens": tokens})
        config = StudyConfig(minutes=20, **asked)
        design = make_design(config, task, tokens, SPEED)
        return " ".join(LadderCost.of(design, SPEED, 20).notes()), target_run(design).epochs

    words, epochs = says(1_000_000)
    assert f"reads it about {epochs:.2g} times" in words
    assert 1.8 < epochs < 2.2
    assert "reads it about once" in says(4_000_000, epochs=1)[0]
    words, epochs = says(250_000)
    assert f"reads it about {epochs:.2g} times" in words
    assert 4 < epochs < fill_minutes.MOST_EPOCHS
    assert "the text is short" not in says(10**10)[0]


def test_the_sweep_varies_rate_and_batch_around_the_recipe():
    sweep, lr = design_of(5).sweep, StudyConfig(minutes=5).lr
    assert {run.train.lr for run in sweep} == {lr / 2, lr, 2 * lr}
    assert {run.train.batch_tokens for run in sweep} == {256, 512, 1024}
    assert len({run.num_params for run in sweep}) == 1
    assert design_of(5, sweep=False).sweep == ()


def test_a_design_survives_its_file():
    one = design_of(5)
    assert Design.from_json(one.to_json()) == one


def test_runs_of_one_trunk_go_together_and_recorded_ones_are_left_out(tmp_path):
    study = Study.create(tmp_path / "s", {})
    one = design_of(5)
    groups = missing_jobs(study, one.rungs_by(Recipe(lr=0.3)), "ladder")
    assert len(groups) == len({rung.trunk for rung in one.rungs}) == 4
    assert all(len({config.trunk for config in job.configs}) == 1 for job in groups)


def test_widths_and_tokens_may_be_given_instead():
    config = StudyConfig(widths=(32, 16), tokens=(40_000, 20_000), sweep=False)
    one = make_design(config, DATA, 10**6, None)
    assert [(rung.model.width, rung.train.tokens) for rung in one.rungs] == [
        (16, 20_000),
        (16, 40_000),
        (32, 20_000),
        (32, 40_000),
    ]
    repeated = make_design(config.model_copy(update={"repeats": 2}), DATA, 10**6, None)
    assert [rung.train.seed for rung in repeated.rungs] == [0, 1] * 4
    assert len({rung.trunk for rung in repeated.rungs}) == 4
    with pytest.raises(UserError, match="either minutes, or widths and tokens"):
        StudyConfig.parse({"widths": [16, 32]})


def test_what_the_study_says_of_the_training_holds_for_every_run():
    given = {"weight_decay": 0.1, "warmup_tokens": 5000, "precision": "bf16"}
    for more in ({"minutes": 3}, {"widths": (16, 24), "tokens": (20_000, 40_000)}):
        design = make_design(StudyConfig(**more, **given), DATA, 30_000_000, SPEED)
        for run in (*design.sweep, *design.rungs):
            assert {name: getattr(run.train, name) for name in given} == given


def test_weights_of_text_fade_by_the_tokens_seen_unless_the_study_says_how_they_decay():
    timescale = lambda **given: {
        (run.train.weight_decay, run.train.weight_decay_timescale)
        for run in make_design(StudyConfig(minutes=3, **given), DATA, 30_000_000, SPEED).rungs
    }
    assert timescale() == {(0.0, TEXT_TIMESCALE)}
    assert timescale(weight_decay=0.0) == {(0.0, None)}
    assert timescale(weight_decay=1e-4) == {(1e-4, None)}
    assert timescale(weight_decay_timescale=3.0) == {(0.0, 3.0)}
    assert timescale(task="audio") == {(0.0, None)}


def test_rates_and_seeds_of_one_shape_are_one_job_when_batched(tmp_path):
    study = Study.create(tmp_path / "s", {})
    sweep = design_of(5).sweep
    assert sorted(len(job.configs) for job in missing_jobs(study, sweep, "sweep")) == [2] * 5
    together = missing_jobs(study, sweep, "sweep", batched=True)
    assert sorted(len(job.configs) for job in together) == [2, 2, 6]
    (largest,) = (job for job in together if len(job.configs) == 6)
    assert len({(run.train.batch_tokens, run.train.seed) for run in largest.configs}) == 1
    assert sum(job.seconds for job in together) == pytest.approx(
        sum(job.seconds for job in missing_jobs(study, sweep, "sweep"))
    )


def test_a_batched_job_that_was_cut_short_is_the_same_again(tmp_path):
    study = Study.create(tmp_path / "s", {})
    sweep = design_of(5).sweep
    (whole,) = (job for job in missing_jobs(study, sweep, "sweep", batched=True) if len(job.configs) == 6)
    for run in whole.configs[:5]:
        study.save(record(run, kind="sweep"), [])
    (again,) = (job for job in missing_jobs(study, sweep, "sweep", batched=True) if len(job.configs) == 6)
    assert again.configs == whole.configs
    study.save(record(whole.configs[5], kind="sweep"), [])
    assert sorted(len(job.configs) for job in missing_jobs(study, sweep, "sweep", batched=True)) == [2, 2]


@pytest.mark.parametrize(
    ("gain", "workers", "batched"),
    [(1.0, 2, False), (1.15, 2, False), (1.5, 2, True), (1.5, 8, False)],
)
def test_the_sweep_is_batched_where_that_is_faster(gain, workers, batched):
    """With a core for every trunk it is not."""
    one = design_of(5, replace(SPEED, batched=gain, workers=workers))
    assert one.batched is batched
    assert Design.from_json(one.to_json()) == one
