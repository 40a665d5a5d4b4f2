"""Tables that one can sort: what a cell is sorted by, under node; clicks and keys, in Chromium."""

import json
import shutil
import subprocess

import pytest

from allometry.report import write_report
from helpers.law_tables import SCRIPTS

PROGRAM = """
const {key, order} = require(process.argv[1]), cells = JSON.parse(require("fs").readFileSync(0, "utf8"));
const keys = cells.map((one) => key(...one));
console.log(JSON.stringify({keys, rising: order(keys, 1), falling: order(keys, -1)}));
"""
RUNS = "document.querySelector('table.runs')"


def sorted_by_script(cells):
    """Keys and orders of cells (text, exact value, whether the column is one of words)."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no node: apt-get install nodejs")
    line = [program, "-e", PROGRAM, str(SCRIPTS / "sort.js")]
    done = subprocess.run(line, input=json.dumps(cells), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_cells_are_sorted_by_their_exact_numbers():
    cells = [
        ("1.5B", "1,500,000,000"), ("200M", "200,000,000"), ("–", ""), ("9.9e+03", "9901.5"), ("12.5%", ""),
        ("-0.3", "-0.3"), ("no interval", ""), ("[2.1, 2.2]", "2.1 to 2.2"), ("2 min 03 s", "123.4"), ("+4 %", ""),
    ]  # fmt: skip
    found = sorted_by_script([(*one, False) for one in cells])
    assert found["keys"] == [1.5e9, 2e8, None, 9901.5, 12.5, -0.3, None, 2.1, 123.4, 4]
    assert found["rising"] == [5, 7, 9, 4, 8, 3, 1, 0, 2, 6]
    assert found["falling"] == [0, 1, 3, 8, 4, 9, 7, 5, 2, 6]  # what says nothing stays last


def test_words_are_sorted_as_people_do_and_equal_ones_stay_as_they_stand():
    found = sorted_by_script([(text, "", True) for text in ("run 10", "run 9", "Äpfel", "", "apfel", "run 9")])
    assert found["rising"] == [2, 4, 1, 5, 0, 3]
    assert found["falling"] == [0, 1, 5, 2, 4, 3]


@pytest.fixture
def opened(browser, study, tmp_path):
    browser.open(write_report(study, tmp_path / "report.html"))
    return browser


def column(page, name):
    """The exact values of a column of the runs, and what its head says of the order."""
    place = page.run(f"[...{RUNS}.tHead.rows[0].cells].findIndex((one) => one.textContent === {name!r})")
    shown = f"({{cells}}) => cells[{place}].title || cells[{place}].textContent"
    values = page.run(f"[...{RUNS}.tBodies[0].rows].map({shown})")
    head = f"{RUNS}.tHead.rows[0].cells[{place}]"
    numbers = [float(one.replace(",", "")) for one in values if one != "–"]
    return numbers, page.run(f"{head}.getAttribute('aria-sort')"), head


def press(page, key, code):
    for kind in ("keyDown", "keyUp"):
        text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
        page.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)


def test_a_click_sorts_and_the_third_restores(opened):
    before, said, head = column(opened, "loss")
    assert said is None
    assert before != sorted(before)
    rows = opened.run(f"{RUNS}.tBodies[0].rows.length")
    for expected in ("ascending", "descending", None):
        opened.run(f"{head}.querySelector('button').click()")
        values, said, _ = column(opened, "loss")
        assert said == expected
        assert values == {"ascending": sorted(before), "descending": sorted(before)[::-1], None: before}[expected]
    assert opened.run(f"{RUNS}.tBodies[0].rows.length") == rows
    assert opened.complaints() == []
    assert len(opened.requests()) == 1


def test_the_keyboard_sorts_too(opened):
    before, _, head = column(opened, "params")
    opened.run(f"{head}.querySelector('button').focus()")
    press(opened, "Enter", 13)
    assert column(opened, "params")[:2] == (sorted(before), "ascending")
    loss = column(opened, "loss")[2]
    opened.run(f"{loss}.querySelector('button').click()")
    assert column(opened, "params")[1] is None  # one column at a time
    assert column(opened, "loss")[1] == "ascending"


def test_pairs_have_no_order(opened):
    assert opened.run("document.querySelectorAll('table.pairs button').length") == 0
    assert opened.run("document.querySelectorAll('table.sortable').length") >= 4
