"""Claims: a trunk has one owner at a time, and a process that wakes late is refused."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from allometry.data.corpus import save_corpus
from allometry.files import lock_file
from allometry.runs import claims
from allometry.runs.claims import Fenced, Observer, Taken, take
from helpers import trials
from helpers.builders import study_toml

STALE = 0.6


@pytest.fixture
def impatient(monkeypatch):
    """A beat that stands still for less than a second is a dead one."""
    monkeypatch.setattr(claims, "STALE_SECONDS", STALE)


def until(what, seconds=20):
    """What it gives, as soon as that is neither None nor false."""
    deadline = time.monotonic() + seconds
    while (value := what()) is None or value is False:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def everything(where):
    """Every file of a study that a training may write, and its content."""
    return {path: path.read_bytes() for path in where.path.rglob("*") if path.is_file() and path.name != ".lock"}


def stop_outside_the_lock(process, lock):
    """Stop a process at a moment when others can look at the claims; while it holds the lock they cannot."""

    def stopped():
        os.kill(process, signal.SIGSTOP)
        os.waitpid(process, os.WUNTRACED)
        with open(lock, "a") as file, contextlib.suppress(BlockingIOError):
            lock_file(file, wait=False)
            return True
        os.kill(process, signal.SIGCONT)
        return False

    until(stopped)


@pytest.mark.parametrize("finished", [False, True], ids=["under way", "finished"])
def test_a_stopped_process_that_wakes_is_refused_and_writes_nothing(tmp_path, impatient, finished):
    calm, where = trials.study(tmp_path / "calm"), trials.study(tmp_path / "s")
    trials.calm(calm)
    trunk = trials.configs()[0].trunk
    sleeper = trials.fork(lambda: trials.go_on(where, report=lambda progress: time.sleep(0.1)))
    until(lambda: any(where.path.glob("trunks/*/step-*")))
    stop_outside_the_lock(sleeper, where.claims_path / ".lock")
    observer = Observer(where.claims_path)
    assert observer.free(trunk) is None
    with pytest.raises(Taken):
        take(where.claims_path, trunk)
    follows = until(lambda: observer.free(trunk))
    assert follows == 1
    if finished:
        trials.go_on(where, follows=follows)
        before = everything(where)
        os.kill(sleeper, signal.SIGCONT)
        assert trials.wait(sleeper) == 3  # Fenced
    else:
        with where.claim(trunk, follows).kept() as claim:
            before = everything(where)
            os.kill(sleeper, signal.SIGCONT)
            assert trials.wait(sleeper) == 3
            assert claim.attempt == 2
            del before[claim.path]  # beats
            after = everything(where)
            after.pop(claim.path)
            assert after == before
        trials.go_on(where)
        before = everything(where)
    assert everything(where) == before
    assert trials.weights(where) == trials.weights(calm)
    ends = [event for run in trials.weights(where) for event in where.attempts(run) if event["event"] == "finished"]
    assert len(ends) == len(trials.LENGTHS)
    assert all(event["attempt"] == 2 + (not finished) for event in ends)


def test_the_claim_of_a_killed_process_is_free_at_once(tmp_path):
    child = trials.fork(lambda: (take(tmp_path, "t"), time.sleep(60)))
    observer = Observer(tmp_path)
    until(lambda: (tmp_path / "t.json").exists())
    assert observer.free("t") is None
    os.kill(child, signal.SIGKILL)
    until(lambda: observer.free("t") == 1)  # before it is waited for: a zombie is no owner
    assert trials.wait(child) == -signal.SIGKILL
    assert take(tmp_path, "t").attempt == 2


def test_a_process_id_that_was_given_out_again_is_no_owner(tmp_path):
    claim = take(tmp_path, "t")
    value = json.loads(claim.path.read_text())
    claim.path.write_text(json.dumps(value | {"started": "1"}))
    assert take(tmp_path, "t").attempt == 2


def test_an_owner_on_another_machine_is_given_time(tmp_path, impatient):
    claim = take(tmp_path, "t")
    value = json.loads(claim.path.read_text()) | {"machine": "another", "pid": 1}
    claim.path.write_text(json.dumps(value))
    observer, beats = Observer(tmp_path), iter(range(1, 4))
    for beat in beats:
        end = time.monotonic() + STALE / 2
        while time.monotonic() < end:
            assert observer.free("t") is None
            time.sleep(0.02)
        claim.path.write_text(json.dumps(value | {"beat": beat}))
    assert until(lambda: observer.free("t")) == 1


def test_who_has_slept_does_not_take_over_at_once(tmp_path, impatient):
    """Its own pause looks like that of the other."""
    take(tmp_path, "t")
    observer = Observer(tmp_path)
    assert observer.free("t") is None
    time.sleep(STALE * 1.5)
    assert observer.free("t") is None


def test_of_many_that_want_a_trunk_one_gets_it(tmp_path):
    children = [trials.fork(lambda: (take(tmp_path, "t", 0), time.sleep(0.3))) for _ in range(8)]
    assert sorted(trials.wait(child) for child in children) == [0] + 7 * [1]


def test_a_claim_that_is_given_back_or_damaged_can_be_followed(tmp_path):
    with take(tmp_path, "t").kept() as claim:
        pass
    assert Observer(tmp_path).free("t") == 1
    with pytest.raises(Fenced), claim:
        pytest.fail("a claim that was given back")
    assert take(tmp_path, "t", 1).attempt == 2
    with pytest.raises(Taken):
        take(tmp_path, "t", 1)
    for content in (b"", b"\x80\x04K\x01.", b"[1]", b'{"attempt": "x"}'):
        claim.path.write_bytes(content)
        assert Observer(tmp_path).free("t") == 0
        assert take(tmp_path, "t", 0).attempt == 1


PAIR = """
import sys
from pathlib import Path
from allometry.config.run import RunConfig
from allometry.runs.engines.local import LocalEngine
from allometry.runs.job import Job
from allometry.runs.study import Study

where = Study.open(Path(sys.argv[1]))
jobs = [Job(tuple(map(RunConfig.parse, group)), "ladder") for group in where.read("jobs.json")]
heard = []
with LocalEngine(workers=1) as engine:
    engine.train(where, jobs, heard.append)
told = sorted(event["id"] for event in heard if event["event"] == "recorded")
print(told == sorted(config.id for job in jobs for config in job.configs) == sorted(r.id for r in where.records()))
"""


def test_two_processes_on_one_study_share_the_work_and_do_nothing_twice(tmp_path):
    where = trials.study(tmp_path / "s")
    save_corpus(trials.TEXT, where.corpus_path)
    groups = [trials.configs(lr=lr) for lr in (0.2, 0.3, 0.4, 0.5)]
    where.write("jobs.json", [[config.to_dict() for config in group] for group in groups])
    command = [sys.executable, "-c", PAIR, str(where.path)]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in pair] == ["True\n", "True\n"]
    assert [process.returncode for process in pair] == [0, 0]
    assert len(where.records()) == 8
    for record in where.records():
        assert [event["event"] for event in where.attempts(record.id)] == ["started", "finished"]


@pytest.mark.skipif(not trials.LONG, reason="make faults")
@pytest.mark.parametrize("killed", [False, True])
def test_two_ladders_at_once_end_with_one_complete_study(tmp_path, killed):
    """Both prepare, sweep and climb; one may be killed in the middle, with all its processes."""
    text, toml = tmp_path / "text.txt", tmp_path / "study.toml"
    text.write_text("\n".join(f"{a} and {b}" for a in range(2000) for b in "abcdefghij"))
    toml.write_text(study_toml(text, widths=[16, 24, 32], tokens=[20_000, 40_000], sweep=True, batch_tokens=256))
    command = [sys.executable, "-m", "allometry.cli.app", "ladder", toml, "--out", tmp_path / "s", "--yes", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    pair = [subprocess.Popen([*map(str, command)], **pipes) for _ in range(2)]
    if killed:
        until(lambda: len(list(tmp_path.glob("s/runs/*/record.json"))) >= 3, 300)
        os.killpg(pair[0].pid, signal.SIGKILL)
    outputs = [process.communicate(timeout=390) for process in pair]
    assert [process.returncode for process in pair] == [-signal.SIGKILL if killed else 0, 0], outputs
    rows = [json.loads(out) for out, _ in outputs[killed:]]
    assert len(rows[0]) >= 10 + 6 - 2  # a run of the sweep may be a rung as well
    assert rows[-1] == rows[0]
    assert any("the work is shared" in err for _, err in outputs)
    where = trials.Study.open(tmp_path / "s")
    for record in where.records():
        events = [event["event"] for event in where.attempts(record.id)]
        assert events.count("finished") == 1
        assert events.count("started") == 1 or killed
