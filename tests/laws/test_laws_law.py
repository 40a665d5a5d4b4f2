"""Each law: formula, derivatives, coordinates and starts."""

from __future__ import annotations

import numpy as np
import pytest

from allometry.errors import UserError
from allometry.laws import LAWS, law

from .ladders import TRUTHS

N, D = np.array([1e6, 3e8, 7e10]), np.array([2e9, 1e8, 1.4e12])
FORMULAS = {
    "power": lambda v: v["k"] * N ** v["alpha"] * D ** v["beta"],
    "power_floor": lambda v: v["E"] + v["k"] * N ** v["alpha"] * D ** v["beta"],
    "chinchilla": lambda v: v["E"] + v["A"] / N ** v["alpha"] + v["B"] / D ** v["beta"],
    "skaling": lambda v: v["E"] + (v["A"] / N ** v["alpha"] + v["B"] / D ** v["beta"]) ** v["k"],
}


@pytest.mark.parametrize("name", LAWS)
def test_loss_is_the_formula(name):
    np.testing.assert_allclose(LAWS[name].loss(TRUTHS[name], N, D), FORMULAS[name](TRUTHS[name]), rtol=1e-12)
    assert LAWS[name].count == len(TRUTHS[name])
    assert tuple(TRUTHS[name]) == LAWS[name].symbols


def test_published_chinchilla_loss():
    # Hoffmann et al.: E 1.69, A 406.4, B 410.7, α .34, β .28 at 70B parameters and 1.4T tokens.
    assert LAWS["chinchilla"].loss(TRUTHS["chinchilla"], 70e9, 1.4e12) == pytest.approx(1.9366, abs=1e-4)


@pytest.mark.parametrize("name", LAWS)
def test_coordinates_round_trip(name):
    form, centre = LAWS[name], (18.0, 21.0)
    values = np.array([list(TRUTHS[name].values())])
    np.testing.assert_allclose(form.values(form.theta(values, centre), centre), values, rtol=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_derivatives_match_differences(name):
    form, generator = LAWS[name], np.random.default_rng(3)
    n, d = generator.normal(size=(2, 7))
    theta = form.theta(np.array([list(TRUTHS[name].values())]), (18.0, 21.0))
    _, jacobian = form.log_loss(theta, n, d)
    for index in range(form.count):
        step = np.zeros(form.count)
        step[index] = 1e-6
        difference = (form.log_loss(theta + step, n, d)[0] - form.log_loss(theta - step, n, d)[0]) / 2e-6
        np.testing.assert_allclose(jacobian[:, index], difference, rtol=1e-7, atol=1e-9)


def test_chinchilla_is_skaling_with_k_one():
    values = TRUTHS["chinchilla"]
    np.testing.assert_allclose(
        LAWS["skaling"].loss({**values, "k": 1.0}, N, D), LAWS["chinchilla"].loss(values, N, D), rtol=1e-12
    )


def test_unknown_law_names_the_known():
    with pytest.raises(UserError, match="no law 'cubic'; known are power, power_floor, chinchilla, skaling"):
        law("cubic")
    assert law(LAWS["power"]) is LAWS["power"]
