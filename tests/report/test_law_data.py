"""The pictures of laws: what they show is what was computed, and they draw from any table."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from allometry import laws, planning
from allometry.report.pictures import law_data, law_drawn
from helpers.ladders import TRUTHS, ladder, runs

LAW = "chinchilla"


@pytest.fixture(scope="module")
def observations():
    return ladder(LAW, noise=0.003)


@pytest.fixture(scope="module")
def fit(observations):
    return laws.fit(LAW, observations, bootstrap=200)


@pytest.fixture(scope="module")
def sweeps():
    """Budgets of seven sizes each, on a known law."""
    n, d = [], []
    for budget in np.geomspace(1e18, 1e21, 5):
        for size in np.sqrt(budget / 120) * np.geomspace(0.2, 5, 7):
            n.append(size)
            d.append(budget / (6 * size))
    return runs(np.array(n), np.array(d), LAW, TRUTHS[LAW], noise=0.001)


@pytest.fixture(scope="module")
def rates():
    """A sweep of rates and batches at two sizes, its optimum at 1e-3 and 2^18."""
    rows = []
    for size, tokens in ((1e8, 2e9), (4e8, 8e9)):
        for lr in 1e-3 * 2.0 ** np.arange(-2, 3):
            for batch in 2.0**18 * 2.0 ** np.arange(-2, 3):
                price = 0.005 * np.log(lr / 1e-3) ** 2 + 0.0055 * np.log(batch / 2**18) ** 2
                loss = 3.0 * (size / 1e8) ** -0.1 * np.exp(price)
                rows.append({"num_params": size, "tokens": tokens, "loss": loss, "lr": lr, "batch_tokens": batch})
    return laws.Observations.from_records(rows)


def drawn(drawing):
    """The picture parses, and says nothing that is no number."""
    svg = drawing.as_file()
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "nan" not in svg.split("<defs>")[-1].lower().replace("dominant", "")


def test_frontier_is_the_best_split_of_each_budget(fit, observations):
    data = law_data.frontier(fit, observations)
    np.testing.assert_allclose(6 * data.best.num_params * data.best.tokens, data.best.flops)
    middle = len(data.best.flops) // 2
    fewest, most = planning.FittedRange.of(observations.num_params, observations.tokens).tokens_per_param
    best = planning.optimal(fit, data.best.flops[middle], tokens_per_param_range=(fewest, most))
    assert data.best.loss[middle] == pytest.approx(best.loss, rel=1e-5)
    assert data.best.flops[-1] == pytest.approx(law_data.BEYOND * observations.flops.max())
    drawn(law_drawn.frontier(data))


def test_residuals_are_observed_over_fitted(fit, observations):
    data = law_data.residuals(fit, observations)
    fitted = fit.law.loss(fit.values, observations.num_params, observations.tokens)
    np.testing.assert_allclose(np.exp(data.residual), observations.loss / fitted)
    drawn(law_drawn.residuals(data))


def test_basin_shows_what_the_optimum_says(fit):
    data = law_data.basin(fit, 1e22)
    inside = (data.line.num_params > data.within[0][1][0]) & (data.line.num_params < data.within[0][1][1])
    assert np.all(data.line.loss[inside] <= 1.005 * data.loss * (1 + 1e-6))
    assert np.all(data.line.loss[~inside] >= 1.005 * data.loss * (1 - 1e-4))
    drawn(law_drawn.basin(data))


def test_isoflop_is_drawn_with_its_refusals(sweeps):
    drawn(law_drawn.isoflop(laws.isoflop(sweeps, bootstrap=200)))


def test_surface_compares_runs_with_the_best_of_their_sweep(rates):
    data = law_data.surface_slice(planning.surface(rates), rates, 1e8, 2e9)
    assert min(data.runs[2]) == 0
    assert len(data.runs[0]) == 25
    assert data.regret.shape == (len(data.batch_tokens), len(data.lr))
    row, column = np.unravel_index(np.argmin(data.regret), data.regret.shape)
    assert data.lr[column] == pytest.approx(data.best[0], rel=0.05)
    assert data.batch_tokens[row] == pytest.approx(data.best[1], rel=0.05)
    assert data.best_lr[0] < data.best[0] < data.best_lr[1]
    drawn(law_drawn.surface(data))


def test_calibration_counts_unseen_runs(observations):
    order = np.argsort(observations.flops)
    below, above = observations.where(order[:18]), observations.where(order[18:])
    fit = laws.fit(LAW, below, bootstrap=200)
    data = law_data.calibration([("one", fit, above), ("two", fit, above)])
    share = [
        np.mean((p.low <= above.loss) & (above.loss <= p.high))
        for p in (fit.predict(above.num_params, above.tokens, level=level) for level in (0.5, 0.9))
    ]
    at = {level: value for level, value in zip(data.nominal, data.observed, strict=True)}
    assert [at[0.5], at[0.9]] == share
    assert data.points == 2 * len(above)
    assert np.all(np.diff(data.observed) >= 0)
    drawn(law_drawn.calibration(data))


def test_the_same_data_give_the_same_picture(fit, observations):
    first, second = (law_drawn.frontier(law_data.frontier(fit, observations)).as_file() for _ in range(2))
    assert first == second
