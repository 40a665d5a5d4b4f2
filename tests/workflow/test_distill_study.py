"""A study's rungs taught by a larger run, by the command's function: found again, fitted, and what is refused."""

import importlib.util
import json

import numpy as np
import pytest

from allometry import laws
from allometry.data.corpus import Corpus
from allometry.data.tokenizer import Bytes
from allometry.errors import UserError
from allometry.ladder.recipe import Recipe
from allometry.ladder.shape import shape
from allometry.lm.distillation.teacher import find_teacher
from allometry.lm.export.hugging_face_folder import write_hugging_face
from allometry.lm.generate import load_model
from allometry.runs.study import Study
from allometry.workflow.models.distill_study import distill
from allometry.workflow.own_ladder.ladder_forecast import own_ladder
from allometry.workflow.prepare import open_or_begin
from helpers.builders import word_lines
from helpers.training import train

CONTEXT = 32


@pytest.fixture(scope="module")
def corpus():
    text = np.frombuffer(word_lines(2000).encode(), np.uint8)
    return Corpus(text[:70_000], text[70_000:80_000], "words", "words", 1, 0, 0)


@pytest.fixture(scope="module")
def study(corpus, tmp_path_factory):
    """Two rungs of one trunk, and a larger run to teach them."""
    study = open_or_begin(tmp_path_factory.mktemp("studies") / "study", {"study": {}}, corpus, lambda event: None)
    run = lambda width, tokens: Recipe(lr=0.4, batch_tokens=256).run(
        shape(width, context=CONTEXT), corpus.task("words"), tokens, 0
    )
    train([run(16, 6_000), run(16, 12_000)], corpus, study)
    train([run(24, 20_000)], corpus, study, "run")
    return study


def teacher_of(study):
    return next(record for record in study.records("run"))


def test_rungs_are_taught_each_beside_its_run_alone(study, tmp_path):
    out = tmp_path / "taught"
    distilled = distill(study.path, f"{study.path}/{teacher_of(study).id}", out, share=0.5)
    assert [student.taught.tokens for student in distilled.students] == [r.tokens for r in study.records("ladder")]
    for student in distilled.students:
        assert student.taught.flops == student.alone.flops
        assert student.taught.config.train == student.alone.config.train
        assert student.taught.config.task.teacher_loss == distilled.teacher_loss
        assert student.taught.loss != student.alone.loss
    # a trunk is read once, and each of its decays
    first, second = (student.taught.config for student in distilled.students)
    decay = lambda run: run.tokens - run.schedule.tokens_before(run.schedule.decay_start)
    assert distilled.teacher_flops == pytest.approx(
        teacher_of(study).config.decoder.flops_per_token / 3 * (second.tokens + decay(first))
    )
    rows = Study(out).rows()
    assert {row["teacher_params"] for row in rows} == {teacher_of(study).num_params}
    assert laws.Observations.read(out).loss.tolist() == sorted((r["loss"] for r in rows), reverse=True)
    table = (out / "students.csv").read_text().splitlines()
    assert table[0] == "num_params,tokens,teacher_loss,loss_alone,loss"
    assert [float(line.split(",")[-1]) for line in table[1:]] == [s.taught.loss for s in distilled.students]
    assert own_ladder(out) == []  # earlier studies without a teacher say nothing about it
    again = distill(study.path, f"{study.path}/{teacher_of(study).id}", out, share=0.5)
    assert json.dumps(again.to_json()) == json.dumps(distilled.to_json())
    assert load_model(Study(out), distilled.students[0].taught).config.width == 16
    with pytest.raises(UserError, match="another --out"):
        distill(study.path, f"{study.path}/{teacher_of(study).id}", out, share=0.6)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"widths": (99,)}, "no finished rung of width 99"),
        ({"share": 0.0}, "share"),
        ({"temperature": float("inf")}, "temperature"),
    ],
)
def test_what_cannot_be_taught_is_one_line_and_leaves_nothing(study, tmp_path, options, reason):
    with pytest.raises(UserError, match=reason) as caught:
        distill(study.path, f"{study.path}/{teacher_of(study).id}", tmp_path / "out", **options)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_teacher_no_larger_than_the_rungs_is_refused(study, tmp_path):
    smallest = study.records("ladder")[0]
    with pytest.raises(UserError, match="no rung has fewer"):
        distill(study.path, f"{study.path}/{smallest.id}", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_is_not_there_is_one_line(study, corpus, tmp_path):
    with pytest.raises(UserError, match="no such run and no such folder"):
        find_teacher(str(tmp_path / "none" / "3f2a"), corpus, CONTEXT, 256)
    with pytest.raises(UserError, match="no run with an id that begins 'zz'"):
        find_teacher(f"{study.path}/zz", corpus, CONTEXT, 256)


def test_a_teacher_of_another_tokenizer_or_a_shorter_context_is_refused(study, corpus):
    source = f"{study.path}/{teacher_of(study).id}"
    with pytest.raises(UserError, match="reads 32 tokens, but the students read 64"):
        find_teacher(source, corpus, 64, 256)
    with pytest.raises(UserError, match="vocabulary has 256 entries, and the students' 300"):
        find_teacher(source, corpus, CONTEXT, 300)
    other = Corpus(corpus.train, corpus.held_out, "words", "words", 1, 0, 0, tokenizer="bpe:300", vocab_size=300)
    with pytest.raises(UserError, match="its tokenizer is bytes, and that of the students is bpe:300") as caught:
        find_teacher(source, other, CONTEXT, 300)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_an_exported_model_teaches_as_the_run_itself(study, corpus, tmp_path):
    import torch

    record = teacher_of(study)
    write_hugging_face(load_model(study, record, precision="fp32"), Bytes(), tmp_path / "stock")
    stock, _ = find_teacher(str(tmp_path / "stock"), corpus, CONTEXT, 256)
    own, _ = find_teacher(f"{study.path}/{record.id}", corpus, CONTEXT, 256)
    tokens = torch.from_numpy(corpus.held_out[:CONTEXT].astype(np.int64))[None]
    assert torch.allclose(stock.logits(tokens, 256), own.logits(tokens, 256), atol=1e-5)
    shifted = {character: (number + 1) % 256 for character, number in _vocabulary(tmp_path / "stock").items()}
    value = json.loads((tmp_path / "stock" / "tokenizer.json").read_text())
    value["model"]["vocab"] = shifted
    (tmp_path / "stock" / "tokenizer.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match="cuts the text into other tokens"):
        find_teacher(str(tmp_path / "stock"), corpus, CONTEXT, 256)


def _vocabulary(folder):
    return json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
