"""The page of anybody's table: what the law says, the law to ask, the runs; small however long the table is."""

from dataclasses import replace

import numpy as np
import pytest

from allometry import laws, planning
from allometry.errors import UserError
from allometry.laws.forecasting.backtest import Backtest
from allometry.laws.forecasting.residuals import MOST_RUNS
from allometry.report import check_page, write_law_page
from allometry.report.html import EVERY_PAGE
from allometry.report.law_page import MOST_ROWS
from allometry.report.question import LAW_SCRIPTS
from helpers.ladders import ladder
from helpers.pages import read

MOST_BYTES = 3_000_000
HOSTILE = "</script><script>window.ran=1</script><img src=x onerror='window.ran=1'>"


@pytest.fixture(scope="module")
def runs():
    return ladder("chinchilla", noise=0.004)


@pytest.fixture(scope="module")
def fit(runs):
    return laws.fit("chinchilla", runs, bootstrap=40)


def test_the_page_says_what_the_law_says(runs, fit, tmp_path):
    page = read(write_law_page(fit, runs, tmp_path / "page.html", "runs.csv"))
    assert "Scaling law of runs.csv" in page.words["h1"]
    best = planning.optimal(fit, 10 * planning.FittedRange.by(fit).flops[1])
    assert f"a loss of {best.loss:.4g} [{best.low:.4g}, {best.high:.4g}]" in page.words["p"]
    for value in fit.values.values():
        assert any(f"{value:.5g}" in row for row in page.cells)
    rows = {row[0] for row in page.cells if row}
    assert set(runs.labels) <= rows
    for label in runs.labels:
        assert f"{label}: " in page.words["title"]


def test_markup_in_names_stays_text_and_a_law_without_refits_has_no_interval(runs, tmp_path):
    named = replace(runs, labels=(HOSTILE, *runs.labels[1:]))
    alone = laws.fit("chinchilla", named, bootstrap=0)
    page = read(write_law_page(alone, named, tmp_path / "page.html", HOSTILE))
    assert HOSTILE in page.words["h1"]
    assert HOSTILE in page.words["td"]
    assert not page.all("img")
    assert len(page.all("script")) == 1 + len(LAW_SCRIPTS) + len(EVERY_PAGE)
    for words in (page.words["p"], page.words["td"]):
        assert "nan" not in words.lower()


def table(count):
    """So many runs anywhere in a plane, with noise."""
    generator = np.random.default_rng(0)
    n, d = np.exp(generator.uniform(np.log([[2e7], [5e8]]), np.log([[3e9], [2e11]]), (2, count)))
    loss = laws.LAWS["power"].loss({"k": 25.0, "alpha": -0.06, "beta": -0.05}, n, d)
    loss *= np.exp(0.01 * generator.standard_normal(count))
    return laws.Observations(n, d, loss, 6 * n * d, np.full(count, np.nan), tuple(map(str, range(count))))


def test_a_forecast_that_keeps_most_of_its_runs_makes_a_small_page(tmp_path):
    many = table(MOST_RUNS)
    fit = laws.fit("power", many, bootstrap=300)
    forecast = laws.Forecast(
        {"power": fit},
        {"power": 1.0},
        Backtest((), len(many)),
        many,
        scale=1.0,
        correction=0.0,
        tested=0.0,
        freedom=2.0,
    )
    path = write_law_page(forecast, many, tmp_path / "page.html", "many.csv")
    assert path.stat().st_size < 700_000


def test_a_long_table_makes_a_small_page(tmp_path):
    many = table(100_000)
    fit = laws.fit("power", many, bootstrap=3)
    path = write_law_page(fit, many, tmp_path / "page.html", "many.csv")
    assert path.stat().st_size < MOST_BYTES
    page = read(path)
    assert f"The {MOST_ROWS} runs of most compute, of 100000." in page.words["main"]


def test_other_laws_are_refused():
    with pytest.raises(UserError, match="size and tokens"):
        check_page(laws.fit("three_term", ladder("three_term"), bootstrap=0))
    with pytest.raises(UserError, match="--html"):
        check_page(None)
