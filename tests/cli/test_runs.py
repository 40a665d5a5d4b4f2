"""``allometry runs``: what is in a study, one run in full, dropping one."""

import json

import pytest

from allometry import Recorder
from allometry.errors import UserError
from allometry.runs import claims
from allometry.runs.run_folders import drop_run, find_folder, run_folders
from allometry.runs.study import Study
from helpers.builders import record, run_config


@pytest.fixture
def study(tmp_path):
    study = Study.create(tmp_path / "s", {"data": "stdlib"})
    for tokens in (50_000, 100_000):
        study.save(record(run_config(tokens=tokens)), [[100, 5.0]])
    study.save(record(run_config(tokens=200_000), loss=None, status="diverged"), [])
    study.log("0123abc", "started", step=0)
    return study


def test_all_runs_are_listed_the_unrecorded_too(study, cli):
    status, out, err = cli("runs", study.path)
    assert status == 0
    assert all(each.id in out for each in study.records())
    assert "0123abc: not recorded (started)" in err
    assert "3 runs, 1 not finished" in err
    rows = json.loads(cli("runs", study.path, "--json")[1])
    assert [row["status"] for row in rows] == ["finished", "finished", "diverged", "not recorded"]
    assert cli("runs", study.path, "--kind", "sweep")[1] == ""


def test_one_run_is_shown_in_full(study, cli, refused):
    first = study.records()[0]
    assert "train.lr  0.5" in cli("runs", study.path, first.id[:6])[1]
    assert json.loads(cli("runs", study.path, first.id, "--json")[1])[0]["files"]
    assert "no run has" in refused("runs", study.path, "zzz")
    assert "several runs have" in refused("runs", study.path, "")


def test_a_run_is_dropped_only_when_it_is_meant(study, cli, refused):
    first = study.records()[0]
    assert "--yes" in refused("runs", study.path, "--drop", first.id)
    assert study.record(first.id) == first
    study.write("fit.json", {})
    status, _, err = cli("runs", study.path, "--drop", first.id, "--drop", "0123", "--yes")
    assert status == 0
    assert "the fit of this study" in err
    assert not study.run_path(first.id).exists()
    assert [each.id for each in run_folders(study)] == [each.id for each in study.records()]
    assert not list(study.path.glob("runs/.*"))


def test_a_run_whose_record_is_damaged_can_be_dropped(study, cli):
    first = study.records()[0].id
    (study.run_path(first) / "record.json").write_text("[" * 100_000)
    assert f"{first}: not recorded (damaged" in cli("runs", study.path)[2]
    assert cli("runs", study.path, "--drop", first, "--yes")[0] == 0
    assert len(study.records()) == 2


def test_a_run_that_a_process_is_at_is_not_dropped(study):
    first = find_folder(study, study.records()[0].id)
    with study.claim(first.record.config.trunk).kept(), pytest.raises(UserError, match="a process is at run"):
        drop_run(study, first)
    assert study.record(first.id) is not None


def test_a_recorded_run_is_dropped_and_may_be_recorded_again(tmp_path):
    def once():
        with Recorder(tmp_path / "r", num_params=10, tokens=100) as run:
            run.finish(loss=1.0)
        return run.id

    identity = once()
    study = Study.open(tmp_path / "r")
    drop_run(study, find_folder(study, identity))
    assert study.records() == []
    assert once() == identity
    assert claims.take(study.claims_path, identity).attempt == 4
