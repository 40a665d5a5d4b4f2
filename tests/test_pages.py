"""The pages say what is so: their Python runs, their commands exist, their figures are the committed results."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from allometry.cli.app import app
from helpers.chromium import Chromium

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
PAGES = [*READMES, *sorted(ROOT.glob("docs/**/*.md"))]
EXPLANATIONS = ("coming-from", "intervals", "scaling-laws", "unit-scaling")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^```(.*?)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def somebodys_table(tmp_path, monkeypatch):
    """The folder of a user who has a table of runs: the one that the tutorial writes."""
    monkeypatch.chdir(tmp_path)
    tutorial = (ROOT / "examples" / "table_to_plan.py").read_text(encoding="utf-8")
    exec(tutorial.split("runs = laws")[0], {})
    assert Path("runs.csv").exists()


def run_blocks(page: Path) -> dict:
    """What the names of a page are after its blocks of Python, run one after the other."""
    names = {"__name__": "page"}
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert blocks
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    return names


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_the_lines_of_the_first_screen_run_and_print_what_they_say(page, somebodys_table, capsys):
    run_blocks(page)
    printed = capsys.readouterr().out
    promised = re.search(r"tokens=4e9\)\)  # (.*)", page.read_text(encoding="utf-8"))[1]
    shown, said = (re.findall(r"[\d.]+", line) for line in (printed.splitlines()[0], promised))
    assert [round(float(number), 2) for number in shown] == [float(number) for number in said]
    assert "predicted loss" in printed


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_the_code_of_an_explanation_runs(name, somebodys_table):
    run_blocks(ROOT / "docs" / "explanation" / f"{name}.md")


def test_figures_and_pictures_are_those_of_the_committed_results():
    """`python docs/scoreboard.py` makes them again."""
    spec = importlib.util.spec_from_file_location("scoreboard", ROOT / "docs" / "scoreboard.py")
    scoreboard = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    try:
        spec.loader.exec_module(scoreboard)
        documents = scoreboard.documents()
    finally:
        sys.path[:] = before
    for path, text in documents.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python docs/scoreboard.py"
    board = documents[ROOT / "docs" / "explanation" / "scoreboard.md"]
    for study in scoreboard.studies():
        assert f"| {study['text']}, {study['seed']} |" in board
    for table in scoreboard.read("forecast_tables.json")["tables"]:
        assert table.removeprefix("80 % ").removeprefix("C/10 ") in board


def commands_of(page: Path) -> list[list[str]]:
    """The words of every command of ours that a page shows, without comments and what stands for something."""
    text = page.read_text(encoding="utf-8")
    shell = [block for language, block in FENCED.findall(text) if language in ("", "bash", "console")]
    lines = [line for block in shell for line in block.splitlines()]
    lines += re.findall(r"`(allometry [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    found = []
    for line in lines:
        line = re.split(r"\s#|\s[|<>]\s|…", line.strip().removeprefix("$ "))[0]
        if match := re.search(r"(?:^|\s)allometry ([a-z].*)", line):
            found.append(shlex.split(match[1].replace("'", "").replace('"', "")))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_that_a_page_shows_exists(page):
    group = typer.main.get_command(app)
    for name, *words in commands_of(page):
        assert name in group.commands, f"allometry {name}"
        options = {option for parameter in group.commands[name].params for option in parameter.opts}
        options |= {option for parameter in group.commands[name].params for option in parameter.secondary_opts}
        shown = {word.partition("=")[0].rstrip(".,;:)") for word in words if re.match(r"--?[a-z]", word)}
        assert shown <= options | {"--help", "-h"}, f"allometry {name}: {sorted(shown - options)}"


def test_the_page_of_commands_names_each():
    page = ROOT / "docs" / "reference" / "commands.md"
    assert {name for name, *_ in commands_of(page)} == set(typer.main.get_command(app).commands)


def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed; make docs builds the site")
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed; make docs builds the site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    page = tmp_path / "site" / "explanation" / "scoreboard.html"
    assert page.exists()
    with Chromium() as browser:  # opened from the disk, without a network
        browser.open(page)
        browser.run("document.querySelector('label[for=__search]').click()")
        browser.run("document.querySelector('input[data-md-component=search-query]').focus()")
        browser.send("Input.insertText", text="drift")
        answers = "document.querySelectorAll('.md-search-result__item').length"
        until = "new Promise(done => { const ask = () => COUNT ? done(COUNT) : setTimeout(ask, 100); ask(); })"
        assert browser.run(until.replace("COUNT", answers)) > 0
        assert all(address.startswith("file:") for address in browser.requests())
        assert browser.complaints() == []
