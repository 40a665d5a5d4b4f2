"""The page of the minima of budgets: its script gives the numbers of ``IsoFlop``, and answers in Chromium."""

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from allometry import laws
from allometry.laws.isoflop_slices.isoflop_table import isoflop_table
from allometry.laws.law_table import LEVELS
from allometry.quantities import format_count
from allometry.report import write_isoflop_page
from helpers.law_tables import SCRIPTS
from helpers.pages import read

PROGRAM = """
const tool = require(process.argv[1]), {table, flops} = JSON.parse(require("fs").readFileSync(0, "utf8"));
const law = tool.read(table);
const told = flops.map(([one, place]) => {
  try { return law.ask(one, place); }
  catch (error) { if (error instanceof tool.Refusal) return {refused: error.message}; throw error; }
});
console.log(JSON.stringify(told));
"""
HOSTILE = "</script><script>window.ran=1</script><img src=x onerror='window.ran=1'>"
NAMES = ("num_params", "tokens", "loss")


@pytest.fixture(scope="module")
def isoflop():
    """Four budgets with a minimum and one without, of runs with noise; the name of one run is hostile."""
    generator = np.random.default_rng(0)
    flops = np.repeat([1e17, 1e18, 1e19, 1e20, 1e21], 9)
    best = (flops / 6 / 20) ** 0.5 * np.where(flops == 1e21, 0.05, 1)
    size = best * np.tile(np.geomspace(1 / 5, 5, 9), 5)
    tokens = flops / 6 / size
    loss = (1.7 + 406 / size**0.34 + 411 / tokens**0.28) * np.exp(0.001 * generator.standard_normal(len(size)))
    labels = (HOSTILE, *(f"run {i}" for i in range(1, len(size))))
    return laws.isoflop(laws.Observations(size, tokens, loss, flops, np.full(len(size), np.nan), labels))


@pytest.fixture(scope="module")
def path(isoflop, tmp_path_factory):
    return write_isoflop_page(isoflop, tmp_path_factory.mktemp("page") / "page.html", HOSTILE)


def node(isoflop, flops):
    program = shutil.which("node")
    if program is None:
        pytest.skip("no node: apt-get install nodejs")
    line = [program, "-e", PROGRAM, str(SCRIPTS / "isoflop_law.js")]
    text = json.dumps({"table": isoflop_table(isoflop), "flops": flops}, allow_nan=False)
    done = subprocess.run(line, input=text, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_the_script_gives_the_numbers_of_python(isoflop):
    flops = np.geomspace(1e15, 1e24, 7)
    told = node(isoflop, [[float(one), place] for place in range(len(LEVELS)) for one in flops])
    for place, level in enumerate(LEVELS):
        part = told[place * len(flops) : (place + 1) * len(flops)]
        for name in NAMES:
            expected = getattr(isoflop, name)(flops, level)
            for end in ("value", "low", "high"):
                np.testing.assert_allclose([one[name][end] for one in part], getattr(expected, end), rtol=1e-9)


def test_a_minimum_of_three_budgets_has_no_floor_of_the_loss(isoflop):
    few = replace(isoflop, lines=isoflop.lines | {"loss": np.array([0.0, 2.5, 0.05])})
    (told,) = node(few, [[1e20, 2]])
    assert told["loss"]["value"] == pytest.approx(float(few.loss(1e20).value), rel=1e-9)


def test_what_cannot_be_answered_is_refused_and_what_is_far_is_said(isoflop):
    told = node(isoflop, [[-1.0, 2], [0.0, 2], [1e27, 2], [1e10, 2], [5e23, 2], [1e22, 2], [1e18, 2]])
    assert all(one.get("refused") for one in told[:4])
    notes = [" ".join(one["notes"]) for one in told[4:]]
    assert "guess" in notes[0]
    assert "extrapolates" in notes[1]
    assert notes[2] == ""


def test_the_page_says_what_the_analysis_says(isoflop, path):
    page = read(path)
    assert page.words["h1"].endswith(HOSTILE)
    assert not page.all("img")
    refused = next(one for one in isoflop.budgets if one.refused)
    assert refused.refused in page.words["td"]
    for one in isoflop.accepted:
        assert any(format_count(one.num_params) in row and f"{one.loss:.4f}" in row for row in page.cells)
    assert f"C^{isoflop.exponents['num_params']:.3f}" in page.words["p"]
    assert "nan" not in (page.words["p"] + page.words["td"] + page.words["title"]).lower()


def test_a_slider_moves_and_the_best_size_follows(browser, isoflop, path):
    browser.open(path)
    exact = lambda name: browser.run(f"document.querySelector('[data-ask=\"{name}\"]').title")
    assert browser.run("window.ran") is None
    browser.run(
        "(s => {s.value = Number(s.value) + 0.5; s.dispatchEvent(new Event('input', {bubbles: true}))})"
        "(document.querySelector('[data-for=flops]'))"
    )
    flops = float(browser.run("document.querySelector('input[name=flops]').value"))
    for name in NAMES:
        expected = getattr(isoflop, name)(flops)
        assert float(exact(name)) == pytest.approx(float(expected.value), rel=1e-6)
        ends = list(map(float, exact(f"{name}_interval").split(" to ")))
        np.testing.assert_allclose(ends, [float(expected.low), float(expected.high)], rtol=1e-6)
    assert browser.run("document.querySelectorAll('[data-ask=curve] .run').length") == len(isoflop.accepted)
    assert browser.complaints() == []
    assert len(browser.requests()) == 1


@pytest.mark.parametrize("text", ["abc", "-1e15", "0", "1e90", ""])
def test_what_is_no_budget_computes_nothing(browser, path, text):
    browser.open(path)
    browser.run(
        f"(f => {{f.value = {text!r}; f.dispatchEvent(new Event('input', {{bubbles: true}}))}})"
        "(document.querySelector('input[name=flops]'))"
    )
    assert browser.run("document.querySelector('[data-ask=answer]').hidden") is True
    assert len(browser.run("document.querySelector('[data-ask=error]').textContent")) > 20


@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser, path, width, scheme):
    browser.open(path, width, 900, scheme)
    assert browser.run("document.documentElement.scrollWidth") <= width
