"""A log's last line torn at any byte: nothing earlier is lost, and what is added next can be read."""

import json

import pytest

from allometry.files import append_line, read_lines
from helpers import trials

EVENTS = [{"event": "started", "step": 0}, {"event": "τ \n {", "list": [1, {"a": 2}]}, {"event": "resumed", "step": 7}]


def test_torn_at_every_byte_of_the_last_line_nothing_earlier_is_lost(tmp_path):
    path = tmp_path / "log.jsonl"
    for event in EVENTS:
        append_line(path, event)
    whole = path.read_bytes()
    begin = whole.rstrip(b"\n").rindex(b"\n") + 1
    for end in range(begin, len(whole) + 1):
        path.write_bytes(whole[:end])
        append_line(path, {"event": "next"})
        complete = EVENTS if end >= len(whole) - 1 else EVENTS[:-1]  # without its line feed a record is still whole
        assert read_lines(path) == [*complete, {"event": "next"}], whole[begin:end]
        append_line(path, {"event": "and next"})
        assert read_lines(path)[-2:] == [{"event": "next"}, {"event": "and next"}]


def test_a_torn_log_or_curve_of_a_run_is_read_as_far_as_it_goes(tmp_path):
    where = trials.study(tmp_path / "s")
    for step in range(3):
        where.log("run", "saved", step=step)
    path = where.run_path("run") / "attempts.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert [event["step"] for event in where.attempts("run")] == [0, 1]
    where.log("run", "resumed", step=1)
    assert [event["step"] for event in where.attempts("run")] == [0, 1, 1]
    rows = b"".join(json.dumps({"tokens": n, "train_loss": 1.0}).encode() + b"\n" for n in (10, 20, 30))
    (where.run_path("run") / "metrics.jsonl").write_bytes(rows[:-3])
    assert where.curve("run") == [(10, 1.0), (20, 1.0)]


def test_a_value_that_json_lacks_adds_no_line(tmp_path):
    append_line(tmp_path / "log", {"a": 1})
    with pytest.raises(ValueError):
        append_line(tmp_path / "log", {"a": float("nan")})
    assert read_lines(tmp_path / "log") == [{"a": 1}]
    assert read_lines(tmp_path / "none") == []
