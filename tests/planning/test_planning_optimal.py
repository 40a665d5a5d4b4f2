"""The compute-optimal search, judged by the closed form, and by laws that have no optimum at all."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry.errors import UserError
from allometry.planning import Covered, Optimum, optimal

from .predictors import Chinchilla, Mixture, Power, Prediction

WIDE = (1e-6, 1e9)


@pytest.mark.parametrize("flops", [1e15, 1e18, 1e21, 1e25])
def test_closed_form_of_the_published_law(flops):
    law = Chinchilla()
    best = optimal(law, flops)
    assert best.num_params == pytest.approx(law.closed_form(flops), rel=1e-6)
    assert 6 * best.num_params * best.tokens == pytest.approx(flops, rel=1e-12)
    assert best.loss == law.predict(best.num_params, best.tokens).value
    assert best.low < best.loss < best.high
    assert not best.at_edge
    assert best.notes == ()


@settings(max_examples=60, deadline=None)
@given(
    a=st.floats(10.0, 1e4), b=st.floats(10.0, 1e4), alpha=st.floats(0.15, 0.8), beta=st.floats(0.15, 0.8),
    flops=st.floats(1e14, 1e25),
)  # fmt: skip
def test_closed_form_of_any_chinchilla(a, b, alpha, beta, flops):
    law = Chinchilla(A=a, B=b, alpha=alpha, beta=beta)
    truth = law.closed_form(flops)
    best = optimal(law, flops, tokens_per_param_range=WIDE)
    ratio = flops / 6 / truth**2
    if WIDE[0] * 2 < ratio < WIDE[1] / 2 and truth > 2 and flops / 6 / truth > 2:
        reached, least = best.loss, law.predict(truth, flops / 6 / truth).value
        assert reached == pytest.approx(least, rel=1e-14)
        # The position is known only as well as its loss can be told from its neighbours' in double precision.
        assert best.num_params == pytest.approx(truth, rel=1e-3)


def test_basin_is_where_the_law_says():
    law, flops = Chinchilla(), 1e21
    best = optimal(law, flops)
    for limits, tolerance in ((best.basin.within_0_1_percent, 0.001), (best.basin.within_0_5_percent, 0.005)):
        assert limits[0] < best.num_params < limits[1]
        for size in limits:
            loss = law.predict(size, flops / 6 / size).value
            assert loss / best.loss - 1 == pytest.approx(tolerance, rel=0.02)
    for size, cost in ((0.5, best.basin.cost_of_half_size), (2.0, best.basin.cost_of_double_size)):
        moved = law.predict(best.num_params * size, best.tokens / size).value
        assert cost == pytest.approx(moved / best.loss - 1)
        assert cost > 0


@pytest.mark.parametrize(("a", "b", "ratio"), [(-0.1, -0.08, 5.0), (-0.08, -0.1, 200.0)])
def test_power_law_has_no_optimum_and_says_so(a, b, ratio):
    best = optimal(Power(a=a, b=b), 1e18, tokens_per_param_range=(5.0, 200.0))
    assert best.at_edge
    assert best.tokens_per_param == pytest.approx(ratio)
    assert "no optimum inside" in best.notes[0]
    assert "5 to 200 tokens per parameter" in best.notes[0]


def test_equal_exponents_make_every_split_the_same():
    best = optimal(Power(a=-0.1, b=-0.1), 1e18, tokens_per_param_range=(4.0, 100.0))
    assert best.tokens_per_param == pytest.approx(20.0)
    assert not best.at_edge
    assert "same loss" in best.notes[0]


def test_mixture_with_a_power_law():
    law = Mixture((Chinchilla(), Power(k=20.0)), (0.7, 0.3))
    best = optimal(law, 1e20)
    sizes = np.geomspace(*best.searched, 200_001)
    losses = law.predict(sizes, 1e20 / 6 / sizes).value
    assert best.num_params == pytest.approx(sizes[losses.argmin()], rel=1e-3)
    assert best.loss <= losses.min() * (1 + 1e-14)
    assert best.low < best.loss < best.high


def test_two_valleys_the_deeper_one_is_found():
    class Valleys:
        def predict(self, num_params, tokens, level=0.9):
            x = np.log10(num_params)
            value = 2 + np.minimum(5 * (x - 7.6) ** 2, 5 * (x - 8.6) ** 2 - 0.1)
            return Prediction(value, value, value)

    assert optimal(Valleys(), 6e17 * 4).num_params == pytest.approx(10**8.6, rel=1e-4)


def test_holes_in_the_law_are_stepped_over():
    class Holes(Chinchilla):
        def predict(self, num_params, tokens, level=0.9):
            value = np.where(np.asarray(num_params) < 1e9, np.nan, super().predict(num_params, tokens).value)
            return Prediction(value, value, np.inf)

    best = optimal(Holes(), 1e21)
    assert best.num_params == pytest.approx(Chinchilla().closed_form(1e21), rel=1e-5)
    assert best.high is None


def test_fixed_size_or_tokens():
    law = Chinchilla()
    by_size = optimal(law, 6e20, num_params=1e9)
    by_tokens = optimal(law, 6e20, tokens=1e11)
    both = optimal(law, num_params=1e9, tokens=1e11)
    assert (by_size.num_params, by_size.tokens, by_size.basin) == (1e9, 1e11, None)
    assert by_size == by_tokens == both
    assert both.flops == 6e20


def test_extrapolation_is_told():
    covered = Covered.of([1e6, 1e7, 1e7], [2e7, 2e8, 1e9])
    assert covered.flops == (6 * 2e13, 6 * 1e16)
    assert covered.tokens_per_param == (20.0, 100.0)
    best = optimal(Power(), 6e17, covered=covered)
    assert best.tokens_per_param == pytest.approx(20.0)
    assert any("10× the compute of the largest fitted run" in note for note in best.notes)
    assert any("parameters: above the most that was fitted (10M)" in note for note in best.notes)
    assert not any("tokens per parameter: " in note for note in best.notes)
    assert optimal(Power(), num_params=1e7, tokens=2e8, covered=covered).notes == ()
    assert "below the fewest" in optimal(Power(), num_params=1e5, tokens=2e7, covered=covered).notes[0]


@pytest.mark.parametrize(
    "best", [optimal(Chinchilla(), 1e20), optimal(Power(), 1e20), optimal(Power(), 6e9, tokens=1e5)]
)
def test_json_there_and_back(best):
    assert Optimum.from_json(json.loads(json.dumps(best.to_json(), allow_nan=False))) == best


class Fitted(Power):
    def __init__(self, **spans):
        super().__init__()
        object.__setattr__(self, "range", spans)


def test_a_predictor_may_say_what_it_was_fitted_on():
    told = Fitted(num_params=(1e6, 1e7), tokens=(2e7, 2e8), flops=(1e14, 6e15), tokens_per_param=(20.0, 30.0))
    assert Covered.by(told) == Covered((1e6, 1e7), (2e7, 2e8), (1e14, 6e15), (20.0, 30.0))
    best = optimal(told, 6e17)
    assert best.tokens_per_param == pytest.approx(20.0)
    assert "100× the compute" in best.notes[1]
    corners = Covered.by(Fitted(num_params=(1e6, 1e7), tokens=(2e7, 2e8)))
    assert (corners.flops, corners.tokens_per_param) == ((6 * 2e13, 6 * 2e15), (2.0, 200.0))
    assert Covered.by(Power()) is None
    assert Covered.by(Fitted(tokens=(1e6, 1e7))) is None


def test_one_ratio_is_a_range_too():
    best = optimal(Chinchilla(), 1.2e20, tokens_per_param_range=(20.0, 20.0))
    assert best.num_params == pytest.approx(1e9)
    assert (best.at_edge, best.notes) == (False, ())


class Nothing:
    def predict(self, num_params, tokens, level=0.9):
        return Prediction(np.full_like(np.asarray(num_params, float), np.nan), np.nan, np.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimal(Power()), "give flops, or flops with num_params or tokens"),
        (lambda: optimal(Power(), num_params=1e6), "give flops, or"),
        (lambda: optimal(Power(), 1e18, num_params=1e6, tokens=1e8), "one too many"),
        (lambda: optimal(Power(), 0.0), "flops must be"),
        (lambda: optimal(Power(), math.nan), "flops must be"),
        (lambda: optimal(Power(), 1e18, num_params=-5), "num params must be"),
        (lambda: optimal(Power(), 1e18, tokens_per_param_range=(0, 10)), "tokens per param must be"),
        (lambda: optimal(Power(), 1e18, tokens_per_param_range=(10, 1)), "range of tokens per parameter is empty"),
        (lambda: optimal(Power(), 3.0), "does not pay for one parameter and its tokens (6 FLOPs)"),
        (lambda: optimal(Power(), 60.0, tokens_per_param_range=(20, 40)), "its tokens (120 FLOPs)"),
        (lambda: optimal(Power(), 60.0, num_params=1e6), "give a larger budget"),
        (lambda: optimal(Power(), 1e18, level=90), "level is a probability"),
        (lambda: optimal(Nothing(), 1e18), "no finite loss for 1.00e+18 FLOPs at 1 to 1000"),
        (lambda: optimal(Nothing(), 1e18, num_params=1e6), "no finite loss at 1e+06 parameters"),
        (lambda: Covered.of([], []), "covered runs need"),
        (lambda: Covered.of([1e6], [1e7, 1e8]), "covered runs need"),
        (lambda: Covered.of([1e6], [0.0]), "covered runs need"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(UserError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
