"""Published laws of other inputs: their constants against the papers' own data, fits, a formula of one's own."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from allometry import laws
from allometry.errors import UserError
from helpers.ladders import shared


def columns(name):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    table = parquet.read_table(shared(f"scalebench/{name}_scaling_law__train.parquet"))
    return {key: np.array(table[key].to_pylist()) for key in table.column_names}


@pytest.mark.parametrize(
    ("corpus", "constants"),
    [
        ("stack", {"E": 0.691237, "A": 1.130616e7**0.189371, "k": 0.393453, "alpha": 0.189371}),
        ("pile", {"E": 1.288766, "A": 1.97352e8**0.196333, "k": 0.334456, "alpha": 0.196333}),
    ],
)
def test_constants_of_parallel_streams_describe_their_runs(corpus, constants):
    runs = columns("parallel")
    own = runs["group"] == corpus
    predicted = laws.INPUT_LAWS["parallel"].evaluate(constants, runs["num_params"][own], runs["parallel_size"][own])
    assert np.abs(predicted / runs["loss"][own] - 1).mean() < 0.0025


def test_constants_of_routed_experts_describe_their_runs():
    """S-BASE routing; the table holds three ways of routing, which differ by some 2 %."""
    runs = columns("moe")
    constants = {"a": -0.082, "b": -0.108, "c": 0.009, "k": 10**1.104, "E_start": 1.847, "E_max": 314.478}
    predicted = laws.INPUT_LAWS["experts"].evaluate(constants, runs["dense_parameter_count"], runs["num_experts"])
    off = predicted / runs["loss_validation"] - 1
    assert abs(off.mean()) < 0.005
    assert off.std() < 0.025


def test_a_named_law_is_fitted_and_predicts(tmp_path):
    size, experts = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 5), [1, 2, 4, 8, 16]))
    law = laws.INPUT_LAWS["parallel"]
    truth = {"E": 1.3, "A": 60.0, "k": 0.35, "alpha": 0.2}
    frame = {"params": size, "parallel_size": experts, "loss": law.evaluate(truth, size, experts)}
    runs = laws.Observations.read(frame, target="loss", inputs=["params", "parallel_size"])
    forecast = laws.forecast(runs, laws=["parallel"])
    point = {"params": 1e10, "parallel_size": 32}
    assert forecast.predict(point).value == pytest.approx(law.evaluate(truth, 1e10, 32), rel=1e-3)
    laws.save(tmp_path / "fit.json", forecast)
    assert laws.load(tmp_path / "fit.json").predict(point) == forecast.predict(point)
    with pytest.raises(UserError, match="reads samples"):
        laws.forecast(runs, laws=["rectified"])


def test_a_formula_of_ones_own_takes_any_inputs_and_groups():
    @dataclass(frozen=True)
    class Decay(laws.Formula):
        name: ClassVar[str] = "decay"
        formula: ClassVar[str] = "y = E + A·e^(−x/s)"
        source: ClassVar[str] = "a test"
        inputs: ClassVar[tuple[str, ...]] = ("x",)
        constants: ClassVar = {"E": laws.FLOOR, "A": laws.COEFFICIENT, "s": (0.1, 10.0)}

        def evaluate(self, c, x):
            return c["E"] + c["A"] * np.exp(-x / c["s"])

    x = np.tile(np.linspace(0, 5, 12), 2)
    group = np.repeat(["rises", "falls"], 12)
    y = np.where(group == "rises", 1 - 3 * np.exp(-x / 2), -1 + 2 * np.exp(-x / 2))
    runs = laws.Observations.read({"x": x, "g": group, "y": y}, target="y", inputs=["x"], group="g")
    forecast = laws.forecast(runs, laws=[Decay()])
    assert forecast.predict(x=7, g="rises").value == pytest.approx(1 - 3 * np.exp(-3.5), abs=2e-3)
    assert forecast.predict(x=7, g="falls").value == pytest.approx(-1 + 2 * np.exp(-3.5), abs=2e-3)
    assert "decay" in forecast.summary()


def test_a_mixing_law_has_an_effect_for_each_proportion():
    shares = np.random.default_rng(0).dirichlet([1, 1, 1], size=30)
    loss = 2 + np.exp(shares @ [-1.0, 0.3, 0.0])
    frame = {name: shares[:, place] for place, name in enumerate("abc")} | {"loss": loss}
    runs = laws.Observations.read(frame, target="loss", inputs=list("abc"))
    predicted = laws.forecast(runs, laws=[laws.mixing_law(["a", "b", "c"])]).predict(a=0.2, b=0.3, c=0.5)
    assert predicted.value == pytest.approx(2 + np.exp(-0.2 + 0.09), rel=1e-3)
