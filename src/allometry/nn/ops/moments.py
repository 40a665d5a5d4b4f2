"""Exact scales of softmax and attention at initialisation: moments of a softmax over random logits.

For logits z_j, independent and of one distribution, let p = softmax(z) over n of them. The output of attention on
independent unit values has mean square E[Σp²], and the gradient of softmax also needs E[Σp³] and E[(Σp²)²]. All
follow exactly from 1/Sᵏ = ∫ tᵏ⁻¹ e^(−tS) dt / Γ(k) with S = Σ e^z: the terms of S are independent, so the expectation
becomes a product of one-dimensional ones, φ_a(t) = E[e^(az) exp(−t e^z)]:

    E[Σp²] = n ∫ t φ₂ φ₀ⁿ⁻¹ dt,   E[Σp³] = n ∫ t²/2 φ₃ φ₀ⁿ⁻¹ dt,
    E[(Σp²)²] = n ∫ t³/6 φ₄ φ₀ⁿ⁻¹ dt + n(n−1) ∫ t³/6 φ₂² φ₀ⁿ⁻² dt.

Every integral is a trapezoid sum of a smooth, rapidly falling function over the whole line (in ln t, in z), whose
error falls exponentially in 1/step. Plain Python floats throughout: milliseconds, cached, and the same under
torch.compile, torch.export, a fake-tensor mode or a default device, where building tensors would not be.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import mul, neg
from typing import NamedTuple

from .scale import Scale

STEP = 0.3  # of ln t and of z; the sums err by about exp(−π²/STEP) = 5e-15, those with t³ by 1e-10
REACH = 9.0  # standard deviations of the logits that are kept on either side
LARGEST = 2**22  # keys, or logits, for which the polynomials are made; beyond it they hold their last value
DEGREE = 16
SHARPEST = 16.0  # multiplier; the cost of the constants grows with its square


class Nodes(NamedTuple):
    """A distribution of logits as points and weights, which sum to 1, and the step that resolves it."""

    points: Sequence[float]
    weights: Sequence[float]
    step: float


class Moments(NamedTuple):
    """Moments of p = softmax of n random logits: E[Σp²], E[Σp³], E[(Σp²)²]."""

    square: float
    cube: float
    square_squared: float


def softmax_moments(n: float, sigma: float) -> Moments:
    """E[Σp²], E[Σp³] and E[(Σp²)²] of a softmax over ``n`` independent N(0, ``sigma``²) logits.

    Relative error about 1e-9 for any ``n`` and for ``sigma`` up to 16. With ``sigma`` = 0 they
    are 1/n, 1/n² and 1/n²; with n = 1, all are 1. The formulas hold for fractional ``n`` ≥ 1 too.
    """
    nodes = _normal(sigma)
    sums = [0.0, 0.0, 0.0]
    for log_0, (second, third, fourth) in _transforms(nodes, n, 4):
        power = math.exp((n - 1) * log_0)
        sums[0] += second * power
        sums[1] += third / 2 * power
        sums[2] += (fourth * power + (n - 1) * second**2 * math.exp((n - 2) * log_0)) / 6
    return Moments(*(nodes.step * n * value for value in sums))


@lru_cache(maxsize=4096)
def softmax_scale(n: float, multiplier: float = 1.0) -> Scale:
    """The factors of softmax over ``n`` logits ``multiplier · x``, x and the upstream gradient unit normal.

    Forward: 1/√E[p²], uncentred. Backward: the inverse root mean square of
    ``multiplier · p·(g − Σ p·g)``, which is multiplier²·(E[Σp²] − 2·E[Σp³] + E[(Σp²)²])/n under its root. Where that
    gradient is zero (n = 1, or a multiplier of 0) the factor is 1.
    """
    square, cube, square_squared = softmax_moments(n, abs(multiplier))
    slope = multiplier**2 * (square - 2 * cube + square_squared) / n
    return Scale(math.sqrt(n / square), 1 / math.sqrt(slope) if n > 1 and slope > 0 else 1.0)


@lru_cache(maxsize=256)
def softmax_polynomials(multiplier: float = 1.0) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """:func:`softmax_scale` for any length: coefficients for ln(forward/n) and ln(backward/n·√((n−1)/n)).

    In the variable of :func:`gain_polynomial`, within 1e-5 of the quadrature.
    """

    def logarithms(n: float) -> tuple[float, float]:
        forward, backward = softmax_scale(n, multiplier)
        return math.log(forward / n), math.log(backward / n * math.sqrt((n - 1) / n))

    return _interpolate(lambda n: logarithms(n)[0]), _interpolate(lambda n: logarithms(n)[1])


def attention_gain(n: int, head_dim: int, multiplier: float = 1.0, qk_norm: bool = False) -> float:
    """One over the root mean square of an attention output row that sees ``n`` keys, by quadrature.

    q, k and v are independent and unit normal and the logits ``multiplier · q·k / √head_dim``. Given q they are
    independent N(0, multiplier²·|q|²/head_dim) over the keys, so the mean square is E[Σp²] averaged over
    |q|² ~ χ² with ``head_dim`` degrees of freedom. With ``qk_norm`` q and k lie on the sphere of radius √head_dim, and
    the logits are multiplier·√head_dim times a cosine of density ∝ (1 − u²)^((head_dim − 3)/2).
    """
    return _gains((n,), head_dim, multiplier, qk_norm)[0]


@lru_cache(maxsize=256)
def gain_polynomial(head_dim: int, multiplier: float = 1.0, qk_norm: bool = False) -> tuple[float, ...]:
    """Coefficients c of ln(:func:`attention_gain` / √n) = Σ cᵢ xⁱ, where x = 2·ln n / ln :data:`LARGEST` − 1.

    Within 1e-4 of the quadrature for every n to :data:`LARGEST` (1e-5 for head_dim ≥ 16), except that ``qk_norm`` in
    fewer than 8 dimensions may be up to 6e-3 off. A polynomial and no table, because it holds for every length at once:
    compiled graphs take it as so many constants, on any device.
    """
    counts = _nodes_of_interpolation()
    gains = dict(zip(counts, _gains(counts, head_dim, multiplier, qk_norm), strict=True))
    return _interpolate(lambda n: math.log(gains[n] / math.sqrt(n)))


def _gains(counts: Sequence[float], head_dim: int, multiplier: float, qk_norm: bool) -> list[float]:
    """:func:`attention_gain` at several n, for the price of one."""
    squares = [0.0] * len(counts)
    for nodes, weight in _logits_given_q(head_dim, multiplier, qk_norm):
        for log_0, (second,) in _transforms(nodes, max(counts), 2):
            part = nodes.step * weight * second
            for i, n in enumerate(counts):
                squares[i] += part * n * math.exp((n - 1) * log_0)
    return [value**-0.5 for value in squares]


def _transforms(nodes: Nodes, n: float, order: int) -> Iterator[tuple[float, list[float]]]:
    """ln φ₀(t), and tᵃ φ_a(t) for a from 2 to ``order``, over every t that matters for up to ``n`` logits."""
    z, weights, step = nodes
    exps = [math.exp(value) for value in z]
    beyond = [*accumulate(reversed(weights), initial=0.0)][::-1]  # weight of the nodes from each one on
    # Large t: the smallest e^z decides. Small t: the integrand is below n·(t e^zmax)², and the result at least 1/n.
    low, high = -z[-1] - math.log(n) - 12.0, -z[0] + 4.0
    for i in range(math.ceil((high - low) / step)):
        log_t = low + i * step
        t, end = math.exp(log_t), bisect(z, 4.0 - log_t)  # past it e^(−t e^z) is below 1e-23, and t e^z may overflow
        x = [t * e for e in exps[:end]]
        minus = list(map(neg, x))
        # φ₀ − 1, not φ₀, which a small t would round to 1. Where nothing is left of φ₀, e⁻³⁶ is nothing enough.
        drop = sum(map(mul, weights, map(math.expm1, minus))) - beyond[end]
        term, moments = list(map(mul, weights, map(math.exp, minus))), []
        for _ in range(order):
            term = list(map(mul, term, x))
            moments.append(sum(term))
        yield math.log1p(max(drop, -1.0 + 1e-16)), moments[1:]


def _logits_given_q(head_dim: int, multiplier: float, qk_norm: bool) -> list[tuple[Nodes, float]]:
    """Distributions of the logits over the keys, one for each size of q, and the weight of each."""
    multiplier = abs(multiplier)
    if qk_norm:
        return [(_sphere(head_dim, multiplier), 1.0)]
    # |q|/√d = e^y has density ∝ exp(d·y − d·e^(2y)/2): nearly normal about 0, its width 1/√(2d).
    step = min(0.6 / math.sqrt(2 * head_dim), 0.15)
    y = [step * i for i in range(-round(60 / step), round(2 / step) + 1)]
    weights = _normalised([head_dim * (value - math.expm1(2 * value) / 2) for value in y])
    return [(_normal(multiplier * math.exp(value)), w) for value, w in zip(y, weights, strict=True) if w > 1e-12]


def _normal(sigma: float) -> Nodes:
    """N(0, ``sigma``²)."""
    step = _resolution(sigma)
    count = math.ceil(REACH * max(2.0, sigma / step))
    x = [REACH * i / count for i in range(-count, count + 1)]
    return Nodes([sigma * value for value in x], _normalised([-value * value / 2 for value in x]), step)


def _sphere(head_dim: int, multiplier: float) -> Nodes:
    """``multiplier``·√head_dim times the cosine between random directions in ``head_dim`` dimensions.

    With u = tanh s the density is ∝ sech(s)^(head_dim − 1) on the whole line, which suits the trapezoid rule.
    """
    size, step, power = multiplier * math.sqrt(head_dim), _resolution(multiplier), head_dim - 1
    if power == 0:
        return Nodes((-size, size), (0.5, 0.5), step)
    reach = math.acosh(math.exp(50.0 / power))
    count = math.ceil(reach * max(size / step, 2 * math.sqrt(head_dim)))
    s = [reach * i / count for i in range(-count, count + 1)]
    weights = _normalised([-power * math.log(math.cosh(value)) for value in s])
    return Nodes([size * math.tanh(value) for value in s], weights, step)


def _resolution(sigma: float) -> float:
    """:data:`STEP`, coarser for wide distributions so that the cost stays bounded."""
    return STEP * max(1.0, sigma / 16)


def _normalised(log_weights: list[float]) -> list[float]:
    top = max(log_weights)
    weights = [math.exp(value - top) for value in log_weights]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _nodes_of_interpolation() -> list[float]:
    """The Chebyshev nodes in ln n, from 1 to :data:`LARGEST`."""
    return [math.sqrt(LARGEST) ** (math.cos(math.pi * (i + 0.5) / (DEGREE + 1)) + 1) for i in range(DEGREE + 1)]


def _interpolate(function: Callable[[float], float]) -> tuple[float, ...]:
    """Coefficients, constant first, of the polynomial in x through ``function`` at those nodes."""
    angles = [math.pi * (i + 0.5) / (DEGREE + 1) for i in range(DEGREE + 1)]
    values = [function(n) for n in _nodes_of_interpolation()]
    total, before, current = [0.0] * (DEGREE + 1), [0.0] * (DEGREE + 1), [1.0] + [0.0] * DEGREE
    for k in range(DEGREE + 1):  # ``current`` is the Chebyshev polynomial T_k, ``before`` T_(k−1)
        weight = sum(value * math.cos(k * angle) for value, angle in zip(values, angles, strict=True))
        weight *= (2 if k else 1) / (DEGREE + 1)
        total = [a + weight * b for a, b in zip(total, current, strict=True)]
        shifted = [(2 if k else 1) * value for value in (0.0, *current[:-1])]
        before, current = current, [a - b for a, b in zip(shifted, before, strict=True)]
    return tuple(total)
