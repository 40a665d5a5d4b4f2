"""A loop of one's own: nothing that was logged is lost, the same run goes on, and the record is like any other."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import allometry
from allometry import laws, workflow
from allometry.errors import UserError
from allometry.recording.points_file import read_points
from allometry.runs import claims
from allometry.runs.study import Study

FACTS = {"num_params": 1000, "batch_tokens": 512, "lr": 3e-4}


def record(study, steps=5, **facts):
    with allometry.Recorder(study, **{**FACTS, **facts}) as run:
        for step in range(run.next_step, steps):
            run.log(step=step, loss=5.0 / (step + 1), tokens=512 * (step + 1))
        return run.finish(loss=(1.5, 0.01), accuracy=0.4)


def log_and_fail(study, steps, loss):
    with allometry.Recorder(study, **FACTS) as run:
        for step in steps:
            run.log(step=step, loss=loss)
        _ = 1 / 0


def test_a_run_is_recorded_with_its_curve_and_its_scores(tmp_path):
    record(tmp_path / "s", seed=3, settings={"clip": 1.0})
    study = Study.open(tmp_path / "s")
    [kept] = study.records("ladder")
    assert (kept.num_params, kept.tokens, kept.lr, kept.batch_tokens) == (1000, 5 * 512, 3e-4, 512)
    assert (kept.loss, kept.loss_se, kept.train_loss) == (1.5, 0.01, 1.0)
    assert kept.scores["accuracy"].value == 0.4
    assert math.isnan(kept.scores["accuracy"].error)
    assert kept.flops == 6 * 1000 * 5 * 512
    assert study.curve(kept.id) == [(512 * n, 5.0 / n) for n in range(1, 6)]
    assert sorted(path.name for path in study.run_path(kept.id).iterdir()) == [
        "attempts.jsonl",
        "metrics.jsonl",
        "record.json",
    ]


def test_laws_are_fitted_to_recorded_runs(tmp_path):
    for size in (10_000, 40_000, 160_000):
        for tokens in (10**6, 4 * 10**6, 16 * 10**6):
            with allometry.Recorder(tmp_path / "s", num_params=size, tokens=tokens) as run:
                run.finish(loss=1.8 + 400 / size**0.34 + 410 / tokens**0.28)
    fit = laws.fit("chinchilla", laws.Observations.read(tmp_path / "s"))
    assert fit.predict(num_params=10**6, tokens=10**8).value == pytest.approx(
        1.8 + 400 / 1e6**0.34 + 410 / 1e8**0.28, rel=1e-3
    )


@pytest.mark.parametrize(
    "fact", [{"seed": 1}, {"lr": 1e-4}, {"name": "b"}, {"settings": {"clip": 2}}, {"tokens": 2560}]
)
def test_what_is_stated_tells_runs_apart(tmp_path, fact):
    record(tmp_path / "s")
    record(tmp_path / "s", **fact)
    assert len(Study.open(tmp_path / "s").records()) == 2


def test_the_same_run_again_is_refused_once_it_has_finished(tmp_path):
    first = record(tmp_path / "s")
    with pytest.raises(UserError, match="recorded already"):
        record(tmp_path / "s")
    assert allometry.Recorder(tmp_path / "s", **FACTS).recorded == first


def test_a_run_that_failed_goes_on_where_it_was(tmp_path):
    with pytest.raises(ZeroDivisionError):
        log_and_fail(tmp_path / "s", range(3), 3.0)
    assert Study.open(tmp_path / "s").records() == []
    with allometry.Recorder(tmp_path / "s", **FACTS) as run:
        assert run.next_step == 3
        assert run.tokens == 2 * 512
        run.finish(loss=2.0)
    events = [event["event"] for event in Study.open(tmp_path / "s").attempts(run.id)]
    assert events == ["started", "interrupted", "resumed", "finished"]


def test_a_block_that_ends_without_finish_says_so(tmp_path):
    with pytest.raises(UserError, match=r"without run\.finish"), allometry.Recorder(tmp_path / "s", **FACTS) as run:
        run.log(step=0, loss=3.0)
    with allometry.Recorder(tmp_path / "s", **FACTS) as run:
        run.finish(loss=2.0, tokens=512)
    assert Study.open(tmp_path / "s").records()[0].loss == 2.0


def test_points_that_are_logged_again_replace_those_before(tmp_path):
    for first, last, loss in ((0, 6, 5.0), (3, 8, 4.0)):
        with pytest.raises(ZeroDivisionError):
            log_and_fail(tmp_path / "s", range(first, last), loss)
    with allometry.Recorder(tmp_path / "s", **FACTS) as run:
        kept = run.finish(loss=1.0)
    losses = [loss for _, loss in Study.open(tmp_path / "s").curve(kept.id)]
    assert losses == [5.0] * 3 + [4.0] * 5


LOOP = """
import sys, allometry
with allometry.Recorder(sys.argv[1], num_params=1000, batch_tokens=512, lr=3e-4) as run:
    for step in range(run.next_step, 10**9):
        run.log(step=step, loss=1.0 + step, tokens=512 * (step + 1))
        print(step, flush=True)
"""


def loop(study, *, environment=None):
    source = str(Path(allometry.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", LOOP, str(study)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": source} | (environment or {}),
    )


def test_killed_in_the_middle_no_acknowledged_line_is_lost(tmp_path):
    acknowledged = -1
    for lines in (1, 40, 500):
        process = loop(tmp_path / "s")
        first = process.stdout.readline()
        assert int(first) in (acknowledged + 1, acknowledged + 2)  # one may be written and not read any more
        for _ in range(lines):
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split("\n")
        acknowledged = max([acknowledged, *(int(line) for line in rest[:-1])])
        process.wait()
        points = read_points(next((tmp_path / "s" / "runs").iterdir()))
        steps = [point["step"] for point in points]
        assert steps == list(range(len(steps)))
        assert acknowledged <= steps[-1] <= acknowledged + 1
        acknowledged = steps[-1]


def test_only_one_process_records_a_run(tmp_path):
    process = loop(tmp_path / "s")
    process.stdout.readline()
    with pytest.raises(UserError, match="another process records"):
        record(tmp_path / "s")
    process.kill()
    process.communicate()
    record(tmp_path / "s")


def test_one_that_was_taken_over_records_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), allometry.Recorder(tmp_path, **FACTS) as run:
        lose_it(run)
    assert Study.open(tmp_path).records() == []


def lose_it(run):
    run.log(step=1, loss=1.0)
    claims.take(run.study.claims_path, run.id, follows=1)
    for act in (lambda: run.finish(loss=1.0), lambda: run.log(step=1, loss=1.0)):
        with pytest.raises(UserError, match=r"another has taken the run over|not under way"):
            act()
    _ = 1 / 0


def test_a_claim_of_another_machine_is_taken_when_it_stopped_beating(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.5)
    record(tmp_path / "s", seed=1)
    run = allometry.Recorder(tmp_path / "s", **FACTS)
    claim = tmp_path / "s" / "claims" / f"{run.id}.json"
    claim.write_text(json.dumps({"attempt": 4, "owner": "x", "machine": "other", "pid": 1, "started": "1", "beat": 7}))
    record(tmp_path / "s")
    assert json.loads(claim.read_text())["attempt"] == 5


def test_a_claim_of_another_machine_that_beats_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "STALE_SECONDS", 2.0)
    run = allometry.Recorder(tmp_path / "s", **FACTS)
    record(tmp_path / "s", seed=1)
    claim = tmp_path / "s" / "claims" / f"{run.id}.json"
    beats = iter(range(100))

    def beat(_seconds=0):
        owner = {"owner": "x", "machine": "other", "pid": 1, "started": "1", "beat": next(beats)}
        claim.write_text(json.dumps({"attempt": 4} | owner))

    beat()
    monkeypatch.setattr(claims.time, "sleep", beat)
    with pytest.raises(UserError, match="another process records"):
        record(tmp_path / "s")


def test_under_torchrun_process_0_writes_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    kept = record(tmp_path / "s")
    assert kept.loss == 1.5
    assert not (tmp_path / "s").exists()
    monkeypatch.setenv("RANK", "0")
    record(tmp_path / "s")
    assert len(Study.open(tmp_path / "s").records()) == 1


def test_it_needs_no_torch(tmp_path):
    code = "import sys, allometry\nsys.modules['torch'] = None\n" + LOOP.replace("10**9", "3").replace(
        "print(step, flush=True)", "pass\n    run.finish(loss=2.0)"
    )
    source = str(Path(allometry.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s")], env=os.environ | {"PYTHONPATH": source}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert len(Study.open(tmp_path / "s").records()) == 1


def test_a_loss_that_is_no_number_is_a_run_that_diverged(tmp_path):
    with allometry.Recorder(tmp_path / "s", **FACTS) as run:
        run.log(step=0, loss=2.0)
        run.log(step=1, loss=float("nan"))
        run.log(step=2, loss=np.float32(np.inf), grad_norm=torch.tensor(3.0))
        kept = run.finish(loss=float("nan"))
    assert (kept.status, kept.loss) == ("diverged", None)
    study = Study.open(tmp_path / "s")
    assert study.curve(kept.id) == [(0, 2.0)]
    assert study.points(kept.id)[-1]["grad_norm"] == 3.0
    assert "nan" not in (study.run_path(kept.id) / "metrics.jsonl").read_text().lower()


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({"num_params": None}, "give num_params"),
        ({"num_params": 0}, "num_params"),
        ({"lr": -1.0}, "lr"),
        ({"model": torch.nn.Identity(), "num_params": None}, "no parameters"),
        ({"model": "gpt2", "num_params": None}, "can be counted"),
        ({"settings": {"a": [1]}}, "settings"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(tmp_path, facts, line):
    with pytest.raises(UserError, match=line):
        record(tmp_path / "s", **facts)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("act", "line"),
    [
        (lambda run: run.log(step=0, loss="low"), "not a number"),
        (lambda run: run.finish(loss=1.0, tokens=10**6), "stated to have 2560"),
    ],
)
def test_wrong_values_are_one_line(tmp_path, act, line):
    with pytest.raises(UserError, match=line), allometry.Recorder(tmp_path / "s", tokens=2560, **FACTS) as run:
        act(run)


def test_a_point_needs_its_tokens(tmp_path):
    with pytest.raises(UserError, match="give tokens"), allometry.Recorder(tmp_path / "s", num_params=5) as run:
        run.log(step=1, loss=1.0)


def test_logging_outside_the_block_is_one_line(tmp_path):
    with pytest.raises(UserError, match="not under way"):
        allometry.Recorder(tmp_path / "s", **FACTS).log(step=1, loss=1.0)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match="not a study"):
        record(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


class Language(torch.nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.table = torch.nn.Embedding(50, 8)
        self.inner = torch.nn.Linear(8, 8, bias=False)
        self.head = torch.nn.Linear(8, 50, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(self.inner(self.table(tokens)))


@pytest.mark.parametrize("tied", [False, True])
def test_a_module_is_counted(tmp_path, tied):
    model = Language(tied)
    tokens = torch.zeros(2, 3, dtype=torch.long)
    facts = {"model": model, "example": lambda: model(tokens), "example_units": tokens.numel(), "num_params": None}
    kept = record(tmp_path / "s", **facts)
    counts = kept.counts()
    assert (counts["num_params"], kept.counted) == (64, "non_embedding")
    assert counts["num_params_matmul"] == 64 + 400
    assert counts["num_params_total"] == 64 + 400 + (0 if tied else 400)
    assert kept.flops == 6 * (64 + 400) * kept.tokens


def test_every_line_is_on_the_disk_within_a_second(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr("allometry.recording.points_file.os.fsync", lambda file: (synced.append(file), real(file)))
    with allometry.Recorder(tmp_path / "s", **FACTS) as run:
        run.log(step=1, loss=1.0)
        deadline = time.monotonic() + 10
        while not synced and time.monotonic() < deadline:
            time.sleep(0.05)
        assert synced
        run.finish(loss=1.0)


def test_a_fit_of_a_study_leaves_out_the_runs_that_were_too_short(tmp_path):
    """A plateau at ln 10 before the loss falls: the law of the study is that of the longer runs."""
    late = lambda n, d: 0.2 + 60 / n**0.5 * (2e4 / d) ** 0.7
    early = lambda n, d: (late(n, d) ** -6 + math.log(10) ** -6) ** (-1 / 6)
    for size in (500, 1000, 2000, 4000):
        for tokens in (4000, 8000, 16_000, 32_000, 64_000):
            with allometry.Recorder(tmp_path / "s", num_params=size, tokens=tokens, batch_tokens=100) as run:
                run.finish(loss=early(size, tokens), tokens=tokens)
    heard = []
    fit = workflow.fit_runs(tmp_path / "s", listener=heard.append)
    assert fit.range["tokens"][0] == 16_000
    assert any("falls faster" in str(event) for event in heard)
