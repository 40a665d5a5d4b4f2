"""Flipped bits, files cut short: noticed every time, said aloud, and the last good state taken."""

import itertools
import os
import random
import shutil

import pytest

from allometry.runs import saved_states
from helpers import trials

LENGTH = 4_000  # tokens: 125 steps, 100 of them of the trunk
COUNT = 200 if trials.LONG else 60


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A training that was stopped in the middle of its trunk, with two states saved."""
    where = trials.study(tmp_path_factory.mktemp("begun") / "s")
    steps = itertools.count()
    assert trials.wait(trials.fork(lambda: trials.go_on(where, LENGTH, should_stop=lambda: next(steps) > 60))) == 1
    return where


def copy(begun, folder):
    shutil.copytree(begun.path, folder)
    where = trials.study(folder)
    trunk = where.trunk_path(trials.configs(LENGTH)[0].trunk)
    older, newer = saved_states.committed(trunk)
    return where, trunk, older, newer


def harm(folder, rng) -> str:
    """Flip a bit of one of its files, cut it short, or delete it; what was done."""
    path = rng.choice(sorted(folder.iterdir()))
    content = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "flip", "flip", "cut", "cut", "grow", "delete"])
    if kind == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[rng.randrange(len(content)) :]
    elif kind == "grow":
        content.append(rng.randrange(256))
    path.unlink() if kind == "delete" else path.write_bytes(content)
    return f"{kind} {path.name}"


def test_every_damage_is_noticed_and_the_last_good_state_taken_aloud(begun, tmp_path):
    noticed = 0
    for number in range(COUNT):
        _, trunk, older, newer = copy(begun, tmp_path / "copy")
        done, said = harm(newer, random.Random(number)), []
        found = saved_states.newest(trunk, said.append)
        assert found == older, done
        assert len(said) == 1, done
        assert said[0].startswith(f"{trunk.name}/{newer.name}: damaged (")
        assert said[0].endswith(f"; going on from {older.name}")
        noticed += 1
        shutil.rmtree(tmp_path / "copy")
    print(f"\n{noticed} of {COUNT} damaged states noticed, the one before taken aloud")


@pytest.mark.parametrize("both", [False, True])
def test_training_goes_on_from_the_last_good_state_and_the_record_says_so(begun, tmp_path, both):
    calm = trials.study(tmp_path / "calm")
    trials.calm(calm, LENGTH)
    where, _, older, newer = copy(begun, tmp_path / "copy")
    for folder in (older, newer)[not both :]:
        harm(folder, random.Random(1))
    heard = []
    trials.go_on(where, LENGTH, note=lambda run, text: heard.append(text))
    assert trials.weights(where) == trials.weights(calm)
    [record] = where.records()
    aloud = "starting over" if both else f"going on from {older.name}"
    assert len(heard) == 1 + both
    assert all(text.endswith(aloud) for text in heard)
    assert record.note == "; ".join(heard)
    events = [event["event"] for event in where.attempts(record.id)]
    assert events == ["started", "interrupted", *["note"] * (1 + both), "started" if both else "resumed", "finished"]
    assert calm.records()[0].note == ""


def test_a_state_that_is_not_committed_is_no_state(begun, tmp_path):
    _, trunk, older, newer = copy(begun, tmp_path / "copy")
    (newer / saved_states.MARKER).unlink()
    assert saved_states.newest(trunk) == older
    os.rename(older, trunk / f"{saved_states.PARTIAL}{older.name}.abc")
    assert saved_states.newest(trunk) is None


def test_two_good_states_are_kept_whatever_is_damaged_among_them(tmp_path):
    def save(number):
        with saved_states.writing(tmp_path, f"step-{number:08d}") as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_bytes(bytes([number]) * 100)
        saved_states.prune(tmp_path)

    for number in range(4):
        save(number)
    assert [folder.name[-1] for folder in saved_states.committed(tmp_path)] == ["2", "3"]
    (tmp_path / "step-00000003" / "deep" / "file").write_bytes(b"short")
    save(4)
    assert [folder.name[-1] for folder in saved_states.committed(tmp_path)] == ["2", "3", "4"]
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_a_commit_that_is_forbidden_or_fails_leaves_what_was_there(tmp_path):
    class Forbidden(Exception):
        pass

    class Never:
        def __enter__(self):
            raise Forbidden

        def __exit__(self, *error):
            pass

    with saved_states.writing(tmp_path, "step-1") as folder:
        (folder / "a").write_bytes(b"first")
    with pytest.raises(Forbidden), saved_states.writing(tmp_path, "step-2", Never()) as folder:
        (folder / "a").write_bytes(b"second")
    with pytest.raises(OSError, match="full"), saved_states.writing(tmp_path, "step-2") as folder:
        raise OSError("full")
    assert saved_states.newest(tmp_path) == tmp_path / "step-1"
    assert os.listdir(tmp_path) == ["step-1"]
