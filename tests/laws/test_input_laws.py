"""Published laws of other inputs: their constants against the papers' own data, fits, a formula of one's own."""

import json
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
    with pytest.raises(UserError, match="no law is named"):
        laws.forecast(runs, laws=[])


TRUTHS = {
    "bounded_repetition": {
        "E": 1.8, "S": 9.0, "N_0": 3e4, "D_0": 2e7, "c": 0.2, "alpha": 0.35, "beta": 0.4, "kappa": 0.9, "delta": 0.5,
    },
    "over_training": {"E": 1.7, "a": 140.0, "b": 190.0, "eta": 0.12},
    "distillation": {
        "t": 1.0, "k": 3.0, "c_0": 2.5, "c_1": 20.0, "d_1": 1.3, "f_1": 0.1, "r": 0.5, "alpha": 0.35, "beta": 0.45,
        "gamma": 0.7,
    },
}  # fmt: skip
AXES = {
    "num_params": [1e7, 1e8, 1e9],
    "tokens": [1e9, 1e10, 1e11],
    "unique_tokens": [1e8, 1e9],
    "teacher_loss": [2.0, 2.4, 2.9],
    "loss_alone": [2.3, 2.7, 3.2],
}


@pytest.mark.parametrize("name", TRUTHS)
def test_a_published_form_recovers_the_curve_that_it_made(name):
    """Beyond the runs too: constants may trade off, what they predict must not."""
    law, truth = laws.INPUT_LAWS[name], TRUTHS[name]
    grid = [axis.ravel() for axis in np.meshgrid(*(AXES[key] for key in law.inputs))]
    frame = dict(zip(law.inputs, grid, strict=True)) | {"loss": law.evaluate(truth, *grid)}
    forecast = laws.forecast(laws.Observations.read(frame, target="loss", inputs=list(law.inputs)), laws=[name])
    inside = {key: float(np.exp(np.log(AXES[key]).mean() + 0.3)) for key in law.inputs}
    for point in (inside, inside | {"tokens": 3e11}):
        expected = law.evaluate(truth, *point.values())
        assert forecast.predict(point).value == pytest.approx(expected, rel=5e-3)


def test_repetition_stays_between_its_bounds_and_is_chinchilla_where_data_are_unlimited():
    law, truth = laws.INPUT_LAWS["bounded_repetition"], TRUTHS["bounded_repetition"]
    assert law.evaluate(truth, 1e9, 1e10, 1.0) == pytest.approx(truth["E"] + truth["S"], rel=1e-3)
    terms = (truth["N_0"] / 1e12) ** truth["alpha"] + (truth["D_0"] / 1e14) ** truth["beta"]
    assert law.evaluate(truth, 1e12, 1e14, 1e30) == pytest.approx(truth["E"] + truth["S"] * terms, rel=1e-3)


def test_over_training_is_chinchillas_law_with_one_exponent():
    truth, (n, d) = TRUTHS["over_training"], (3e8, 7e10)
    half = 6 ** -truth["eta"]
    expected = truth["E"] + truth["a"] * half / n ** (2 * truth["eta"]) + truth["b"] * half / d ** (2 * truth["eta"])
    assert laws.INPUT_LAWS["over_training"].evaluate(truth, n, d) == pytest.approx(expected)


def test_a_student_comes_to_its_teacher_and_a_far_better_teacher_is_of_less_use():
    law, truth = laws.INPUT_LAWS["distillation"], TRUTHS["distillation"]
    assert law.evaluate(truth, 1e20, 1e24, 2.4, 2.2) == pytest.approx(2.4, rel=1e-3)
    teachers = np.linspace(1.5, 3.2, 60)
    students = law.evaluate(truth, 1e8, 1e10, teachers, np.full(60, 2.6))
    assert 0 < students.argmin() < 59


def test_a_published_law_of_just_these_inputs_is_among_the_forms():
    samples = np.geomspace(200, 4e5, 16)
    law = laws.INPUT_LAWS["rectified"]
    loss = law.evaluate({"E": 1.2, "B": 900.0, "P": 400.0, "beta": 0.6}, samples)
    loss = loss + 1e-4 * np.random.default_rng(0).standard_normal(16)
    forecast = laws.forecast(
        laws.Observations.read({"samples": samples, "loss": loss}, target="loss", inputs=["samples"])
    )
    names = [fit.name for fit in forecast.fits]
    assert any(name.startswith("rectified") for name in names), names


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
    with pytest.raises(UserError, match=r"^law 'decay' is one's own, which a file does not hold: fit it anew$"):
        laws.InputForecast.from_json(forecast.to_json())
    # Under the name of a published law it is another law all the same.
    named = json.loads(json.dumps(forecast.to_json()).replace('"decay"', '"rectified"'))
    with pytest.raises(UserError, match="law 'rectified' is one's own"):
        laws.InputForecast.from_json(named)


def test_a_mixing_law_has_an_effect_for_each_proportion():
    shares = np.random.default_rng(0).dirichlet([1, 1, 1], size=30)
    loss = 2 + np.exp(shares @ [-1.0, 0.3, 0.0])
    frame = {name: shares[:, place] for place, name in enumerate("abc")} | {"loss": loss}
    runs = laws.Observations.read(frame, target="loss", inputs=list("abc"))
    forecast = laws.forecast(runs, laws=[laws.mixing_law(["a", "b", "c"])])
    predicted = forecast.predict(a=0.2, b=0.3, c=0.5)
    again = laws.InputForecast.from_json(json.loads(json.dumps(forecast.to_json())))
    assert again.predict(a=0.2, b=0.3, c=0.5) == predicted
    assert again.summary() == forecast.summary()
    assert predicted.value == pytest.approx(2 + np.exp(-0.2 + 0.09), rel=1e-3)


def test_too_few_runs_for_a_law_of_many_constants_are_one_line():
    law = laws.INPUT_LAWS["distillation"]
    generator = np.random.default_rng(0)
    frame = {name: 10 ** generator.uniform(0.1, 1, 9) for name in law.inputs} | {"loss": generator.uniform(1, 2, 9)}
    runs = laws.Observations.read(frame, target="loss", inputs=list(law.inputs))
    with pytest.raises(UserError, match="9 runs are too few for the constants of distillation: make more runs"):
        laws.forecast(runs, laws=["distillation"])
