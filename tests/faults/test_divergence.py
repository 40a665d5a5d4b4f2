"""A training that is lost says so: NaN, infinity, a spike that stays; and it may be tried again at a lower rate."""

import itertools
import math

import numpy as np
import pytest

from allometry import laws
from allometry.ladder.climb import train_rungs
from allometry.lm.training.health import SMOOTHING, SPIKE_NATS, SPIKE_STEPS, Spikes
from allometry.lm.training.meter import Meter
from allometry.runs.hooks import Interrupted
from allometry.runs.study import Study
from helpers import trials
from helpers.training import train


def first_lost(losses):
    """The step at which a sequence of smoothed losses is given up."""
    spikes = Spikes()
    return next((step for step, loss in enumerate(losses) if spikes.see(step, loss, loss)), None)


def test_a_spike_that_stays_is_seen_and_one_that_heals_is_not():
    calm = [4 - step / 1000 for step in range(1000)]
    high = calm[-1] + SPIKE_NATS + 0.01
    assert first_lost(calm) is None
    assert first_lost([*calm, *[high] * 1000]) == len(calm) + SPIKE_STEPS
    assert first_lost([*calm, *[high] * SPIKE_STEPS, *calm[-100:], *[high] * SPIKE_STEPS]) is None
    assert first_lost([*calm, *[calm[-1] + SPIKE_NATS - 0.01] * 5000]) is None


def smoothed(losses):
    """Each loss with the average that a training watches."""
    smooth = losses[0]
    for loss in losses:
        smooth += SMOOTHING * (loss - smooth)
        yield smooth, loss


@pytest.mark.parametrize("seed", range(20))
def test_batches_that_differ_much_are_no_divergence_but_a_rise_beyond_them_is(seed):
    learned = 1 - np.exp(-np.arange(3000) / 100)  # a fresh model guesses, with one loss on every batch
    losses = 5.5 - 2 * learned + 1.5 * learned * np.random.default_rng(seed).normal(0, 1, 3000)
    spikes = Spikes()
    assert not any(spikes.see(step, *both) or spikes.up for step, both in enumerate(smoothed(losses)))
    risen = smoothed([*losses[:1000], *(3 + losses[1000:])])
    again = Spikes()
    assert any(again.see(step, *both) for step, both in enumerate(risen))


def test_what_is_known_of_spikes_goes_through_a_save():
    one, other = Spikes(), Spikes()
    other.restore(one.state())
    losses = [*[3.0] * 400, 2.0, 2.0 + SPIKE_NATS + 0.1]
    for step, loss in enumerate(losses):
        one.see(step, loss, loss)
    other.restore(one.state())
    assert (other.least, other.since, other.up) == (2.0, 401, True)
    assert vars(other) == vars(one)


class Broken:
    """A training whose loss, smoothed too, goes wrong at a step, at rates above a bound."""

    def __init__(self, monkeypatch, step, value, bound=0.0):
        whole = Meter.account

        def account(self, loss, seconds, schedule, until):
            if self.step + 1 >= step and schedule.train.lr > bound:
                self.smooth = loss = value
            whole(self, loss, seconds, schedule, until)

        monkeypatch.setattr(Meter, "account", account)


@pytest.mark.parametrize("value", [math.nan, math.inf, 9.0])
def test_a_run_whose_loss_goes_wrong_is_recorded_as_diverged_and_why(tmp_path, monkeypatch, value):
    Broken(monkeypatch, 60, value)
    where = trials.study(tmp_path / "s")
    trials.go_on(where, 6_000, 60_000)
    short, long = (where.record(config.id) for config in trials.configs(6_000, 60_000))
    assert long.status == "diverged"
    assert short.status == ("finished" if short.config.schedule.steps < 60 else "diverged")
    if math.isfinite(value):
        assert "nats above its least" in long.note
    else:
        assert "not finite" in long.note
    assert long.loss is None
    assert not where.weights_path(long.id).exists()
    assert where.attempts(long.id)[-1]["event"] == "diverged"


def test_a_spike_is_remembered_through_an_interruption(tmp_path, monkeypatch):
    Broken(monkeypatch, 20, 9.0)
    where, steps = trials.study(tmp_path / "s"), itertools.count()
    with pytest.raises(Interrupted):
        trials.go_on(where, 12_000, should_stop=lambda: next(steps) > 40)
    trials.go_on(where, 12_000)
    [record] = where.records()
    assert record.status == "diverged"
    assert "nats above its least" in record.note


def test_a_run_that_ends_in_a_spike_has_diverged(tmp_path, monkeypatch):
    steps = trials.configs(6_000)[0].schedule.steps
    Broken(monkeypatch, steps - 5, 9.0)
    where = trials.study(tmp_path / "s")
    trials.go_on(where, 6_000)
    [record] = where.records()
    assert record.status == "diverged"
    assert "ended more than" in record.note
    assert record.loss is not None


class InProcess:
    """An engine that trains in this process."""

    def train(self, study, jobs, on_event):
        for job in jobs:
            train(job.configs, trials.TEXT, study, job.kind, retry_of=job.retry_of)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_what_diverged_is_tried_again_at_half_the_rate_and_the_first_is_kept(tmp_path, monkeypatch, retries):
    Broken(monkeypatch, 20, math.nan, bound=0.2)
    where = Study.create(tmp_path / "s", {"study": {"retries": retries}})
    train_rungs(where, trials.configs(6_000, lr=0.6), InProcess())
    records = {record.config.train.lr: record for record in where.records("ladder")}
    assert sorted(records, reverse=True) == [0.6, 0.3, 0.15][: retries + 1]
    statuses = [records[lr].status for lr in sorted(records, reverse=True)]
    assert statuses == ["diverged", "diverged", "finished"][: retries + 1]
    for lr, record in records.items():
        assert record.retry_of == ("" if lr == 0.6 else records[2 * lr].id)


def test_what_diverged_is_left_out_of_fits_with_a_note(tmp_path, monkeypatch):
    where = trials.study(tmp_path / "s")
    trials.go_on(where, 1_600, 2_400, 3_200)
    with monkeypatch.context() as patch:
        Broken(patch, 10, math.nan)
        train(trials.configs(6_000, lr=0.2), trials.TEXT, where)
    observations = laws.Observations.read(where.path)
    assert len(observations) == 3
    assert any("diverged" in text for text in observations.notes)
