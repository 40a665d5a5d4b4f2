"""Texts, names, manifests and configurations that will not do: one line, status 2, and nothing half-written."""

import hashlib
import json
import pickle
import random

import numpy as np
import pytest

from allometry.runs.study import Study
from helpers.builders import WORDS, record, run_config, word_lines

LADDER = "data = {data}\ncontext = {context}\nwidths = [16, 24]\ntokens = [10_000]\n"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """The same text by bytes and by a BPE."""
    from allometry.data.packing import prepare
    from allometry.data.sources import open_source

    folder = tmp_path_factory.mktemp("corpora")
    (folder / "text.txt").write_text(word_lines(3000))
    for name in ("bytes", "bpe:300"):
        prepare(open_source(str(folder / "text.txt")), folder / name.replace(":", ""), name)
    return folder


@pytest.fixture
def corpus(corpora, tmp_path):
    """A copy to spoil, and a ladder on it."""
    import shutil

    path = shutil.copytree(corpora / "bpe300", tmp_path / "corpus")
    ladder(tmp_path, path)
    return path


def ladder(folder, data, context=32, more=""):
    path = folder / "study.toml"
    path.write_text(LADDER.format(data=json.dumps(str(data)), context=context) + more)
    return path


def reseal(corpus, change):
    """Edit a manifest so that its own checksum fits again."""
    value = json.loads((corpus / "manifest.json").read_text())
    value.pop("checksum")
    change(value)
    checksum = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    (corpus / "manifest.json").write_text(json.dumps(value | {"checksum": checksum}))


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle ran')",))


@pytest.mark.parametrize("name", ["x.pt", "x.pkl", "x.npy", ".metadata"])
def test_a_pickle_is_never_opened_as_one(refused, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb()) + b"\0\xff")
    assert "no text in it" in refused("data", path, "--out", tmp_path / "c")
    assert "no text in it" in refused("ladder", ladder(tmp_path, path), "--out", tmp_path / "s")
    for command in (("fit", path), ("train", path), ("plan", path, "--flops", "1e20"), ("report", path)):
        assert name in refused(*command)
    assert not (tmp_path / "c").exists()
    assert not (tmp_path / "s").exists()


def test_weights_that_are_a_pickle(refused, tmp_path):
    made = record(run_config())
    study = Study.create(tmp_path / "s", {"study": {}})
    study.save(made, [])
    study.weights_path(made.id).write_bytes(pickle.dumps(Bomb()))
    assert "damaged" in refused("generate", tmp_path / "s")


@pytest.mark.parametrize("name", ["../elsewhere", "x" * 300, "a\0b", "/no/such/text", "..\\x", "<b>&"])
def test_names_that_lead_nowhere(refused, tmp_path, name):
    place = tmp_path / "inner"
    place.mkdir()
    assert refused("ladder", ladder(place, name), "--out", place / "s")
    (place / "run.toml").write_text(
        f"data = {json.dumps(name)}\n[model]\nwidth = 16\nlayers = 1\nhidden = 16\n[train]\ntokens = 9\n"
        "batch_tokens = 9\nlr = 1\n"
    )
    assert refused("train", place / "run.toml", "--out", place / "s")
    assert sorted(path.name for path in place.iterdir()) == ["run.toml", "study.toml"]
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]


@pytest.mark.parametrize("name", ["../x", "x" * 300, "..", "*", ""])
def test_runs_of_names_that_are_none(refused, tmp_path, name):
    Study.create(tmp_path / "s", {"study": {}})
    refused("generate", f"{tmp_path}/s/{name}")


def test_an_out_whose_name_is_too_long(refused, corpora, tmp_path):
    assert refused("data", corpora / "text.txt", "--out", tmp_path / ("x" * 300))
    assert refused("ladder", ladder(tmp_path, corpora / "bytes"), "--out", tmp_path / ("x" * 300), "--yes")


def test_an_endless_line_and_line_ends_train_like_any_text(cli, tmp_path):
    (tmp_path / "line.txt").write_text(" ".join(random.Random(0).choices(WORDS, k=30_000)))
    (tmp_path / "crlf.txt").write_bytes(word_lines(4000).replace("\n", "\r\n").encode())
    for name, said in (("line", "1 document,"), ("crlf", "CRLF")):
        status, out, err = cli("data", tmp_path / f"{name}.txt", "--out", tmp_path / name)
        assert status == 0, err
        assert said in out + err


SPOILT = {
    "was edited after": lambda corpus: (corpus / "manifest.json").write_text(
        (corpus / "manifest.json").read_text().replace('"documents": 1', '"documents": 2', 1)
    ),
    "the text changed": lambda corpus: reseal(corpus, lambda value: value["train"][0].update(tokens=5)),
    "the text changed since": lambda corpus: reseal(corpus, lambda value: value["train"][0].update(sha256="0" * 64)),
    "not the tokens": lambda corpus: reseal(corpus, lambda value: value["train"][0].update(largest=3)),
    "names files or types": lambda corpus: reseal(corpus, lambda value: value.update(dtype="object")),
    "names files or types that no": lambda corpus: reseal(
        corpus, lambda value: value["train"][0].update(name="../train-00000.bin")
    ),
    "not the tokenizer": lambda corpus: (corpus / "tokenizer.json").write_text("{}"),
    "not the tokenizer that": lambda corpus: reseal(corpus, lambda value: value["tokenizer"].update(sha256="1" * 64)),
    "does not have 100 entries": lambda corpus: reseal(corpus, lambda value: value["tokenizer"].update(vocab_size=100)),
    "does not have 400 entries": lambda corpus: reseal(corpus, lambda value: value["tokenizer"].update(vocab_size=400)),
    "written by another version": lambda corpus: reseal(corpus, lambda value: value.update(format=9)),
    "no corpus that can be read": lambda corpus: reseal(corpus, lambda value: value.pop("tokenizer")),
    "no corpus that can be read here": lambda corpus: (corpus / "manifest.json").write_bytes(b"\x80\x04K\x01."),
}


@pytest.mark.parametrize("message", SPOILT)
def test_a_prepared_folder_that_was_changed(refused, corpus, tmp_path, message):
    SPOILT[message](corpus)
    assert message in refused("ladder", tmp_path / "study.toml", "--out", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_shards_of_another_tokenizer(refused, corpora, corpus, tmp_path):
    """Tokens of bytes under the manifest of a BPE: the hashes tell."""
    (corpus / "train-00000.bin").write_bytes((corpora / "bytes" / "train-00000.bin").read_bytes())
    assert "the text changed" in refused("ladder", tmp_path / "study.toml", "--out", tmp_path / "s")


def test_a_context_longer_than_the_text(refused, corpora, tmp_path):
    tokens = len(np.fromfile(corpora / "bytes" / "heldout-00000.bin", "u1"))
    toml = ladder(tmp_path, corpora / "bytes", context=tokens)
    message = refused("ladder", toml, "--out", tmp_path / "s", "--yes")
    assert f"{tokens} tokens of held-out text are too few for a context of {tokens}" in message
    assert not (tmp_path / "s").exists()


def test_a_key_misspelt_is_told_the_nearest(refused, corpora, tmp_path):
    toml = ladder(tmp_path, corpora / "bytes", more="batch_token = 512\n")
    assert "unknown key 'batch_token' (did you mean 'batch_tokens'?)" in refused("ladder", toml)
    toml.write_text('data = "x"\n[model]\nwidht = 16\n[train]\n')
    assert "unknown key 'model.widht' (did you mean 'width'?)" in refused("train", toml)


def test_a_study_of_another_version(refused, corpora, tmp_path, monkeypatch):
    """Its runs are refused by the record, its ladder by the settings."""
    toml = ladder(tmp_path, corpora / "bytes")
    from allometry.config.study import StudyConfig
    from allometry.workflow.prepare import begin_study

    study, _ = begin_study(StudyConfig.read(toml), tmp_path / "s")
    study.save(record(run_config()), [])
    for module in ("config.training", "workflow.prepare"):
        monkeypatch.setattr(f"allometry.{module}.TRAINER_VERSION", 99)
    assert "of the trainer, and this is 99" in refused("ladder", toml, "--out", tmp_path / "s", "--yes")
    assert "an older version trained it" in refused("generate", tmp_path / "s")
    assert "an older version trained it" in refused("report", tmp_path / "s")
