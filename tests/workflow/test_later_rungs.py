"""Later rungs: decided within what is left, written down first, smaller on a machine that has become slower."""

import math
import zlib
from dataclasses import replace

import numpy as np
import pytest

from allometry import laws
from allometry.config.study import StudyConfig
from allometry.config.task import AudioConfig, TextConfig
from allometry.ladder import stages as decided
from allometry.ladder.design import trunk_flops
from allometry.ladder.fill_minutes import make_design
from allometry.ladder.shape import shape
from allometry.ladder.speed import Speed
from allometry.ladder.stages import LadderStage, read_stages, write_stage
from allometry.runs.cost import Throughput
from allometry.runs.study import Study
from allometry.runs.trunks import trunk_costs
from allometry.workflow.own_ladder import later_rungs
from allometry.workflow.own_ladder.earlier_studies import DRIFT
from allometry.workflow.own_ladder.ladder_forecast import fit_ladder
from allometry.workflow.own_ladder.later_rungs import LadderSoFar
from helpers.builders import record

TRUTH = {"E": 0.6, "A": 300.0, "B": 500.0, "alpha": 0.63, "beta": 0.46, "k": 0.47}
SPEED = Speed(Throughput(0.00012, 3e-10, 1.1e-11), Throughput(0.0003, 8e-10, 9e-12), workers=2)
CONFIG = StudyConfig(minutes=5)
DESIGN = make_design(CONFIG, TextConfig(source="t", fingerprint="f"), 10**9, SPEED)


def trained(runs, slower=1.0, noise=0.01, lost=()):
    """Records of runs as the true law has them, a trunk's noise shared, in ``slower`` times the expected time."""
    seconds = trunk_costs(SPEED.ladder, runs)
    records = []
    for config in runs:
        shift = noise * np.random.default_rng(zlib.crc32(config.trunk.encode())).standard_normal()
        loss = laws.LAWS["skaling"].loss(TRUTH, config.num_params, config.tokens) * math.exp(shift)
        if config.num_params in lost:
            records.append(record(config, loss=None, kind="ladder", status="diverged"))
        else:
            records.append(
                replace(record(config, loss=float(loss), kind="ladder"), seconds=slower * seconds[config.id])
            )
    return records


def ladder(stages=(), config=CONFIG, design=DESIGN, **options):
    runs = [*design.rungs, *(run for stage in stages for run in stage.runs)]
    return LadderSoFar(config, design, SPEED, design.recipe, stages, trained(runs, **options))


def decisions(**options):
    stages = []
    while not stages or stages[-1].runs:
        stages.append(ladder(stages, **options).decide())
        assert len(stages) < 10
    return stages


def test_decisions_use_what_was_set_aside_and_no_more():
    stages = decisions()
    runs = [run for stage in stages for run in stage.runs]
    assert 0.5 * DESIGN.later_flops < trunk_flops(runs) <= DESIGN.later_flops
    assert len({run.id for run in [*runs, *DESIGN.rungs]}) == len(runs) + len(DESIGN.rungs)
    assert len(stages) >= 3  # two decisions, the second by what the first brought, and the end
    assert stages[-1].reason == "complete"


def test_the_first_decision_trains_a_run_of_full_length():
    first = decisions()[0]
    assert max(run.flops for run in first.runs) == pytest.approx(DESIGN.top_flops, rel=0.01)
    assert {stage.top_flops for stage in decisions()} == {DESIGN.top_flops}


def test_a_size_that_was_trained_before_gets_another_seed():
    runs = [run for stage in decisions() for run in stage.runs]
    trunks = {(run.model, run.train.seed, run.trunk) for run in [*DESIGN.rungs, *runs]}
    assert len({(model, seed) for model, seed, _ in trunks}) == len(trunks)
    assert any(run.train.seed != CONFIG.seed for run in runs)


@pytest.mark.parametrize(("slower", "smaller"), [(1.0, False), (1.1, False), (0.7, False), (2.5, True)])
def test_a_machine_that_became_slower_gets_smaller_rungs(slower, smaller):
    top = ladder(slower=slower).decide().top_flops
    assert (top < 0.8 * DESIGN.top_flops) is smaller
    if not smaller:
        assert top == DESIGN.top_flops


def test_sizes_that_diverged_leave_the_decision_to_the_others():
    largest = max(rung.num_params for rung in DESIGN.rungs)
    assert ladder(lost=(largest,)).decide().runs
    everything = {rung.num_params for rung in DESIGN.rungs}
    stage = ladder(lost=everything).decide()
    assert stage.runs
    assert stage.reason.startswith("no law yet")


def subwords(vocabulary, minutes):
    """A study of a large vocabulary, and its design."""
    config = StudyConfig(minutes=minutes)
    task = TextConfig(
        source="t", fingerprint="f", tokenizer="bpe", vocab_size=vocabulary, bytes_per_token=math.log2(vocabulary) / 4
    )
    return {"config": config, "design": make_design(config, task, 10**9, SPEED)}


@pytest.mark.parametrize(("vocabulary", "minutes"), [(1024, 2), (4096, 3), (8192, 3), (16384, 5), (50257, 12)])
def test_a_ladder_of_a_large_vocabulary_has_runs_enough_for_what_earlier_studies_showed(vocabulary, minutes):
    study = subwords(vocabulary, minutes)
    stages = decisions(**study)
    runs = [*study["design"].rungs, *(run for stage in stages for run in stage.runs)]
    law, observations = fit_ladder(trained(runs))
    assert len(observations) >= 10
    assert list(law.fits) == ["skaling"]


def test_the_best_size_for_the_target_counts_the_readout():
    """Against every shape in turn: at 8192 subwords the readout takes most of the FLOPs of a small model."""
    study = subwords(8192, 10)
    one = ladder(**study)
    law, _ = fit_ladder(one.records)
    goal = study["design"].target_flops
    trunks = decided.candidate_trunks(study["config"], one.design, one.recipe, one.top_flops, one.rungs)
    size, tokens = later_rungs._best_point(law, goal, trunks)
    shapes = [shape(width, vocab_size=8192) for width in range(40, 162, 2)]
    loss = lambda model: float(law.predict(num_params=model.num_params, tokens=goal / model.flops_per_token).value)
    best = min(shapes, key=loss)
    assert shapes[0].width < best.width < shapes[-1].width
    assert size == pytest.approx(best.num_params, rel=0.05)
    assert tokens == pytest.approx(goal / best.flops_per_token, rel=0.05)


def test_decisions_survive_their_file_in_order(tmp_path):
    study = Study.create(tmp_path / "s", {})
    assert read_stages(study) == []
    stages = decisions()[:2]
    for stage in stages:
        write_stage(study, stage)
    assert read_stages(study) == stages
    write_stage(study, LadderStage((), 1e12, "complete"))
    assert read_stages(study)[-1].runs == ()


def test_where_no_run_of_a_useful_length_fits_the_ladder_is_complete(monkeypatch):
    """As in three minutes of a slow machine that became slower still."""
    monkeypatch.setattr(decided, "LEAST_TOKENS", 10**9)
    assert ladder().decide() == LadderStage((), DESIGN.largest_flops, "complete")


def test_earlier_studies_of_text_speak_of_text_alone():
    """What they showed of its law, and of what it costs to read it again, does not hold for speech."""
    runs = [*DESIGN.rungs, *(run for stage in decisions() for run in stage.runs)]

    def drift_of(task):
        records = trained([run.model_copy(update={"task": task}) for run in runs])
        return fit_ladder(records)[0].drift_prior

    text = {"source": "t", "fingerprint": "f", "train_tokens": 123_456}
    assert drift_of(TextConfig(**text)) == replace(DRIFT, unique_tokens=123_456.0)
    assert drift_of(AudioConfig(**text)) == laws.DriftPrior()
