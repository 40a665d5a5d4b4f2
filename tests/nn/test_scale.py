"""The primitive and its constants."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from allometry import nn

F = torch.nn.functional
PI = math.pi

# E[f(z)], E[f(z)²] and E[f'(z)²] in closed form. For gelu = zΦ(z) they follow from Stein's lemma and ∫φ³ = 1/(2π√3).
GELU_SQUARE = 1 / 3 + 1 / (2 * PI * math.sqrt(3))
CLOSED_FORMS = {
    "identity": (lambda z: z * 1.0, 0.0, 1.0, 1.0),
    "relu": (torch.relu, 1 / math.sqrt(2 * PI), 1 / 2, 1 / 2),
    "relu²": (lambda z: torch.relu(z).square(), 1 / 2, 3 / 2, 2.0),
    "leaky": (lambda z: F.leaky_relu(z, 0.5), 0.5 / math.sqrt(2 * PI), 5 / 8, 5 / 8),
    "gelu": (F.gelu, 1 / (2 * math.sqrt(PI)), GELU_SQUARE, 1 / 3 + 4 / 3 / (2 * PI * math.sqrt(3))),
    "cube": (lambda z: z**3, 0.0, 15.0, 27.0),
    "exp": (torch.exp, math.exp(0.5), math.exp(2), math.exp(2)),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_exact_scale_equals_the_closed_form(name):
    function, mean, square, slope = CLOSED_FORMS[name]
    # 1e-7 is what the docstring promises.
    assert nn.exact_scale(function) == pytest.approx((square**-0.5, slope**-0.5), rel=1e-7)
    assert nn.exact_scale(function, centred=True) == pytest.approx(((square - mean**2) ** -0.5, slope**-0.5), rel=1e-7)


@pytest.mark.parametrize(
    ("function", "centred", "backward"),
    [
        (torch.relu, 1.7129, 1.4142),
        (F.gelu, 1.7009, 1.4811),
        (torch.tanh, 1.5925, 1.4674),
        (torch.sigmoid, 4.801, 4.723),
        (F.silu, 1.7872, 1.6233),
    ],
)
def test_published_constants_are_the_centred_ones(function, centred, backward):
    """Each to the digits that arXiv 2303.11257 and its library print: half a unit of the last."""
    digits = len(str(centred).split(".")[1])
    assert nn.exact_scale(function, centred=True).forward == pytest.approx(centred, abs=0.51 * 10**-digits)
    assert nn.exact_scale(function).backward == pytest.approx(backward, abs=0.51 * 10**-digits)


def test_uncentred_and_centred_agree_for_odd_functions_only():
    for function in (torch.tanh, torch.sin):
        assert nn.exact_scale(function).forward == pytest.approx(nn.exact_scale(function, centred=True).forward)
    for function in (torch.relu, F.gelu, F.silu, torch.sigmoid):
        assert nn.exact_scale(function).forward < 0.95 * nn.exact_scale(function, centred=True).forward


@pytest.mark.parametrize("function", [F.silu, torch.tanh, torch.sigmoid, F.softplus, F.mish])
def test_exact_scale_agrees_with_adaptive_quadrature(function):
    def slope(z):
        z = torch.tensor(z, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(function(z), z)[0].item()

    value = lambda z: function(torch.tensor(z, dtype=torch.float64)).item()
    expected = [
        integrate.quad(lambda z, f=f: f(z) ** 2 * stats.norm.pdf(z), -12, 12, epsabs=1e-11)[0] ** -0.5
        for f in (value, slope)
    ]
    assert nn.exact_scale(function) == pytest.approx(expected, rel=1e-8)


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4).filter(lambda c: max(map(abs, c[:3])) > 0.01))
def test_exact_scale_of_a_polynomial_agrees_with_gauss_hermite(coefficients):
    """Sixteen nodes integrate its square exactly, whatever the coefficients."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(16)
    mean = lambda poly: (weights / weights.sum()) @ np.polyval(poly, nodes) ** 2
    function = lambda z: sum(c * z ** (3 - power) for power, c in enumerate(coefficients))
    expected = mean(coefficients) ** -0.5, mean(np.polyder(coefficients)) ** -0.5
    assert nn.exact_scale(function) == pytest.approx(expected, rel=1e-7)


def test_exact_scale_is_deaf_to_the_mode_it_is_called_in():
    expected = nn.exact_scale(lambda z: torch.cos(z))
    with torch.no_grad(), torch.device("meta"):
        assert nn.exact_scale(lambda z: torch.cos(z)) == expected


def test_exact_scale_is_computed_once():
    calls = []

    def function(z):
        calls.append(1)
        return z.sin()

    assert nn.exact_scale(function) is nn.exact_scale(function)
    assert calls == [1]


@given(st.floats(-4, 4), st.floats(-4, 4))
def test_scale_multiplies_value_and_gradient_by_its_two_factors(forward, backward):
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(5, dtype=torch.float64)
    y = nn.scale(x, forward, backward)
    y.backward(upstream)
    torch.testing.assert_close(y, x * forward, rtol=0, atol=0)
    torch.testing.assert_close(x.grad, upstream * backward, rtol=0, atol=0)


def test_scale_differentiates_its_gradient_too():
    """The gradient's own gradient is the backward factor again: it is a linear function of what comes in."""
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(nn.scale(x, 2.0, 3.0).square().sum(), x, create_graph=True)
    torch.testing.assert_close(grad, 3 * 2 * (2 * x))
    (second,) = torch.autograd.grad(grad.sum(), x)
    torch.testing.assert_close(second, torch.full_like(x, 3 * 2 * 3.0))


def test_scale_of_a_view_leaves_the_view_alone():
    base = torch.randn(4, 6)
    before = base.clone()
    y = nn.scale(base.t()[::2], 1.0, 2.0)
    assert torch.equal(y, before.t()[::2])
    nn.scale(base, 2.0, 1.0)
    assert torch.equal(base, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scale_keeps_the_type(dtype):
    x = torch.randn(4, dtype=dtype, requires_grad=True)
    y = nn.scale(x, 2.0, 0.5)
    y.sum().backward()
    assert (y.dtype, x.grad.dtype) == (dtype, dtype)
    assert torch.equal(x.grad, torch.full((4,), 0.5, dtype=dtype))


def test_scale_by_one_costs_nothing():
    x = torch.randn(3)
    assert nn.scale(x) is x


branches = st.tuples(st.integers(1, 40), st.floats(0.1, 4), st.floats(0.1, 4))


@given(branches)
def test_residual_weights_give_every_branch_its_share_at_the_end(case):
    """Unrolled, the stream is √(L/2)·embedding + Σ α_i·branch_i over the root of the sum of squares (u-μP, eq. 10)."""
    layers, alpha_res, alpha_ratio = case
    taus = nn.residual_taus(2 * layers, alpha_res, alpha_ratio)
    alpha_mlp = alpha_res * math.sqrt(2 / (1 + alpha_ratio**2))
    alphas = [alpha_ratio * alpha_mlp if i % 2 == 0 else alpha_mlp for i in range(2 * layers)]
    total = math.sqrt(layers + sum(alpha**2 for alpha in alphas))

    keeps = [1 / math.sqrt(1 + tau**2) for tau in taus]
    ends = [tau * keep * math.prod(keeps[i + 1 :]) for i, (tau, keep) in enumerate(zip(taus, keeps, strict=True))]
    assert ends == pytest.approx([alpha / total for alpha in alphas], rel=1e-12)
    assert math.prod(keeps) == pytest.approx(math.sqrt(layers) / total, rel=1e-12)
    # The sum rule: all branches together weigh 2·α_res² against the embedding, however they share it.
    assert math.prod(keeps) ** 2 == pytest.approx(1 / (1 + 2 * alpha_res**2), rel=1e-12)


def test_residual_weights_of_one_layer_by_hand():
    """α = 1: both branches have α² = 1, the embedding 1, then 1 + 1."""
    assert nn.residual_taus(2) == pytest.approx([1.0, math.sqrt(1 / 2)])


@given(branches)
def test_independent_unit_branches_keep_the_stream_at_unit_scale(case):
    taus = nn.residual_taus(2 * case[0], *case[1:])
    x = torch.randn(40_000)
    for tau in taus:
        keep = 1 / math.sqrt(1 + tau**2)
        x = nn.functional.residual_add(torch.randn(40_000), x, keep, tau * keep)
        # The sampling error of a standard deviation is 1/√(2·40 000) = 0.0035.
        assert x.std().item() == pytest.approx(1, abs=0.02)


@given(branches)
def test_the_schemes_with_unit_scale_keep_the_variance_of_the_stream(case):
    """keep² + share² = 1; u-μP's pair is (1, τ)/√(1 + τ²)."""
    layers, alpha_res, alpha_ratio = case
    base = nn.Base(alpha_res=alpha_res, alpha_ratio=alpha_ratio, tau=alpha_res / 5)
    taus = nn.residual_taus(2 * layers, alpha_res, alpha_ratio)
    for i in range(2 * layers):
        for name in ("umup", "mus"):
            keep, share = nn.schemes.scheme(name).residual(i, 2 * layers, base)
            assert keep**2 + share**2 == pytest.approx(1, rel=1e-12)
        keep, share = nn.schemes.scheme("umup").residual(i, 2 * layers, base)
        assert share / keep == pytest.approx(taus[i], rel=1e-12)
