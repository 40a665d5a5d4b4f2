"""Files that survive a crash."""

import json
import os

import pytest

from allometry import files
from allometry.files import replace_file, write_json


def test_content_is_written_completely_and_its_folder_created(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    for content in (b"", b"\0\xff" * 1000, b"short"):
        replace_file(path, content)
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["file.bin"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    replace_file(path, b"old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, step, full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_interrupt_leaves_only_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    replace_file(path, b"old")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_reader_of_the_old_file_keeps_it(tmp_path):
    path = tmp_path / "file"
    replace_file(path, b"old")
    with open(path, "rb") as reader:
        replace_file(path, b"new and longer")
        assert reader.read() == b"old"


def test_json_is_read_back_and_a_value_that_json_lacks_leaves_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    value = {"a": [1, 2.5, None], "ü": "τ"}
    write_json(path, value)
    assert json.loads(path.read_text()) == value
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            write_json(path, {"a": bad})
    assert json.loads(path.read_text()) == value
