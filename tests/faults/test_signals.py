"""Ctrl-C and SIGTERM: once saves and leaves, twice leaves at once; a worker that is killed is replaced."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from allometry.data.corpus import save_corpus
from allometry.runs import saved_states
from allometry.runs.engines.local import LocalEngine
from allometry.runs.job import Job
from allometry.runs.study import Study
from helpers import trials
from helpers.builders import drawn_words, run_toml, study_toml


@pytest.fixture
def text(tmp_path):
    return drawn_words(tmp_path / "words.txt", 3000)


def command(name, text, folder):
    toml = folder / "what.toml"
    study = study_toml(text, widths=[16, 24], tokens=[3_000_000], sweep=False)
    toml.write_text(run_toml(text, 30_000_000) if name == "train" else study)
    what = ["--data", "stdlib", "--minutes", "6"] if name == "quickstart" else [str(toml)]
    yes = [] if name == "train" else ["--yes"]
    return [sys.executable, "-m", "allometry.cli.app", name, *what, "--out", str(folder / "s"), *yes]


def children(pid):
    """The processes that a process has started, and those that they have."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            child = int(stat.parent.name)
            found += [child, *children(child)]
    return found


def start(name, text, folder):
    """The command, when its training is under way."""
    process = subprocess.Popen(
        command(name, text, folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores Ctrl-C
    )
    while not list((folder / "s").glob("runs/*/attempts.jsonl")):
        time.sleep(0.1)
        assert process.poll() is None, process.stderr.read()
    time.sleep(0.5)
    return process


COMMANDS = ["ladder", "quickstart", "train"] if trials.LONG else ["train"]


ONCE = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


@pytest.mark.parametrize(("number", "status"), ONCE if trials.LONG else ONCE[:1])
@pytest.mark.parametrize("name", COMMANDS)
def test_once_saves_and_leaves(text, tmp_path, name, number, status):
    process = start(name, text, tmp_path)
    workers = children(process.pid)
    assert workers
    # A terminal sends it to all of them, `kill` to one.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    lines = [line for line in err.splitlines() if line.startswith("allometry:")]
    assert len(lines) == 1
    assert "the same command again continues" in lines[0]
    assert "Traceback" not in err
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    saved = [saved_states.newest(folder) for folder in tmp_path.glob("s/trunks/*")]
    assert saved
    assert all(saved)


@pytest.mark.parametrize("name", COMMANDS)
def test_twice_leaves_at_once_and_leaves_no_process_behind(text, tmp_path, name):
    process = start(name, text, tmp_path)
    workers = children(process.pid)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)  # one that takes for ever to save
    os.kill(process.pid, signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None
    begin = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begin < 15
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


def test_a_worker_that_is_killed_is_replaced_aloud(tmp_path):
    where, calm = trials.study(tmp_path / "s"), trials.study(tmp_path / "calm")
    lengths = (1_600, 8_000)
    trials.calm(calm, *lengths)
    save_corpus(trials.TEXT, where.corpus_path)
    notes, killed = [], []
    with LocalEngine(workers=1) as engine:

        def on_event(event):
            if event["event"] == "recorded" and not killed:  # the longer one is under way
                killed.append(event["id"])
                os.kill(engine._processes[0].pid, signal.SIGKILL)
            if event["event"] == "note":
                notes.append(event["text"])

        engine.train(where, [Job(tuple(trials.configs(*lengths)), "ladder")], on_event)
    assert killed
    assert len(notes) == 1
    assert "killed, out of memory perhaps" in notes[0]
    assert "another goes on with trunk" in notes[0]
    assert trials.weights(Study.open(where.path)) == trials.weights(calm)
