"""Programs that the ladder starts: every form of a result, every way to fail, and nothing of another run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import allometry
from allometry.config.run import RunConfig
from allometry.config.script import ScriptConfig, ScriptModelConfig, ScriptTaskConfig
from allometry.config.training import TrainConfig
from allometry.errors import UserError
from allometry.runs import claims
from allometry.runs.claims import Fenced, Taken
from allometry.runs.engines.local import LocalEngine
from allometry.runs.hooks import Hooks, Interrupted
from allometry.runs.job import Job
from allometry.runs.study import Study
from allometry.trainers import script as trainer_file
from allometry.trainers.catalog import trainer_named
from allometry.trainers.script_result import read_result
from helpers import program

PROGRAM = f"{sys.executable} {program.__file__}"
ARGUMENTS = "--width {width} --tokens {tokens} --lr {lr} --seed {seed} --out {out}"


def config(act="json", *, width=16, tokens=1000, more="", seed=0, **trainer) -> RunConfig:
    values = {"command": f"{PROGRAM} {ARGUMENTS} --act {act}{more}", "result": "{out}/m.json"} | trainer
    return RunConfig(
        model=ScriptModelConfig(width=width),
        task=ScriptTaskConfig(source="", fingerprint=""),
        train=TrainConfig(tokens=tokens, batch_tokens=10, lr=0.01, seed=seed),
        trainer=ScriptConfig.parse(values),
    )


@pytest.fixture
def study(tmp_path):
    return Study.create(tmp_path / "s", {"script": {}})


def train(study, run, hooks=None):
    trainer_named("script").train(Job((run,), "ladder"), study, hooks or Hooks())
    return study.ended(run.id)


RESULTS = {
    "json": {},
    "list": {},
    "jsonl": {"result": "{out}/m.jsonl"},
    "csv": {"result": "{out}/m.csv"},
    "stdout": {"result": "stdout", "loss": r"val loss ([\d.]+)", "num_params": r"parameters: ([\d,]+)"},
}


@pytest.mark.parametrize("act", RESULTS)
def test_a_result_is_read_in_every_form(study, act):
    record = train(study, config(act, **RESULTS[act]))
    assert record.status == "finished"
    assert record.loss == pytest.approx(program.truth(24 * 256, 1000), rel=0.01)
    assert (record.num_params, record.tokens, record.flops) == (24 * 256, 1000, 6.0 * 24 * 256 * 1000)
    assert study.record(record.id) == record
    assert [event["event"] for event in study.attempts(record.id)] == ["started", "finished"]
    assert "width 16" in (study.run_path(record.id) / "output-000001.log").read_text()


@pytest.mark.parametrize("act", ["jsonl", "csv"])
def test_rows_of_a_result_are_the_curve(study, act):
    record = train(study, config(act, **RESULTS[act]))
    assert [tokens for tokens, _ in study.curve(record.id)] == [250, 500, 750, 1000]
    assert record.train_loss == pytest.approx(record.loss)


def test_scores_beside_the_loss_are_kept(study):
    record = train(study, config("scores", scores=["test.accuracy"]))
    assert (record.scores["accuracy"].value, record.scores["accuracy"].error) == (0.5, 0.1)
    with pytest.raises(UserError, match="no score 'f1'"):
        train(study, config("json", scores=["f1"]))


def test_a_loss_that_is_no_number_is_a_run_that_diverged(study):
    record = train(study, config("nan"))
    assert (record.status, record.loss) == ("diverged", None)
    assert "nan" in record.note


@pytest.mark.parametrize("pattern", [r"val loss ([\d.]+)", r"val loss ([0-9.e+-]+)", r"loss (\d+\.\d+|nan)"])
def test_the_last_loss_that_was_printed_counts_also_where_it_is_no_number(tmp_path, pattern):
    """A pattern of digits would find the loss before, and call a run that diverged a good one."""
    output, script = tmp_path / "o.log", ScriptConfig(command="p", result="stdout", loss=pattern)
    for last, finite in (("nan", False), ("NaN", False), ("-inf", False), ("2.5", True), ("information", True)):
        output.write_text(f"val loss 9.25\nval loss {last}\n")
        loss = read_result(script, None, output, 0.0).loss
        assert np.isfinite(loss) == finite
        assert not finite or loss == (2.5 if last == "2.5" else 9.25)
    output.write_text("val loss nan\nval loss 2.5\n")
    assert read_result(script, None, output, 0.0).loss == 2.5


FAULTS = {
    "fail": "ended with status 3, its last line: CUDA out of memory",
    "silent": r"wrote no result m\.json",
    "text": "'low' is not a number",
    "null": r"no 'loss' in m\.json \(it has: num_params, seed, width\)",
    "cut": "not readable as json",
    "deep": "not readable as json",
    "empty": "not readable as json",
    "other_width": "of another run: width 17, not 16",
    "other_seed": "of another run: seed 1, not 0",
    "other_tokens": "is of 3000 units",
    "stale": "was there before it began",
    "no_size": "does not say how many parameters",
    "negative": r"-5\.0 is no number of parameters",
}


@pytest.mark.parametrize("act", FAULTS)
def test_every_fault_is_one_line_that_says_where_to_look_and_records_nothing(study, act):
    run = config(act)
    with pytest.raises(UserError, match=FAULTS[act]) as caught:
        train(study, run)
    assert "\n" not in str(caught.value)
    assert study.record(run.id) is None
    assert study.attempts(run.id)[-1]["event"] == "failed"
    assert (study.run_path(run.id) / "output-000001.log").exists()


def test_a_program_that_hangs_is_ended_with_what_it_started(study):
    run = config("hang", minutes=0.02)
    with pytest.raises(UserError, match="ended after 1 s, the limit"):
        train(study, run)
    assert study.record(run.id) is None


def test_a_program_that_is_not_there_is_one_line(study):
    with pytest.raises(UserError, match="cannot be started"):
        train(study, config(command="no-such-program --width {width} --tokens {tokens} --out {out}"))
    with pytest.raises(UserError, match="no such folder"):
        train(study, config(folder="/no/such/folder"))


def test_one_that_fails_is_started_again_as_often_as_it_may(study):
    run, notes = config("flaky", retries=1), []
    record = train(study, run, Hooks(note=lambda _, text: notes.append(text)))
    assert record.status == "finished"
    assert "started again" in notes[0]
    assert sorted(path.name for path in study.run_path(run.id).glob("*.log")) == [
        "output-000001.log",
        "output-000002.log",
    ]


def test_arguments_pass_no_shell(study, tmp_path):
    marker = tmp_path / "touched"
    extra = f"$(touch {marker}); `touch {marker}` && touch {marker} * '{{width}}'"
    run = config("shell", more=" --extra {extra}", values={"extra": extra})
    train(study, run)
    result = json.loads((study.run_path(run.id) / "out" / "m.json").read_text())
    assert result["extra"] == extra
    assert not marker.exists()


def test_values_are_calculated_for_each_run():
    script = ScriptConfig.parse(
        {
            "command": "p {width} {heads} {rows} {name} {tokens} {out}",
            "result": "{out}/r.json",
            "values": {"heads": "max(1, width // 16)", "rows": "batch_tokens // 128 * heads", "name": "gpt-x", "k": 3},
        }
    )
    places = script.calculate({"width": 48, "batch_tokens": 512, "tokens": 10}) | {"out": "/o"}
    assert script.arguments(places) == ["p", "48", "3", "12", "gpt-x", "10", "/o"]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"command": "p {width} {colour} {out}"}, r"\{colour\} is not known"),
        ({"command": "p 'open {out}"}, "cannot be split"),
        ({"command": ""}, "is empty"),
        ({"result": "metrics.json"}, r"begin it with \{out\}"),
        ({"result": "/tmp/metrics.json"}, r"begin it with \{out\}"),
        ({"command": "p {width}"}, r"give \{out\} to the program"),
        ({"result": "stdout"}, "pattern with a group"),
        ({"command": "p {width} {resume} {out}"}, "resume"),
        ({"values": {"width": 3}}, "cannot be the name"),
        ({"minutes": -1}, "minutes"),
        ({"count": "24 * widht**2"}, "count: widht is not known; known: batch_tokens, lr, seed, steps, tokens, width"),
        ({"count": "24 *"}, "count: .* is no arithmetic"),
    ],
)
def test_a_command_that_cannot_be_is_refused_before_anything(values, line):
    base = {"command": "p {width} {tokens} {out}", "result": "{out}/r.json"}
    with pytest.raises(UserError, match=line):
        ScriptConfig.parse(base | values)


def test_the_size_may_be_arithmetic(study):
    record = train(study, config("no_size", count="24 * width**2"))
    assert record.num_params == 24 * 256


def test_devices_are_handed_out_and_variables_are_given(study, monkeypatch):
    def seen(act_seed, **variables):
        for name in ("ALLOMETRY_DEVICE", "ALLOMETRY_PLACE", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        run = config("environment", seed=act_seed, environment={"EXTRA": "w{width}"})
        train(study, run)
        value = json.loads((study.run_path(run.id) / "out" / "m.json").read_text())
        assert value["extra"] == "w16"
        return value["cuda"]

    assert seen(1) == ""  # a worker without a device
    assert seen(2, ALLOMETRY_DEVICE="cuda", ALLOMETRY_PLACE="3") == "3"
    assert seen(3, ALLOMETRY_DEVICE="cuda", ALLOMETRY_PLACE="1", CUDA_VISIBLE_DEVICES="4,6") == "6"
    assert seen(4, ALLOMETRY_DEVICE="cuda", CUDA_VISIBLE_DEVICES="2,5") == "2,5"  # as a cluster left them


def test_interrupted_it_can_go_on_where_it_can_resume(study):
    run = config("resume", more=" {resume}", resume="--resume")
    done = study.run_path(run.id) / "out" / "steps"
    with pytest.raises(Interrupted):
        train(study, run, Hooks(should_stop=lambda: done.exists() and done.stat().st_size > 0))
    record = train(study, run)
    begun = json.loads((study.run_path(run.id) / "out" / "m.json").read_text())["begun"]
    assert begun > 0
    assert [event["event"] for event in study.attempts(record.id)] == ["started", "interrupted", "resumed", "finished"]


def test_without_resume_every_attempt_has_a_fresh_folder(study):
    run = config("json")
    (study.run_path(run.id) / "out").mkdir(parents=True)
    (study.run_path(run.id) / "out" / "m.json").write_text('{"loss": 0.001, "num_params": 5}')
    assert train(study, run).loss > 1


def test_a_run_that_another_process_has_is_left_alone(study):
    run = config("json")
    with study.claim(run.id).kept(), pytest.raises(Taken):
        train(study, run)


def test_one_that_was_taken_over_ends_its_program_and_writes_nothing(study, monkeypatch):
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.6)
    run = config("hang")
    taken = []

    def take_over():
        if not taken:
            taken.append(claims.take(study.claims_path, run.id, follows=1))
        return False

    with pytest.raises(Fenced):
        train(study, run, Hooks(should_stop=take_over))
    assert study.record(run.id) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a program with the process that started it")
def test_a_program_dies_with_the_process_that_started_it(study, tmp_path):
    run = config("hang")
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom allometry.config.run import RunConfig\n"
        "from allometry.runs.job import Job\nfrom allometry.runs.study import Study\n"
        "from allometry.trainers.script import Script\n"
        "run = RunConfig.parse(json.loads(sys.argv[2]))\n"
        "Script().train(Job((run,), 'ladder'), Study(Path(sys.argv[1])))\n"
    )
    source = os.pathsep.join([str(Path(allometry.__file__).parents[1])])
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(study.path), json.dumps(run.to_dict())],
        env=os.environ | {"PYTHONPATH": source},
    )
    output = study.run_path(run.id) / "output-000001.log"
    deadline = time.monotonic() + 60
    while not (output.exists() and output.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    mine = lambda: [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(study.path) in _read(p)]
    while mine() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not mine()


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_an_engine_starts_programs_side_by_side(study):
    jobs = [Job((config("json", seed=seed),), "ladder") for seed in range(4)]
    with LocalEngine(workers=2, trainer="script") as engine:
        engine.train(study, jobs)
    assert len(study.records("ladder")) == 4
    assert trainer_file.Script().measure([]) == []


def test_what_a_program_is_not_told_is_no_part_of_its_run():
    run = config("json")
    assert run.to_dict()["train"] == {"tokens": 1000, "batch_tokens": 10, "lr": 0.01, "seed": 0}
    assert RunConfig.parse(run.to_dict()) == run
    assert run.trunk == run.id
    moved = run.to_dict()
    moved["trainer"] |= {"folder": "/elsewhere", "minutes": 5.0, "retries": 3}
    moved["model"]["counts"] = {"num_params": 5}
    assert RunConfig.parse(moved).id == run.id
