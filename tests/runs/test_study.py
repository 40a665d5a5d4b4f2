"""Studies: one folder, one set of settings, records in one order, one process at work."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from allometry import laws
from allometry.config.external import ExternalRun
from allometry.errors import UserError
from allometry.runs.record import RunRecord
from allometry.runs.study import Study
from helpers.builders import record, run_config

SETTINGS = {"data": "stdlib", "seed": 0, "widths": [16, 32]}


@pytest.fixture
def study(tmp_path):
    return Study.create(tmp_path / "study", SETTINGS)


# ---- one study, one set of settings


def test_a_study_is_created_once_and_opened_again(study):
    assert Study.create(study.path, SETTINGS).settings() == SETTINGS
    assert Study.open(study.path).settings() == SETTINGS


@pytest.mark.parametrize(("name", "value"), [("seed", 1), ("widths", [16]), ("sweep", True)])
def test_other_settings_are_refused_and_the_study_stays(study, name, value):
    (study.path / "runs" / "some_run").mkdir(parents=True)
    with pytest.raises(UserError, match=f"holds a study with {name} = "):
        Study.create(study.path, SETTINGS | {name: value})
    assert study.settings() == SETTINGS


def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="exists and is not a study"):
        Study.create(tmp_path, SETTINGS)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_file_instead_of_the_study_or_its_parent_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="exists and is not a study"):
        Study.create(tmp_path / "file", SETTINGS)
    with pytest.raises(UserError, match="cannot be written"):
        Study.create(tmp_path / "file" / "study", SETTINGS)


def test_an_empty_folder_may_become_a_study(tmp_path):
    assert Study.create(tmp_path, SETTINGS).settings() == SETTINGS


def test_a_path_that_is_not_a_study_is_not_opened(tmp_path):
    for path, words in ((tmp_path, "not a study"), (tmp_path / "none", "no such file or folder")):
        with pytest.raises(UserError, match=words):
            Study.open(path)


# ---- records


def fill(study: Study) -> list[str]:
    """Saved in an order that is neither that of FLOPs nor of ids; returns the ids by FLOPs."""
    configs = [run_config(tokens=tokens, seed=seed) for tokens in (400_000, 50_000, 100_000) for seed in (1, 0)]
    for config in configs:
        study.save(record(config), [[100, 5.0], [200, 4.5]])
    return [config.id for config in sorted(configs, key=lambda config: (config.flops, config.id))]


def test_records_are_sorted_by_flops_whatever_order_they_were_saved_in(study):
    expected = fill(study)
    assert [each.id for each in study.records()] == expected
    assert [each.id for each in Study.open(study.path).records()] == expected


def test_a_saved_record_is_the_one_read(study):
    saved = record(run_config())
    study.save(saved, [[100, 5.0], [200, 4.5]])
    assert study.record(saved.id) == saved
    assert study.curve(saved.id) == [(100, 5.0), (200, 4.5)]


def test_a_run_without_its_record_does_not_exist(study):
    """As a crash between curve and record leaves it."""
    ids = fill(study)
    (study.run_path(ids[0]) / "record.json").unlink()
    assert study.record(ids[0]) is None
    assert [each.id for each in study.records()] == ids[1:]


def test_records_are_selected_by_kind_and_a_law_is_given_the_ladder(study):
    for kind, seed in (("sweep", 0), ("ladder", 1), ("target", 2)):
        study.save(record(run_config(seed=seed), kind=kind), [])
    assert {each.kind for each in study.records()} == {"sweep", "ladder", "target"}
    assert [each.kind for each in study.records("target", "sweep")].count("ladder") == 0
    assert [row["kind"] for row in study.rows()] == ["ladder"]
    assert len(study.rows("sweep", "target")) == 2


def test_a_changed_record_is_refused(study):
    saved = record(run_config())
    study.save(saved, [])
    path = study.run_path(saved.id) / "record.json"
    value = json.loads(path.read_text())
    value["config"]["train"]["lr"] *= 2
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match="its configuration was changed"):
        study.record(saved.id)


@pytest.mark.parametrize("content", ["", "{", "\0\0\0"])
def test_a_damaged_record_is_one_line_with_its_path(study, content):
    saved = record(run_config())
    study.save(saved, [])
    (study.run_path(saved.id) / "record.json").write_text(content)
    with pytest.raises(UserError, match=r"record\.json: not readable") as caught:
        study.records()
    assert "\n" not in str(caught.value)


def test_another_file_among_the_runs_does_no_harm(study):
    ids = fill(study)
    (study.path / "runs" / ".DS_Store").write_text("left by a file browser")
    assert [each.id for each in study.records()] == ids


def test_a_study_without_records_is_valid(study):
    assert study.records() == []
    assert study.rows() == []
    assert study.curve("none") == []
    assert study.read("fit.json") is None


# ---- finding by prefix


def test_a_run_is_found_by_a_unique_prefix_of_its_id(study):
    ids = fill(study)
    for run in ids:
        prefix = next(run[:n] for n in range(1, 13) if sum(other.startswith(run[:n]) for other in ids) == 1)
        assert study.find(prefix).id == run
        assert study.find(run).id == run


def test_an_ambiguous_or_unknown_prefix_lists_the_runs(study):
    ids = fill(study)
    with pytest.raises(UserError, match=r"6 runs with an id that begins ''") as caught:
        study.find("")
    assert all(run in str(caught.value) for run in ids)
    with pytest.raises(UserError, match="no run with an id that begins 'zz'"):
        study.find("zz")


def test_an_empty_study_reports_that_it_has_no_runs(study):
    with pytest.raises(UserError, match="none yet"):
        study.find("a")


# ---- one process


def hold(study: Study) -> subprocess.Popen:
    """Another process that holds the study until its input is closed."""
    code = (
        "import sys; from allometry.runs.study import Study\n"
        "with Study.open(sys.argv[1]).lock(): print('held', flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(study.path)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    return process


def test_waiting_for_another_process_is_reported_and_ends_when_that_is_killed(study):
    process = hold(study)
    lines = []

    def say(text):
        lines.append(text)
        process.kill()

    with study.lock(say):
        assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert lines == [f"{study.path}: process {process.pid} is preparing this study; waiting for it"]
    with study.lock(lines.append):
        assert len(lines) == 1


def test_a_lock_is_released(study):
    for _ in range(2):
        with study.lock():
            pass
    with pytest.raises(RuntimeError), study.lock():
        raise RuntimeError
    with study.lock():
        pass


def test_the_remains_of_a_crash_in_the_first_write_are_not_a_study(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".study.json.abc123").write_text("{")
    assert Study.create(tmp_path / "s", {"a": 1}).settings() == {"a": 1}


def test_a_study_in_which_nothing_was_trained_may_start_again(tmp_path):
    study = Study.create(tmp_path / "s", {"minutes": 5})
    study.write("ladder.json", {"made": "for 5 minutes"})
    again = Study.create(tmp_path / "s", {"minutes": 3})
    assert again.settings() == {"minutes": 3}
    assert again.read("ladder.json") is None
    (tmp_path / "s" / "trunks").mkdir()
    (tmp_path / "s" / "trunks" / "t.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="minutes = 3, not 5"):
        Study.create(tmp_path / "s", {"minutes": 5})


def test_the_same_text_under_another_name_is_the_same_study(tmp_path):
    Study.create(tmp_path / "s", {"study": {"data": "a.txt", "seed": 1}, "fingerprint": "f"})
    (tmp_path / "s" / "runs" / "x").mkdir(parents=True)
    assert Study.create(tmp_path / "s", {"study": {"data": "./a.txt", "seed": 1}, "fingerprint": "f"})
    with pytest.raises(UserError, match="fingerprint"):
        Study.create(tmp_path / "s", {"study": {"data": "a.txt", "seed": 1}, "fingerprint": "g"})


# ---- runs that were trained elsewhere


def external(size: int, tokens: int) -> RunRecord:
    run = ExternalRun(trained_by="recorder", num_params=size, counted="total", tokens=tokens, lr=0.1)
    return replace(record(run_config(), loss=1.8 + 400 / size**0.34 + 410 / tokens**0.28), run=run)


def test_laws_read_a_study_of_external_runs_with_their_curves(tmp_path):
    study = Study.collect(tmp_path / "collected")
    for size in (1000, 4000, 16_000):
        study.save(external(size, 50 * size), [{"tokens": 100, "train_loss": 5.0, "lr": 0.05, "step": 7}])
    runs = laws.Observations.read(study.path)
    assert runs.counted == "total"
    assert sorted(runs.num_params) == [1000, 4000, 16_000]
    curves = laws.Curves.read(study.path)
    assert list(curves.step) == [7, 7, 7]
    assert list(curves.lr) == [0.05] * 3
    assert study.points(study.records()[0].id) == [{"tokens": 100, "train_loss": 5.0, "lr": 0.05, "step": 7}]


def test_external_runs_are_not_mixed_with_a_ladder(study, tmp_path):
    with pytest.raises(UserError, match="holds a ladder"):
        Study.collect(study.path)
    assert Study.collect(tmp_path / "c").path == Study.collect(tmp_path / "c").path
    (tmp_path / "c" / "runs" / "x").mkdir(parents=True)
    with pytest.raises(UserError, match="holds a study with"):
        Study.create(tmp_path / "c", SETTINGS)
