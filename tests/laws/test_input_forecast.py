"""Laws over any inputs: truths recovered, frames of every kind, groups, intervals, JSON."""

import json

import numpy as np
import pytest

from allometry import laws
from allometry.errors import UserError
from allometry.laws.any_inputs import sizes_and_tokens
from allometry.laws.any_inputs.backtest_forms import CommonScale


def experts_table(seed=0, noise=0.005):
    """Thirty runs of a sum of a power of the size and a product with a power of the experts, and its truth."""
    generator = np.random.default_rng(seed)
    size, experts = np.repeat(np.geomspace(1e7, 1e9, 5), 6), np.tile([1, 2, 4, 8, 16, 32.0], 5)

    def truth(n, e):
        return 1.7 + 400 / np.asarray(n, float) ** 0.34 / np.asarray(e, float) ** 0.1

    loss = truth(size, experts) + noise * generator.standard_normal(len(size))
    return {"experts": experts, "size": size, "loss": loss}, truth


@pytest.fixture(scope="module")
def forecast():
    frame, _ = experts_table()
    return laws.forecast(laws.Observations.read(frame, target="loss", inputs=["experts", "size"]))


def test_it_predicts_beyond_the_runs_in_both_inputs(forecast):
    _, truth = experts_table()
    prediction = forecast.predict({"experts": [64, 64, 1], "size": [4e9, 1e8, 4e9]})
    actual = truth([4e9, 1e8, 4e9], [64, 64, 1])
    assert np.abs(prediction.value / actual - 1).max() < 0.01
    assert ((prediction.low < actual) & (actual < prediction.high)).all()
    assert (prediction.low < prediction.value).all()


def test_a_higher_level_gives_a_wider_interval(forecast):
    narrow, wide = (forecast.predict(experts=64, size=4e9, level=level) for level in (0.5, 0.95))
    assert narrow.value == wide.value
    assert wide.low < narrow.low < narrow.high < wide.high


def test_records_mappings_and_single_points_are_frames(forecast):
    point = {"experts": 64, "size": 4e9}
    one = forecast.predict(point)
    assert isinstance(one.value, float)
    # A product of one row and of two may be rounded otherwise.
    assert forecast.predict([point, point]).value == pytest.approx([one.value] * 2, rel=1e-13)


def test_json_and_back_predicts_the_same(forecast, tmp_path):
    laws.save(tmp_path / "fit.json", forecast)
    again = laws.load(tmp_path / "fit.json")
    assert again.predict(experts=64, size=4e9) == forecast.predict(experts=64, size=4e9)
    assert again.summary() == forecast.summary()
    assert json.loads((tmp_path / "fit.json").read_text())["kind"] == "input_forecast"


@pytest.mark.parametrize(("inputs", "rows"), [(["x"], 4), (["x"], 30), (["a", "b"], 30)])
def test_forms_without_an_exponent_are_read_back(inputs, rows):
    """Of few runs, and of proportions of a whole, a form may be linear altogether."""
    share = np.linspace(0.1, 0.9, rows)
    frame = {"x": 1 / share, "a": share, "b": 1 - share, "loss": 2 + share + 0.01 * np.sin(40 * share)}
    forecast = laws.forecast(laws.Observations.read(frame, target="loss", inputs=inputs))
    again = laws.InputForecast.from_json(json.loads(json.dumps(forecast.to_json())))
    point = {"x": 12.0, "a": 0.05, "b": 0.95}
    assert again.predict({name: point[name] for name in inputs}) == forecast.predict({n: point[n] for n in inputs})


def test_too_few_runs_for_any_form_are_one_line():
    share = np.array([0.1, 0.4, 0.9])
    runs = laws.Observations.read(
        {"a": share, "b": 1 - share, "loss": [2.0, 2.1, 2.5]}, target="loss", inputs=["a", "b"]
    )
    with pytest.raises(UserError, match="3 runs are too few for any form over a, b: make more runs"):
        laws.forecast(runs)


def test_groups_share_a_form_and_keep_constants_of_their_own():
    generator = np.random.default_rng(1)
    samples = np.geomspace(200, 4e5, 10)
    rows = []
    for number in range(8):
        low, span, half = generator.uniform(1, 2), generator.uniform(1, 2), generator.uniform(3e4, 8e4)
        for n in samples:
            loss = low + span / (1 + (n / half) ** 0.6) + 0.003 * generator.standard_normal()
            rows.append({"model": f"m{number}", "samples": n, "loss": loss, "floor": low, "span": span, "half": half})
    runs = laws.Observations.read(rows, target="loss", inputs=["samples"], group="model")
    last = [row for row in rows if row["samples"] == samples[-1]]
    actual = np.array([row["floor"] + row["span"] / (1 + (8e5 / row["half"]) ** 0.6) for row in last])
    prediction = laws.forecast(runs).predict([{"model": row["model"], "samples": 8e5} for row in last])
    assert np.abs(prediction.value - actual).max() < 0.05
    assert ((prediction.low < actual) & (actual < prediction.high)).mean() >= 0.75


def test_a_cell_may_hold_what_joins_the_cells_of_a_group():
    frame, _ = experts_table()
    frame |= {"data": ["a / b", "c"] * 15, "model": ["d / e"] * 15 + ["f"] * 15}
    for group in ("data", ["data", "model"]):
        runs = laws.Observations.read(frame, target="loss", inputs=["experts", "size"], group=group)
        assert [runs.cells_of(number)["data"] for number in runs.group] in (frame["data"], ["a", "c"] * 15)
        points, groups, _ = runs.at(
            [
                dict(zip(runs.inputs, point, strict=True)) | runs.cells_of(number)
                for point, number in zip(runs.points, runs.group, strict=True)
            ]
        )
        assert (groups == runs.group).all()
        assert (points == runs.points).all()


def test_the_unit_of_a_cost_does_not_matter(forecast):
    """What a form leaves grows above the frontier, where points have a cost by their inputs alone."""
    frame, _ = experts_table()
    runs = laws.Observations.read(frame, target="loss", inputs=["experts", "size"], cost="1e-15*experts*size")
    assert any("frontier" in fit.emphasis for fit in forecast.fits)
    for point in ({"experts": 64, "size": 4e9}, {"experts": 1, "size": 2e7}):
        one, other = (each.predict(point) for each in (laws.forecast(runs), forecast))
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), rel=1e-6)


def test_an_optimum_that_moves_is_followed():
    generator = np.random.default_rng(2)
    rate, size = np.exp(generator.uniform(-8, -4, 60)), np.exp(generator.uniform(16, 20, 60))

    def truth(lr, n):
        return 2 + 300 * n**-0.35 + 0.02 * (np.log(lr) + 6 + 0.3 * (np.log(n) - 18)) ** 2

    loss = truth(rate, size) + 0.002 * generator.standard_normal(60)
    frame = {"rate": rate, "size": size, "loss": loss}
    forecast = laws.forecast(laws.Observations.read(frame, target="loss", inputs=["rate", "size"]))
    rates = np.geomspace(2e-4, 2e-2, 41)
    curve = forecast.predict({"rate": rates, "size": np.full(41, np.exp(20.5))}).value
    best = np.log(rates[curve.argmin()])
    assert abs(best - (-6 - 0.3 * 2.5)) < 0.35


def test_few_runs_are_predicted_no_worse_than_by_the_plain_forms():
    frame, truth = experts_table(noise=0.01)
    few = {name: values[::4] for name, values in frame.items()}
    prediction = laws.forecast(laws.Observations.read(few, target="loss", inputs=["experts", "size"])).predict(
        experts=32, size=2e9
    )
    assert abs(prediction.value / truth(2e9, 32) - 1) < 0.05


def test_named_laws_are_not_fitted_where_what_they_do_not_read_matters_more(monkeypatch):
    """Runs of equal size and tokens differ by the rate: no law of the two can do better than their scatter."""
    size, tokens, rate = (axis.ravel() for axis in np.meshgrid([1e7, 1e8, 1e9], [1e9, 1e10, 1e11], [1e-4, 1e-3, 1e-2]))
    loss = 1.7 + 400 / size**0.34 + 1000 / tokens**0.3 + 0.05 * np.log(rate / 1e-3) ** 2
    frame = {"num_params": size, "tokens": tokens, "rate": rate, "loss": loss}
    runs = laws.Observations.read(frame, target="loss", inputs=["num_params", "tokens", "rate"])
    monkeypatch.setattr(sizes_and_tokens, "forecast_sizes", lambda *_: pytest.fail("fitted all the same"))
    assert laws.forecast(runs).sizes is None


def test_no_law_of_size_and_tokens_errs_less_than_the_bound():
    generator = np.random.default_rng(0)
    frame = {"num_params": np.repeat([1e7, 1e8], 10), "tokens": np.tile([1e9, 1e10], 10), "rate": np.arange(20) + 1.0}
    frame["loss"] = 2 + generator.random(20)
    runs = laws.Observations.read(frame, target="loss", inputs=["num_params", "tokens", "rate"])
    counts, held = generator.random(20), np.arange(20) % 3 > 0
    least = sizes_and_tokens._least_error(runs, [0, 1], held, counts, CommonScale(False, 0.0))
    cells = {cell: generator.random() for cell in {(n, d) for n, d, _ in runs.points}}
    best = np.inf
    for shift in np.linspace(1.5, 3, 60):
        predicted = np.array([shift + 0.2 * cells[n, d] for n, d, _ in runs.points])
        best = min(best, np.sqrt(np.average((predicted - runs.values)[held] ** 2, weights=counts[held])))
    assert 0 < least < best
