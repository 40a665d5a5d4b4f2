"""Small tables over any inputs with a law in them, forecasts of few forms, and the page's script under node."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from allometry import laws
from allometry.laws.any_inputs.composing.features import Feature
from allometry.laws.any_inputs.composing.form import IDENTITY, LOG, ComposedForm
from allometry.laws.any_inputs.search_forms import forecast_inputs
from helpers.law_tables import SCRIPTS

# Reads {"table": …, "forms": [[form, [[x, group], …]], …], "points": [[x, group, level], …]}.
PROGRAM = """
const tool = require(process.argv[1]), {table, forms, points} = JSON.parse(require("fs").readFileSync(0, "utf8"));
const law = table && tool.read(table);
const told = (points ?? []).map(([x, group, level]) => {
  try { return law.predict(x, group, level); }
  catch (error) { if (error instanceof tool.Refusal) return {refused: error.message}; throw error; }
});
const values = (forms ?? []).map(([form, at]) => at.map(([x, group]) => tool.readForm(form).at(x, group)));
console.log(JSON.stringify({points: told, forms: values}));
"""


def node(**data) -> dict:
    """What the script of the page answers; the test is skipped without node."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no node: apt-get install nodejs")
    line = [program, "-e", PROGRAM, str(SCRIPTS / "inputs_law.js")]
    done = subprocess.run(line, input=json.dumps(data), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def powers(count=48, groups=("a", "b"), floor=1.2, noise=0.004, fall=0.3, name="rate"):
    """A loss that falls with two inputs, in groups; the third input is the same in every run."""
    generator = np.random.default_rng(0)
    width, rate = np.exp(generator.uniform(np.log([[16], [1e-4]]), np.log([[512], [1e-2]]), (2, count)))
    number = generator.integers(0, len(groups), count)
    value = (floor + 3 * width**-fall + 0.02 * (rate / 1e-3) ** 0.5) * (1 + 0.1 * number)
    value *= np.exp(noise * generator.standard_normal(count))
    frame = {"width": width, name: rate, "depth": np.full(count, 4.0), "loss": value}
    frame["corpus"] = [groups[one] for one in number]
    return laws.Observations.read(frame, target="loss", inputs=["width", name, "depth"], group="corpus")


def mixtures(count=40):
    """A loss over three proportions, some of them zero."""
    shares = np.random.default_rng(1).dirichlet([1, 1, 1], count).round(3)
    shares[:4, 2] = 0
    shares[:, 0] = 1 - shares[:, 1:].sum(axis=1)
    loss = 2 + np.exp(-1.5 * shares[:, 0] - 0.3 * shares[:, 1])
    frame = {**{f"share_{n}": shares[:, n] for n in range(3)}, "loss": loss}
    return laws.Observations.read(frame, target="loss", inputs=[f"share_{n}" for n in range(3)])


def signed(count=40):
    """A target on both sides of zero, of an input that is zero too."""
    generator = np.random.default_rng(2)
    x, y = generator.uniform(-2, 2, count), generator.uniform(1, 9, count)
    frame = {"x": x, "y": y, "gain": 0.4 * x - 0.2 * x**2 + np.log(y) - 1 + 0.01 * generator.standard_normal(count)}
    return laws.Observations.read(frame, target="gain", inputs=["x", "y"])


def few_forms(runs, *kinds):
    """A forecast by one form over each kind of feature, a product above a floor and powers in one size."""
    varying = [place for place, own in enumerate(runs.points.T) if np.ptp(own) > 0]
    each = tuple((number,) for number in range(len(varying)))
    forms = []
    for kind in kinds:
        features = tuple(Feature(kind, (place,)) for place in varying)
        forms.append(ComposedForm(f"sum of {kind}", IDENTITY, features, ((), *each)))
    if (runs.values > 0).all():
        forms.append(ComposedForm("product", LOG, forms[0].features, ((), *each, tuple(range(len(varying))))))
    if "power" in kinds:
        plain = tuple(Feature("logarithm", (place,)) for place in varying)
        forms.append(ComposedForm("falling", IDENTITY, plain, ((),), falling=each))
        forms.append(ComposedForm("one size", IDENTITY, forms[0].features, ((),), joined=tuple(range(len(varying)))))
    return forecast_inputs(runs, forms=forms)
