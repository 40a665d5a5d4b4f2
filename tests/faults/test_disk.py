"""A full disk: what was there still loads, the exit status is not 0, and one line says it."""

import errno
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from allometry.files import append_line, read_lines
from allometry.runs import saved_states
from helpers import trials
from helpers.builders import record, run_config, run_toml

FULL = OSError(errno.ENOSPC, "No space left on device")
TINY = 'mount -t tmpfs -o size=$0 tmpfs $1 && shift && exec "$@"'  # a disk that is soon full


class Disk:
    """Stands in for a disk with room for some more pieces; a piece that does not fit is written in part."""

    def __init__(self, monkeypatch, room):
        self.room = room
        monkeypatch.setattr(os, "fsync", self._limited(os.fsync))
        whole = pathlib.Path.write_bytes

        def write_bytes(path, content):
            if self._full():
                whole(path, content[: len(content) // 2])
                raise FULL
            return whole(path, content)

        monkeypatch.setattr(pathlib.Path, "write_bytes", write_bytes)

    def _full(self):
        self.room -= 1
        return self.room < 0

    def _limited(self, function):
        def run(*arguments):
            if self._full():
                raise FULL
            return function(*arguments)

        return run


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """The weights of an undisturbed training."""
    calm = trials.study(tmp_path_factory.mktemp("calm") / "s")
    trials.calm(calm)
    return trials.weights(calm)


ROOMS = [*range(30), 50, 80] if trials.LONG else [3, 14, 40]  # from the claim to the record


@pytest.mark.parametrize("room", ROOMS)
def test_a_disk_that_fills_up_anywhere_in_a_training_costs_only_what_did_not_fit(tmp_path, monkeypatch, wanted, room):
    where = trials.study(tmp_path / "s")

    def starve():
        Disk(monkeypatch, room)
        trials.go_on(where)

    assert trials.wait(trials.fork(starve)) == 1
    for trunk in where.path.glob("trunks/*"):
        said = []
        assert saved_states.newest(trunk, said.append) or not saved_states.committed(trunk)
        assert said == []
        assert not [entry for entry in trunk.iterdir() if entry.name.startswith(".partial-")]
    trials.go_on(where)
    assert trials.weights(where) == wanted


def test_a_record_that_does_not_fit_leaves_the_one_before(tmp_path, monkeypatch):
    where = trials.study(tmp_path / "s")
    before = record(run_config())
    where.save(before, [[1, 3.0]])
    with monkeypatch.context() as patch:
        Disk(patch, 0)
        with pytest.raises(OSError, match="No space"):
            where.save(before, [[1, 2.0]])
        with pytest.raises(OSError, match="No space"):
            append_line(where.path / "log", {"a": 1})
    assert where.record(before.id) == before
    append_line(where.path / "log", {"b": 1})
    assert {"b": 1} in read_lines(where.path / "log")


def allometry(*arguments):
    return [sys.executable, "-m", "allometry.cli.app", *map(str, arguments)]


def one_line(done, *words):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("allometry: ")
    assert any(word in last for word in words), last


@pytest.fixture(scope="module")
def mounted():
    """Whether this process may mount a small disk."""
    return shutil.which("unshare") and not subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode


def text(path):
    path.write_text("\n".join(f"{a} and {b}" for a in range(150) for b in "abcdefghij"))
    return path


@pytest.mark.skipif(not trials.LONG, reason="make faults")
@pytest.mark.parametrize("size", [60, 150, 300, 600, 900, 1200])  # kB: from the text itself to the third state
def test_a_command_on_a_disk_that_is_really_full(tmp_path, mounted, size):
    if not mounted:
        pytest.skip("no right to mount a small disk")
    (tmp_path / "run.toml").write_text(
        run_toml(text(tmp_path / "text.txt"), 30_000_000)
    )  # so that states are saved: every ten seconds
    disk = tmp_path / "disk"
    disk.mkdir()
    # The study is looked at within the same mount, before it is gone.
    code = "import subprocess, sys; from allometry.runs import saved_states; from pathlib import Path\n" + (
        "done = subprocess.run(sys.argv[2:]); said = []\n"
        "for trunk in Path(sys.argv[1]).glob('s/trunks/*'): saved_states.newest(trunk, said.append)\n"
        "print('damaged:', said); sys.exit(done.returncode)"
    )
    train = allometry("train", tmp_path / "run.toml", "--out", disk / "s")
    command = ["unshare", "-m", "sh", "-c", TINY, f"{size}k", disk, sys.executable, "-c", code, disk, *train]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    one_line(done, "No space left on device")
    assert done.stdout == "damaged: []\n"


def test_a_report_that_may_not_grow_leaves_the_old_one_and_is_one_line(tmp_path):
    """The limit on the size of a file stands in for a full disk, at the command line."""
    where = trials.study(tmp_path / "s")
    where.save(record(run_config()), [[1, 3.0]])
    old = b"the report of yesterday"
    (where.path / "report.html").write_bytes(old)
    limited = ["sh", "-c", 'ulimit -f 1 && exec "$0" "$@"', *allometry("report", where.path)]
    one_line(subprocess.run(limited, capture_output=True, text=True), "File too large")
    assert (where.path / "report.html").read_bytes() == old
    assert not list(where.path.glob(".report.html.*"))
