"""Files in the wrong place: what is read is never written over, and what is no table or study says so in one line."""

import json
from pathlib import Path

import pytest

from allometry.laws.from_record import RECORDS
from allometry.laws.saved import KINDS
from helpers.ladders import ladder


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = ladder("chinchilla", noise=0.004)
    rows = [f"{n:.0f},{d:.0f},{loss:.6f}" for n, d, loss in zip(runs.num_params, runs.tokens, runs.loss, strict=True)]
    path = tmp_path / "runs.csv"
    path.write_text("num_params,tokens,loss\n" + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("option", ["-o", "--html"])
@pytest.mark.parametrize("name", ["runs.csv", "./runs.csv", "link.csv", "sub/../runs.csv"])
def test_a_table_is_never_written_over(refused, source, option, name):
    before = source.read_bytes()
    (source.parent / "sub").mkdir()
    (source.parent / "link.csv").symlink_to(source)
    line = refused("fit", "runs.csv", "--law", "power", option, name)
    assert "another name" in line
    assert source.read_bytes() == before
    assert {path.name for path in source.parent.iterdir()} == {"runs.csv", "sub", "link.csv"}


def test_a_fit_is_never_written_over_by_a_plan(refused, source):
    Path("fit.json").write_text("{}")
    assert "another name" in refused("plan", "fit.json", "--flops", "1e20", "-o", "fit.json")
    assert Path("fit.json").read_text() == "{}"


def test_two_answers_need_two_files(refused, source):
    assert "different names" in refused("fit", source, "-o", "out", "--html", "./out")
    assert not Path("out").exists()


def test_a_place_where_nothing_can_be_written_is_named_as_it_was_given(refused, source):
    Path("file").touch()
    assert "is no folder" in refused("fit", source, "--law", "power", "-o", "file/sub/fit.json")
    if Path("/proc/self").is_dir():  # where no file can be made, not even by root
        line = refused("fit", source, "--law", "power", "-o", "/proc/fit.json")
        assert "/proc/fit.json" in line
        assert "/proc/.fit" not in line


@pytest.mark.parametrize("command", [["fit"], ["predict"], ["plan"]])
def test_an_address_is_not_loaded(refused, source, command):
    assert "https://example.com/runs.csv" in refused(*command, "https://example.com/runs.csv")


def test_an_option_without_its_value_names_the_help_of_its_command(refused, source):
    assert "allometry plan --help" in refused("plan", "fit.json", "--flops")


@pytest.mark.parametrize("command", [["fit"], ["predict"], ["plan"], ["report"], ["runs"], ["train"]])
def test_standard_input_is_no_file(refused, source, command):
    assert "standard input" in refused(*command, "-")


def test_what_is_no_table_says_what_it_is(refused, source):
    for text in ("<!DOCTYPE html><title>runs</title>", "\n<html>", '<?xml version="1.0"?>'):
        Path("page.csv").write_text(text)
        assert "HTML" in refused("fit", "page.csv")
    assert set(KINDS) <= RECORDS
    for kind in sorted(RECORDS):
        Path("own.json").write_text(json.dumps({"kind": kind, "law": "power", "runs": [{"loss": 3.0}]}))
        assert f"is a {kind} that allometry wrote" in refused("fit", "own.json")


@pytest.mark.parametrize("change", [lambda fit: fit.pop("values"), lambda fit: fit.update(values=3)])
def test_a_fit_of_another_version_is_named_without_words_of_python(refused, cli, source, change):
    assert cli("fit", source, "--law", "power", "-o", "fit.json")[0] == 0
    fit = json.loads(Path("fit.json").read_text())
    change(fit)
    Path("fit.json").write_text(json.dumps(fit))
    line = refused("predict", "fit.json", "--params", "1e9", "--tokens", "1e10")
    assert line.startswith("allometry: fit.json: not a fit that this version reads")
    assert "Error" not in line


def test_a_law_that_is_not_known_is_refused_before_the_table_is_read(refused):
    assert "no law 'nosuch'" in refused("fit", "nowhere.csv", "--law", "nosuch").replace('"', "'")


@pytest.mark.parametrize("command", ["train", "ladder"])
def test_an_empty_file_of_settings(refused, source, command):
    Path("empty.toml").touch()
    assert "no settings" in refused(command, "empty.toml")


def test_a_file_is_no_folder_for_a_study(refused, source):
    assert "is a file" in refused("quickstart", "--minutes", 2, "--out", source)


@pytest.mark.parametrize("command", ["report", "runs"])
def test_a_study_that_is_not_there(refused, source, command):
    assert "no such file or folder" in refused(command, "nowhere")
