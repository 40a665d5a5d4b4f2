"""The constants of softmax and attention against closed forms, scipy's quadrature and plain sampling."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from allometry.nn.ops import moments
from allometry.nn.ops.moments import (
    attention_gain,
    gain_polynomial,
    softmax_moments,
    softmax_polynomials,
    softmax_scale,
)


def of_two(sigma):
    """E[Σp²], E[Σp³] and E[(Σp²)²] for two logits: p is the sigmoid of a N(0, 2σ²)."""

    def expect(f):
        # The tanh form keeps the digits of p(1 − p) where p is nearly 0 or 1; in pieces, for sharp ones.
        def integrand(w):
            return stats.norm.pdf(w) * f(math.tanh(sigma * w / math.sqrt(2)))

        return 2 * sum(integrate.quad(integrand, a, b, epsabs=1e-14)[0] for a, b in ((0, 0.1), (0.1, 1), (1, 12)))

    # With p = (1 ± h)/2: Σp² = (1 + h²)/2 and Σp³ = (1 + 3h²)/4.
    return (
        expect(lambda h: (1 + h * h) / 2),
        expect(lambda h: (1 + 3 * h * h) / 4),
        expect(lambda h: (1 + h * h) ** 2 / 4),
    )


@pytest.mark.parametrize("sigma", [1e-3, 0.1, 0.5, 1.0, 2.0, 5.0, 16.0])
def test_two_logits_agree_with_one_integral(sigma):
    assert softmax_moments(2, sigma) == pytest.approx(of_two(sigma), rel=1e-8)


@settings(max_examples=12)
@given(st.floats(0, 8))
def test_one_logit_takes_all(sigma):
    assert softmax_moments(1, sigma) == pytest.approx((1, 1, 1), rel=1e-8)
    assert softmax_scale(1, sigma) == pytest.approx((1, 1), rel=1e-8)


@given(st.integers(1, 10**6))
def test_equal_logits_share_equally(n):
    assert softmax_moments(n, 0.0) == pytest.approx((1 / n, n**-2.0, n**-2.0), rel=1e-8)


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_many_logits_approach_the_ratio_of_expectations(sigma):
    """n^(k−1) E[Σp^k] → E[e^kz]/E[e^z]^k; what is left is of order e^(cσ²)/n."""
    n, v = 10**6, sigma**2
    square, cube, square_squared = softmax_moments(n, sigma)
    assert (n * square, n**2 * cube, n**2 * square_squared) == pytest.approx(
        (math.exp(v), math.exp(3 * v), math.exp(2 * v)), rel=1e-5 if v < 0.1 else 1e-3
    )


@pytest.mark.parametrize(("n", "sigma"), [(3, 1.0), (16, 1.0), (16, 4.0), (100, 0.5), (100, 2.0), (2048, 0.5)])
def test_moments_agree_with_sampling(n, sigma):
    z = sigma * np.random.default_rng(n).normal(size=(600_000 // n, n))
    p = special.softmax(z, axis=1)
    square = (p**2).sum(1)
    for exact, sample in zip(softmax_moments(n, sigma), (square, (p**3).sum(1), square**2), strict=True):
        error = stats.sem(sample)
        assert abs(sample.mean() - exact) < 4 * error
        assert error < 0.04 * exact  # or the comparison would say nothing


@settings(max_examples=12)
@given(st.integers(2, 5000), st.floats(0.05, 6))
def test_softmax_scale_lies_where_it_must(n, multiplier):
    forward, backward = softmax_scale(n, multiplier)
    # E[p²] is least for equal shares, 1/n², and greatest for one winner, 1/n.
    assert math.sqrt(n) * (1 - 1e-9) <= forward <= n * (1 + 1e-9)
    # |∂softmax| has rows of norm at most 1/2 · multiplier · |g|.
    assert backward >= 1 / multiplier
    assert softmax_scale(n, -multiplier) == pytest.approx((forward, backward), rel=1e-12)


def test_softmax_without_a_gradient_has_a_finite_factor():
    assert softmax_scale(1, 1.0).backward == 1.0
    assert softmax_scale(8, 0.0) == pytest.approx((8.0, 1.0))


@pytest.mark.parametrize("multiplier", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("head_dim", [1, 2, 3, 8, 32])
def test_gain_of_two_keys_agrees_with_two_integrals(head_dim, multiplier):
    r, w = np.linspace(0, 12, 1201), np.linspace(-12, 12, 2401)  # |q| and a unit normal
    h = np.tanh(multiplier * r[:, None] / math.sqrt(2 * head_dim) * w)  # Σp² = (1 + h²)/2, as above
    inner = integrate.simpson(stats.norm.pdf(w) * (1 + h**2) / 2, x=w)
    mean_square = integrate.simpson(stats.chi(head_dim).pdf(r) * inner, x=r)
    assert attention_gain(2, head_dim, multiplier) == pytest.approx(mean_square**-0.5, rel=2e-7)


@pytest.mark.parametrize("head_dim", [2, 3, 4, 16])
def test_gain_on_the_sphere_agrees_with_a_double_integral(head_dim):
    multiplier = 1.5
    half = (head_dim - 1) / 2
    cosine = stats.beta(half, half, loc=-1, scale=2)  # of the angle between random directions
    nodes = cosine.ppf((np.arange(2000) + 0.5) / 2000) * multiplier * math.sqrt(head_dim)
    h = np.tanh((nodes[:, None] - nodes) / 2)
    assert attention_gain(2, head_dim, multiplier, qk_norm=True) == pytest.approx(
        float(((1 + h**2) / 2).mean()) ** -0.5, rel=2e-5
    )


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_gain_on_the_line_is_a_binomial_sum(n):
    """In one dimension a normalised key is ±1, so only the number of either counts."""
    m, k = 0.8, np.arange(n + 1)
    square = (k * math.exp(2 * m) + (n - k) * math.exp(-2 * m)) / (k * math.exp(m) + (n - k) * math.exp(-m)) ** 2
    expected = float((stats.binom.pmf(k, n, 0.5) * square).sum()) ** -0.5
    assert attention_gain(n, 1, m, qk_norm=True) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize(("n", "head_dim", "multiplier"), [(5, 4, 1.0), (40, 16, 1.0), (40, 8, 2.5), (400, 32, 0.7)])
def test_gain_agrees_with_sampling(n, head_dim, multiplier, qk_norm):
    rng = np.random.default_rng(n)
    samples = 4_000_000 // (n * head_dim)
    q, k = rng.normal(size=(samples, head_dim)), rng.normal(size=(samples, n, head_dim))
    if qk_norm:
        q, k = (x / np.sqrt((x**2).mean(-1, keepdims=True)) for x in (q, k))
    z = multiplier / math.sqrt(head_dim) * np.einsum("sd,snd->sn", q, k)
    square = (special.softmax(z, axis=1) ** 2).sum(1)
    error = stats.sem(square)
    assert abs(square.mean() - attention_gain(n, head_dim, multiplier, qk_norm) ** -2) < 4 * error
    assert error < 0.02 * square.mean()


def test_in_many_dimensions_attention_is_a_softmax_of_normal_logits():
    for qk_norm in (False, True):
        gain = attention_gain(64, 10_000, 1.0, qk_norm)
        assert gain == pytest.approx(softmax_moments(64, 1.0).square ** -0.5, rel=2e-3)


counts = st.floats(0, math.log(moments.LARGEST)).map(lambda x: round(math.exp(x)))


def evaluate(coefficients, n):
    return np.polynomial.polynomial.polyval(2 * math.log(n) / math.log(moments.LARGEST) - 1, coefficients)


@settings(max_examples=12)
@given(counts, st.sampled_from([8, 64]), st.sampled_from([0.25, 1.0, 2.0]), st.booleans())
def test_the_polynomial_is_the_gain(n, head_dim, multiplier, qk_norm):
    fitted = math.sqrt(n) * math.exp(evaluate(gain_polynomial(head_dim, multiplier, qk_norm), n))
    exact = attention_gain(n, head_dim, multiplier, qk_norm)
    assert fitted == pytest.approx(exact, rel=1e-4 if head_dim < 16 else 1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 30, 1000, moments.LARGEST])
def test_the_polynomial_on_the_line_is_near_the_gain(n):
    """The hardest case, two logits only, and the bound that is stated for it."""
    fitted = math.sqrt(n) * math.exp(evaluate(gain_polynomial(1, 3.0, True), n))
    assert fitted == pytest.approx(attention_gain(n, 1, 3.0, True), rel=6e-3)


@given(counts.filter(lambda n: n > 1), st.sampled_from([0.25, 1.0, 4.0]))
def test_the_polynomials_are_the_softmax_scale(n, multiplier):
    forward, backward = (math.exp(evaluate(c, n)) * n for c in softmax_polynomials(multiplier))
    exact = softmax_scale(n, multiplier)
    assert (forward, backward * math.sqrt(n / (n - 1))) == pytest.approx(exact, rel=1e-5)
