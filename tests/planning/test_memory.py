"""The memory of a training by hand, and layouts that fit and waste little."""

import pytest

from allometry.planning import Layout, Shapes, fit_layout, memory
from allometry.planning.resources.parallel_layout import advice

SEVEN = Shapes(vocab_size=32_000, context=2048).of(4096, 32)  # 6,738,149,376 parameters
HUGE = Shapes(vocab_size=128_256, context=8192)(4.05e11)


def test_memory_by_hand():
    """7B in BF16 with FP32 AdamW, fully sharded over 8 devices: 16 bytes a parameter, one sequence of 2048."""
    needed = memory(SEVEN, Layout(data=8), 80e9)
    assert needed.states == pytest.approx(16 * 6_738_149_376 / 8)
    # Two layers' weights collected and one layer's gradient, in BF16: 202 M parameters a layer, more than a table.
    assert needed.gathered == pytest.approx(3 * 2 * (4 * 4096**2 + 3 * 4096 * 11008))
    # q, k, v, the mixed values, the projection's output, two inputs and two norms: 9 × 2 bytes a width.
    per_token = 32 * (9 * 2 * 4096 + 4 * 2 * 11008) + 8 * 32_000
    assert needed.activations == 2048 * per_token
    assert needed.fits is True
    # arXiv 2205.05198 counts 34 bytes a width, token and layer for its block without attention scores.
    assert per_token / 32 / 4096 == pytest.approx(34, rel=0.25)


def test_what_divides_what():
    alone = memory(SEVEN)
    assert alone.gathered == 0
    assert alone.states == 16 * 6_738_149_376
    assert memory(SEVEN, Layout(tensor=4)).states == pytest.approx(alone.states / 4)
    assert memory(SEVEN, Layout(tensor=4)).activations == pytest.approx(alone.activations / 4)
    assert memory(SEVEN, Layout(micro_batch=3)).activations == pytest.approx(3 * alone.activations)
    assert memory(SEVEN, Layout(accumulation=3)) == memory(SEVEN, Layout(accumulation=3)).__class__(
        alone.states, 0.0, alone.activations, Layout(accumulation=3), None
    )
    recomputed = memory(SEVEN, Layout(recompute=True))
    assert recomputed.activations < alone.activations / 5
    # Four stages of eight layers: a quarter of the layers, and of the two tables one; the first stage has four
    # micro-batches in flight.
    piped = memory(SEVEN, Layout(pipeline=4, accumulation=8))
    assert piped.states == pytest.approx(16 * (SEVEN.num_params / 4 + 32_000 * 4096))
    assert piped.activations == pytest.approx(alone.activations - 2048 * 8 * 32_000)


def test_grouped_queries_keep_fewer_keys_and_values():
    grouped = Shapes(vocab_size=32_000, context=2048).of(4096, 32, grouped=True)
    same = grouped.model_copy(update={"kv_heads": None})
    assert memory(same).activations - memory(grouped).activations == 2048 * 32 * 4 * (4096 - 1024)


@pytest.mark.parametrize(
    ("model", "devices", "batch", "limit"),
    [(SEVEN, 8, 4e6, 80e9), (SEVEN, 512, 4e6, 40e9), (HUGE, 16_384, 16e6, 80e9), (HUGE, 2048, 16e6, 80e9)],
)
def test_a_layout_that_fits_and_can_be_run(model, devices, batch, limit):
    needed = fit_layout(model, devices, batch, limit)
    layout = needed.layout
    assert needed.fits
    assert layout.num_devices == devices
    assert layout.tensor <= 8
    assert (model.heads % layout.tensor, (model.kv_heads or 8) % layout.tensor, model.hidden % layout.tensor) == (
        0,
    ) * 3
    assert layout.pipeline <= model.layers
    assert layout.sequences * model.context == pytest.approx(batch, rel=0.15)
    assert layout.bubble < 0.25
    assert needed == memory(model, layout, limit)
    assert str(layout.data) in layout.describe()


def test_no_tensor_parallelism_across_nodes():
    assert fit_layout(HUGE, 16_384, 16e6, 80e9, per_node=1).layout.tensor == 1


def test_nothing_is_recomputed_where_memory_suffices():
    assert not fit_layout(SEVEN, 64, 4e6, 80e9).layout.recompute
    tight = fit_layout(SEVEN, 8, 4e6, 18e9, per_node=1)
    assert tight.layout.recompute
    assert "a third more FLOPs" in advice(SEVEN, tight, 4e6)


def test_what_does_not_fit_says_what_would():
    alone = fit_layout(SEVEN, 1, 4e6, 80e9)
    assert alone.fits is False
    assert "it would on 2 devices or more" in advice(SEVEN, alone, 4e6)
    assert fit_layout(SEVEN, 2, 4e6, 80e9).fits
    assert "states of the optimiser alone" in advice(SEVEN, fit_layout(SEVEN, 1, 4e6, 1e8), 4e6)
    long = Shapes(vocab_size=128_000, context=8_388_608).of(4096, 32)
    assert "shorten the context" in advice(long, fit_layout(long, 64, 4e9, 80e9), 4e9)
    assert fit_layout(SEVEN, 1, 4e6).fits is None
    assert advice(SEVEN, fit_layout(SEVEN, 1, 4e6), 4e6) is None


def test_a_model_of_another_kind_has_no_estimate():
    assert memory(object()) is None
    assert fit_layout(object(), 8, 1e6) is None
