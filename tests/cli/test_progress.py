"""Watching a study: what each run costs, and an early word where a loss is not what the law expects."""

from dataclasses import replace

import pytest
from rich.console import Console

from allometry.cli.progress import Board, cost_table
from allometry.planning import Plan
from allometry.runs.study import Study
from allometry.workflow.early_warning import Early, law_of
from allometry.workflow.outcome import record_outcome
from helpers import studies


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return studies.build(tmp_path_factory.mktemp("built") / "study")


@pytest.fixture
def planned(built, tmp_path):
    """A study whose plan is about to be trained, the record and curve that will come of it."""
    target, curve = built.records("target")[0], built.curve(built.records("target")[0].id)
    return studies.cut(built, tmp_path / "study", "plan"), target, curve


def train(board, study, target, curve, factor):
    """The events of a run whose losses are ``factor`` times what they would be."""
    config = target.config
    for tokens, loss in curve:
        event = {"event": "progress", "id": config.id, "tokens": tokens, "loss": factor * loss}
        board(event | {"tokens_per_second": 1e5})
    study.save(target, [(tokens, factor * loss) for tokens, loss in curve])
    board({"event": "recorded", "id": config.id})


def board_of(study, target):
    return Board(study, "target", {target.id: 90.0}, early=Early(study, law_of(study))).show([target.config])


def test_a_run_that_follows_the_law_is_left_in_peace(planned, capsys):
    study, target, curve = planned
    train(board_of(study, target), study, target, curve, 1.0)
    assert "band" not in capsys.readouterr().err
    assert study.record(target.id).note == ""


def test_a_run_outside_its_band_is_told_once_and_its_record_says_so(planned, capsys):
    study, target, curve = planned
    train(board_of(study, target), study, target, curve, 1.3)
    err = capsys.readouterr().err
    assert err.count("is above the band") == 1
    assert err.index("is above the band") < err.index("1/1")
    note = study.record(target.id).note
    assert note in err
    assert "look at its rate and its text" in note
    assert study.record(target.id) == replace(target, note=note)
    assert record_outcome(study, Plan.load(study.path / "plan.json"), study.record(target.id)).note == note


def test_a_run_too_quick_to_be_watched_is_judged_by_its_curve(planned, capsys):
    study, target, curve = planned
    board = board_of(study, target)
    train(board, study, target, [], 1.0)
    assert study.record(target.id).note == ""
    study.save(target, [(tokens, 0.7 * loss) for tokens, loss in curve])
    board({"event": "recorded", "id": target.id})
    assert "is below the band" in study.record(target.id).note


def test_rungs_are_judged_by_the_rungs_of_other_sizes(built):
    early = Early(built)
    rungs = [record for record in built.records("ladder") if record.status == "finished"]
    assert not any(early.ended(record.config) for record in rungs)
    for tokens, loss in built.curve(rungs[-1].id):
        if early.reading(rungs[-1].config, tokens, 1.3 * loss):
            break
    assert tokens < rungs[-1].config.tokens / 2


def test_without_enough_runs_nothing_is_said(planned, tmp_path):
    _, target, _ = planned
    early = Early(Study.create(tmp_path / "empty", {"study": {}}))
    assert early.reading(target.config, 1e5, 1e9) == ""


def test_what_the_trainer_notes_is_shown_once(planned, capsys):
    study, target, _ = planned
    board_of(study, target)({"event": "note", "id": target.id, "text": "audit of scales: a weight too small"})
    assert capsys.readouterr().err == f"run {target.id}: audit of scales: a weight too small\n"


def test_the_board_shows_progress_and_cost(planned):
    study, target, _ = planned
    board = board_of(study, target)
    board(
        {
            "event": "progress",
            "id": target.id,
            "tokens": target.config.tokens / 2,
            "loss": 1.5,
            "tokens_per_second": 1e5,
        }
    )
    console = Console(width=100, record=True)
    console.print(board._table())
    lines = console.export_text().splitlines()
    assert "about 45 s left" in lines[0]
    assert {"loss", "tokens/s", "FLOPs", "time"} <= set(lines[1].split())
    assert "1.500" in lines[2]
    assert "~90 s" in lines[2]
    study.save(target, [])
    board({"event": "recorded", "id": target.id})
    console.print(board._table())
    row = console.export_text().splitlines()[-1]
    assert f"{target.loss:.4f}" in row
    assert row.endswith("4 h 07 min")


def test_without_an_expectation_the_time_left_is_told_by_the_speed(planned):
    study, target, _ = planned
    board = Board(study, "target").show([target.config])
    assert board._left() == ""
    event = {"event": "progress", "id": target.id, "tokens": target.config.tokens / 4, "loss": 1.5}
    board(event | {"tokens_per_second": target.config.tokens / 100})
    assert board._left() == "about 75 s left"


def test_the_cost_table_counts_epochs(planned):
    _, target, _ = planned
    task = target.config.task.model_copy(update={"train_tokens": target.config.tokens // 3})
    console = Console(width=120, record=True)
    console.print(cost_table([("ladder", target.config.model_copy(update={"task": task}), 9.0)]))
    header, row = console.export_text().splitlines()
    assert row.split()[header.split().index("epochs")] == "3"
