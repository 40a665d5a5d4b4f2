"""Laws over any inputs: truths recovered, frames of every kind, groups, intervals, JSON."""

import json

import numpy as np
import pytest

from allometry import laws


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
    assert forecast.predict([point, point]).value.tolist() == [one.value] * 2


def test_json_and_back_predicts_the_same(forecast, tmp_path):
    laws.save(tmp_path / "fit.json", forecast)
    again = laws.load(tmp_path / "fit.json")
    assert again.predict(experts=64, size=4e9) == forecast.predict(experts=64, size=4e9)
    assert again.summary() == forecast.summary()
    assert json.loads((tmp_path / "fit.json").read_text())["kind"] == "input_forecast"
