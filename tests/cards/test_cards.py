"""How results show themselves in a notebook: a picture that is right, four sentences, and no markup from outside."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from allometry import laws, planning
from allometry.cards import Card, Chart
from allometry.cards.axis import Axis
from allometry.cards.chart import HEIGHT, MOST_DOTS, WIDTH, Dot, shades
from allometry.laws.result_cards import BUDGETS, REACH, _frontier, _loss_by_compute
from allometry.planning import Outcome
from allometry.runs.study import Study
from helpers import studies

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&`<b>`"
SENTENCES = ("What it is", "What it says", "How sure", "Next")


class Tags(HTMLParser):
    """The tags and attributes of a fragment; every tag that opens must close."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open = set(), set(), []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_fragment(text):
    page = Tags(text)
    assert not {"script", "img", "link", "iframe", "b.", "object"} & page.tags
    assert not [name for name in page.attributes if name.startswith("on") or name in ("href", "src")]
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        for element in ElementTree.fromstring(svg).iter():
            for name in ("cx", "cy", "x1", "x2", "y1", "y2"):
                if name in element.attrib:
                    assert -1 <= float(element.attrib[name]) <= max(WIDTH, HEIGHT) + 300
    return page


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return studies.build(tmp_path_factory.mktemp("cards") / "s")


@pytest.fixture(scope="module")
def runs(study):
    return laws.Observations.read(study.path)


@pytest.fixture(scope="module")
def results(study, runs):
    forecast = laws.forecast(runs)
    outcome = json.loads((study.path / "outcome.json").read_text())
    return {
        "study": study,
        "observations": runs,
        "fit": laws.fit("chinchilla", runs),
        "forecast": forecast,
        "plan": planning.plan(forecast, planning.Budget(flops=1e14)),
        "outcome": Outcome.from_json(outcome),
    }


@pytest.mark.parametrize("name", ["study", "observations", "fit", "forecast", "plan", "outcome"])
def test_every_result_shows_a_picture_and_four_sentences(results, name):
    text = results[name]._repr_html_()
    page = check_fragment(text)
    assert {"svg", "title"} <= page.tags
    assert {"circle", "polyline", "path"} & page.tags
    for sentence in SENTENCES:
        assert f"<b>{sentence}.</b>" in text
    assert len(text) < 30_000
    assert len(repr(results[name])) < 500


def test_the_card_of_runs_has_a_dot_for_each_and_their_numbers(runs):
    text = runs._repr_html_()
    assert text.count("<circle") == len(runs)
    assert f"Loss {runs.loss.min():.4g} to {runs.loss.max():.4g}" in text


def test_the_frontier_of_a_forecast_is_the_lowest_predicted_loss(results):
    """Against SciPy's minimum over sizes."""
    forecast = results["forecast"]
    chart = _loss_by_compute("")
    _frontier(chart, forecast)
    [(x, y, _, _)] = chart.lines
    assert len(x) == BUDGETS
    assert x[-1] == pytest.approx(REACH * forecast.runs.flops.max())
    for budget, loss in zip(x[::7], y[::7], strict=True):
        at = lambda size, budget=budget: float(forecast.predict(math.exp(size), budget / 6 / math.exp(size)).value)
        low, high = (math.log(value) for value in forecast.range["num_params"])
        best = minimize_scalar(at, bounds=(low - 0.6, high + 1.3), method="bounded")
        assert loss == pytest.approx(best.fun, rel=2e-3)
        assert loss >= best.fun * (1 - 1e-6)


def test_the_card_of_a_plan_passes_through_what_its_basin_says(results):
    plan = results["plan"]
    text = plan._repr_html_()
    assert f"half the size: loss {plan.basin.cost_of_half_size:+.2%}" in text
    assert f"twice the size: loss {plan.basin.cost_of_double_size:+.2%}" in text


def test_an_outcome_says_inside_or_outside(results):
    good = results["outcome"]
    assert "inside the interval" in good._repr_html_()
    assert "outside the interval" in replace(good, inside=False)._repr_html_()
    assert "without an interval" in replace(good, inside=None, low=None, high=None)._repr_html_()


def test_texts_from_outside_run_nothing(tmp_path, results):
    rows = {"N": [1e6, 2e6, 4e6, 8e6] * 3, "D": np.repeat([1e8, 3e8, 9e8], 4), "loss": np.linspace(4, 3, 12)}
    table = tmp_path / "runs.csv"
    lines = ["name,N,D,loss"]
    quoted = HOSTILE.replace('"', '""')
    lines += [f'"{quoted}",{n:g},{d:g},{loss}' for n, d, loss in zip(*rows.values(), strict=True)]
    table.write_text("\n".join(lines))
    check_fragment(laws.Observations.read(table)._repr_html_())
    check_fragment(replace(results["plan"], cautions=(HOSTILE,), notes=(HOSTILE,), rule=HOSTILE)._repr_html_())
    check_fragment(replace(results["outcome"], note=HOSTILE)._repr_html_())
    check_fragment(Card(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, "", (HOSTILE,), HOSTILE).html())


def test_a_hostile_study(tmp_path):
    study = studies.build(tmp_path / "a<b>&'", source=HOSTILE, note=HOSTILE, sample=HOSTILE, word=HOSTILE)
    check_fragment(study._repr_html_())


def test_an_empty_study_says_what_to_do(tmp_path):
    text = Study.create(tmp_path / "with space", {})._repr_html_()
    assert "No run has ended" in text
    assert "allometry ladder &#x27;" in text
    check_fragment(text)


def test_a_fit_without_refits_says_so(results):
    bare = replace(results["fit"], draws=results["fit"].draws[:0])
    assert "has no intervals" in bare._repr_html_()
    check_fragment(bare._repr_html_())


def test_a_forecast_of_any_inputs():
    generator = np.random.default_rng(0)
    table = {"experts": np.tile([2.0, 4, 8, 16, 32], 4), "params": np.repeat([1e6, 3e6, 1e7, 3e7], 5)}
    table["loss"] = 1.8 + 40 * table["params"] ** -0.28 * table["experts"] ** -0.05 + 0.002 * generator.normal(size=20)
    forecast = laws.forecast(laws.Observations.read(table, target="loss", inputs=["experts", "params"]))
    text = forecast._repr_html_()
    assert text.count("<circle") == 20
    check_fragment(text)


def test_a_chart_of_nothing_is_nothing_and_what_cannot_be_shown_is_left_out():
    assert Chart("x", "y", "t").svg() == ""
    chart = Chart("x", "y", "t", log_y=True)
    chart.dots += [Dot(1, 2), Dot(math.nan, 1), Dot(10, -1), Dot(math.inf, 3), Dot(0, 1), Dot(100, 4)]
    chart.band([1, 10], [math.nan, 1], [2, 2], "b")
    chart.line([1, 10, math.nan], [1, 2, 3], "<l>")
    text = chart.svg()
    assert text.count("<circle") == 2
    assert "polygon" not in text
    assert "&lt;l&gt;" in text
    check_fragment(text)


def test_a_hundred_thousand_runs_stay_small():
    chart = Chart("x", "y", "t")
    chart.dots += [Dot(number, number) for number in range(1, 100_001)]
    text = chart.svg()
    assert text.count("<circle") <= MOST_DOTS
    assert len(text) < 400_000


@pytest.mark.parametrize("logarithmic", [True, False])
@pytest.mark.parametrize("low", [1e-3, 0.97, 1.0, 123.0, 1e9])
@pytest.mark.parametrize("factor", [1.0, 1.001, 1.4, 7.0, 300.0, 1e9])
def test_ticks_are_on_the_axis_and_places_keep_the_order(low, factor, logarithmic):
    axis = Axis.around([low, low * factor], 10, 100, logarithmic=logarithmic)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 12
    places = [axis.at(tick) for tick in ticks]
    assert places == sorted(places)
    assert all(10 - 1e-6 <= place <= 110 + 1e-6 for place in places)
    assert axis.at(low) >= 10
    assert axis.at(low * factor) <= 110


def test_shades_order_the_sizes():
    assert shades([3, 1, 2, 3]) == [1, 0, 0.5, 1]
    assert shades([5]) == [0]


def test_a_band_of_no_use_does_not_press_the_rest_flat():
    chart = Chart("x", "y", "t", log_y=True)
    chart.line([1, 10], [2, 1], "l")
    chart.band([1, 10], [1e-300, 5e-324], [1e300, 1e308], "b")
    text = chart.svg()
    check_fragment(text)
    heights = [float(pair.split(",")[1]) for pair in re.search(r'polyline points="([^"]+)"', text)[1].split()]
    assert abs(heights[1] - heights[0]) > HEIGHT / 10
