"""Shapes, and a recipe measured by a sweep whose answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry.config.task import TextConfig
from allometry.errors import UserError
from allometry.ladder.recipe import Recipe
from allometry.ladder.shape import shape, shape_near
from allometry.ladder.sweep import BATCH_TOLERANCE, measure_recipe, sweep_runs
from helpers.builders import record

DATA = TextConfig(source="text", fingerprint="f00d")


@given(st.integers(4, 600).map(lambda half: 2 * half))
def test_every_even_width_has_a_shape(width):
    """Its heads even, its MLP 8/3 of the width to a multiple of 8, its depth at least 4."""
    model = shape(width)
    assert model.width == width
    assert model.head_dim % 2 == 0
    assert abs(model.hidden - 8 / 3 * width) <= 4
    assert model.layers >= 4


def test_an_odd_width_is_a_users_mistake():
    for width in (9, 33):
        with pytest.raises(UserError, match=str(width)):
            shape(width)


def test_depths_are_those_of_the_docstring():
    assert [shape(width).layers for width in (16, 128, 768, 4096)] == [4, 4, 12, 32]


@settings(max_examples=60)
@given(st.floats(4, 13).map(lambda exponent: 10**exponent))
def test_the_nearest_shape_is_near(num_params):
    """Neighbouring widths are 8 apart and N goes as width² to width^2.6, which bounds what the nearest can miss."""
    model = shape_near(num_params)
    miss = abs(math.log(model.num_params / num_params))
    lower = shape(max(16, model.width - 8)).num_params
    upper = shape(model.width + 8).num_params
    if num_params > shape(16).num_params:
        assert miss <= abs(math.log(upper / lower)) / 2 + 1e-12
    for other in (lower, upper):
        assert miss <= abs(math.log(other / num_params)) + 1e-12


def test_a_model_beyond_all_shapes_is_refused():
    with pytest.raises(UserError, match="beyond what this recipe shapes"):
        shape_near(1e14)


def test_a_run_follows_the_recipe():
    recipe = Recipe(lr=0.3, batch_tokens=1024, batch_exponent=0.5, lr_exponent=0.1)
    config = recipe.run(shape(32), DATA, 500_000, seed=3)
    assert (config.train.lr, config.train.batch_tokens, config.train.seed) == (0.3, 1024, 3)
    batch, lr = recipe.at(4e6)
    assert batch == pytest.approx(2048)
    assert lr == pytest.approx(0.3 * 4**-0.1)
    assert recipe.at(1e6) == (1024, 0.3)
    assert Recipe(**recipe.to_json()) == recipe


def swept(
    best_lr: float, best_batch: float, bend_lr: float = 0.02, bend_batch: float = 0.01, lengths=(100_000, 200_000)
):
    """A sweep whose losses are parabolas in log2 of rate and batch around the given best, times a factor a length."""
    recipe = Recipe()
    records = []
    for config in sweep_runs(recipe, shape(16), DATA, lengths, seed=0):
        x, z = math.log2(config.train.lr / best_lr), math.log2(config.train.batch_tokens / best_batch)
        loss = math.exp(bend_lr * x**2 + bend_batch * z**2) * 3 * (config.train.tokens / 1e5) ** -0.1
        records.append(record(config, loss=loss, kind="sweep"))
    return recipe, records


def test_a_sweep_is_a_star_of_five_at_each_length():
    recipe = Recipe()
    configs = sweep_runs(recipe, shape(16), DATA, (100_000, 200_000), seed=5)
    assert len({config.id for config in configs}) == len(configs) == 10
    assert {config.train.lr / recipe.lr for config in configs} == {0.5, 1, 2}
    assert {config.train.batch_tokens / recipe.batch_tokens for config in configs} == {0.5, 1, 2}
    assert len({config.trunk for config in configs}) == 5


@given(st.floats(-1, 1), st.floats(-1, 0.5), st.floats(0.01, 0.1), st.floats(0.02, 0.1))
def test_measuring_a_planted_sweep_finds_the_plant(x, z, bend_lr, bend_batch):
    """The best rate, and the largest batch that costs no more than the tolerance."""
    recipe, records = swept(0.5 * 2**x, 512 * 2**z, bend_lr, bend_batch)
    measured, evidence = measure_recipe(recipe, records)
    assert measured.lr == pytest.approx(0.5 * 2**x, rel=0.006)  # rounded to three digits
    reach = min(1.5, z + math.sqrt(BATCH_TOLERANCE / bend_batch))
    assert measured.batch_tokens == pytest.approx(512 * 2**reach, rel=0.003)  # rounded to a whole token
    assert evidence["lr_curvature"] == pytest.approx(bend_lr, rel=1e-6)
    assert evidence["batch_curvature"] == pytest.approx(bend_batch, rel=1e-6)
    assert evidence["cost_of_half_lr"] == pytest.approx(math.expm1(bend_lr), rel=1e-6)
    assert evidence["cost_of_double_lr"] == pytest.approx(math.expm1(bend_lr), rel=1e-6)
    assert evidence["residual"] < 1e-12
    assert not evidence["at_edge"]


@pytest.mark.parametrize(("best", "edge"), [(50, 0.5 * 2**1.5), (0.001, 0.5 * 2**-1.5)])
def test_a_best_beyond_the_sweep_is_met_at_its_edge_and_said(best, edge):
    measured, evidence = measure_recipe(*swept(best, 512))
    assert measured.lr == pytest.approx(edge, rel=0.005)
    assert evidence["at_edge"]


def test_losses_that_bend_the_wrong_way_lead_to_the_better_end():
    """The doubled rate is better than the halved one."""
    recipe, records = swept(0.45, 512, bend_lr=-0.02)
    measured, _ = measure_recipe(recipe, records)
    losses = {r.config.train.lr: r.loss for r in records if r.config.train.batch_tokens == 512}
    better = min((0.25, 1.0), key=losses.__getitem__)
    assert (measured.lr > recipe.lr) == (better > recipe.lr)


def test_a_diverged_run_is_left_out_and_the_rest_still_measures():
    """Two rates and two batches at one length, all at the other: enough for the common curvature."""
    recipe, records = swept(0.4, 512)
    lost = next(i for i, r in enumerate(records) if r.config.train.lr == 1.0 and r.config.train.tokens == 200_000)
    records[lost] = record(records[lost].config, loss=None, kind="sweep", status="diverged")
    measured, _ = measure_recipe(recipe, records)
    assert measured.lr == pytest.approx(0.4, rel=0.006)
    assert measured.measured == "9 runs of 2 (size, tokens)"


def test_fewer_than_three_rates_are_a_users_matter():
    recipe, records = swept(0.4, 512)
    kept = [r if r.config.train.lr != 1.0 else record(r.config, None, "sweep", "diverged") for r in records]
    with pytest.raises(UserError, match="fewer than three learning rates of the sweep trained"):
        measure_recipe(recipe, kept)


def test_measuring_is_deaf_to_the_order_of_the_records():
    recipe, records = swept(0.4, 700)
    forward, backward = measure_recipe(recipe, records)[0], measure_recipe(recipe, records[::-1])[0]
    assert forward == backward
    assert np.isfinite(forward.lr)
