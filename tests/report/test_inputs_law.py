"""The law of any inputs that the page asks: its script gives the numbers of ``predict`` to six digits, under node."""

import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from allometry import laws
from allometry.errors import UserError
from allometry.laws.any_inputs.as_numbers.form_steps import NoSteps, form_steps
from allometry.laws.any_inputs.as_numbers.input_table import has_input_table
from allometry.laws.any_inputs.composing.features import KINDS, Feature
from allometry.laws.any_inputs.composing.form import IDENTITY, LOG, ComposedForm
from allometry.laws.any_inputs.composing.formula_form import FormulaForm
from allometry.laws.any_inputs.fitted_form import FittedForm
from allometry.laws.any_inputs.search_forms import forecast_inputs
from allometry.laws.forms.formula import COEFFICIENT, FLOOR, Formula
from allometry.laws.forms.input_laws import INPUT_LAWS, mixing_law
from allometry.laws.law_table import LEVELS, packed
from allometry.report.law_parts import LawPart
from helpers.input_tables import few_forms, mixtures, node, powers, signed
from helpers.ladders import ladder

CLOSE = {"rtol": 1e-6, "atol": 0}
# Values of inputs that every published law can take: proportions where it reads some, counts elsewhere.
SMALL = {"sparsity": (0.1, 0.9), "loss": (1.0, 4.0), "teacher_loss": (1.5, 2.5), "loss_alone": (2.0, 3.0)}


def points_around(runs, count=14):
    """Some of the runs, and places around and beyond them."""
    generator = np.random.default_rng(3)
    rows = generator.integers(0, len(runs), count)
    points, far = runs.points[rows].copy(), generator.normal(0, 1.5, (count, runs.points.shape[1]))
    far[:3] = 0
    if runs.are_shares:
        points[3:] = (points[3:] + runs.points[generator.integers(0, len(runs), count - 3)]) / 2
        return points, runs.group[rows]
    far[:, np.ptp(runs.points, axis=0) == 0] = 0
    return np.where(runs.by_logarithm, points * np.exp(far), points + far), runs.group[rows]


def compare(part):
    """The script and ``predict`` agree at every level."""
    points, group = points_around(part.runs)
    asked = [
        [x.tolist(), int(number), place]
        for place in range(len(LEVELS))
        for x, number in zip(points, group, strict=True)
    ]
    answers = node(table=part.table, points=asked)["points"]
    for place, level in enumerate(LEVELS):
        expected = part.predict(points, group, level)
        for name in ("value", "low", "high"):
            told = [row[name] for row in answers[place * len(points) : (place + 1) * len(points)]]
            np.testing.assert_allclose(told, getattr(expected, name), **CLOSE)


def of(forecast):
    return LawPart.each(forecast)[0]


@pytest.fixture(scope="module")
def grouped():
    return of(few_forms(powers(24), "power", "hill"))


def test_groups_and_an_input_that_never_varies(grouped):
    assert len(grouped.forecast.fits) > 2
    compare(grouped)


def test_a_target_that_is_mixed_by_its_logarithm():
    forecast = few_forms(powers(floor=0.01, fall=0.9, groups=("only",)), "power")
    assert forecast.logarithmic
    compare(of(forecast))


def test_proportions():
    compare(of(few_forms(mixtures(), "linear", "share", "log_share")))


def test_a_target_on_both_sides_of_zero():
    compare(of(few_forms(signed(), "linear")))


def test_published_laws_and_sizes_that_predict_instead():
    runs = ladder("chinchilla", noise=0.004)
    frame = {"params": runs.num_params, "tokens": runs.tokens, "loss": runs.loss}
    measured = laws.Observations.read(frame, target="loss", inputs=["params", "tokens"])
    form = FormulaForm.of(INPUT_LAWS["over_training"], measured.inputs)
    compare(of(forecast_inputs(measured, forms=[form])))
    named = laws.forecast(runs, ["power", "chinchilla"])
    parts = laws.Forecasts((laws.ForecastPart("loss", {"corpus": "c4"}, named),))
    compare(of(parts))


class Oscillating(Formula):
    name, formula, source = "oscillating", "L = E + A·sin(x)", "mine"
    inputs = ("width",)
    constants: ClassVar = {"E": FLOOR, "A": COEFFICIENT}

    def evaluate(self, c, x):
        return c["E"] + c["A"] * np.sin(x)


class Deciding(Oscillating):
    name = "deciding"

    def evaluate(self, c, x):
        return c["E"] + c["A"] / x if (x > 1).all() else c["E"]


@pytest.mark.parametrize("formula", [Oscillating(), Deciding()], ids=lambda formula: formula.name)
def test_a_formula_that_is_no_arithmetic_has_no_table(grouped, formula):
    form = FormulaForm.of(formula, ("width", "rate", "depth"))
    with pytest.raises(NoSteps):
        form_steps(form)
    fits = (replace(grouped.forecast.fits[0], form=form),)
    assert not has_input_table(replace(grouped.forecast, fits=fits))


def random_fit(form, inputs, seed=0):
    """A form with constants within their bounds and correlated errors, in two groups."""
    generator = np.random.default_rng(seed)
    low, high, mean, deviation = form.expected
    middle = np.zeros(inputs)
    theta = np.clip(mean + 0.3 * deviation * generator.standard_normal((2, len(mean))), low, high)
    coefficients = generator.uniform(0.5, 2.0, (2, form.num_linear))
    roots = generator.standard_normal((2, *[theta.shape[1] + form.num_linear] * 2))
    return FittedForm(form, theta, coefficients, 0.1, middle, roots @ roots.swapaxes(1, 2))


def written(fit):
    rows, columns = np.tril_indices(fit.spread.shape[-1])
    return {
        "link": fit.form.link,
        "middle": fit.middle.tolist(),
        "steps": form_steps(fit.form),
        "constants": packed(np.concatenate([fit.theta, fit.coefficients], axis=1)),
        "spread": packed(fit.spread[:, rows, columns]),
        "mean": packed(np.zeros(0)),
    }


def every_form():
    """Each published law, the mixing law, and a form of each kind of feature, with inputs that it can read."""
    generator = np.random.default_rng(4)
    for law in (*INPUT_LAWS.values(), mixing_law(["a", "b", "c"])):
        spans = [SMALL.get(name, (0.1, 0.6) if law.name == "mixing" else (2.0, 60.0)) for name in law.inputs]
        yield FormulaForm(law, tuple(range(len(spans)))), generator.uniform(*np.transpose(spans), (6, len(spans)))
    for kind, about in KINDS.items():
        features = (Feature(kind, (0, 1)[: about.inputs]), Feature("logarithm", (1,)))
        spans = np.transpose([(20.0, 90.0) if about.inputs == 2 else (0.1, 3.0), (1.0, 15.0)])
        for link in (IDENTITY, LOG):
            yield (
                ComposedForm(kind, link, features, ((), (0,), (0, 1), (1, 1)), ((0,), (0, 1))),
                generator.uniform(*spans, (6, 2)),
            )


def test_every_form_gives_its_value_and_its_spread():
    fits = [(random_fit(form, points.shape[1]), points) for form, points in every_form()]
    group = np.array([0, 1, 0, 1, 0, 1])
    asked = [[written(fit), [[x.tolist(), int(g)] for x, g in zip(points, group, strict=True)]] for fit, points in fits]
    for (fit, points), told in zip(fits, node(forms=asked)["forms"], strict=True):
        np.testing.assert_allclose(np.transpose(told), fit.at(points, group), rtol=1e-7, err_msg=fit.name)


def test_what_cannot_be_answered_is_refused_in_both(grouped):
    part = grouped
    wrong = part.runs.points[0] * np.array([[-1, 1, 1], [1, 0, 1], [1, 1, 2]])
    for x, answer in zip(
        wrong, node(table=part.table, points=[[x.tolist(), 0, 2] for x in wrong])["points"], strict=True
    ):
        assert answer["refused"]
        with pytest.raises(UserError):
            part.predict(x[None], np.array([0]))
    shares = of(few_forms(mixtures(), "linear"))
    assert "add up to one" in node(table=shares.table, points=[[[0.5, 0.5, 0.5], 0, 2]])["points"][0]["refused"]


def test_the_table_stays_small_with_many_runs():
    part = of(few_forms(signed(300), "linear"))
    assert len(json.dumps(part.table)) < 40_000
