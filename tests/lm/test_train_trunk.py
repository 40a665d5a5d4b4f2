"""Training: one trunk for many lengths, to the bit; interruption and resumption, to the bit; divergence recorded."""

import itertools

import numpy as np
import pytest

from allometry.config.task import TextConfig
from allometry.data.corpus import Corpus
from allometry.errors import UserError
from allometry.ladder.recipe import Recipe
from allometry.ladder.shape import shape
from allometry.lm import checkpoint
from allometry.runs.hooks import Hooks, Interrupted
from allometry.runs.study import Study
from helpers.training import train


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    text = rng.choice(
        np.frombuffer(b"abcdefgh \n", np.uint8), 60_000, p=[0.3, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02]
    )
    return Corpus(text[:50_000], text[50_000:], "made", "made", 1, 0, 0)


def config(tokens, lr=0.3, seed=0):
    data = TextConfig(source="made", fingerprint="made")
    recipe = Recipe(lr=lr, batch_tokens=128, warmup_tokens=2_000, weight_decay_timescale=6.0)
    return recipe.run(shape(16, context=32), data, tokens, seed)


def study(path):
    return Study.create(path, {"made": True})


def weights(where, run):
    return checkpoint.read(where.weights_path(run.id))[0]


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_branch_is_to_the_bit_the_run_of_its_own(corpus, tmp_path):
    lengths = [config(tokens) for tokens in (6_000, 12_000, 24_000)]
    together = study(tmp_path / "together")
    train(lengths, corpus, together)
    for length in lengths:
        alone = study(tmp_path / length.id)
        train([length], corpus, alone)
        assert alone.record(length.id).loss == together.record(length.id).loss
        assert same(weights(alone, length), weights(together, length))
    assert not list(together.path.glob("trunks/*"))


def test_what_a_branch_costs_adds_up_to_what_was_trained(corpus, tmp_path):
    lengths = [config(tokens) for tokens in (6_000, 12_000, 24_000)]
    where = study(tmp_path / "s")
    train(lengths, corpus, where)
    schedules = [length.schedule for length in lengths]
    falls = sum(s.tokens - s.tokens_before(s.decay_start) for s in schedules[:-1])
    spent = sum(where.record(length.id).flops_spent for length in lengths)
    assert spent == pytest.approx((schedules[-1].tokens + falls) * lengths[0].model.flops_per_token)


@pytest.mark.parametrize("after", [1, 37, 100, 190, 240])
def test_an_interrupted_training_ends_where_an_undisturbed_one_does(corpus, tmp_path, after):
    lengths = [config(tokens) for tokens in (6_000, 12_000)]
    calm, broken = study(tmp_path / "calm"), study(tmp_path / "broken")
    train(lengths, corpus, calm)
    count = itertools.count(1)
    with pytest.raises(Interrupted):
        train(lengths, corpus, broken, hooks=Hooks(should_stop=lambda: next(count) >= after))
    train(lengths, corpus, broken)
    for length in lengths:
        assert broken.record(length.id).loss == calm.record(length.id).loss
        assert same(weights(calm, length), weights(broken, length))
        assert calm.curve(length.id) == broken.curve(length.id)


def test_a_finished_run_is_not_trained_again(corpus, tmp_path):
    where = study(tmp_path / "s")
    train([config(6_000)], corpus, where)
    before = where.record(config(6_000).id)
    steps = itertools.count()
    train([config(6_000)], corpus, where, hooks=Hooks(should_stop=lambda: next(steps) < 0))
    assert where.record(config(6_000).id) == before
    assert next(steps) == 0


def test_seeds_differ_and_repeat(corpus, tmp_path):
    losses = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        where = study(tmp_path / name)
        train([config(6_000, seed=seed)], corpus, where)
        losses.append(where.record(config(6_000, seed=seed).id).loss)
    assert losses[0] == losses[1] != losses[2]


def test_training_learns_what_can_be_learned(corpus, tmp_path):
    # Independent letters: the best loss is the entropy of their distribution.
    where = study(tmp_path / "s")
    train([config(60_000)], corpus, where)
    counts = np.bincount(corpus.train, minlength=256) / len(corpus.train)
    entropy = -sum(p * np.log(p) for p in counts if p)
    record = where.record(config(60_000).id)
    assert entropy - 3 * record.loss_se < record.loss < entropy + 0.05


def test_a_run_that_diverges_is_recorded_and_so_are_the_longer_ones(corpus, tmp_path):
    where = study(tmp_path / "s")
    lengths = [config(tokens, lr=1e30) for tokens in (6_000, 12_000)]
    train(lengths, corpus, where)
    records = [where.record(length.id) for length in lengths]
    assert [record.status for record in records] == ["diverged", "diverged"]
    assert all(record.note for record in records)
    assert not where.weights_path(lengths[0].id).exists()


def test_runs_of_two_trunks_are_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="differ in their tokens only"):
        train([config(6_000), config(6_000, lr=0.1)], corpus, study(tmp_path / "s"))


def test_a_trunk_past_the_branch_point_of_a_shorter_run_is_no_start_for_it(corpus, tmp_path):
    calm, broken = study(tmp_path / "calm"), study(tmp_path / "broken")
    short, long = config(6_000), config(24_000)
    train([short], corpus, calm)
    count = itertools.count()
    hooks = Hooks(should_stop=lambda: next(count) > short.schedule.steps + 5)
    with pytest.raises(Interrupted):  # beyond the last step of the short run
        train([long], corpus, broken, hooks=hooks)
    train([short], corpus, broken)
    assert broken.record(short.id).loss == calm.record(short.id).loss
    assert same(weights(calm, short), weights(broken, short))
