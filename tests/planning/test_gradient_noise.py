"""The gradient noise scale: from gradients simulated with a known true gradient and a known noise."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from allometry import planning
from allometry.errors import UserError
from allometry.planning.batch_and_rate import gradient_noise as noise

GRADIENT, TRACE = 1.0, 2000.0  # G² and S: a noise scale of 2000


def squared_norms(seed: int, sizes: list[float], repeats: int, exponent: float = 1.0) -> tuple:
    """(batches, squared norms) of gradients of 300 coordinates with unequal noise, whose variance falls as B^−p."""
    generator = np.random.default_rng(seed)
    true = generator.standard_normal(300)
    true *= math.sqrt(GRADIENT) / np.linalg.norm(true)
    spread = np.exp(generator.standard_normal(300))
    spread *= math.sqrt(TRACE) / np.linalg.norm(spread)
    batches = np.repeat(np.asarray(sizes, float), repeats)
    gradients = true + spread * generator.standard_normal((len(batches), 300)) * batches[:, None] ** (-exponent / 2)
    return batches, (gradients**2).sum(axis=1)


def test_two_exact_norms_give_what_was_put_in():
    found = planning.gradient_noise([512, 8192], [GRADIENT + TRACE / 512, GRADIENT + TRACE / 8192])
    assert found.gradient_squared == pytest.approx(GRADIENT, rel=1e-12)
    assert found.noise == pytest.approx(TRACE, rel=1e-12)
    assert found.batch == pytest.approx(2000.0, rel=1e-12)
    assert (found.exponent, found.follows, found.sizes) == (None, None, 2)
    assert math.isnan(found.low)
    assert "assumed, not tested" in found.notes[0]
    assert "[" not in found.summary()


@settings(max_examples=60, deadline=None)
@given(st.floats(1, 1e6), st.floats(1.5, 1e4), st.floats(1e-8, 1e8), st.floats(1e-6, 1e6))
def test_two_sizes_are_the_papers_formula(small, factor, gradient, ratio):
    big = small * factor
    first, second = (gradient * (1 + ratio / each * small) for each in (small, big))
    found = planning.gradient_noise([big, small], [second, first])
    true_gradient = (big * second - small * first) / (big - small)
    trace = (first - second) / (1 / small - 1 / big)
    # The norms hold G² to rounding of the larger one only.
    assert found.gradient_squared == pytest.approx(true_gradient, rel=1e-6, abs=1e-12 * first)
    assert found.noise == pytest.approx(trace, rel=1e-6, abs=1e-12 * first * small)


@pytest.mark.parametrize(("sizes", "repeats"), [([256, 4096], 30), ([256, 1024, 4096], 30)])
def test_intervals_hold_the_truth(sizes, repeats):
    inside = [
        found.low <= TRACE / GRADIENT <= found.high
        for found in (planning.gradient_noise(*squared_norms(seed, sizes, repeats)) for seed in range(200))
    ]
    assert binomtest(sum(inside), len(inside), 0.9).pvalue > 0.001


def test_inverse_proportion_is_tested():
    sizes = [256, 1024, 4096]
    kept = [planning.gradient_noise(*squared_norms(seed, sizes, 30)).follows for seed in range(200)]
    assert binomtest(kept.count(True), len(kept), 0.9).pvalue > 0.001
    broken = [planning.gradient_noise(*squared_norms(seed, sizes, 60, exponent=0.6)) for seed in range(60)]
    assert sum(found.follows is False for found in broken) > 50
    assert np.mean([found.exponent for found in broken]) == pytest.approx(0.6, abs=0.05)
    said = next(found for found in broken if found.follows is False)
    assert "not as 1/B" in said.notes[0]
    assert "the noise decreases as B^-0." in said.summary()


def test_standard_errors_as_given():
    sizes = np.array([256.0, 1024.0, 4096.0])
    norms = GRADIENT + TRACE / sizes
    wide, narrow = (planning.gradient_noise(sizes, norms, standard_errors=share * norms) for share in (0.02, 0.01))
    assert wide.batch == pytest.approx(2000.0, rel=1e-9)
    assert wide.exponent == pytest.approx(1.0, abs=1e-4)
    assert wide.exponent_error == pytest.approx(2 * narrow.exponent_error, rel=1e-6)
    assert wide.low < narrow.low < 2000 < narrow.high < wide.high
    assert wide.follows is True


def test_repeats_and_their_mean_are_one():
    batches, norms = squared_norms(3, [256, 1024, 4096], 25)
    each = planning.gradient_noise(batches, norms)
    pooled = [norms[batches == size].mean() for size in (256, 1024, 4096)]
    errors = [norms[batches == size].std(ddof=1) / 5 for size in (256, 1024, 4096)]
    mean = planning.gradient_noise([256, 1024, 4096], pooled, standard_errors=errors)
    assert each.batch == pytest.approx(mean.batch, rel=0.1)
    assert each.high / each.low == pytest.approx(mean.high / mean.low, rel=0.3)


def test_counts_weigh():
    sizes = np.array([100.0, 1000.0, 1e4, 1e5])
    norms = GRADIENT + TRACE / sizes
    norms[2] *= 1.3
    trusted = planning.gradient_noise(sizes, norms, num_batches=[100, 100, 100, 100])
    doubted = planning.gradient_noise(sizes, norms, num_batches=[100, 100, 1, 100])
    assert abs(math.log(doubted.batch / 2000)) < abs(math.log(trusted.batch / 2000)) / 5
    assert doubted.follows is not None
    assert planning.gradient_noise(sizes[:3], norms[:3]).follows is None


def test_no_upper_end_where_the_gradient_may_be_nothing():
    found = planning.gradient_noise([256, 4096], [8.8, 1.49], standard_errors=[0.1, 1.0])
    assert found.high == math.inf
    assert 0 < found.low < found.batch
    assert "∞" in found.summary()
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert record["high"] is None
    assert record["batch"] == found.batch


@settings(max_examples=60, deadline=None)
@given(st.floats(1, 1e7), st.floats(1, 1e7))
def test_steps_and_tokens_trade_along_a_hyperbola(batch, critical):
    cost = noise.batch_cost(batch, critical)
    assert (cost.steps - 1) * (cost.tokens - 1) == pytest.approx(1.0, rel=1e-6)
    assert noise.batch_cost(critical, critical) == (2.0, 2.0)


def test_cost_at_the_measured_scale():
    found = planning.gradient_noise([512, 8192], [GRADIENT + TRACE / 512, GRADIENT + TRACE / 8192])
    assert found.cost(1000).steps == pytest.approx(3.0)
    assert found.cost(1000).tokens == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([512, 512], [1.0, 0.5]), {}, "two batch sizes"),
        (([512], [1.0]), {}, "two batch sizes"),
        (([512, 1024], [1.0, 1.1]), {}, "no noise scale"),
        (([512, 1024], [1.0, 0.4]), {}, "no noise scale"),
        (([0, 1024], [1.0, 0.4]), {}, "batches must be finite numbers above zero"),
        (([512, 1024], [1.0, math.nan]), {}, "squared_norms must be finite"),
        (([512, 1024], [1.0]), {}, "squared_norms must be as many as batches"),
        (([512, 1024], [1.0, "x"]), {}, "squared_norms must be numbers"),
        (([512, 1024], [1.0, 0.7]), {"num_batches": [1, 1], "standard_errors": [1, 1]}, "not both"),
        (([512, 1024], [1.0, 0.7]), {"standard_errors": [0, 1]}, "standard_errors must be finite"),
        (([512, 1024], [1.0, 0.7]), {"level": 90}, "level is 90"),
        (([512, 512, 1024, 1024], [1.0, 1.0, 0.6, 0.7]), {}, "norms at batch 512 are all the same"),
    ],
)
def test_wrong_input(arguments, options, message):
    with pytest.raises(UserError, match=message) as caught:
        planning.gradient_noise(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_batch_cost_refuses():
    with pytest.raises(UserError, match="critical batch must be"):
        noise.batch_cost(512, 0)
