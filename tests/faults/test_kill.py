"""SIGKILL at any moment, in the middle of a save too: the weights come out to the bit those of a calm training."""

import random
import time

import pytest

from allometry.lm.compiled.build import available
from helpers import trials

KILLS = [(False, 70, 1, {}), (True, 30, 2, {}), (False, 20, 0, {"compile": True})]


@pytest.mark.parametrize(("inside", "many", "few", "recipe"), KILLS, ids=["any", "inside", "compiled"])
def test_killed_again_and_again_the_weights_are_those_of_an_undisturbed_training(
    tmp_path, monkeypatch, inside, many, few, recipe
):
    count = many if trials.LONG else few
    if not count:
        pytest.skip("make faults")
    if recipe and (reason := available()):
        pytest.skip(reason)
    monkeypatch.setattr(trials, "RECIPE", recipe)
    begin = time.monotonic()
    trials.calm(trials.study(tmp_path / "calm"))
    seconds = time.monotonic() - begin
    wanted = trials.weights(trials.study(tmp_path / "calm"))
    assert len(wanted) == len(trials.LENGTHS)
    good = saves = 0
    for number in range(count):
        rng = random.Random(number)
        same, within = trials.killed_again_and_again(tmp_path / str(number), wanted, rng, inside, seconds)
        good, saves = good + same, saves + within
    print(
        f"\n{good} of {count} trainings killed by SIGKILL ended to the bit as undisturbed; {saves} kills within a save"
    )
    assert good == count
    assert saves or not inside


def test_a_process_that_was_killed_leaves_nothing_half_written_in_a_study(tmp_path):
    where = trials.study(tmp_path / "s")
    for place in (5, 40, 80):
        trials.wait(trials.fork(lambda place=place: (trials.die_at(place), trials.go_on(where))))
    trials.go_on(where)
    assert not list(where.path.rglob(".partial-*"))
    assert not list(where.path.rglob(".deleted-*"))
    assert not list(where.path.glob("trunks/*"))
    names = {path.name for path in where.path.glob("runs/*/*")}
    assert names == {"record.json", "metrics.jsonl", "model.safetensors", "attempts.jsonl"}
