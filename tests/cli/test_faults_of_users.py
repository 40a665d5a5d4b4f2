"""What a user may hand in or hand over: devices as outputs, deep JSON, texts for numbers, a study that was moved."""

import json
import os
import shutil
import stat
from dataclasses import replace

import pytest

from allometry import workflow
from allometry.errors import UserError
from allometry.files import write_json
from allometry.planning import Plan
from allometry.runs import machine
from allometry.runs.study import Study
from allometry.workflow import prepare, session
from allometry.workflow.programs import script_practice
from helpers import studies
from helpers.builders import drawn_words, record, run_config, run_toml, study_toml

DEEP = "[" * 100_000


def test_an_output_that_is_no_regular_file_is_left_as_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, line in ((pipe, "no regular file"), (tmp_path, "is a folder"), ("-", "--json")):
        with pytest.raises(OSError, match=line):
            write_json(path, {})
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return studies.build(tmp_path_factory.mktemp("built") / "s").path


@pytest.fixture
def study(built, tmp_path):
    return Study(shutil.copytree(built, tmp_path / "s"))


@pytest.mark.parametrize("name", ["plan.json", "study.json", "outcome.json", "recipe.json", "fit.json"])
@pytest.mark.parametrize("text", [DEEP, "", "[1, 2]", '"text"'], ids=["deep", "empty", "list", "text"])
def test_a_file_of_a_study_that_is_something_else_is_one_line(study, refused, name, text):
    (study.path / name).write_text(text)
    assert refused("report", study.path)


@pytest.mark.parametrize("name", ["plan.json", "deep.json"])
def test_a_plan_that_is_none_is_one_line(tmp_path, refused, name):
    (tmp_path / name).write_text(DEEP)
    assert "not JSON" in refused("train", tmp_path / name)


def paths(value, path=()):
    """The places of all numbers in a value."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in paths(inner, (*path, key))]
    return [path] if isinstance(value, float) and path[0] not in ("run", "model") else []


def test_a_text_where_a_number_belongs_in_a_plan_is_one_line(study, refused):
    plan = json.loads((study.path / "plan.json").read_text())
    places = paths(plan)
    assert ("loss",) in places
    for place in places[:: max(1, len(places) // 12)]:
        changed = json.loads(json.dumps(plan))
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = "low"
        (study.path / "plan.json").write_text(json.dumps(changed))
        assert "not a plan" in refused("train", study.path / "plan.json"), place
        assert "not a plan" in refused("report", study.path), place
    assert Plan.from_json(plan).to_json() == plan


@pytest.fixture
def text(tmp_path):
    return drawn_words(tmp_path / "text.txt", 2000)


def test_a_study_that_was_copied_goes_on_by_the_corpus_inside(tmp_path, text):
    toml = tmp_path / "study.toml"
    toml.write_text(study_toml(text, widths=[16, 24], tokens=[10_000], sweep=False))
    config = workflow.StudyConfig.read(toml)
    first, _ = prepare.begin_study(config, tmp_path / "s")
    moved = shutil.copytree(first.path, tmp_path / "elsewhere")
    text.unlink()
    again, corpus = prepare.begin_study(config, moved)
    assert corpus.fingerprint == first.settings()["fingerprint"]
    assert prepare.read_study(moved) == config
    assert again.path == moved


def test_a_width_that_cannot_be_is_refused_before_anything_is_written(tmp_path, text, refused):
    toml = tmp_path / "study.toml"
    toml.write_text(study_toml(text, widths=[17, 24], tokens=[10_000]))
    assert "width 17" in refused("ladder", toml, "--out", tmp_path / "s", "--yes")
    assert not (tmp_path / "s").exists()


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path, refused):
    assert "cuda" in refused("quickstart", "--device", "cuda", "--out", tmp_path / "s", "--yes")
    assert not (tmp_path / "s").exists()


def test_a_study_in_which_nothing_was_trained_is_discarded_and_another_is_not(tmp_path, study):
    new = Study.create(tmp_path / "new", {"a": 1})
    with new.session():
        new.discard()
    assert new.path.exists()  # a process is at it
    new.discard()
    assert not new.path.exists()
    study.discard()
    assert study.path.exists()


@pytest.mark.parametrize("there", [True, False])
def test_one_run_is_compiled_where_a_ladder_would_be(tmp_path, text, monkeypatch, there):
    monkeypatch.setattr(prepare, "compiler", lambda: "g++" if there else None)
    toml = tmp_path / "run.toml"
    toml.write_text(run_toml(text, 10_000))
    _, run = prepare.begin_run(prepare.RunFile.read(toml), tmp_path / "s")
    assert run.train.compile is there
    assert machine.compiler is not None


def test_without_a_compiler_one_line_says_so(tmp_path, text, monkeypatch):
    """Before anything is measured, once in the life of a study, and never where there is one."""

    def stop(*_, **__):
        raise UserError("far enough")

    config = workflow.StudyConfig(data=str(text), context=32, widths=(16, 24), tokens=(10_000,), sweep=False)
    monkeypatch.setattr(session, "speed_of", stop)
    monkeypatch.setattr(session, "design_any", stop)
    for there in (False, True):
        heard: list[str] = []
        monkeypatch.setattr(session, "compiler", lambda there=there: "g++" if there else None)
        with pytest.raises(UserError, match="far enough"):
            workflow.train_ladder(
                config, tmp_path / f"s{there}", listener=lambda event, heard=heard: heard.append(str(event))
            )
        assert sum("no C++ compiler here" in line for line in heard) == (0 if there else 1)


def test_a_ladder_whose_runs_all_diverged_is_no_success(tmp_path):
    study = Study.create(tmp_path / "s", {"a": 1})
    with pytest.raises(UserError, match="no run of its ladder has ended"):
        script_practice.finished_rungs(study)
    for seed in (0, 1):
        bad = record(run_config(seed=seed), loss=None, status="diverged")
        study.save(replace(bad, note="loss not finite at step 3"), [])
    with pytest.raises(
        UserError, match=r"all 2 runs of the ladder diverged \(loss not finite at step 3\); give the study"
    ):
        script_practice.finished_rungs(study)
    study.save(record(run_config(seed=2)), [])
    assert len(script_practice.finished_rungs(study)) == 1


def test_no_message_advises_to_delete_what_cannot_be_made_again(study, refused):
    (study.path / "study.json").write_text("{")
    line = refused("report", study.path)
    assert "delete" not in line
    record = next(study.path.glob("runs/*/record.json"))
    record.write_text("{")
    with pytest.raises(Exception, match="`allometry runs` drops run"):
        study.record(record.parent.name)
