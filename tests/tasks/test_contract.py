"""What every task keeps: batches are a pure function of their place, losses are means, scores are the same for any
number of processes."""

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import helpers
from allometry.config.run import RunConfig
from allometry.config.task import EVALUATED_TOKENS, TaskConfig
from allometry.data.corpus import Corpus, save_corpus
from allometry.data.shards import fingerprint
from allometry.data.task_data.sample_set import Samples, split_samples
from allometry.data.task_data.text_pairs import encode_pair
from allometry.errors import UserError
from allometry.files import write_json
from allometry.lm.decoder import build
from allometry.lm.distillation.teacher import teacher_in
from allometry.lm.families import family_of
from allometry.lm.modules.count_member import member
from allometry.lm.modules.module_code import read_code
from allometry.lm.training.write_record import save_weights
from allometry.tasks.catalog import TASKS, task_named
from allometry.tasks.text import TextTask
from helpers.builders import run_config

RUN = run_config(model={"vocab_size": 256, "context": 32}, seed=3)
NETS = Path(helpers.__file__).parent / "small_net.py"


@pytest.fixture(scope="module")
def corpus():
    text = np.random.default_rng(0).integers(0, 255, 30_000).astype(np.uint8)
    mark = fingerprint([text[:9_000]], [text[9_000:]], "")
    return Corpus(text[:9_000], text[9_000:], "made", mark, 1, 0, 0)


def samples_of(name: str) -> Samples:
    rng = np.random.default_rng(1)
    if name == "images":
        facts = {"shape": [1, 8, 8], "classes": 4}
        return split_samples(
            name, "made", {"x": rng.random((600, 1, 8, 8), np.float32), "y": rng.integers(4, size=600)}, facts
        )
    words = rng.integers(97, 122, (600, 2, 12), np.uint8)  # all of one length: a mean over rows is one over bytes
    arrays = {"row": np.stack([encode_pair(bytes(a), bytes(b), 32) for a, b in words])}
    if name == "questions":
        wrong = [np.roll(words[:, 1], k, 0) for k in range(1, 4)]
        answers = [words[:, 1], *wrong]
        arrays["choices"] = np.stack(
            [np.stack([encode_pair(bytes(words[i, 0]), bytes(one[i]), 32) for one in answers]) for i in range(600)]
        )
    return split_samples(name, "made", arrays, {})


def keep_any_teacher(folder: Path) -> str:
    """An untrained model as the teacher in a study's folder; its fingerprint."""
    folder.mkdir()
    save_weights(folder / "model.safetensors", build(RUN.model, 7), RUN)
    facts = teacher_in(folder / "model.safetensors", "made").facts
    write_json(folder / "teacher.json", asdict(facts))
    return facts.fingerprint


@pytest.fixture(scope="module", params=TASKS)
def case(request, corpus, tmp_path_factory):
    """The folder of a task's data, and a run on them."""
    folder = tmp_path_factory.mktemp("study") / "corpus"
    if request.param in ("text", "audio", "distilled_text"):
        save_corpus(corpus, folder)
        kind, taught = TaskConfig.kinds[request.param], request.param == "distilled_text"
        more = {"teacher": keep_any_teacher(folder.parent / "teacher")} if taught else {}
        task = kind.parse({"name": request.param, "source": "made", "fingerprint": corpus.fingerprint} | more)
        return folder, RunConfig(model=RUN.model, task=task, train=RUN.train)
    samples = samples_of(request.param)
    samples.save(folder)
    task = samples.task()
    model = RUN.model if request.param != "images" else member(read_code(f"{NETS}:mlp"), 8, task, 0, {}, "sp")
    return folder, RunConfig(model=model, task=task, train=RUN.train)


@pytest.fixture(scope="module")
def folder(case):
    return case[0]


@pytest.fixture(scope="module")
def run(case):
    return case[1]


@pytest.fixture(scope="module")
def opened(case):
    """A task of each name: on data in a folder."""
    return source(case[1]).open(case[0])(case[1])


def source(run):
    return task_named(run.task.name)


class Logits(torch.nn.Module):
    """A model that is no language model of ours: from tokens to logits, without losses of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, tokens):
        return self.inner(tokens)


@pytest.fixture(params=["own losses", "logits"])
def model(request, run):
    inner = family_of(run.model).build(run.model, 0)
    return inner if request.param == "own losses" else Logits(inner)


def test_it_is_that_of_the_run(opened, run):
    assert opened.name == run.task.name
    assert opened.fingerprint == run.task.fingerprint
    assert opened.unit == run.task.unit


def test_a_batch_is_a_pure_function_of_its_place(opened, folder, run):
    whole = opened.batch(5, 8)
    assert all(len(part) == 8 and part.device.type == "cpu" for part in whole)
    again = source(run).open(folder)(run)  # another object, which was asked for other places before
    again.batch(100, 3)
    for pieces in ([(5, 8)], [(5, 3), (8, 5)], [(5 + row, 1) for row in range(8)]):
        parts = zip(*(again.batch(*piece) for piece in pieces), strict=True)
        assert all(torch.equal(torch.cat(part), expected) for part, expected in zip(parts, whole, strict=True))


def test_another_seed_has_another_order(opened, folder, run):
    other = source(run).open(folder)(run.with_train(seed=4))
    assert not torch.equal(opened.batch(0, 8)[0], other.batch(0, 8)[0])


def test_a_loss_is_the_mean_over_its_rows_and_near_a_guess_at_first(opened, model):
    whole = opened.loss(model, opened.batch(0, 4))
    rows = [opened.loss(model, opened.batch(row, 1)).item() for row in range(4)]
    assert whole.requires_grad
    assert whole.item() == pytest.approx(np.mean(rows), rel=1e-6)
    assert whole.item() == pytest.approx(opened.guess, rel=0.2)


class Recorded:
    """One of several processes in turn: its part, and the sum of the parts of those before it."""

    def __init__(self, rank, size, parts):
        self.rank, self.size, self.parts = rank, size, parts

    def sum(self, values):
        self.parts.append(values.clone())
        return torch.stack(self.parts).sum(0)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_scores_are_the_same_for_any_number_of_processes(opened, model, size):
    alone, parts = opened.evaluate(model), []
    for rank in range(size):
        shared = opened.evaluate(model, Recorded(rank, size, parts))
    assert shared == alone  # of the last, which has the sum of all, to the bit
    assert next(iter(alone)) == "loss"
    assert all(math.isfinite(score.value) and score.error >= 0 for score in alone.values())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("size", [3, 7])
def test_every_process_asks_the_model_equally_often(opened, model, size):
    """A sharded model computes only where all processes do."""
    calls = [0] * size
    for rank in range(size):
        counter = model.register_forward_hook(lambda *_, rank=rank: calls.__setitem__(rank, calls[rank] + 1))
        opened.evaluate(model, Recorded(rank, size, []))
        counter.remove()
    assert len(set(calls)) == 1


def test_a_stand_in_has_the_same_shapes_and_needs_no_data(opened, model, run):
    other = source(run).stand_in(run)
    rows = max(1, run.train.batch_tokens // run.model.row_tokens)
    for mine, theirs in zip(opened.batch(0, rows), other.batch(0, rows), strict=True):
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
    other.loss(model, other.batch(0, rows)).backward()


def test_a_run_that_was_planned_for_other_data_is_refused(folder, run):
    other = run.model_copy(update={"task": run.task.model_copy(update={"fingerprint": "other"})})
    with pytest.raises(UserError, match=r"planned for other (text|images|pairs)"):
        source(run).open(folder)(other)


def test_an_unknown_task_is_one_line():
    with pytest.raises(
        UserError, match=r"chess: not one of the tasks \(text, .*\), and no installed package declares it"
    ):
        task_named("chess")


# ---- text


def test_the_loss_of_text_is_to_the_bit_the_mean_over_windows_in_double_precision(corpus):
    task, model = TextTask.of(corpus, RUN), build(RUN.model, 0)
    rows = EVALUATED_TOKENS // task.context
    batches = zip(*(side.split(rows) for side in task.held_out), strict=True)
    per_window = torch.cat([model.token_losses(*batch).mean(1) for batch in batches]).double()
    score = task.evaluate(model)["loss"]
    assert score.value == per_window.mean().item()
    assert score.error == per_window.std(correction=0).item() / math.sqrt(len(per_window))
