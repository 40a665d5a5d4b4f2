"""Runs that were trained elsewhere: what identifies them, and what is derived from what is stated."""

import pytest

from allometry.config.external import ExternalRun
from allometry.errors import UserError

STATED = {"trained_by": "recorder", "num_params": 1000, "tokens": 20_000, "batch_tokens": 512, "lr": 3e-4}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_params", 1001),
        ("tokens", 20_001),
        ("lr", 1e-4),
        ("seed", 1),
        ("name", "b"),
        ("shape", {"width": 8}),
        ("settings", {"clip": 1.0}),
        ("trained_by", "wandb"),
    ],
)
def test_every_fact_that_tells_runs_apart_is_in_the_identity(name, value):
    assert ExternalRun.parse(STATED | {name: value}).id != ExternalRun.parse(STATED).id


@pytest.mark.parametrize(
    ("name", "value"), [("notes", ["D = steps × batch"]), ("source", "/a/b"), ("train_tokens", 5), ("num_params", 1000)]
)
def test_where_it_was_read_and_how_it_was_derived_is_not(name, value):
    assert ExternalRun.parse(STATED | {name: value}).id == ExternalRun.parse(STATED).id


def test_flops_and_steps_follow_from_what_is_stated():
    run = ExternalRun.parse(STATED)
    assert run.total_flops == 6 * 1000 * 20_000
    assert run.steps == 40
    assert ExternalRun.parse(STATED | {"flops": 2e9}).total_flops == 2e9
    assert ExternalRun.parse({"trained_by": "x", "num_params": 1, "tokens": 2}).steps is None


@pytest.mark.parametrize(("name", "value"), [("num_params", 0), ("tokens", -1), ("lr", float("nan")), ("depth", 3)])
def test_what_cannot_be_is_one_line(name, value):
    with pytest.raises(UserError, match=name):
        ExternalRun.parse(STATED | {name: value}, "run")
