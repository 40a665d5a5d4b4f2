"""A study of a prepared folder: its vocabulary, tokenizer, epochs and bits a byte are followed to the very end."""

import json
import math
import random
import shutil

import numpy as np
import pytest

from allometry import laws
from allometry.config.study import StudyConfig
from allometry.data.corpus import load_tokenizer, read_corpus
from allometry.ladder.recipe import Recipe
from allometry.ladder.shape import shape
from allometry.runs.study import Study
from allometry.workflow.prepare import begin_study, design_of
from helpers.training import train

STUDY = """
data = "{data}"
context = 32
widths = [16, 24, 32]
tokens = [10_000, 20_000, 40_000]
sweep = false
lr = 0.4
batch_tokens = 2048
"""
RUN = """
data = "{data}"
[model]
width = 32
layers = 2
hidden = 80
context = 64
[train]
tokens = {tokens}
batch_tokens = 4096
lr = 0.5
"""
# Each word is drawn evenly from 64: six bits for it and its space, 4.5 bytes on average, whatever reads it.
WORDS = sorted({"".join(random.Random(n).choices("abcdefghijklmnop", k=2 + n % 4)) for n in range(70)})[:64]
ENTROPY = 6 / (1 + sum(map(len, WORDS)) / 64)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(random.Random(0).choices(WORDS, k=90_000)))
    return path


@pytest.fixture
def done(cli):
    """Run a command that must succeed: its JSON answer and what it noted."""

    def run(*arguments):
        status, out, err = cli(*arguments)
        assert status == 0, err
        return (json.loads(out) if "--json" in arguments else out), err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture
def corpus(done, text, folder):
    """The text by a BPE, prepared once."""
    done("data", text, "--out", folder / "corpus", "--tokenizer", "bpe:400")
    return folder / "corpus"


@pytest.fixture
def study(corpus, folder):
    """Its ladder, trained once, in this process."""
    path = folder / "s"
    if not path.exists():
        (folder / "study.toml").write_text(STUDY.format(data=corpus))
        config = StudyConfig.read(folder / "study.toml")
        study, text = begin_study(config, path)
        design = design_of(study, config, text, None)
        for model in dict.fromkeys(rung.model for rung in design.rungs):
            train([rung for rung in design.rungs if rung.model == model], text, study)
        study.write("recipe.json", design.recipe.to_json())
    return path


def test_every_step_of_a_study_knows_the_vocabulary(done, study, corpus):
    path = study
    manifest = json.loads((corpus / "manifest.json").read_text())
    train_tokens = sum(shard["tokens"] for shard in manifest["train"])
    records = Study(path).records()
    assert len(records) == 9
    for record in records:
        assert record.config.model.vocab_size == 400
        assert record.config.task.tokenizer == "bpe:400"
        assert record.config.epochs == pytest.approx(record.config.tokens / train_tokens)
        assert record.loss < math.log(400)
        assert record.bits_per_byte < record.loss / math.log(2) / 2
    done("fit", path, "--law", "chinchilla")
    long, _ = done("plan", path, "--flops", "1e12", "-o", path.parent / "long.json", "--json")
    assert any(
        f"reads its corpus {long['tokens'] / train_tokens:.3g} times" in note
        for note in [*long["cautions"], *long["notes"]]
    )
    plan, _ = done("plan", path, "--flops", "3e10", "--json")
    assert plan["model"]["vocab_size"] == plan["run"]["task"]["vocab_size"] == 400
    repeats = any("reads its corpus" in note for note in [*plan["cautions"], *plan["notes"]])
    assert repeats is (plan["tokens"] > train_tokens)
    outcome, _ = done("train", path / "plan.json", "--json")
    assert outcome["bits_per_byte"] == pytest.approx(Study(path).find(outcome["run"]).bits_per_byte)
    done("report", path)
    page = (path / "report.html").read_text()
    assert "nats per token" in page
    assert "bits/byte" in page
    assert "bpe:400, 400 entries" in page


def test_a_model_writes_by_the_tokenizer_of_its_text(done, study):
    path = study
    tokenizer = load_tokenizer(path / "corpus")
    value, _ = done("generate", path, "--prompt", WORDS[5] + " " + WORDS[6], "--tokens", "60", "--json")
    assert value["text"].startswith(WORDS[5] + " " + WORDS[6])
    assert len(value["text"]) > 100  # sixty tokens are many more letters
    assert tokenizer.decode(tokenizer.encode(value["text"])) == value["text"]
    written = value["text"].split()[2:-1]
    assert sum(word in WORDS for word in written) > len(written) / 2


def test_a_law_can_be_fitted_to_bits_a_byte(done, study):
    path = study
    plain, _ = done("fit", path, "--law", "chinchilla", "-o", path.parent / "nats.json", "--json")
    bits, _ = done("fit", path, "--law", "chinchilla", "--column", "loss=bits_per_byte", "--json")
    records = Study(path).records("ladder")
    assert laws.Observations.read(path).column("bits_per_byte").tolist() == [r.bits_per_byte for r in records]
    record = records[0]
    factor = record.bits_per_byte / record.loss
    # The floor by the scale of the loss: the data may put it at zero, and a solver then stops anywhere near.
    assert bits["values"]["E"] == pytest.approx(plain["values"]["E"] * factor, abs=1e-4 * record.bits_per_byte)
    assert bits["values"]["beta"] == pytest.approx(plain["values"]["beta"], rel=1e-3)
    in_nats, in_bits = (laws.Fit.from_json(one) for one in (plain, bits))
    n, d = ([getattr(one.config, name) for one in records] for name in ("num_params", "tokens"))
    for times in (1, 30):  # at the runs, and far beyond them
        points = np.multiply(times, n), np.multiply(times, d)
        assert in_bits.predict(*points).value == pytest.approx(in_nats.predict(*points).value * factor, rel=1e-4)


def test_bits_a_byte_compare_bytes_and_subwords(text, corpus, tmp_path):
    found = {}
    for data, tokens in ((text, 150_000), (corpus, 80_000)):
        read = read_corpus(str(data))
        recipe = Recipe(lr=0.7, batch_tokens=4096)
        run = recipe.run(shape(32, 64, read.vocab_size), read.task(str(data)), tokens, 0)
        study = Study.create(tmp_path / read.tokenizer, {"study": {}})
        train([run], read, study, kind="run")
        found[read.tokenizer] = study.record(run.id)
    assert found["bpe:400"].loss > 1.8 * found["bytes"].loss  # nats a token say nothing
    for record in found.values():
        assert 0.97 * ENTROPY < record.bits_per_byte < 1.25 * ENTROPY


def test_another_text_or_tokenizer_in_the_study_is_refused(done, cli, study, text, tmp_path):
    path = shutil.copytree(study, tmp_path / "s")
    done("data", text, "--out", tmp_path / "other", "--tokenizer", "bpe:300")
    shutil.rmtree(path / "corpus")
    shutil.copytree(tmp_path / "other", path / "corpus")
    status, out, err = cli("generate", path, "--prompt", "x")
    assert (status, out) == (2, "")
    assert "not the text and the tokenizer that run" in err
    assert len(err.splitlines()) == 1
    (path / "corpus" / "tokenizer.json").write_text("{}")
    status, _, err = cli("generate", path, "--prompt", "x")
    assert status == 2
    assert "not the tokenizer that the shards were packed with" in err


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(cli, corpus, tmp_path):
    toml = tmp_path / "run.toml"
    toml.write_text(RUN.format(data=corpus, tokens=1000).replace("[train]", "vocab_size = 256\n[train]"))
    status, _, err = cli("train", toml)
    assert status == 2
    assert "vocab_size 256: the text was packed by bpe:400" in err
    assert not (tmp_path / "run").exists()
