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
from allometry.ladder.sweep import BATCH_TOLERANCE, EDGE, TEXT_LR, TEXT_LR_SD, measure_recipe, sweep_runs
from helpers.builders import record

DATA = TextConfig(source="text", fingerprint="f00d")


@given(st.integers(4, 600).map(lambda half: 2 * half))
def test_every_even_width_has_a_shape(width):
    """Its heads even, its MLP 3 times the width to a multiple of 8, its depth at least 4."""
    model = shape(width)
    assert model.width == width
    assert model.head_dim % 2 == 0
    assert abs(model.hidden - 3 * width) <= 4
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


BASE = Recipe().lr


def swept(
    best_lr: float,
    best_batch: float,
    bend_lr: float = 0.02,
    bend_batch: float = 0.01,
    lengths=(100_000, 200_000),
    recipe=None,
    plain=False,
):
    """A sweep whose losses are parabolas in log2 of rate and batch around the given best, times a factor a length.

    The decoder has an option, so that nothing is known of its rate, unless it is ``plain``.
    """
    records, recipe = [], recipe or Recipe()
    model = shape(16) if plain else shape(16).model_copy(update={"qk_norm": True})
    for config in sweep_runs(recipe, model, DATA, lengths, seed=0):
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


@given(st.floats(-0.8, 0.8), st.floats(-0.8, 0.3), st.floats(0.01, 0.1), st.floats(0.02, 0.1))
def test_measuring_a_planted_sweep_finds_the_plant(x, z, bend_lr, bend_batch):
    """The best rate, and the largest batch that costs no more than the tolerance: within what one knew before."""
    recipe, records = swept(BASE * 2**x, 512 * 2**z, bend_lr, bend_batch)
    measured, evidence = measure_recipe(recipe, records)
    found_x = math.log2(measured.lr / BASE)
    assert abs(found_x - x) < 0.15 + 2 * evidence["lr_octaves_error"]
    assert abs(found_x) <= abs(x) + 0.25  # drawn towards what earlier sweeps showed, hardly away from it
    reach = min(EDGE, z + math.sqrt(BATCH_TOLERANCE / bend_batch))
    assert abs(math.log2(measured.batch_tokens / 512) - reach) < 0.1 + 2 * evidence["batch_octaves_error"]
    assert evidence["residual"] < 0.01


def test_more_runs_of_a_sweep_outweigh_what_was_known_before():
    """The same star at twelve lengths: the plant is found to a tenth of an octave."""
    lengths = [50_000 * (2 + step) for step in range(12)]
    recipe, records = swept(BASE * 2**0.8, 512 * 2**-0.6, 0.05, 0.05, lengths=lengths)
    measured, evidence = measure_recipe(recipe, records)
    assert math.log2(measured.lr / BASE) == pytest.approx(0.8, abs=0.1)
    assert evidence["lr_curvature"] == pytest.approx(0.05, rel=0.1)
    few = measure_recipe(*swept(BASE * 2**0.8, 512 * 2**-0.6, 0.05, 0.05))[1]
    assert evidence["lr_octaves_error"] < 0.6 * few["lr_octaves_error"]


def test_the_recipe_of_noisy_sweeps_scatters_as_it_says():
    """Runs of 1 % noise around a plant at the default: the rate's scatter is that of its error, and below an octave."""
    generator = np.random.default_rng(4)
    found, errors = [], []
    for _ in range(200):
        recipe, records = swept(BASE, 512)
        noisy = [
            record(r.config, loss=r.loss * math.exp(0.01 * generator.standard_normal()), kind="sweep") for r in records
        ]
        measured, evidence = measure_recipe(recipe, noisy)
        found.append(math.log2(measured.lr / BASE))
        errors.append(evidence["lr_octaves_error"] or math.nan)
    assert 0.5 < np.std(found) / np.nanmedian(errors) < 2  # the error is that of a linearised minimum
    assert np.std(found) < 0.35


@pytest.mark.parametrize(("best", "sign"), [(50, 1), (0.001, -1)])
def test_a_best_beyond_the_sweep_is_met_at_its_edge_and_said(best, sign):
    measured, evidence = measure_recipe(*swept(best, 512))
    assert math.log2(measured.lr / BASE) == pytest.approx(sign * EDGE, abs=0.3)
    assert evidence["at_edge"]


def test_a_batch_at_the_edge_is_said():
    measured, evidence = measure_recipe(*swept(BASE, 512 * 16, bend_batch=0.05))
    assert evidence["batch_at_edge"]
    assert measured.batch_tokens <= round(512 * 2**EDGE)
    assert not measure_recipe(*swept(BASE, 400, bend_batch=0.05))[1]["batch_at_edge"]


def test_a_diverged_run_is_left_out_and_the_rest_still_measures():
    """Two rates and two batches at one length, all at the other: enough for the common curvature."""
    recipe, records = swept(0.8 * BASE, 512)
    lost = next(i for i, r in enumerate(records) if r.config.train.lr == 2 * BASE and r.config.train.tokens == 200_000)
    records[lost] = record(records[lost].config, loss=None, kind="sweep", status="diverged")
    measured, _ = measure_recipe(recipe, records)
    assert measured.lr == pytest.approx(0.8 * BASE, rel=0.1)
    assert measured.measured == "9 runs of 2 (size, tokens)"


@pytest.mark.parametrize(
    ("lost", "name"),
    [(lambda t: t.lr == 2 * BASE, "learning rates"), (lambda t: t.batch_tokens == 1024, "batches")],
)
def test_fewer_than_three_rates_or_batches_are_a_users_matter(lost, name):
    recipe, records = swept(0.8 * BASE, 512)
    kept = [r if not lost(r.config.train) else record(r.config, None, "sweep", "diverged") for r in records]
    with pytest.raises(UserError, match=f"fewer than three {name} of the sweep trained"):
        measure_recipe(recipe, kept)


@given(st.lists(st.floats(-0.02, 0.02), min_size=10, max_size=10))
def test_noise_does_not_bend_a_parabola_downwards(noise):
    """A downward parabola has no minimum, and its batch went to the end of the sweep."""
    recipe, records = swept(BASE, 512, 0.0, 0.0)
    noisy = [record(r.config, loss=r.loss * math.exp(e), kind="sweep") for r, e in zip(records, noise, strict=True)]
    _, evidence = measure_recipe(recipe, noisy)
    assert evidence["lr_curvature"] > 0.001
    assert evidence["batch_curvature"] > 0.0005


def test_a_flat_sweep_of_text_is_drawn_to_the_rate_of_earlier_texts():
    """Whatever rate the study was told to sweep around; a sweep of something else stays where it was told."""
    near = Recipe(lr=TEXT_LR * 1.6)
    text, _ = measure_recipe(*swept(1.0, 512, 0.0, 0.01, recipe=near, plain=True))
    assert math.log2(text.lr / TEXT_LR) < 0.65 * math.log2(1.6)
    other, _ = measure_recipe(*swept(1.0, 512, 0.0, 0.01, recipe=near))
    assert other.lr == pytest.approx(near.lr, rel=0.01)


def test_lucky_runs_move_the_rate_of_text_less():
    """On a flat parabola, the runs of the doubled rate come out 1.5 % better than they should."""
    moved = []
    for plain in (True, False):
        recipe, records = swept(TEXT_LR, 512, 0.01, recipe=Recipe(lr=TEXT_LR), plain=plain)
        lucky = [record(r.config, r.loss * (0.985 if r.config.train.lr > TEXT_LR else 1), "sweep") for r in records]
        moved.append(math.log2(measure_recipe(recipe, lucky)[0].lr / TEXT_LR))
    assert 0 < moved[0] < 0.8 * moved[1]


def test_a_clear_sweep_of_text_overrules_earlier_texts():
    measured, evidence = measure_recipe(*swept(BASE * 2**-0.8, 512, 0.06, 0.03, plain=True))
    assert math.log2(measured.lr / BASE) == pytest.approx(-0.8, abs=0.25)
    assert evidence["lr_octaves_error"] < TEXT_LR_SD


def test_measuring_is_deaf_to_the_order_of_the_records():
    recipe, records = swept(0.8 * BASE, 700)
    forward, backward = measure_recipe(recipe, records)[0], measure_recipe(recipe, records[::-1])[0]
    assert forward == backward
    assert np.isfinite(forward.lr)
