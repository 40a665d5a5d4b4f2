"""The page in Chromium: a slider moves and the numbers follow; what is no number computes nothing."""

from dataclasses import replace

import numpy as np
import pytest

from allometry import laws, planning
from allometry.report import write_report
from helpers.studies import cut

FORM = "document.querySelector('#ask form').elements"
HOSTILE = (
    "</script></style><img src=x onerror=\"window.ran=1\"><script>window.ran=1</script><svg onload='window.ran=1'>"
)


@pytest.fixture(scope="module")
def path(study, tmp_path_factory):
    return write_report(study, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def opened(browser, path):
    browser.open(path)
    return browser


def exact(page, name):
    """The exact value behind what is shown."""
    return float(page.run(f"document.querySelector('[data-ask=\"{name}\"]').title"))


def write(page, name, value):
    page.run(f"(f => {{f.value = {value!r}; f.dispatchEvent(new Event('input', {{bubbles: true}}))}})({FORM}.{name})")


def test_the_page_answers_as_the_plan_does(opened, contents):
    plan = planning.optimal(contents.predictor, contents.plan.flops, level=contents.level)
    assert opened.run("document.getElementById('ask').hidden") is False
    assert exact(opened, "loss") == pytest.approx(contents.plan.loss, rel=0.01)  # its shape is one that exists
    for name in ("loss", "num_params", "tokens"):
        assert exact(opened, name) == pytest.approx(getattr(plan, name), rel=1e-4)  # the field shows six digits
    assert opened.complaints() == []
    assert len(opened.requests()) == 1  # the page itself


def test_a_slider_moves_and_every_number_follows(opened, contents):
    before = exact(opened, "loss")
    drawn = opened.run("document.querySelector('[data-ask=curve]').innerHTML")
    move = "(s => {s.value = Number(s.value) + 1; s.dispatchEvent(new Event('input', {bubbles: true}))})"
    opened.run(f"{move}(document.querySelector('[data-for=flops]'))")
    flops = float(opened.run(f"{FORM}.flops.value"))
    rungs = contents.finished("ladder")
    covered = planning.FittedRange.of([contents.size(r) for r in rungs], [r.tokens for r in rungs])
    plan = planning.optimal(contents.predictor, flops, level=contents.level, fitted_range=covered)
    assert exact(opened, "loss") < before
    np.testing.assert_allclose(
        [exact(opened, name) for name in ("loss", "num_params", "tokens", "flops")],
        [plan.loss, plan.num_params, plan.tokens, plan.flops],
        rtol=1e-6,
    )
    interval = opened.run("document.querySelector('[data-ask=interval]').title").split(" to ")
    np.testing.assert_allclose(list(map(float, interval)), [plan.low, plan.high], rtol=1e-6)
    recipe = contents.recipe
    batch = recipe["batch_tokens"] * (plan.tokens / recipe["reference_tokens"]) ** recipe["batch_exponent"]
    np.testing.assert_allclose([exact(opened, "batch"), exact(opened, "lr")], [batch, recipe["lr"]], rtol=1e-6)
    assert opened.run("document.querySelector('[data-ask=curve]').innerHTML") != drawn
    assert opened.run("document.querySelectorAll('[data-ask=curve] .point').length") == 1


def test_hours_on_devices_and_money_are_budgets(opened, contents):
    write(opened, "machine", "1")
    for name, value in {"by": "hours", "devices": "16", "hours": "0.002", "mfu": "0.3", "price": "2.5"}.items():
        write(opened, name, value)
    chosen = opened.run(f"{FORM}.machine.selectedOptions[0].text")
    budget = planning.Budget(device=chosen, num_devices=16, hours=0.002, mfu=0.3, price_per_hour=2.5)
    assert exact(opened, "flops") == pytest.approx(budget.flops, rel=1e-6)
    assert exact(opened, "time") == pytest.approx(7.2, rel=1e-6)
    assert exact(opened, "cost") == pytest.approx(2.5 * 16 * 0.002, rel=1e-6)
    write(opened, "by", "money")
    write(opened, "money", "0.05")
    budget = planning.Budget(device=chosen, num_devices=16, cost=0.05, mfu=0.3, price_per_hour=2.5)
    assert exact(opened, "flops") == pytest.approx(budget.flops, rel=1e-6)


def test_a_size_that_is_kept_leaves_the_rest_to_tokens(opened):
    write(opened, "num_params", "150k")
    assert opened.run(f"{FORM}.fix_num_params.checked") is True
    assert exact(opened, "num_params") == 150_000
    assert exact(opened, "tokens") == pytest.approx(float(opened.run(f"{FORM}.flops.value")) / 6 / 150_000, rel=1e-6)
    write(opened, "tokens", "30M")
    assert exact(opened, "flops") == pytest.approx(6 * 150_000 * 30e6)


@pytest.mark.parametrize("text", ["abc", "-1e15", "0", "1e15x", "1,5B", "Infinity", "1e9999", "1e90", "<b>1</b>", ""])
def test_what_is_no_budget_computes_nothing(opened, text):
    write(opened, "flops", text)
    assert opened.run("document.querySelector('[data-ask=answer]').hidden") is True
    assert len(opened.run("document.querySelector('[data-ask=error]').textContent")) > 20
    assert opened.run("document.querySelectorAll('#ask b').length") == 0
    write(opened, "flops", "3e13")
    assert opened.run("document.querySelector('[data-ask=answer]').hidden") is False
    assert opened.run("document.querySelector('[data-ask=error]').textContent") == ""


@pytest.mark.parametrize(("name", "text"), [("devices", "2.5"), ("devices", "two"), ("mfu", "40"), ("price", "cheap")])
def test_a_machine_that_cannot_be_is_refused(opened, name, text):
    write(opened, "machine", "1")
    write(opened, name, text)
    assert opened.run("document.querySelector('[data-ask=answer]').hidden") is True


@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser, path, width, scheme):
    browser.open(path, width, 900, scheme)
    assert browser.run("document.documentElement.scrollWidth") <= width
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == (scheme == "dark")


def test_markup_in_names_runs_nothing(browser, study, tmp_path):
    copy = cut(study, tmp_path / "study", "outcome")
    copy.write("corpus/manifest.json", copy.read("corpus/manifest.json") | {"source": HOSTILE, "notes": [HOSTILE]})
    copy.write("sample.json", copy.read("sample.json") | {"text": HOSTILE})
    record = copy.records("ladder")[0]
    copy.save(replace(record, note=HOSTILE, environment={"system": HOSTILE}), copy.curve(record.id))
    browser.open(write_report(copy))
    assert browser.run("document.querySelector('h1').textContent").endswith(HOSTILE)
    assert browser.run("window.ran") is None
    assert browser.complaints() == []
    assert len(browser.requests()) == 1
    assert browser.run("document.getElementById('ask').hidden") is False


def test_a_law_without_refits_answers_without_an_interval(browser, study, tmp_path):
    copy = cut(study, tmp_path / "study", "fit")
    fit = laws.fit("chinchilla", laws.Observations.from_records(copy.rows()), bootstrap=0)
    copy.write("fit.json", fit.to_json())
    browser.open(write_report(copy))
    assert "no interval" in browser.run("document.querySelector('[data-ask=interval]').textContent")
    best = planning.optimal(fit, float(browser.run("document.querySelector('#ask input[name=flops]').value")))
    assert exact(browser, "loss") == pytest.approx(best.loss, rel=1e-6)
    assert browser.complaints() == []


def test_without_scripts_the_page_is_complete(browser, path):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(path)
        assert browser.run("document.getElementById('ask').hidden") is True
        assert browser.run("document.querySelectorAll('figure svg.broad').length") >= 6
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
