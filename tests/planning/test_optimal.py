"""The compute-optimal search, judged by the closed form, and by laws that have no optimum at all."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry import laws
from allometry.errors import UserError
from allometry.planning import Budget, FittedRange, Optimum, optimal
from helpers.ladders import TRUTHS, ladder
from helpers.predictors import Chinchilla, Mixture, Power, Prediction

WIDE = (1e-6, 1e9)
# The constants of arXiv 2203.15556, approach 3, to the digits with which arXiv 2401.00448 uses them.
HOFFMANN = Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.336, beta=0.283)


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


@pytest.mark.parametrize("served", [0.0, 3e11])
def test_basin_against_brute_force(served):
    law, flops = Chinchilla(), 1e21
    best = optimal(law, Budget(flops=flops, inference_tokens=served or None), tokens_per_param_range=(1.0, 1e4))
    sizes = np.geomspace(*best.searched, 1_000_001)
    losses = law.predict(sizes, flops / 6 / sizes - served / 3).value
    assert best.num_params == pytest.approx(sizes[losses.argmin()], rel=1e-5)
    basin = best.basin
    for limits, tolerance in ((basin.within_0_1_percent, 0.001), (basin.within_0_5_percent, 0.005)):
        within = sizes[losses <= losses.min() * (1 + tolerance)]
        assert limits == pytest.approx((within[0], within[-1]), rel=2e-3)


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
    assert "no optimum inside" in best.cautions[0]
    assert "5 to 200 tokens per parameter" in best.cautions[0]


def test_equal_exponents_make_every_split_the_same():
    best = optimal(Power(a=-0.1, b=-0.1), 1e18, tokens_per_param_range=(4.0, 100.0))
    assert best.tokens_per_param == pytest.approx(20.0)
    assert not best.at_edge
    assert "same loss" in best.cautions[0]


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
    by_size = optimal(law, Budget(flops=6e20, num_params=1e9))
    by_tokens = optimal(law, Budget(flops=6e20, tokens=1e11))
    both = optimal(law, Budget(num_params=1e9, tokens=1e11))
    assert (by_size.num_params, by_size.tokens, by_size.basin) == (1e9, 1e11, None)
    assert by_size == by_tokens == both
    assert both.flops == 6e20


def test_extrapolation_is_told():
    covered = FittedRange.of([1e6, 1e7, 1e7], [2e7, 2e8, 1e9])
    assert covered.flops == (6 * 2e13, 6 * 1e16)
    assert covered.tokens_per_param == (20.0, 100.0)
    best = optimal(Power(), 6e17, fitted_range=covered)
    assert best.tokens_per_param == pytest.approx(20.0)
    assert any("10× the compute of the largest fitted run" in note for note in best.notes)
    assert any("parameters: above the most that was fitted (10M)" in note for note in best.notes)
    assert not any("tokens per parameter: " in note for note in best.notes)
    assert optimal(Power(), Budget(num_params=1e7, tokens=2e8), fitted_range=covered).notes == ()
    assert "below the fewest" in optimal(Power(), Budget(num_params=1e5, tokens=2e7), fitted_range=covered).notes[0]


@pytest.mark.parametrize(
    "budget",
    [
        Budget(flops=1e20),
        Budget(flops=6e9, tokens=1e5),
        Budget(loss=2.2),
        Budget(flops=1e20, inference_tokens=1e10, tokens_available=1e9),
    ],
)
@pytest.mark.parametrize("law", [Chinchilla(), Power()])
def test_json_there_and_back(law, budget):
    best = optimal(law, budget)
    assert Optimum.from_json(json.loads(json.dumps(best.to_json(), allow_nan=False))) == best


def test_closed_form_of_a_fit():
    """Equation 4 of arXiv 2203.15556, with the constants that the fit found."""
    fitted = laws.fit("chinchilla", ladder("chinchilla", noise=0.003))
    for flops in (1e20, 1e22, 1e24):
        best = optimal(fitted, flops, tokens_per_param_range=(0.1, 1e5))
        assert best.num_params == pytest.approx(Chinchilla(**fitted.values).closed_form(flops), rel=1e-6)


@pytest.mark.parametrize(("flops", "law"), [(1e20, Chinchilla()), (1e23, Chinchilla(alpha=0.3, beta=0.33))])
def test_the_frontier_backwards(flops, law):
    """The budget whose best size (or tokens) is given is the budget that has it as its best."""
    size, tokens = law.closed_form(flops), flops / 6 / law.closed_form(flops)
    by_tokens, by_size = optimal(law, Budget(tokens=tokens)), optimal(law, Budget(num_params=size))
    for best in (by_tokens, by_size):
        assert best.num_params == pytest.approx(size, rel=1e-4)
        assert best.tokens == pytest.approx(tokens, rel=1e-4)
        assert best.basin.cost_of_half_size > 0 < best.basin.cost_of_double_size


def test_the_interval_of_the_frontier_is_that_of_what_is_not_given():
    fitted = laws.fit("chinchilla", ladder("chinchilla", noise=0.003))
    best = optimal(fitted, Budget(tokens=100e9))
    low, high = best.intervals["num_params"]
    assert set(best.intervals) == {"num_params"}
    assert low < best.num_params < high
    ahead = optimal(fitted, Budget(num_params=best.num_params)).intervals["tokens"]
    assert (best.tokens / ahead[1], best.tokens / ahead[0]) == pytest.approx(
        (low / best.num_params, high / best.num_params), rel=1e-3
    )


def test_a_mixture_is_drawn_as_a_mixture():
    """A law without an optimum that has a small weight shifts each draw a little, and is never the whole of one."""

    class Two(Mixture):
        def weighted_samples(self, num_params, tokens):
            pairs = zip(self.parts, self.weights, strict=True)
            return [(w, np.log(np.tile(law.predict(num_params, tokens).value, (300, 1)))) for law, w in pairs]

    flat = Power(k=20.0, a=-0.03, b=-0.06)
    assert optimal(flat, 1e21, tokens_per_param_range=(1, 1000)).tokens_per_param == pytest.approx(1000)
    best = optimal(Two((Chinchilla(), flat), (0.9, 0.1)), 1e21)
    low, high = best.intervals["num_params"]
    assert low < best.num_params < high
    assert best.searched[0] < 0.2 * best.num_params < 0.5 * best.num_params < low


def test_the_best_size_is_searched_beyond_what_was_run_and_that_is_said():
    law, narrow = Chinchilla(), FittedRange.of([1e8, 2e8, 4e8], [1e8, 2e8, 4e8])
    best = optimal(law, 1e20, fitted_range=narrow)
    assert best.num_params == pytest.approx(law.closed_form(1e20), rel=1e-6)
    caution = best.cautions[0]
    assert "the best size lies outside what was run" in caution
    assert "would settle it" in caution
    runs = narrow.settling_runs(best.tokens_per_param)
    assert all(6 * n * d == pytest.approx(narrow.flops[1]) for n, d in runs)
    assert min(d / n for n, d in runs) < best.tokens_per_param < max(d / n for n, d in runs)
    inside = FittedRange.of([1e8, 1e9], [1e10, 1e10])
    assert optimal(law, 1e20, fitted_range=inside).cautions == ()


@pytest.mark.parametrize(("a", "b", "ratio"), [(-0.1, -0.08, 0.5), (-0.08, -0.1, 40.0)])
def test_a_law_without_an_optimum_follows_the_runs_or_the_literature(a, b, ratio):
    """It falls for ever in one direction: the size goes to the end of what was run there, or to 20 a parameter."""
    best = optimal(Power(a=a, b=b), 1e18, fitted_range=FittedRange.of([1e8, 1e8], [0.5e8, 40e8]))
    assert best.at_edge
    assert best.tokens_per_param == pytest.approx(ratio)
    assert "the law has no best size" in best.cautions[0]
    assert best.basin is None
    assert optimal(Power(a=a, b=b), 1e18).tokens_per_param == pytest.approx(20)


def test_a_goal_whose_interval_has_no_ends_has_a_size_and_no_interval():
    """Far below its runs a forecast's interval may reach from zero to infinity."""

    class Vague:
        def predict(self, num_params, tokens, level=0.9):
            value = Chinchilla().predict(num_params, tokens).value
            return Prediction(value, 0 * value, np.inf * value)

    best = optimal(Vague(), Budget(loss=3.0))
    assert best.loss == pytest.approx(3.0)
    assert best.intervals == {}


def test_far_beyond_the_runs_is_said_and_then_refused():
    small = FittedRange.of([1e5, 1e5, 1e6], [1e6, 1e7, 1e8])
    assert optimal(Chinchilla(), 1e15, fitted_range=small).cautions == ()
    told = optimal(Chinchilla(), 1e18, fitted_range=small)
    assert any("no table has tested a law" in caution for caution in told.cautions)
    with pytest.raises(UserError, match="refused; train larger runs first"):
        optimal(Chinchilla(), 1e21, fitted_range=small)


def test_interval_of_the_size_covers_the_truth():
    """90 % intervals of N*, from ladders with fresh noise; the bounds leave a true 90 % one chance in 10⁴."""
    budgets, runs = (1e21, 1e23), 120
    truths = [Chinchilla(**TRUTHS["chinchilla"]).closed_form(flops) for flops in budgets]
    covered = np.zeros(2)
    for seed in range(runs):
        runs_of = ladder("chinchilla", noise=0.005, seed=seed)
        fitted = laws.fit("chinchilla", runs_of, "log_squares", bootstrap=200, seed=seed)
        for index, (flops, truth) in enumerate(zip(budgets, truths, strict=True)):
            best = optimal(fitted, flops, tokens_per_param_range=(0.01, 1e5))
            (low, high), (fewest, most) = (best.intervals[name] for name in ("num_params", "tokens"))
            assert low < best.num_params < high
            assert (6 * low * most, 6 * high * fewest) == pytest.approx((flops, flops))
            covered[index] += low <= truth <= high
    assert np.all((covered / runs >= 0.79) & (covered / runs <= 0.98)), covered / runs


def test_a_mixture_of_laws_has_the_intervals_of_its_refits():
    forecast = laws.forecast(ladder("chinchilla", noise=0.003))
    wide, narrow = (optimal(forecast, 1e22, level=level).intervals["num_params"] for level in (0.9, 0.5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert wide[0] < Chinchilla(**TRUTHS["chinchilla"]).closed_form(1e22) < wide[1]
    assert optimal(Chinchilla(), 1e22).intervals == {}


def test_lifetime_optimum_is_the_minimum_of_the_law():
    """The least loss for 6·N·D + 2·N·T, and the least 6·N·D + 2·N·T for a loss; SciPy judges."""
    from scipy.optimize import brentq, minimize

    law, served = HOFFMANN, 2e12
    best = optimal(law, Budget(flops=1e23, inference_tokens=served), tokens_per_param_range=WIDE)
    tokens = lambda size: (1e23 - 2 * size * served) / (6 * size)
    judged = minimize(
        lambda x: law.predict(np.exp(x[0]), tokens(np.exp(x[0]))).value, [np.log(1e9)], method="Nelder-Mead",
        options={"xatol": 1e-10, "fatol": 1e-16},
    )  # fmt: skip
    assert best.loss == pytest.approx(judged.fun, rel=1e-13)
    assert best.num_params == pytest.approx(np.exp(judged.x[0]), rel=1e-5)
    assert best.flops + best.inference_flops == pytest.approx(1e23)
    assert best.inference_flops == pytest.approx(2 * best.num_params * served)
    assert best.tokens_per_param > optimal(law, 1e23).tokens_per_param

    def lifetime(x):
        size = np.exp(x[0])
        needed = brentq(lambda log: law.predict(size, np.exp(log)).value - best.loss, 10, 60, xtol=1e-13)
        return (6 * size * np.exp(needed) + 2 * size * served) / 1e23

    cheapest = optimal(law, Budget(loss=best.loss, inference_tokens=served), tokens_per_param_range=WIDE)
    judged = minimize(lifetime, [np.log(5e9)], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14})
    assert cheapest.flops + cheapest.inference_flops == pytest.approx(1e23 * judged.fun, rel=1e-8)
    assert cheapest.num_params == pytest.approx(best.num_params, rel=1e-4)


def test_the_published_saving_of_a_smaller_model():
    """arXiv 2401.00448, figure 1: 7B in place of 13B at equal loss, 2T tokens served: 1.7e22 FLOPs less, 17 %."""
    law = HOFFMANN
    chinchilla = (law.beta * law.B / (law.alpha * law.A) * 13e9**law.alpha) ** (1 / law.beta)
    large = optimal(law, Budget(num_params=13e9, tokens=chinchilla, inference_tokens=2e12))
    small = optimal(law, Budget(loss=large.loss, num_params=7e9, inference_tokens=2e12))
    total = [each.flops + each.inference_flops for each in (large, small)]
    assert total[0] - total[1] == pytest.approx(1.7e22, rel=0.01)
    assert f"{1 - total[1] / total[0]:.0%}" == "17%"
    best = optimal(law, Budget(loss=large.loss, inference_tokens=2e12))
    assert best.flops + best.inference_flops < total[1]


@pytest.mark.parametrize("law", [Chinchilla(), Power(), Mixture((Chinchilla(), Power(k=20.0)), (0.7, 0.3))])
def test_the_compute_for_a_loss_is_that_whose_optimum_has_it(law):
    for flops in (1e17, 1e20, 1e24):
        best = optimal(law, flops)
        back = optimal(law, Budget(loss=best.loss))
        assert back.flops == pytest.approx(flops, rel=1e-6)
        assert back.loss == pytest.approx(best.loss, rel=1e-9)
    fixed = optimal(law, Budget(flops=1e20, num_params=1e9))
    assert optimal(law, Budget(loss=fixed.loss, num_params=1e9)).tokens == pytest.approx(fixed.tokens, rel=1e-6)
    assert optimal(law, Budget(loss=fixed.loss, tokens=fixed.tokens)).num_params == pytest.approx(1e9, rel=1e-6)


def test_the_compute_for_a_loss_has_the_interval_of_the_loss():
    law, goal = Chinchilla(), 2.1
    best = optimal(law, Budget(loss=goal), level=0.5)
    least, most = best.intervals["flops"]
    assert optimal(law, least, level=0.5).low == pytest.approx(goal, rel=1e-9)
    assert optimal(law, most, level=0.5).high == pytest.approx(goal, rel=1e-9)
    assert best.intervals["num_params"] == pytest.approx([optimal(law, flops).num_params for flops in (least, most)])
    # The floor of the interval's upper end is above this goal: no compute makes it sure.
    unsure = optimal(law, Budget(loss=1.83), level=0.5)
    assert unsure.intervals["flops"][0] < unsure.flops
    assert unsure.intervals["flops"][1] is None
    assert "num_params" not in unsure.intervals


class Fitted(Power):
    def __init__(self, **spans):
        super().__init__()
        object.__setattr__(self, "range", spans)


def test_a_predictor_may_say_what_it_was_fitted_on():
    told = Fitted(num_params=(1e6, 1e7), tokens=(2e7, 2e8), flops=(1e14, 6e15), tokens_per_param=(20.0, 30.0))
    assert FittedRange.by(told) == FittedRange((1e6, 1e7), (2e7, 2e8), (1e14, 6e15), (20.0, 30.0))
    best = optimal(told, 6e17)
    assert best.tokens_per_param == pytest.approx(20.0)
    assert "100× the compute" in best.notes[0]
    corners = FittedRange.by(Fitted(num_params=(1e6, 1e7), tokens=(2e7, 2e8)))
    assert (corners.flops, corners.tokens_per_param) == ((6 * 2e13, 6 * 2e15), (2.0, 200.0))
    assert FittedRange.by(Power()) is None
    assert FittedRange.by(Fitted(tokens=(1e6, 1e7))) is None


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
        (lambda: optimal(Power(), 0.0), "flops must be"),
        (lambda: optimal(Power(), math.nan), "flops must be"),
        (lambda: optimal(Power(), 1e18, tokens_per_param_range=(0, 10)), "tokens per param must be"),
        (lambda: optimal(Power(), 1e18, tokens_per_param_range=(10, 1)), "range of tokens per parameter is empty"),
        (lambda: optimal(Power(), 3.0), "does not pay for one parameter and its tokens (6 FLOPs)"),
        (lambda: optimal(Power(), 60.0, tokens_per_param_range=(20, 40)), "its tokens (120 FLOPs)"),
        (lambda: optimal(Power(), Budget(flops=60.0, inference_tokens=1e3)), "its tokens (2.01e+03 FLOPs)"),
        (lambda: optimal(Power(), Budget(flops=60.0, num_params=1e6)), "give a larger budget"),
        (lambda: optimal(Power(), Budget(flops=60.0, num_params=1e6, inference_tokens=9)), "leaves none to train with"),
        (lambda: optimal(Chinchilla(), Budget(loss=1.8)), "no compute reaches a loss of 1.8: by this law it never"),
        (lambda: optimal(Chinchilla(), Budget(loss=1e7)), "above what the law gives even for the smallest run"),
        (lambda: optimal(Power(), 1e18, level=90), "level is 90; it must lie between 0 and 1"),
        (lambda: optimal(Nothing(), 1e18), "no finite loss for 1.00e+18 FLOPs at 1 to 1000"),
        (lambda: optimal(Nothing(), Budget(flops=1e18, num_params=1e6)), "no finite loss at 1e+06 parameters"),
        (lambda: FittedRange.of([], []), "fitted range needs"),
        (lambda: FittedRange.of([1e6], [1e7, 1e8]), "fitted range needs"),
        (lambda: FittedRange.of([1e6], [0.0]), "fitted range needs"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(UserError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
