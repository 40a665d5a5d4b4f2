"""Real configurations, counted against published models and by hand, against what parallel training divides."""

import math

import numpy as np
import pytest

from allometry.errors import UserError
from allometry.planning.resources.shapes import Shapes, size_of

# Published totals with tied or untied ends as there; a norm's gains, which our models lack, are taken off.
LLAMA = {
    # name: (width, layers, total parameters)
    "7B": (4096, 32, 6_738_415_616),
    "13B": (5120, 40, 13_015_864_320),
    "65B": (8192, 80, 65_285_660_672),
}


@pytest.mark.parametrize("name", LLAMA)
def test_counts_of_published_models(name):
    width, layers, total = LLAMA[name]
    model = Shapes(vocab_size=32_000).of(width, layers)
    assert model.num_params_total == total - (2 * layers + 1) * width
    assert model.num_params_matmul == model.num_params_total - 32_000 * width
    assert model.head_dim == 128


# Llama 3: 8 heads of keys and values; total parameters as the model cards count them, gains included.
LLAMA_3 = {"8B": (4096, 32, 14_336, 8_030_261_248), "70B": (8192, 80, 28_672, 70_553_706_496)}


@pytest.mark.parametrize("name", LLAMA_3)
def test_the_nearest_shape_to_a_published_size_is_its_own(name):
    width, layers, hidden, total = LLAMA_3[name]
    shapes = Shapes(vocab_size=128_256)
    own = shapes.of(width, layers, grouped=True)
    assert (own.hidden, own.kv_heads) == (hidden, 8)
    assert own.num_params_total == total - (2 * layers + 1) * width
    assert shapes(own.num_params) == own
    assert (shapes(85e6).width, shapes(85e6).layers) == (768, 12)  # GPT-2's smallest


def test_counts_against_the_matrices_themselves():
    """Every matrix of a block written out: q, k, v, o, gate, up, down; embedding and head apart."""
    model = Shapes(vocab_size=1000, context=64).of(256, 6)
    w, h = model.width, model.hidden
    block = [(w, w)] * 4 + [(w, h), (w, h), (h, w)]
    body = model.layers * sum(math.prod(shape) for shape in block)
    assert model.num_params == body
    assert model.num_params_total == body + 2 * 1000 * w
    # Six FLOPs a weight forward and backward; scores and mixing: 2·2·3 FLOPs a pair of positions and width.
    attention = sum(12 * w * (position + 1) for position in range(64)) / 64
    assert model.flops_per_token == pytest.approx(6 * (body + 1000 * w) + model.layers * attention)


@pytest.mark.parametrize("size", np.geomspace(2e5, 1e13, 40))
def test_shapes_train_well(size):
    model = Shapes()(size)
    assert abs(math.log(model.num_params / size)) < (0.45 if size < 1e8 else 0.04)
    assert model.width % (512 if size > 2e8 else 64 if size > 1e8 else 16) == 0
    assert model.head_dim in (16, 32, 64, 128)
    assert model.hidden % 16 == 0
    assert 2.6 < model.hidden / model.width < (3.6 if size > 2.9e9 else 3.1)
    if size > 1e8:
        assert 40 <= model.width / model.layers <= 160
        assert model.head_dim in (64, 128)
    if size > 2e8:  # tensor parallelism over 8 devices divides heads, keys and values, hidden layer
        assert (model.heads % 8, (model.kv_heads or 8) % 8, model.hidden % 8) == (0, 0, 0)
    assert (model.kv_heads is None) == (model.num_params < 3e9)


def test_a_vocabulary_is_padded_as_frameworks_do():
    assert Shapes(vocab_size=50_257)(1e8).vocab_size == Shapes()(1e8).vocab_size == 50_304
    assert Shapes(vocab_size=257)(1e6).vocab_size == 257  # bytes and an end: no embedding to speak of


def test_larger_sizes_never_get_smaller_shapes():
    sizes = [Shapes()(size).num_params for size in np.geomspace(1e5, 1e12, 400)]
    assert sizes == sorted(sizes)


def test_the_count_that_a_law_uses():
    model = Shapes(vocab_size=50_000)(1e9)
    assert size_of(model, "unknown") == size_of(model, "non_embedding") == model.num_params
    assert size_of(model, "total") - size_of(model, "matmul") == 50_048 * model.width


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Shapes(vocab_size=0), "vocab size must be"),
        (lambda: Shapes(vocab_size=100.5), "vocab size must be a whole number"),
        (lambda: Shapes(context=-1), "context must be"),
        (lambda: Shapes()(0), "num params must be"),
        (lambda: Shapes()(1e15), "beyond the shapes known here"),
        (lambda: size_of(object(), "total"), "no num_params_total"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(UserError, match=message):
        call()
