"""``allometry audit`` as a user meets it: a table, a status that says ok or not, one line where it cannot be done."""

import json
import sys

import pytest
import torch

from allometry.cli import audit as audits

MODELS = """
import torch
from torch import nn as plain
from allometry import nn

def good():
    model = plain.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Readout(32, 8))
    return model, (torch.randn(64, 32), torch.arange(64) % 8)

def bad():
    return plain.Linear(32, 8), (torch.randn(64, 32), torch.arange(64) % 8)

def with_loss():
    return plain.Linear(32, 8), torch.randn(64, 32), lambda output: output.square().mean()

def one():
    return plain.Linear(32, 8)

def raises():
    raise KeyError("no such\\nkey")

def mismatch():
    return plain.Linear(3, 3), torch.randn(2, 4)

class Broken(plain.Module):
    def forward(self, x):
        return x.nothing

def broken():
    return Broken(), torch.randn(2, 4)

def wide(width):
    layers = nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.Readout(width, 4)
    return plain.Sequential(*layers), (torch.randn(8, 8), torch.arange(8) % 4)

def drifts(width):
    layers = plain.Linear(8, width), plain.ReLU(), plain.Linear(width, width), plain.Linear(width, 4)
    return plain.Sequential(*layers), (torch.randn(8, 8), torch.arange(8) % 4)

number = 3
"""


def line_of(words):
    return next(number for number, line in enumerate(MODELS.splitlines(), 1) if words in line)


@pytest.fixture
def cli(cli, monkeypatch, tmp_path):
    """``allometry audit`` in a folder that has ``models.py``: (status, standard output, standard error)."""
    (tmp_path / "audited_models.py").write_text(MODELS)
    (tmp_path / "audited_import.py").write_text("import nothing_there")
    (tmp_path / "audited_syntax.py").write_text("x = = 1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    torch.manual_seed(0)

    def run(*arguments):
        for name in [name for name in sys.modules if name.startswith("audited_")]:
            monkeypatch.delitem(sys.modules, name)
        return cli("audit", *arguments)

    return run


def test_a_healthy_model_gives_a_table_and_status_0(cli):
    status, out, err = cli("audited_models:good")
    assert (status, err) == (0, "next: allometry audit audited_models:good --steps 20\n")
    assert out.startswith("Sequential: ok, ")
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("target", ["audited_models:bad", "audited_models.py:bad", "audited_models:with_loss"])
def test_an_unhealthy_one_gives_its_failures_and_status_1(cli, target):
    status, out, _ = cli(target)
    assert status == 1
    assert out.startswith("Linear: ")
    assert "take allometry's nn.Linear" in out


def test_json_is_the_dict_and_nothing_else(cli):
    status, out, _ = cli("audited_models:bad", "--json", "--steps", 2)
    value = json.loads(out)
    assert (status, value["ok"]) == (1, False)
    assert {row["step"] for row in value["rows"]} == {0, 2}


def test_the_coordinate_check(cli):
    asked = ("audited_models:wide", "--coord-check", "--widths", "32,64", "--lr", "0.03")
    status, out, err = cli(*asked)
    assert status == 0, out
    assert err == f"next: allometry audit {' '.join(asked)} --steps 20\n"
    status, out, _ = cli("audited_models:drifts", "--coord-check", "--widths", "32, 64", "--json")
    assert status == 1
    assert json.loads(out)["widths"] == [32, 64]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nomodule:f"], "nomodule: no such module, looked for from "),
        (["nofile.py:f"], "nofile.py: no such file"),
        (["audited_models:nothing"], "nothing must be a function of audited_models; there is none"),
        (["audited_models:number"], "number must be a function of audited_models; it is int"),
        (["audited_models:one"], "returned Linear; return (model, batch) or (model, batch, loss)"),
        (
            ["audited_models:raises"],
            f"raised KeyError: 'no such\\nkey' (audited_models.py, line {line_of('raise ')})",
        ),
        (["audited_models:mismatch"], "shapes cannot be multiplied"),
        (["audited_models:broken"], f"no attribute 'nothing' (audited_models.py, line {line_of('x.nothing')})"),
        (["audited_models:wide"], "missing 1 required positional argument: 'width'"),
        (["audited_import:f"], "No module named 'nothing_there' (audited_import.py, line 1)"),
        (["audited_syntax:f"], "SyntaxError"),
        (["audited_models:"], "write module:function"),
        (["nothing"], "nothing: neither a study nor a run of one, nor module:function"),
        (["nothing", "--coord-check"], "--coord-check needs module:function"),
        (["audited_models:good", "--widths", "32"], "--widths: only with --coord-check"),
        (["audited_models:wide", "--coord-check", "--widths", "32"], "widths: [32]"),
        (["audited_models:wide", "--coord-check", "--widths", "a,b"], "--widths: 'a' is not a number"),
        (["audited_models:good", "--steps", "-1"], "--steps"),
    ],
)
def test_what_cannot_be_audited_is_one_line_and_status_2(cli, arguments, says):
    status, out, err = cli(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("allometry: ")
    assert err.count("\n") == 1
    assert says in err


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with one run that was never trained: its weights are the initial ones."""
    from allometry.config.model import DecoderConfig
    from allometry.config.run import RunConfig
    from allometry.config.task import TextConfig
    from allometry.config.training import TRAINER_VERSION, TrainConfig
    from allometry.data.corpus import read_corpus, save_corpus
    from allometry.lm.decoder import build
    from allometry.lm.training.write_record import save_weights
    from allometry.runs.record import RunRecord, environment, now
    from allometry.runs.study import Study

    folder = tmp_path_factory.mktemp("audited")
    text = folder / "text.txt"
    text.write_text("\n".join(f"line {number} of {number**3}" for number in range(9000)))
    corpus = read_corpus(str(text))
    task = TextConfig(source=str(text), fingerprint=corpus.fingerprint)
    config = RunConfig(
        model=DecoderConfig(width=32, layers=2, hidden=64, context=32),
        task=task,
        train=TrainConfig(tokens=2048, batch_tokens=512, lr=0.1),
    )
    settings = {"data": str(text), "fingerprint": corpus.fingerprint, "trainer": TRAINER_VERSION}
    made = Study.create(folder / "study", settings)
    save_corpus(corpus, made.corpus_path)
    save_weights(made.weights_path(config.id), build(config.model, 0), config)
    record = RunRecord(
        run=config,
        kind="ladder",
        status="finished",
        loss=5.0,
        loss_se=0.1,
        train_loss=5.0,
        seconds=1.0,
        flops_spent=1,
        tokens_per_second=1.0,
        finished_at=now(),
        environment=environment(1),
        note="",
    )
    made.save(record, [])
    return made, config.id


def test_a_run_is_audited_on_its_studys_held_out_text(cli, study):
    made, run = study
    status, out, err = cli(f"{made.path}/{run[:4]}")
    assert status == 0
    assert err.splitlines() == [f"run {run}", f"next: allometry audit {made.path}/{run[:4]} --steps 20"]
    assert out.startswith("LanguageModel: ok, ")
    assert cli(made.path)[1] == out  # the study's best run


def test_a_weights_file_is_a_run_too(cli, study):
    made, run = study
    status, out, _ = cli(made.weights_path(run))
    assert status == 0
    assert out == cli(made.path)[1]


def test_without_the_text_it_takes_random_tokens_and_says_so(cli, study):
    made, _ = study
    corpus = made.corpus_path / "manifest.json"
    kept = corpus.read_bytes()
    corpus.unlink()
    try:
        status, out, err = cli(made.path)
    finally:
        corpus.write_bytes(kept)
    assert status == 0, out
    assert "random tokens instead" in err


def test_a_mistake_of_ours_is_no_message_to_the_user(cli, monkeypatch):
    monkeypatch.setattr("allometry.nn.checks.probe.FORMATS", {"E4M3": None})
    with pytest.raises(AttributeError, match="NoneType"):
        cli("audited_models:good")


def test_the_command_is_thin():
    """Torch is loaded by running the command, not by asking for help."""
    assert "torch" not in vars(audits)
