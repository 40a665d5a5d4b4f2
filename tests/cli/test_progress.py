"""Watching a study: what each run costs, and an early warning where a loss is not what the law expects."""

from dataclasses import replace

import pytest
from rich.console import Console

from allometry.cli.terminal.progress import Terminal
from allometry.cli.terminal.show_cost import cost_table
from allometry.ladder.design import Design
from allometry.planning import Plan
from allometry.runs.study import Study
from allometry.workflow import LadderCost, RunCost
from allometry.workflow.early_warning import EarlyWarning, saved_law
from allometry.workflow.monitor import Monitor
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


def progress(config, tokens, loss, tokens_per_second=1e5):
    """A reading, as an engine reports it."""
    event = {"event": "progress", "id": config.id, "tokens": tokens, "loss": loss}
    return event | {"tokens_per_second": tokens_per_second}


def recorded(config):
    """The end of a run, as an engine reports it."""
    return {"event": "recorded", "id": config.id}


def train(monitor, study, target, curve, factor):
    """The events of a run whose losses are ``factor`` times what they would be."""
    for tokens, loss in curve:
        monitor(progress(target.config, tokens, factor * loss))
    study.save(target, [(tokens, factor * loss) for tokens, loss in curve])
    monitor(recorded(target.config))


@pytest.fixture
def terminal():
    return Terminal()


@pytest.fixture
def monitor(planned, terminal):
    """The monitor of the planned run, expected to take 90 seconds, with a terminal that shows it."""
    study, target, _ = planned
    early = EarlyWarning(study, saved_law(study))
    with Monitor(study, "target", [target.config], terminal, seconds={target.id: 90.0}, early=early) as monitor:
        yield monitor


def test_a_run_that_follows_the_law_is_left_in_peace(planned, monitor, capsys):
    study, target, curve = planned
    train(monitor, study, target, curve, 1.0)
    assert "band" not in capsys.readouterr().err
    assert study.record(target.id).note == ""


def test_a_run_outside_its_band_is_remarked_once_and_in_its_record(planned, monitor, capsys):
    study, target, curve = planned
    train(monitor, study, target, curve, 1.3)
    err = capsys.readouterr().err
    assert err.count("is above the band") == 1
    assert err.index("is above the band") < err.index("1/1")
    note = study.record(target.id).note
    assert note in err
    assert "check its learning rate and its corpus" in note
    assert study.record(target.id) == replace(target, note=note)
    assert record_outcome(study, Plan.load(study.path / "plan.json"), study.record(target.id)).note == note


def test_a_run_too_quick_to_be_watched_is_judged_by_its_curve(planned, monitor):
    study, target, curve = planned
    train(monitor, study, target, [], 1.0)
    assert study.record(target.id).note == ""
    study.save(target, [(tokens, 0.7 * loss) for tokens, loss in curve])
    monitor(recorded(target.config))
    assert "is below the band" in study.record(target.id).note


def test_rungs_are_judged_by_the_rungs_of_other_sizes(built):
    early = EarlyWarning(built)
    rungs = [record for record in built.records("ladder") if record.status == "finished"]
    assert not any(early.check_curve(record.config) for record in rungs)
    for tokens, loss in built.curve(rungs[-1].id):
        if early.check_reading(rungs[-1].config, tokens, 1.3 * loss):
            break
    assert tokens < rungs[-1].config.tokens / 2


def test_without_enough_runs_there_is_no_warning(planned, tmp_path):
    _, target, _ = planned
    early = EarlyWarning(Study.create(tmp_path / "empty", {"study": {}}))
    assert early.check_reading(target.config, 1e5, 1e9) == ""


def test_what_the_trainer_notes_is_shown_once(planned, monitor, capsys):
    _, target, _ = planned
    capsys.readouterr()
    monitor({"event": "note", "id": target.id, "text": "audit of scales: a weight too small"})
    assert capsys.readouterr().err == f"run {target.id}: audit of scales: a weight too small\n"


def test_the_board_shows_progress_and_cost(planned, monitor, terminal):
    study, target, _ = planned
    monitor(progress(target.config, target.config.tokens / 2, 1.5))
    console = Console(width=100, record=True)
    console.print(terminal.board.table())
    lines = console.export_text().splitlines()
    assert "about 45 s left" in lines[0]
    assert {"loss", "tokens/s", "FLOPs", "time"} <= set(lines[1].split())
    assert "1.500" in lines[2]
    assert "~90 s" in lines[2]
    study.save(target, [])
    monitor(recorded(target.config))
    console.print(terminal.board.table())
    lines = console.export_text().splitlines()
    assert "left" not in lines[0]
    assert f"{target.loss:.4f}" in lines[-1]
    assert lines[-1].endswith("4 h 25 min")


def test_without_an_expectation_the_time_left_follows_from_the_speed(planned, terminal):
    study, target, _ = planned
    with Monitor(study, "target", [target.config], terminal) as monitor:
        assert terminal.board.time_left() == ""
        monitor(progress(target.config, target.config.tokens / 4, 1.5, target.config.tokens / 100))
        assert terminal.board.time_left() == "about 75 s left"
    assert terminal.board is None


def test_the_cost_table_counts_epochs(planned, built):
    _, target, _ = planned
    task = target.config.task.model_copy(update={"train_tokens": target.config.tokens // 3})
    run = RunCost("ladder", target.config.model_copy(update={"task": task}), 9.0)
    console = Console(width=120, record=True)
    console.print(cost_table(LadderCost((run,), Design.from_json(built.read("ladder.json")))))
    header, row = console.export_text().splitlines()
    assert row.split()[header.split().index("epochs")] == "3"
