"""The band of a run under way: it holds the runs that follow the law, and tells those that do not early."""

import json
from pathlib import Path

import numpy as np
import pytest

from allometry import laws
from allometry.errors import UserError
from allometry.laws.along_a_run.expected_band import READINGS, Band, Course, Watch, band

TRUTH = {"E": 0.9, "A": 4000.0, "B": 60.0, "alpha": 0.8, "beta": 0.35}
SIZES = (27_648, 50_176, 75_520, 110_592, 194_560)


def curve(rng, num_params, tokens, factor=1.0):
    """Above the law by a gain that the fall takes off, with the text's ups and downs (common) and the run's own."""
    places = np.linspace(tokens / 200, tokens, 200)
    fall = np.clip((tokens - places) / (0.2 * tokens), 0, 1)
    text = 0.01 * np.sin(np.log(places) * 9)
    own = 0.006 * rng.standard_normal(len(places))
    losses = laws.Chinchilla().loss(TRUTH, num_params, places) * np.exp(0.05 * fall + text + own) * factor
    return list(zip(places.tolist(), losses.tolist(), strict=True))


def course(rng, num_params, tokens, factor=1.0):
    return Course(num_params, tokens, 0.8 * tokens, curve(rng, num_params, tokens, factor))


def ladder(rng):
    """Rungs, and a law fitted to how they ended."""
    runs = [course(rng, size, 4e10 / size * share) for size in SIZES for share in (0.35, 0.6, 1)]
    rows = [
        {
            "num_params": run.num_params,
            "tokens": run.tokens,
            "loss": laws.Chinchilla().loss(TRUTH, run.num_params, run.tokens) * np.exp(0.003 * rng.standard_normal()),
        }
        for run in runs
    ]
    return laws.fit("chinchilla", laws.Observations.from_records(rows), bootstrap=40), runs


@pytest.fixture(scope="module")
def ladders():
    return [ladder(np.random.default_rng(seed)) for seed in range(4)]


def targets(ladders, factor=1.0):
    """A target of each ladder, larger and longer than its rungs, with its band."""
    for seed, (fit, runs) in enumerate(ladders):
        for size, tokens in ((110_592, 3e6), (249_000, 1.5e6)):
            run = course(np.random.default_rng(100 + seed), size, tokens, factor)
            yield run, band(fit, runs, run)


def test_runs_that_follow_the_law_stay_inside(ladders):
    for run, limits in targets(ladders):
        assert limits.first_outside(run.curve) is None


@pytest.mark.parametrize("factor", [1.25, 0.8])
def test_a_run_that_does_not_is_told_within_a_third(ladders, factor):
    for run, limits in targets(ladders, factor):
        tokens, loss = limits.first_outside(run.curve)
        assert tokens < run.tokens / 3
        low, high = limits.at(tokens)
        assert (loss > high) == (factor > 1)
        assert (loss < low) == (factor < 1)


def test_a_run_that_goes_wrong_half_way_is_told_then(ladders):
    fit, runs = ladders[0]
    run = course(np.random.default_rng(9), 110_592, 3e6)
    spoilt = [(tokens, loss * (1.5 if tokens > 1.5e6 else 1)) for tokens, loss in run.curve]
    tokens, _ = band(fit, runs, run).first_outside(spoilt)
    assert 1.5e6 < tokens < 1.6e6


RECORDED = json.loads((Path(__file__).parent / "recorded_curves.json").read_text())
BPE = "standard library's tests, BPE"  # where three more runs were trained: another seed, and two that need a warning


def judged(run, others):
    """Where a recorded run left the band by others, as a share of it; None if it never did."""
    rows = [{key: other[key] for key in ("num_params", "tokens", "loss")} for other in others]
    fit = laws.fit("chinchilla", laws.Observations.from_records(rows), bootstrap=40)
    courses = [Course(*(one[key] for key in ("num_params", "tokens", "fall", "curve"))) for one in (*others, run)]
    left = band(fit, courses[:-1], courses[-1]).first_outside(run["curve"])
    return left and left[0] / run["tokens"]


@pytest.mark.parametrize("name", RECORDED)
def test_real_runs_are_left_in_peace(name):
    """Rungs by the rungs of other sizes, where there are enough of them; targets by all."""
    ladder = [run for run in RECORDED[name] if run["kind"] == "ladder"]
    for run in RECORDED[name]:
        others = [one for one in ladder if run["kind"] != "ladder" or one["num_params"] != run["num_params"]]
        if len({one["num_params"] for one in others}) > 2 and run["kind"] in ("ladder", "target", "another seed"):
            assert judged(run, others) is None, (run["kind"], run["num_params"], run["tokens"])


@pytest.mark.parametrize(("kind", "share"), [("rate eight times too high", 0.4), ("random tokens", 0.2)])
def test_real_runs_that_went_wrong_are_told_early(kind, share):
    ladder = [run for run in RECORDED[BPE] if run["kind"] == "ladder"]
    run = next(run for run in RECORDED[BPE] if run["kind"] == kind)
    assert judged(run, ladder) < share


def test_a_band_follows_its_runs_down_the_fall(ladders):
    run, limits = next(iter(targets(ladders)))
    middle = lambda share: np.sqrt(np.prod(limits.at(share * run.tokens)))
    law = laws.Chinchilla().loss(TRUTH, run.num_params, run.tokens)
    assert middle(0.75) / law > 1.04
    assert middle(1.0) / law == pytest.approx(1, abs=0.03)


def test_one_reading_outside_is_not_enough_and_it_is_said_once():
    watch = Watch(Band(np.array([1.0, 100.0]), np.array([1.0, 1.0]), np.array([2.0, 2.0])))
    readings = [3, 1.5, 3, 3, 0.5, *[3] * READINGS, 3, 3]
    warned = [watch(10 + place, loss) for place, loss in enumerate(readings)]
    assert [place for place, yes in enumerate(warned) if yes] == [4 + READINGS]
    watch = Watch(watch.band)
    assert [watch(5, float("nan")) for _ in range(READINGS)][-1]


def test_where_nothing_is_known_nothing_is_said(ladders):
    run, limits = next(iter(targets(ladders)))
    assert limits.at(limits.tokens[0] * 0.9) is None
    assert limits.at(run.tokens * 1.01) is None
    assert not Watch(limits)(limits.tokens[0] * 0.9, 1e9)


def test_too_few_sizes_give_no_band(ladders):
    fit, runs = ladders[0]
    with pytest.raises(UserError, match="3 sizes, and there are 2"):
        band(fit, [run for run in runs if run.num_params in SIZES[:2]], runs[-1])
