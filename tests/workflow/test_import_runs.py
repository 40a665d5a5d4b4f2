"""``allometry import``: runs of other tools become records of a study, each once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from allometry import workflow
from allometry.cli.app import app
from allometry.errors import UserError
from allometry.laws import Observations
from allometry.runs.study import Study

TRAINER = Path(__file__).parents[1] / "laws" / "run_files" / "hugging_face"
RECORDED = ("num_params", "tokens", "loss")


def test_imported_runs_are_records_that_laws_read_as_the_source(tmp_path):
    imported = workflow.import_runs(TRAINER, tmp_path / "study")
    assert (len(imported.added), imported.known) == (2, ())
    study, source = Observations.read(tmp_path / "study"), Observations.read(TRAINER)
    for name in (*RECORDED, "lr", "batch_tokens"):
        assert sorted(study.column(name)) == sorted(source.column(name)), name
    assert study.counted == source.counted == "non_embedding"
    record = Study.open(tmp_path / "study").records("ladder")[0]
    assert any(note.startswith("tokens: ") for note in record.run.notes)
    assert [point["step"] for point in Study.open(tmp_path / "study").points(record.id)] == [5, 10, 15, 20]


def test_a_second_import_adds_only_what_is_new_wherever_the_runs_lie(tmp_path):
    shutil.copytree(TRAINER / "gpt2-8", tmp_path / "a" / "gpt2-8")
    assert len(workflow.import_runs(tmp_path / "a", tmp_path / "study").added) == 1
    shutil.copytree(TRAINER, tmp_path / "elsewhere" / "b")
    again = workflow.import_runs(tmp_path / "elsewhere", tmp_path / "study")
    assert (len(again.added), len(again.known)) == (1, 1)
    before = {path: path.read_bytes() for path in (tmp_path / "study" / "runs").rglob("*") if path.is_file()}
    last = workflow.import_runs(tmp_path / "elsewhere", tmp_path / "study")
    assert (len(last.added), len(last.known)) == (0, 2)
    assert {path: path.read_bytes() for path in (tmp_path / "study" / "runs").rglob("*") if path.is_file()} == before


def test_a_refusal_leaves_nothing(tmp_path):
    shutil.copytree(TRAINER, tmp_path / "runs")
    (tmp_path / "runs" / "gpt2-8" / "checkpoint-20" / "trainer_state.json").write_text('{"log_history": [')
    with pytest.raises(UserError, match="is not JSON"):
        workflow.import_runs(tmp_path / "runs", tmp_path / "study")
    assert not (tmp_path / "study").exists()
    with pytest.raises(UserError, match="no such file or folder"):
        workflow.import_runs(tmp_path / "absent", tmp_path / "study")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="not a study"):
        workflow.import_runs(TRAINER, tmp_path / "file")


def test_the_command_shows_the_runs_and_a_dry_run_writes_nothing(tmp_path):
    out = str(tmp_path / "study")
    shown = CliRunner().invoke(app, ["import", str(TRAINER), "--out", out, "--dry-run", "--json"])
    assert (shown.exit_code, (tmp_path / "study").exists()) == (0, False)
    assert len(json.loads(shown.stdout)["added"]) == 2
    shown = CliRunner().invoke(app, ["import", str(TRAINER), "--out", out, "--counted", "total"])
    assert shown.exit_code == 0
    assert "gpt2-16" in shown.stdout
    assert {record.counted for record in Study.open(tmp_path / "study").records()} == {"total"}
