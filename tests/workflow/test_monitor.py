"""Between an engine and a listener: every event arrives typed, in order, and only about the runs it is asked about."""

import pytest

from allometry.runs.study import Study
from allometry.workflow import Monitor, Progress, Recorded, Remark, RunsEnded, RunsToCome, RunsUnderWay
from helpers.builders import record, run_config

FIRST, SECOND = run_config(seed=1), run_config(seed=2, tokens=200_000)


class Tracker:
    """Stands for all trackers: notes what it receives."""

    def __init__(self):
        self.calls = []

    def catch_up(self, record):
        self.calls.append(("catch_up", record.id))

    def progress(self, config, event):
        self.calls.append(("progress", config.id))

    def ended(self, record):
        self.calls.append(("ended", record.id))


@pytest.fixture
def study(tmp_path):
    """A study in which the first run has ended."""
    study = Study.create(tmp_path / "s", {})
    study.save(record(FIRST), [])
    return study


def test_events_arrive_in_order(study):
    events, tracker = [], Tracker()
    seconds = {FIRST.id: 10.0, SECOND.id: 20.0}
    monitor = Monitor(study, "ladder", [FIRST, SECOND], events.append, seconds=seconds, workers=2, trackers=tracker)
    with monitor:
        monitor({"event": "note", "id": "somebody", "text": "shares the work"})
        monitor({"event": "progress", "id": "another run", "tokens": 1, "loss": 9.0, "tokens_per_second": 1.0})
        monitor({"event": "progress", "id": SECOND.id, "tokens": 50_000, "loss": 3.0, "tokens_per_second": 1e4})
        study.save(record(SECOND), [])
        monitor({"event": "recorded", "id": SECOND.id})
    assert events == [
        RunsToCome("ladder", (FIRST, SECOND), {FIRST.id: record(FIRST)}, seconds, 2),
        Remark("somebody", "shares the work"),
        Progress(SECOND.id, 50_000, 3.0, 1e4),
        Recorded(record(SECOND)),
        RunsEnded("ladder"),
    ]
    assert tracker.calls == [("catch_up", FIRST.id), ("progress", SECOND.id), ("ended", SECOND.id)]


def test_the_end_is_reported_when_the_training_is_interrupted(study):
    events = []
    with pytest.raises(KeyboardInterrupt), Monitor(study, "ladder", [SECOND], events.append):
        raise KeyboardInterrupt
    assert events[-1] == RunsEnded("ladder")


def test_runs_under_way_add_up():
    runs = RunsUnderWay(RunsToCome("ladder", (SECOND, FIRST), {}, {FIRST.id: 10.0}, workers=2))
    assert list(runs.states) == [FIRST.id, SECOND.id]
    assert runs.seconds_left is None  # of the second run nothing is known yet
    half = Progress(SECOND.id, SECOND.tokens // 2, 3.0, SECOND.tokens / 40)
    assert runs.update(half).share == pytest.approx(0.5, rel=1e-3)
    assert runs.seconds_left == pytest.approx((10 + 20) / 2, rel=1e-3)
    ended = record(FIRST)
    runs.update(Recorded(ended))
    assert (runs.flops_spent, runs.seconds_spent) == (ended.flops_spent, ended.seconds)
    assert runs.seconds_left == pytest.approx(20 / 2, rel=1e-3)
    assert runs.update(RunsEnded("ladder")) is None
