"""The page of laws of any inputs: complete without scripts, small, no markup in names; and asked in Chromium."""

import json

import numpy as np
import pytest

from allometry import laws, workflow
from allometry.report import inputs_page as page_of
from allometry.report import write_inputs_page
from allometry.report.html import EVERY_PAGE
from allometry.report.inputs_tables import formulas
from allometry.report.law_parts import LawPart
from helpers.input_tables import few_forms, mixtures, powers
from helpers.pages import read

HOSTILE = "</script><script>window.ran=1</script><img src=x onerror='window.ran=1'>"
FORM = "document.querySelector('#ask form').elements"


@pytest.fixture(scope="module")
def forecast():
    return few_forms(powers(24), "power")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    fitted = few_forms(powers(24, groups=(HOSTILE, "b"), name=HOSTILE), "hill")
    return fitted, write_inputs_page(fitted, tmp_path_factory.mktemp("inputs") / "hostile.html", HOSTILE)


@pytest.fixture(scope="module")
def shares(tmp_path_factory):
    fitted = few_forms(mixtures(20), "linear")
    return fitted, write_inputs_page(fitted, tmp_path_factory.mktemp("inputs") / "shares.html", "shares.csv")


@pytest.fixture(scope="module")
def path(forecast, tmp_path_factory):
    return write_inputs_page(forecast, tmp_path_factory.mktemp("inputs") / "page.html", "runs.csv")


def test_without_scripts_it_has_formula_constants_and_pictures(forecast, path):
    page = read(path)
    assert "Law of loss in runs.csv" in page.words["h1"]
    for line in formulas(LawPart.each(forecast)[0]):
        assert line in page.words["pre"]
    best = forecast.simplest
    for value in [*best.theta[0], *best.coefficients[0]]:
        assert any(f"{value:.5g}" in row for row in page.cells)
    for error in forecast.errors.values():
        assert any(f"{error:.5g}" in row for row in page.cells)
    assert sum(one.get("class") == "plot broad" for one in page.all("svg")) == 2
    for name in ("width", "rate"):  # a slice along each input that varies
        assert page.words["text"].count(name) >= 2


def test_markup_in_names_stays_text(browser, hostile):
    _, page = hostile
    parsed = read(page)
    assert HOSTILE in parsed.words["h1"]
    assert not parsed.all("img")
    browser.open(page)
    assert browser.run("window.ran") is None
    assert browser.complaints() == []
    assert len(browser.requests()) == 1
    assert browser.run("document.getElementById('ask').hidden") is False


def test_a_table_that_is_too_large_is_only_shown(forecast, tmp_path, monkeypatch):
    monkeypatch.setattr(page_of, "MOST_BYTES", 10_000)
    page = read(write_inputs_page(forecast, tmp_path / "page.html", "runs.csv"))
    assert "larger than" in page.words["p"]
    assert len(page.all("script")) == len(EVERY_PAGE)


def test_several_laws_are_on_one_page(browser, forecast, hostile, tmp_path):
    runs, (second, _) = hostile[0].runs, hostile
    parts = tuple(laws.ForecastPart(name, {}, one) for name, one in (("loss", forecast), ("gain", second)))
    browser.open(write_inputs_page(laws.Forecasts(parts), tmp_path / "page.html", "runs.csv"))
    assert browser.complaints() == []
    write(browser, "law", "1")
    point = runs.points[LawPart.each(forecast)[0].first_asked]
    value = second.predict(
        {name: [v] for name, v in zip(runs.inputs, point, strict=True)} | {"corpus": [group_of(browser)]}
    )
    assert exact(browser, "value") == pytest.approx(
        float(np.asarray(value.value)[0]), rel=1e-4
    )  # fields show six digits


# ---- in the browser
def write(page, name, value):
    change = f"f.value = {json.dumps(value)}; f.dispatchEvent(new Event('input', {{bubbles: true}}))"
    page.run(f"(f => {{{change}}})({FORM}['{name}'])")
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def exact(page, name):
    return float(page.run(f"document.querySelector('[data-ask=\"{name}\"]').title"))


def group_of(page):
    return page.run(f"{FORM}.group.selectedOptions[0].text")


def asked(page, runs):
    """What stands in the fields, as a frame."""
    values = [page.run(f"formParts.parse({FORM}['input-{n}'].value, '', true)") for n in range(len(runs.inputs))]
    frame = {name: [value] for name, value in zip(runs.inputs, values, strict=True)}
    return frame | ({"corpus": [group_of(page)]} if runs.group_columns else {})


def agrees(page, forecast):
    expected = forecast.predict(asked(page, forecast.runs), level=0.9)
    interval = page.run("document.querySelector('[data-ask=interval]').title").split(" to ")
    told = [exact(page, "value"), *map(float, interval)]
    np.testing.assert_allclose(told, np.ravel([expected.value, expected.low, expected.high]), rtol=1e-6)


def test_a_slider_and_a_group_move_every_number(browser, forecast, path):
    browser.open(path)
    agrees(browser, forecast)
    before = exact(browser, "value")
    drawn = browser.run("document.querySelector('[data-ask=curve]').innerHTML")
    move = "(s => {s.value = Number(s.min); s.dispatchEvent(new Event('input', {bubbles: true}))})"
    browser.run(f"{move}(document.querySelector('[data-for=\"0\"]'))")
    write(browser, "group", "1")
    assert exact(browser, "value") > before
    agrees(browser, forecast)
    assert browser.run("document.querySelector('[data-ask=curve]').innerHTML") != drawn
    assert browser.run("document.querySelectorAll('[data-ask=curve] .point').length") == 1
    runs = browser.run("document.querySelectorAll('[data-ask=curve] .run').length")
    assert 0 < runs <= len(forecast.runs)
    assert "loss" in browser.run("document.querySelector('[data-ask=curve] .run').dataset.says")
    assert browser.complaints() == []


def test_a_pointer_over_a_run_says_what_it_is(browser, path):
    browser.open(path)
    place = browser.run(
        "(r => {r.scrollIntoView({block: 'center'}); const b = r.getBoundingClientRect();"
        " return [b.x + b.width / 2, b.y + b.height / 2]})(document.querySelector('[data-ask=curve] .point'))"
    )
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    assert "loss" in browser.run("document.getElementById('hint').textContent")
    assert browser.run("document.getElementById('hint').hidden") is False


@pytest.mark.parametrize("text", ["abc", "-5", "0", "1e400", "1e90", "1,5B", "<b>1</b>", ""])
def test_what_is_no_input_computes_nothing(browser, path, text):
    browser.open(path)
    write(browser, "input-0", text)
    assert browser.run("document.querySelector('[data-ask=answer]').hidden") is True
    assert "width" in browser.run("document.querySelector('[data-ask=error]').textContent").lower()
    assert browser.run("document.querySelectorAll('#ask b').length") == 0
    write(browser, "input-0", "100")
    assert browser.run("document.querySelector('[data-ask=answer]').hidden") is False
    assert browser.run("document.querySelector('[data-ask=error]').textContent") == ""


def test_proportions_stay_one_whole(browser, shares):
    forecast, page = shares
    browser.open(page)
    write(browser, "input-0", "0.7")
    agrees(browser, forecast)
    assert sum(value[0] for value in asked(browser, forecast.runs).values()) == pytest.approx(1, abs=1e-5)
    write(browser, "input-0", "1.4")
    assert browser.run("document.querySelector('[data-ask=answer]').hidden") is True
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser, path, width, scheme):
    browser.open(path, width, 900, scheme)
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_a_proportion_may_be_zero(shares):
    forecast, _ = shares
    (one,) = workflow.predict_inputs(forecast, {"share_0": "0.5", "share_1": "0.5", "share_2": "0"})
    assert one.prediction.value == forecast.predict(share_0=0.5, share_1=0.5, share_2=0.0).value
