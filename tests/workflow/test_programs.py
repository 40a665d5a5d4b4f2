"""A program that nobody here wrote: cost, sweep, rungs, law, plan, the planned run, prediction against outcome."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from allometry import laws, workflow
from allometry.cli import app
from allometry.config.script import ScriptStudyConfig
from allometry.errors import UserError
from allometry.ladder import script_ladder
from allometry.planning import Plan
from allometry.runs.study import Study
from helpers import program

COMMAND = f"{sys.executable} {program.__file__} --width {{width}} --tokens {{tokens}} --lr {{lr}} --out {{out}}"
SETTINGS = {"widths": [16, 24, 32, 48], "tokens": [20_000, 40_000, 80_000], "lr": 0.01, "batch_tokens": 512}


def settings(act="json", **changes) -> dict:
    return {
        **SETTINGS,
        **{key: value for key, value in changes.items() if key != "trainer"},
        "trainer": {"name": "script", "command": f"{COMMAND} --act {act}", "result": "{out}/m.json"}
        | changes.get("trainer", {}),
    }


def config(act="json", **changes) -> ScriptStudyConfig:
    return ScriptStudyConfig.parse(settings(act, **changes), "study.toml")


@dataclass
class Stopped(Exception):
    cost: workflow.ScriptCost | None = field(default=None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole study, and the events of it."""
    out, events, costs = tmp_path_factory.mktemp("whole") / "s", [], []
    outcome = workflow.quickstart_script(config(sweep=True), out=out, listener=events.append, confirm=costs.append)
    return out, outcome, events, costs[0]


def test_the_prediction_comes_true(whole):
    out, outcome, _, _ = whole
    assert outcome.inside
    assert abs(outcome.relative_error) < 0.02
    assert outcome.compute_ratio == pytest.approx(8, rel=0.05)
    plan = json.loads((out / "plan.json").read_text())
    assert plan["created"] <= Study(out).ended(outcome.run).finished_at
    assert (out / "report.html").is_file()
    assert "μP" not in Plan.load(out / "plan.json").summary()  # the rate of a program is its own


def test_the_cost_comes_first_and_sizes_are_those_of_short_runs(whole):
    out, _, _, cost = whole
    assert {(run.kind, run.config.num_params) for run in cost.runs if run.kind == "ladder"} == {
        ("ladder", 24 * width**2) for width in SETTINGS["widths"]
    }
    assert cost.ladder_seconds > 0
    assert "short runs of each width" in " ".join(cost.notes())
    probes = Study(out).records("probe")
    assert {record.tokens for record in probes} == {5000}


def test_the_sweep_finds_rate_and_exponent_of_the_program(whole):
    recipe = json.loads((whole[0] / "recipe.json").read_text())
    assert recipe["lr"] == pytest.approx(0.01, rel=0.1)
    assert recipe["lr_exponent"] == pytest.approx(0.5, abs=0.1)
    assert not recipe["evidence"]["at_edge"]


def test_the_same_again_trains_nothing_more(whole, monkeypatch):
    out, outcome, _, _ = whole
    before = {path: path.read_bytes() for path in out.rglob("record.json")}
    monkeypatch.setattr("allometry.trainers.script.Program.run", lambda self: pytest.fail("started again"))
    again = workflow.quickstart_script(config(sweep=True), out=out)
    assert again == outcome
    assert {path: path.read_bytes() for path in out.rglob("record.json")} == before


def test_records_name_no_folder_of_this_machine(whole):
    for path in (whole[0] / "runs").glob("*/record.json"):
        assert json.loads(path.read_text())["config"]["trainer"]["folder"] == ""


def test_laws_read_such_a_study(whole):
    runs = laws.Observations.read(whole[0])
    assert len(runs) == 12
    assert runs.counted == "unknown"


def test_a_program_that_ignores_the_width_is_refused(tmp_path):
    with pytest.raises(UserError, match="1000 parameters at every width: it ignores"):
        workflow.train_script_ladder(config("constant"), tmp_path / "s")


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"tokens": [20_000]}, "one token count"), ({"widths": [16, 24], "tokens": [20_000, 20_000]}, "one token count")],
)
def test_a_ladder_that_would_tell_no_law_is_refused_before_it_is_trained(tmp_path, changes, says):
    with pytest.raises(UserError, match=f"would tell no law: .*{says}"):
        workflow.quickstart_script(config(**changes), out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_sizes_of_a_program_are_never_called_too_small(whole):
    assert not any("too small for a language model" in getattr(event, "text", "") for event in whole[2])


def test_a_ladder_whose_runs_all_diverged_is_no_success(tmp_path):
    with pytest.raises(UserError, match="all 2 runs of the ladder diverged"):
        workflow.train_script_ladder(config("nan", widths=[16, 24], tokens=[20_000]), tmp_path / "s")


def test_a_failure_stops_the_ladder_and_the_same_again_goes_on(tmp_path):
    with pytest.raises(UserError, match="ended with status 1"):
        workflow.train_script_ladder(config("flaky"), tmp_path / "s")
    study = workflow.train_script_ladder(config("flaky"), tmp_path / "s")
    assert len(study.rows("ladder")) == 12


def test_who_does_not_go_on_leaves_no_folder(tmp_path):
    def stop(cost):
        raise Stopped(cost)

    with pytest.raises(Stopped):
        workflow.train_script_ladder(config(), tmp_path / "s", confirm=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"widths": [16]}, "at least two different"),
        ({"tokens": []}, "at least one length"),
        ({"depth": 3}, "unknown key 'depth'"),
        ({"trainer": {"command": "p --out {out} --tokens {tokens}"}}, r"give \{width\} to the program"),
        ({"trainer": {"command": "p --out {out} --width {width}"}}, r"give \{tokens\} or \{steps\}"),
        ({"sweep": True, "trainer": {"command": "p {out} {width} {tokens}"}}, r"is not given \{lr\}"),
    ],
)
def test_settings_that_cannot_be_are_one_line(changes, line):
    with pytest.raises(UserError, match=line):
        config(**changes)


def test_other_settings_are_refused_but_not_another_limit_or_place(tmp_path):
    folder = tmp_path / "s"
    small = {"widths": [16, 24], "tokens": [20_000]}
    workflow.train_script_ladder(config(**small), folder)
    operational = {"minutes": 3.0, "retries": 2, "folder": str(tmp_path)}
    workflow.train_script_ladder(config(**small, trainer=operational), folder)
    with pytest.raises(UserError, match="holds a study with lr"):
        workflow.train_script_ladder(config(**small | {"lr": 0.02}), folder)


def test_sizes_between_the_widths_follow_a_power(whole):
    records = Study(whole[0]).records("probe")
    sizes = script_ladder.Sizes.of(config(), records)
    assert sizes.counts(40, 1).num_params == pytest.approx(24 * 40**2, rel=0.01)
    assert sizes.counts(160, 1).num_params == pytest.approx(24 * 160**2, rel=0.01)
    assert sizes.near(24 * 64**2).width == 64
    assert sizes.near(24 * 66**2).width in (64, 72)


def write_toml(folder: Path, **trainer) -> Path:
    import tomli_w

    path = folder / "study.toml"
    values = settings(widths=[16, 24, 32], trainer=trainer)
    del values["trainer"]["name"]
    path.write_text(tomli_w.dumps(values))
    return path


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command line; its exit status, output and notes."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["allometry", *map(str, arguments)])
        status = 0
        try:
            app.main()
        except SystemExit as end:
            status = end.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_the_commands_one_by_one(tmp_path, command):
    toml, out = write_toml(tmp_path), tmp_path / "s"
    status, shown, _ = command("ladder", toml, "--out", out, "--dry-run")
    assert (status, out.exists()) == (0, False)
    assert "ladder" in shown
    assert command("ladder", toml, "--out", out, "--yes", "--json")[0] == 0
    assert command("fit", out)[0] == 0
    assert command("plan", out, "--flops", "3e10")[0] == 0
    status, answer, _ = command("train", out / "plan.json", "--json")
    assert status == 0
    assert json.loads(answer)["actual"] > 0
    assert command("report", out)[0] == 0
    status, _, notes = command("plan", "--resume", out, "--flops", "1e10")
    assert (status, notes.count("\n")) == (2, 1)


def test_a_program_that_fails_is_one_line_and_status_2(tmp_path, command):
    toml = write_toml(tmp_path, command=f"{COMMAND} --act fail")
    status, out, notes = command("ladder", toml, "--out", tmp_path / "s", "--yes")
    assert (status, out) == (2, "")
    assert "CUDA out of memory" in notes.splitlines()[-1]
    assert notes.splitlines()[-1].startswith("allometry: run ")


def test_slurm_starts_programs_too(tmp_path):
    pytest.importorskip("submitit", reason="submitit is not installed")
    from allometry.ladder.climb import missing_jobs
    from allometry.runs.engines.slurm import SlurmEngine

    small = config(widths=[16, 24], tokens=[20_000])
    study = Study.create(tmp_path / "s", {"script": {}})
    runs = script_ladder.probe_runs(small, small.widths)
    with SlurmEngine(workers=2, cluster="local") as engine:
        engine.train(study, [job for run in runs for job in [script_job(run)]])
    assert len(study.records("probe")) == 2
    assert missing_jobs


def script_job(run):
    from allometry.runs.job import Job

    return Job((run,), "probe")
