"""A student learns from a teacher's probabilities: interrupted to the bit, and more from the truth than from text."""

import itertools
import math

import numpy as np
import pytest
import torch

from allometry.config.task import DistilledTextConfig
from allometry.data.corpus import Corpus, save_corpus
from allometry.errors import UserError
from allometry.ladder.recipe import Recipe
from allometry.ladder.shape import shape
from allometry.lm import checkpoint
from allometry.lm.distillation import teacher as teachers
from allometry.lm.distillation.distilled_text import DISTILLED_TEXT, DistilledText
from allometry.lm.distillation.teacher import Teacher, TeacherFacts
from allometry.lm.training.train_trunk import train_trunk
from allometry.runs.hooks import SILENT, Hooks, Interrupted
from allometry.runs.job import Job
from allometry.runs.study import Study
from allometry.tasks.text import TextTask
from helpers.training import fresh, train

SYMBOLS = 12


@pytest.fixture(scope="module")
def chain():
    """The probabilities of the next of twelve symbols after each of them."""
    return torch.tensor(np.random.default_rng(1).dirichlet(np.full(SYMBOLS, 0.4), SYMBOLS), dtype=torch.float32)


@pytest.fixture(scope="module")
def corpus(chain):
    """A text that this chain has written."""
    rng = np.random.default_rng(0)
    sums, text = chain.double().cumsum(1).numpy(), np.zeros(60_000, np.uint8)
    for place, draw in enumerate(rng.random(len(text) - 1)):
        text[place + 1] = min(SYMBOLS - 1, np.searchsorted(sums[text[place]], draw))
    return Corpus(text[:50_000], text[50_000:], "chain", "chain", 1, 0, 0)


class Truth(torch.nn.Module):
    """The teacher that knows the chain."""

    def __init__(self, chain):
        super().__init__()
        self.table = torch.nn.Parameter(chain.log(), requires_grad=False)

    def forward(self, tokens):
        logits = torch.full((*tokens.shape, 256), -30.0)
        logits[..., :SYMBOLS] = self.table[tokens]
        return logits


@pytest.fixture(scope="module")
def truth(chain):
    return Teacher(Truth(chain), TeacherFacts("run", "truth", "chain", 10**6, 1.0), math.inf)


def config(tokens, task=None):
    data = task or DistilledTextConfig(source="chain", fingerprint="chain", teacher="truth")
    return Recipe(lr=0.3, batch_tokens=128).run(shape(16, context=32), data, tokens, 0)


def teach(configs, corpus, teacher, study, hooks=SILENT):
    open_task = lambda run: DistilledText(TextTask.of(corpus, run), teacher, run.task)
    train_trunk(Job(tuple(configs), "ladder"), open_task, study, hooks)


def test_who_is_taught_the_truth_learns_more_from_as_few_tokens(corpus, chain, truth, tmp_path):
    """Every target is then the whole distribution instead of one draw from it: a quarter nearer to the entropy."""
    study = Study.create(tmp_path / "s", {"made": True})
    alone, taught = config(8_000, corpus.task("chain")), config(8_000)
    train([alone], corpus, study)
    teach([taught], corpus, truth, study)
    stationary = np.bincount(corpus.train, minlength=SYMBOLS) / len(corpus.train)
    entropy = float(stationary @ -(chain.double() * chain.double().log()).sum(1).numpy())
    assert study.record(taught.id).loss - entropy < 0.75 * (study.record(alone.id).loss - entropy)


@pytest.mark.parametrize("after", [1, 60, 130])
def test_an_interrupted_student_ends_where_an_undisturbed_one_does(corpus, truth, tmp_path, after):
    lengths = [config(tokens) for tokens in (6_000, 12_000)]
    calm, broken = (Study.create(tmp_path / name, {"made": True}) for name in ("calm", "broken"))
    teach(lengths, corpus, truth, calm)
    count = itertools.count(1)
    with pytest.raises(Interrupted):
        teach(lengths, corpus, truth, broken, Hooks(should_stop=lambda: next(count) >= after))
    teach(lengths, corpus, truth, broken)
    for length in lengths:
        weights = [checkpoint.read(study.weights_path(length.id))[0] for study in (calm, broken)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        assert calm.record(length.id).loss == broken.record(length.id).loss


def test_the_teacher_and_how_it_teaches_are_the_run_and_what_follows_from_it_is_not():
    task = {"source": "a", "fingerprint": "f", "teacher": "t"}
    same = config(4_000, DistilledTextConfig(**task, teacher_loss=1.5, teacher_params=9)).id
    assert config(4_000, DistilledTextConfig(**task)).id == same
    for change in ({"teacher": "u"}, {"temperature": 2.0}, {"share": 0.5}):
        assert config(4_000, DistilledTextConfig(**{**task, **change})).id != same


@pytest.fixture
def study(corpus, tmp_path):
    """A study whose teacher is one of its own runs."""
    study = Study.create(tmp_path / "study", {"made": True})
    save_corpus(corpus, study.corpus_path)
    return study


def test_a_teacher_that_was_changed_is_refused(corpus, study):
    large = Recipe(lr=0.3, batch_tokens=128).run(shape(24, context=32), corpus.task("chain"), 4_000, 0)
    train([large], corpus, study, "run")
    found, own = teachers.find_teacher(f"{study.path}/{large.id}", corpus, 32, 256)
    facts = teachers.keep_teacher(found, own, study, corpus, 32, 256).facts
    assert facts.loss == pytest.approx(study.record(large.id).loss, rel=1e-5)  # kernels and layers round differently
    run = config(4_000, DistilledTextConfig(source="chain", fingerprint="chain", teacher=facts.fingerprint))
    task = DISTILLED_TEXT.open(study.corpus_path)(run)
    member, _ = fresh(config(4_000, corpus.task("chain")), corpus)
    assert task.loss(member.model, task.batch(0, 4)).isfinite()
    with pytest.raises(UserError, match="another teacher"):
        DISTILLED_TEXT.open(study.corpus_path)(config(4_000))
    weights = study.path / "teacher" / "model.safetensors"
    tensors, meta = checkpoint.read(weights)
    checkpoint.write(weights, tensors | {"readout.weight": tensors["readout.weight"] + 1}, meta)
    with pytest.raises(UserError, match="not the weights that its students began with"):
        DISTILLED_TEXT.open(study.corpus_path)(run)
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"delete .*teacher and run the same `allometry distill` again"):
        DISTILLED_TEXT.open(study.corpus_path)(run)
    (study.path / "teacher" / "teacher.json").unlink()
    with pytest.raises(UserError, match="the teacher is missing"):
        DISTILLED_TEXT.open(study.corpus_path)(run)
