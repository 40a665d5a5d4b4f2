"""Records: what they keep, and that a record is valid for its own configuration only."""

import json
import math
from dataclasses import replace

import pytest

from allometry.config.external import ExternalRun
from allometry.errors import UserError
from allometry.quantities import Score
from allometry.runs.record import RunRecord, environment, now
from helpers.builders import record, run_config

EXTERNAL = ExternalRun(
    trained_by="wandb",
    name="pious-sky-3",
    num_params=10**6,
    counted="total",
    num_params_total=10**6,
    tokens=2 * 10**7,
    shape={"width": 64},
    notes=("tokens: step × batch",),
    source="runs/3",
)
SCORED = replace(record(run_config()), scores={"accuracy": Score(0.5, 0.01), "chrf": Score(31.0)})


@pytest.mark.parametrize(
    "original",
    [
        record(run_config()),
        record(run_config(), loss=None, status="diverged"),
        replace(record(run_config()), run=EXTERNAL),
        replace(record(run_config()), scores={"accuracy": Score(0.5, 0.01)}),
    ],
)
def test_a_record_round_trips_through_json(original):
    assert RunRecord.from_json(json.loads(json.dumps(original.to_json(), allow_nan=False))) == original


def test_a_record_has_its_counts_under_every_convention():
    config = run_config()
    counts = record(config).counts()
    assert counts["num_params"] == config.model.num_params
    assert counts["num_params_total"] == config.model.num_params_total
    assert counts["flops"] == config.flops
    assert counts["flops_6nd"] == 6 * config.model.num_params * config.tokens
    assert counts["tokens"] == config.tokens
    assert counts["steps"] == config.schedule.steps


def test_bits_are_nats_over_log_two():
    assert record(run_config(), loss=math.log(2)).to_json()["bits_per_byte"] == pytest.approx(1)
    assert record(run_config(), loss=None).to_json()["bits_per_byte"] is None


def test_the_row_of_a_record_has_what_a_law_reads():
    row = record(run_config()).row()
    assert {"num_params", "tokens", "loss", "flops", "loss_se", "label", "status", "note"} <= row.keys()
    assert row["label"] == run_config().id


@pytest.mark.parametrize(
    ("part", "name", "value"), [("train", "lr", 0.7), ("model", "width", 32), ("task", "fingerprint", "x")]
)
def test_a_record_of_a_changed_configuration_is_refused(part, name, value):
    plain = record(run_config()).to_json()
    plain["config"][part][name] = value
    with pytest.raises(UserError, match=f"run {plain['id']}: its configuration was changed"):
        RunRecord.from_json(plain)


def test_a_record_of_an_older_trainer_is_refused(monkeypatch):
    plain = record(run_config()).to_json()
    monkeypatch.setattr("allometry.config.training.TRAINER_VERSION", -1)
    with pytest.raises(UserError, match="older version"):
        RunRecord.from_json(plain)


def test_a_record_that_lacks_a_field_is_refused_with_its_name():
    for name in ("id", "config", "loss", "status", "seconds"):
        plain = record(run_config()).to_json()
        del plain[name]
        with pytest.raises(UserError, match=name):
            RunRecord.from_json(plain)


@pytest.mark.parametrize("value", [[], "text", 3, {"id": "x", "config": []}])
def test_a_value_that_is_not_a_record_is_refused_in_one_line(value):
    with pytest.raises(UserError) as caught:
        RunRecord.from_json(value)
    assert "\n" not in str(caught.value)


def test_the_path_of_the_text_does_not_change_a_record():
    plain = record(run_config(source="here")).to_json()
    plain["config"]["task"]["source"] = "/somewhere/else"
    assert RunRecord.from_json(plain).id == plain["id"]


def test_the_environment_names_versions_and_no_host():
    import platform

    values = environment(threads=3)
    assert values["threads"] == 3
    assert values["torch"] is not None
    assert values["python"] == platform.python_version()
    assert platform.node() not in json.dumps(values)
    assert now().endswith("+00:00")


def test_scores_beside_the_loss_are_columns_of_the_row_and_an_unknown_error_is_none():
    row = RunRecord.from_json(json.loads(json.dumps(SCORED.to_json(), allow_nan=False))).row()
    assert (row["accuracy"], row["accuracy_se"]) == (0.5, 0.01)
    assert (row["chrf"], row["chrf_se"]) == (31.0, None)


def test_an_external_run_has_the_row_of_any_other_with_what_is_not_known_left_empty():
    external = replace(record(run_config()), run=EXTERNAL)
    assert external.row().keys() == record(run_config()).row().keys()
    row = external.row()
    assert (row["num_params"], row["counted"], row["tokens"], row["width"]) == (10**6, "total", 2 * 10**7, 64)
    assert row["flops"] == row["flops_6nd"] == 6 * 10**6 * 2 * 10**7
    assert row["lr"] is row["batch_tokens"] is row["seed"] is row["bits_per_byte"] is None
    with pytest.raises(UserError, match="was not trained here"):
        _ = external.config


def test_an_external_record_whose_facts_were_changed_is_refused():
    plain = replace(record(run_config()), run=EXTERNAL).to_json()
    plain["external"]["num_params"] = 5
    with pytest.raises(UserError, match="its configuration was changed"):
        RunRecord.from_json(plain)
