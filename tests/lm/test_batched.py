"""Trunks trained as one batched model: each as if alone, whatever becomes of the others; interrupted, to the bit."""

import itertools

import numpy as np
import pytest
import torch

from allometry.config.task import TextConfig
from allometry.data.corpus import Corpus
from allometry.errors import UserError
from allometry.ladder.recipe import Recipe
from allometry.ladder.shape import shape
from allometry.lm import checkpoint
from allometry.lm.compiled.build import available
from allometry.lm.decoder import build
from allometry.lm.training.member import Member
from allometry.lm.training.stacked_models import Stack
from allometry.lm.training.step_seconds import step_seconds
from allometry.runs.hooks import Hooks, Interrupted
from allometry.runs.study import Study
from helpers.builders import run_config
from helpers.training import batched, train

LENGTHS = (2_000, 5_000)


@pytest.fixture(scope="module")
def corpus():
    text = np.random.default_rng(0).choice(np.frombuffer(b"abcdefgh \n", np.uint8), 60_000)
    text[1::2] = text[::2]  # something to learn: every letter comes twice
    return Corpus(text[:50_000], text[50_000:52_000], "made", "made", 1, 0, 0)


def config(tokens, lr=0.3, seed=0, **recipe):
    data = TextConfig(source="made", fingerprint="made")
    recipe = {"warmup_tokens": 2_000, "weight_decay_timescale": 6.0} | recipe
    return Recipe(lr=lr, batch_tokens=1024, **recipe).run(shape(16, context=32), data, tokens, seed)


def study(path):
    return Study.create(path, {"made": True})


MEMBERS = ((0.2, 0), (0.6, 0), (0.3, 7))
RUNS = [config(tokens, lr, seed) for lr, seed in MEMBERS for tokens in LENGTHS]


@pytest.fixture(scope="module")
def calm(corpus, tmp_path_factory):
    where = study(tmp_path_factory.mktemp("batched") / "calm")
    batched(RUNS, corpus, where)
    return where


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_and_gradients_are_those_of_each_model(precision):
    model = shape(24, context=16, vocab_size=50)
    alone, together = ([build(model, seed, precision) for seed in range(3)] for _ in range(2))
    stack = Stack(together)
    close = {"fp32": 2e-5, "bf16": 0.05}[precision]
    for batch in (4, 2):
        tokens, targets = torch.randint(50, (2, 3, batch, 16))
        losses = stack.backward(tokens, targets)
        for i, (one, member) in enumerate(zip(alone, together, strict=True)):
            one.zero_grad()
            loss = one.loss(tokens[i], targets[i])
            loss.backward()
            assert losses[i] == pytest.approx(loss.item(), rel=close / 10)
            for (name, expected), found in zip(one.named_parameters(), member.parameters(), strict=True):
                error = (found.grad - expected.grad).norm() / expected.grad.norm()
                assert error < close, name
        stack.zero_grad()
        assert all(not parameter.grad.any() for parameter in together[0].parameters())


def test_each_ends_as_in_a_training_of_its_own(corpus, calm, tmp_path):
    for lr, seed in MEMBERS:
        runs = [config(tokens, lr, seed) for tokens in LENGTHS]
        alone = study(tmp_path / runs[0].id)
        train(runs, corpus, alone, kind="sweep")
        for run in runs:
            one, other = alone.record(run.id), calm.record(run.id)
            assert other.loss == pytest.approx(one.loss, abs=1e-4)
            assert other.loss_se == pytest.approx(one.loss_se, abs=1e-4)
            assert (other.flops_spent, other.kind, other.status) == (one.flops_spent, "sweep", "finished")
            assert np.array(calm.curve(run.id)) == pytest.approx(np.array(alone.curve(run.id)), abs=1e-3)
            assert other.environment["trained_together"] == len(MEMBERS)
    losses = {round(calm.record(run.id).loss, 6) for run in RUNS}
    assert len(losses) == len(RUNS)  # all different: nothing was mixed up
    assert not list((calm.path / "trunks").iterdir())


@pytest.mark.parametrize("after", [1, 15, 30, 40])
def test_interrupted_it_ends_where_an_undisturbed_one_does(corpus, calm, tmp_path, after):
    broken, count = study(tmp_path / "broken"), itertools.count(1)
    with pytest.raises(Interrupted):
        batched(RUNS, corpus, broken, hooks=Hooks(should_stop=lambda: next(count) >= after))
    batched(RUNS, corpus, broken)
    assert_same(broken, calm)


def test_killed_between_two_records_of_a_length_it_ends_alike(corpus, calm, tmp_path):
    broken, written = study(tmp_path / "broken"), []

    class Killed(BaseException):
        pass

    def recorded(record):
        written.append(record)
        if len(written) == 2:
            raise Killed

    with pytest.raises(Killed):
        batched(RUNS, corpus, broken, hooks=Hooks(recorded=recorded))
    batched(RUNS, corpus, broken)
    assert_same(broken, calm)
    assert [broken.record(record.id) for record in written] == written  # what was recorded stays as it was


def assert_same(one, other):
    for run in RUNS:
        assert one.record(run.id).loss == other.record(run.id).loss
        assert one.curve(run.id) == other.curve(run.id)
        weights = [checkpoint.read(where.weights_path(run.id))[0] for where in (one, other)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_a_member_that_diverges_is_recorded_and_hurts_no_other(corpus, tmp_path):
    """Its first step is beyond FP32, also in the warm-up: with smaller ones it depends on the CPU when ∞ − ∞ occurs."""
    where, calm_ = study(tmp_path / "s"), study(tmp_path / "calm")
    wild, tame = ([config(tokens, lr) for tokens in LENGTHS] for lr in (1e45, 0.3))
    batched([*wild, *tame], corpus, where)
    train(tame, corpus, calm_, kind="sweep")
    assert [where.record(run.id).status for run in wild] == ["diverged"] * 2
    assert where.record(wild[1].id).flops_spent == 0
    assert not where.weights_path(wild[0].id).exists()
    for run in tame:
        assert where.record(run.id).loss == pytest.approx(calm_.record(run.id).loss, abs=1e-4)


def test_trunks_that_step_differently_are_refused(corpus, tmp_path):
    where = study(tmp_path / "s")
    others = (config(6_000, batch_exponent=0.0), config(7_000, lr=0.1), run_config())
    for other in others:
        with pytest.raises(UserError, match="may differ in rate and seed only"):
            batched([config(6_000), other], corpus, where)


@pytest.mark.skipif(bool(available()), reason=available() or "there are kernels")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_by_kernels_each_ends_as_in_a_training_of_its_own_to_the_bit(corpus, tmp_path, precision):
    runs = [config(tokens, lr, seed, compile=True, precision=precision) for lr, seed in MEMBERS for tokens in LENGTHS]
    together, count = study(tmp_path / "together"), itertools.count(1)
    with pytest.raises(Interrupted):
        batched(runs, corpus, together, hooks=Hooks(should_stop=lambda: next(count) >= 30))
    batched(runs, corpus, together)
    for first in range(0, len(runs), len(LENGTHS)):
        trunk = runs[first : first + len(LENGTHS)]
        alone = study(tmp_path / trunk[0].id)
        train(trunk, corpus, alone, kind="sweep")
        for run in trunk:
            assert together.record(run.id).loss == alone.record(run.id).loss
            weights = [checkpoint.read(where.weights_path(run.id))[0] for where in (together, alone)]
            assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_a_step_of_several_trains_them_all(monkeypatch):
    seen = []
    fresh = Member.fresh.__func__
    monkeypatch.setattr(Member, "fresh", classmethod(lambda cls, *given: seen.append(fresh(cls, *given)) or seen[-1]))
    run = run_config(model=shape(16, context=16).to_dict(), batch_tokens=64)
    assert step_seconds(run, models=4, budget=0.01) > 0
    assert [next(iter(member.optimizer.state.values()))["step"] > 0 for member in seen] == [True] * 4
