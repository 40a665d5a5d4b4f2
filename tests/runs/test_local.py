"""The engine: processes that train, die and are replaced, and a study that comes out the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from allometry import laws
from allometry.config.task import TextConfig
from allometry.data import corpus as corpora
from allometry.errors import UserError
from allometry.ladder.recipe import Recipe
from allometry.ladder.shape import shape
from allometry.runs.engines.local import LocalEngine
from allometry.runs.job import Job
from allometry.runs.study import Study
from helpers.builders import drawn_words

STUDY = """
data = "{text}"
context = 32
widths = [16, 24, 32]
tokens = [20_000, 40_000]
sweep = false
lr = 0.4
batch_tokens = 256
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return drawn_words(tmp_path_factory.mktemp("text") / "words.txt", 6000)


def command(study, out):
    return [sys.executable, "-m", "allometry.cli.app", "ladder", str(study), "--out", str(out), "--yes"]


def table(study):
    return {row["label"]: row["loss"] for row in study.rows()}


def test_killed_at_random_moments_and_run_again_the_study_is_that_of_an_undisturbed_one(text, tmp_path):
    toml = tmp_path / "study.toml"
    toml.write_text(STUDY.format(text=text))
    calm = subprocess.run(command(toml, tmp_path / "calm"), capture_output=True, text=True)
    assert calm.returncode == 0, calm.stderr
    rng, finished = random.Random(1), {}
    for _ in range(2):  # tests/faults has more
        process = subprocess.Popen(
            command(toml, tmp_path / "killed"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(rng.uniform(4.0, 12.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for path in (tmp_path / "killed" / "runs").glob("*/record.json"):
            stamp = json.loads(path.read_text())["finished_at"]
            assert finished.setdefault(path.parent.name, stamp) == stamp  # no finished run is repeated
    last = subprocess.run(command(toml, tmp_path / "killed"), capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    killed = Study.open(tmp_path / "killed")
    assert table(killed) == table(Study.open(tmp_path / "calm"))
    assert len(table(killed)) == 6
    one, other = (laws.fit("power", laws.Observations.read(tmp_path / name)) for name in ("calm", "killed"))
    assert one.to_json() == other.to_json()
    for run, stamp in finished.items():
        assert killed.record(run).finished_at == stamp


def small_study(path, text):
    corpus = corpora.read_corpus(str(text))
    study = Study.create(path, {"made": True})
    corpora.save_corpus(corpus, study.corpus_path)
    return study, TextConfig(source=str(text), fingerprint=corpus.fingerprint)


def test_a_job_whose_worker_is_killed_again_and_again_ends_in_one_line(text, tmp_path):
    study, data = small_study(tmp_path / "s", text)
    job = Job((Recipe().run(shape(32, 32), data, 50_000_000, 0),), "ladder")
    with LocalEngine(workers=1) as engine:
        notes = []

        def on_event(event):
            if event["event"] == "note":
                notes.append(event["text"])
            else:  # the first sign of life is the moment to kill it
                os.kill(engine._processes[0].pid, signal.SIGKILL)

        with pytest.raises(UserError, match=r"died 3 times .*out of memory perhaps.*the same command again"):
            engine.train(study, [job], on_event)
    assert len(notes) == 2
    assert study.records() == []


def test_leaving_the_engine_saves_the_training(text, tmp_path):
    study, data = small_study(tmp_path / "s", text)
    config = Recipe().run(shape(32, 32), data, 50_000_000, 0)

    class Enough(Exception):
        pass

    def on_event(event):
        if event["tokens"] > 5_000:
            raise Enough

    with pytest.raises(Enough), LocalEngine(workers=1) as engine:
        engine.train(study, [Job((config,), "ladder")], on_event)
    assert study.trunk_path(config.trunk).exists()


def test_a_workers_mistake_reaches_the_user(text, tmp_path):
    study, data = small_study(tmp_path / "s", text)
    (study.corpus_path / "train.bin").write_bytes(b"other text")
    with LocalEngine(workers=1) as engine, pytest.raises(UserError, match="text changed"):
        engine.train(study, [Job((Recipe().run(shape(16, 32), data, 20_000, 0),), "ladder")])


def test_ctrl_c_saves_and_says_how_to_go_on(text, tmp_path):
    toml = tmp_path / "study.toml"
    toml.write_text(STUDY.format(text=text).replace("40_000", "40_000_000"))
    process = subprocess.Popen(
        command(toml, tmp_path / "s"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores Ctrl-C
    )
    while not list((tmp_path / "s").glob("runs/*/record.json")):
        time.sleep(0.2)
        assert process.poll() is None, process.stderr.read()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "the same command again continues" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert list((tmp_path / "s" / "trunks").iterdir())
