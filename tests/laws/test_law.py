"""Each law: formula, derivatives, coordinates and starts."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from allometry import laws
from allometry.errors import UserError
from allometry.laws import COEFFICIENT, FLOOR, LAWS, Formula, law
from allometry.laws.fitting.fit import make_problem, optimum
from helpers.ladders import LADDER, TRUTHS, ladder

N, D = np.array([1e6, 3e8, 7e10]), np.array([2e9, 1e8, 1.4e12])
U = np.array([1e9, 1e9, 2e11])
M, K = np.array([1e5, 1e6, 4e6]), np.array([3e3, 1e4, 5e5])
INPUTS = {"num_params": N, "tokens": D, "unique_tokens": U, "batch_tokens": M, "steps": K}


def _repeated(amount, unique, decay):
    return unique + unique * decay * (1 - np.exp(-np.maximum(amount / unique - 1, 0) / decay))


def _data_constrained(v):
    best = (v["alpha"] * v["A"] / (v["beta"] * v["B"])) ** (1 / v["alpha"]) * U ** (v["beta"] / v["alpha"])
    size = np.where(best < N, _repeated(N, best, v["R_N"]), N)
    tokens = np.where(U < D, _repeated(D, U, v["R_D"]), D)
    return v["E"] + v["A"] / size ** v["alpha"] + v["B"] / tokens ** v["beta"]


def _kaplan(v):
    return ((v["Nc"] / N) ** (v["alpha_N"] / v["alpha_D"]) + v["Dc"] / D) ** v["alpha_D"]


FORMULAS = {
    "power": lambda v: v["k"] * N ** v["alpha"] * D ** v["beta"],
    "power_floor": lambda v: v["E"] + v["k"] * N ** v["alpha"] * D ** v["beta"],
    "kaplan": _kaplan,
    "kaplan_floor": lambda v: v["E"] + _kaplan(v),
    "chinchilla": lambda v: v["E"] + v["A"] / N ** v["alpha"] + v["B"] / D ** v["beta"],
    "chinchilla_tied": lambda v: v["E"] + v["A"] / N ** v["alpha"] + v["B"] / D ** v["alpha"],
    "skaling": lambda v: v["E"] + (v["A"] / N ** v["alpha"] + v["B"] / D ** v["beta"]) ** v["k"],
    "farseer": lambda v: (
        np.exp(v["s"] * N ** v["q"] + v["S"])
        + np.exp(v["B"] * N ** v["b"] + v["Q"]) * D ** -np.exp(v["A"] * N ** v["a"] + v["E"])
    ),
    "data_constrained": _data_constrained,
    "three_term": lambda v: v["E"] + v["A"] / N ** v["alpha"] + v["B"] / M ** v["beta"] + v["C"] / K ** v["gamma"],
}


class Sharp(Formula):
    """A law as a user writes one: terms whose product, not sum, is above the floor, with √D."""

    name, formula, source = "sharp", "L = E + A/(N^α·√D)", "a test"
    constants = {"E": FLOOR, "A": COEFFICIENT, "alpha": (0.01, 1)}  # noqa: RUF012

    def evaluate(self, c, n, d):
        return c["E"] + c["A"] / (n ** c["alpha"] * d**0.5)


def inputs_of(form):
    return [INPUTS[name] for name in form.inputs]


def centred(form, seed=3, runs=7):
    """Random inputs, their centre, and θ of the truth around it."""
    generator = np.random.default_rng(seed)
    logs = [np.log(x).mean() + generator.normal(size=runs) for x in inputs_of(form)]
    centre = form.centre(logs)
    theta = form.theta(np.array([list(TRUTHS[form.name].values())]), centre)
    return [x - c for x, c in zip(logs, centre, strict=True)], centre, theta


@pytest.mark.parametrize("name", LAWS)
def test_loss_is_the_formula(name):
    form = LAWS[name]
    np.testing.assert_allclose(form.loss(TRUTHS[name], *inputs_of(form)), FORMULAS[name](TRUTHS[name]), rtol=1e-11)
    assert form.num_constants == len(TRUTHS[name])
    assert tuple(TRUTHS[name]) == form.symbols


def test_every_law_has_a_truth_to_be_tested_on():
    assert set(TRUTHS) == set(LAWS)


def test_published_chinchilla_loss():
    # Hoffmann et al.: E 1.69, A 406.4, B 410.7, α .34, β .28 at 70B parameters and 1.4T tokens.
    assert LAWS["chinchilla"].loss(TRUTHS["chinchilla"], 70e9, 1.4e12) == pytest.approx(1.9366, abs=1e-4)


@pytest.mark.parametrize("name", LAWS)
def test_coordinates_round_trip(name):
    form = LAWS[name]
    _, centre, theta = centred(form)
    np.testing.assert_allclose(form.values(theta, centre)[0], list(TRUTHS[name].values()), rtol=1e-10)


@pytest.mark.parametrize("name", LAWS)
def test_derivatives_match_differences(name):
    form = LAWS[name]
    inputs, _, theta = centred(form)
    _, jacobian = form.log_loss(theta, *inputs)
    for index in range(form.num_constants):
        step = np.zeros(form.num_constants)
        step[index] = 1e-6
        difference = (form.log_loss(theta + step, *inputs)[0] - form.log_loss(theta - step, *inputs)[0]) / 2e-6
        np.testing.assert_allclose(jacobian[:, index], difference, rtol=2e-7, atol=2e-9)


@pytest.mark.parametrize("name", LAWS)
def test_fit_recovers_the_truth_from_clean_runs(name):
    """From its own starts and nothing else; 1e-6 of the loss at 10 times the size and the tokens."""
    observations = ladder(name, sizes=7, counts=6)
    problem, centre = make_problem(LAWS[name], observations, "log_squares", 1.0)
    best = optimum(problem, np.ones(len(observations)))
    assert best.objective_value < 1e-12
    values = dict(zip(LAWS[name].symbols, LAWS[name].values(best.theta, centre), strict=True))
    larger = [observations.column(x) * (10 if x in ("num_params", "tokens", "unique_tokens") else 3) for x in
              LAWS[name].inputs]  # fmt: skip
    np.testing.assert_allclose(LAWS[name].loss(values, *larger), LAWS[name].loss(TRUTHS[name], *larger), rtol=1e-5)


def test_a_law_of_the_users_own_is_a_few_lines():
    truth = {"E": 1.5, "A": 4e6, "alpha": 0.2}
    n, d = np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 4))
    rows = [
        {"num_params": a, "tokens": b, "loss": truth["E"] + truth["A"] / (a ** truth["alpha"] * b**0.5)}
        for a, b in zip(n.ravel(), d.ravel(), strict=True)
    ]
    fit = laws.fit(Sharp(), laws.Observations.from_records(rows), bootstrap=0)
    assert fit.values == pytest.approx(truth, rel=1e-6)


def test_complex_step_is_exact_to_rounding():
    """Against mpmath's derivatives at 40 digits, for the law whose formula has the most in it."""
    form, values = LAWS["data_constrained"], TRUTHS["data_constrained"]
    n, d, u = 3e8, 2e10, 1e9
    theta = form.theta(np.array([list(values.values())]), ())
    _, jacobian = form.log_loss(theta, *(np.log([x]) for x in (n, d, u)))
    mpmath.mp.dps = 40

    def log_loss(e, a, b, alpha, beta, rn, rd):
        best = (alpha * a / (beta * b)) ** (1 / alpha) * mpmath.mpf(u) ** (beta / alpha)
        tokens = u * (1 + rd * (1 - mpmath.exp(-(d / u - 1) / rd)))
        size = n if n < best else best * (1 + rn * (1 - mpmath.exp(-(n / best - 1) / rn)))
        return mpmath.log(e + a / size**alpha + b / tokens**beta)

    point = [mpmath.mpf(x) for x in values.values()]
    for index, symbol in enumerate(values):
        by_value = mpmath.diff(lambda x, i=index: log_loss(*point[:i], x, *point[i + 1 :]), point[index])
        by_theta = by_value * (1 if symbol == "E" else point[index])
        assert jacobian[0, index, 0] == pytest.approx(float(by_theta), rel=1e-12, abs=1e-18)


@pytest.mark.parametrize(
    ("special", "general", "constants"),
    [
        ("chinchilla", "skaling", lambda v: {**v, "k": 1.0}),
        ("chinchilla_tied", "chinchilla", lambda v: {**v, "beta": v["alpha"]}),
        ("power", "power_floor", lambda v: {**v, "E": 0.0}),
        ("kaplan", "kaplan_floor", lambda v: {**v, "E": 0.0}),
    ],
)
def test_one_law_is_another_with_a_constant_fixed(special, general, constants):
    values = TRUTHS[special]
    np.testing.assert_allclose(
        LAWS[general].loss(constants(values), N, D), LAWS[special].loss(values, N, D), rtol=1e-12
    )


def test_unrepeated_tokens_count_fully():
    values = TRUTHS["data_constrained"]
    chinchilla = {name: values[name] for name in ("E", "A", "B", "alpha", "beta")}
    small = np.array([1e7, 1e8])
    np.testing.assert_allclose(
        LAWS["data_constrained"].loss(values, small, np.full(2, 1e10), np.full(2, 2e10)),
        LAWS["chinchilla"].loss(chinchilla, small, np.full(2, 1e10)),
        rtol=1e-12,
    )


def test_unknown_law_names_the_known():
    with pytest.raises(UserError, match="no law 'cubic'; known are power, power_floor, kaplan, kaplan_floor"):
        law("cubic")
    assert law(LAWS["power"]) is LAWS["power"]
    assert len(LADDER) == 8
