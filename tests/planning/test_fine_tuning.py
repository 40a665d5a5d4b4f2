"""How many samples until a loss: from a law that is known, within its interval; and what is refused."""

import numpy as np
import pytest

from allometry import laws, planning
from allometry.errors import UserError

FLOOR, SCALE, POWER = 0.9, 12.0, 0.45


def truth(samples):
    return FLOOR + SCALE / samples**POWER


@pytest.fixture(scope="module")
def law():
    samples = np.geomspace(200, 12_800, 7)
    losses = truth(samples) * np.exp(0.001 * np.random.default_rng(0).standard_normal(7))
    table = {"samples": samples.tolist(), "loss": losses.tolist()}
    return laws.forecast(laws.Observations.read(table, target="loss", inputs=["samples"]))


def test_the_samples_until_a_loss(law):
    goal = truth(50_000)
    plan = planning.samples_for(law, goal)
    assert plan.samples == pytest.approx(50_000, rel=0.3)
    assert plan.low is None or plan.low < plan.samples
    assert plan.high is None or plan.samples < plan.high
    assert law.predict({"samples": [plan.samples]}).value[0] == pytest.approx(goal, rel=1e-4)
    assert plan.cautions == ()
    assert "samples [" in plan.summary()
    assert plan.to_json()["kind"] == "samples_plan"


def test_how_far_is_told_by_the_runs_of_the_group():
    table = [
        {"model": model, "samples": float(n), "loss": float(truth(n))}
        for model, most in (("short", 1600), ("long", 102_400))
        for n in np.geomspace(200, most, 8)
    ]
    goal = truth(64_000)
    short, long = (planning.samples_for(table, goal, group="model", at={"model": model}) for model in ("short", "long"))
    assert (short.largest, long.largest) == (pytest.approx(1600), pytest.approx(102_400))
    assert "the samples of the largest run" in short.cautions[0]
    assert long.cautions == ()


def test_far_is_said_and_out_of_reach_is_refused(law):
    far = planning.samples_for(law, float(law.predict({"samples": [60 * 12_800.0]}).value[0]))
    assert "the samples of the largest run" in far.cautions[0]
    with pytest.raises(UserError, match="no number of samples up to 1000×"):
        planning.samples_for(law, 0.01)
    with pytest.raises(UserError, match="with the smallest run already"):
        planning.samples_for(law, 5.0)
    with pytest.raises(UserError, match="does not read rows"):
        planning.samples_for(law, 1.0, samples="rows")
    with pytest.raises(UserError, match="samples is what is planned"):
        planning.samples_for(law, 1.2, at={"samples": 500})
    with pytest.raises(UserError, match="loss must be"):
        planning.samples_for(law, -1.0)
