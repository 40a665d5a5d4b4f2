"""Shapes: from a width or a size to a decoder, with the options of a study."""

import math

import pytest

from allometry.config.model import DecoderOptions
from allometry.errors import UserError
from allometry.ladder.shape import least_width, shape, shape_near


def options(**given) -> DecoderOptions:
    return DecoderOptions.parse(given, "decoder")


@pytest.mark.parametrize(
    "given",
    [{}, {"preset": "llama"}, {"preset": "gpt2"}, {"queries_per_kv": 3}, {"head_dim": 32, "queries_per_kv": 2}],
    ids=str,
)
def test_the_nearest_shape_is_nearer_than_its_neighbours(given):
    chosen = options(**given)
    for size in (3e4, 1e6, 2.5e7, 1e9):
        near = shape_near(size, 64, 300, chosen)
        step = math.lcm(8, least_width(chosen, 1))
        distance = lambda model, size=size: abs(math.log(model.num_params / size))
        others = [
            shape(near.width + k * step, 64, 300, chosen) for k in (-1, 1) if near.width + k * step >= max(16, step)
        ]
        assert all(distance(near) <= distance(other) for other in others)
        assert (near.context, near.vocab_size) == (64, 300)


def test_without_options_every_width_has_its_pinned_shape():
    assert [shape(width).model_dump(exclude_defaults=True) for width in (24, 128, 768)] == [
        {"width": 24, "layers": 4, "head_dim": 12, "hidden": 72},
        {"width": 128, "layers": 4, "hidden": 384},
        {"width": 768, "layers": 12, "hidden": 2304},
    ]


def test_heads_that_tell_subwords_apart_are_of_32_dimensions_or_more():
    for width in range(32, 1000, 8):
        assert shape(width, vocab_size=1024).head_dim >= 32
    assert [shape(width, vocab_size=1024).head_dim for width in (24, 48, 64, 96, 256)] == [24, 48, 32, 32, 32]


def test_depth_by_rule_by_hand_and_by_width():
    assert [shape(width).layers for width in (64, 768)] == [4, 12]
    assert [shape(width, options=options(layers=7)).layers for width in (64, 768)] == [7, 7]
    assert [shape(width, options=options(width_per_layer=64)).layers for width in (64, 768)] == [1, 12]
    with pytest.raises(UserError, match="either layers or width_per_layer"):
        options(layers=7, width_per_layer=64)


def test_presets_and_options_that_win_over_them():
    gpt2, llama = (shape(128, options=options(preset=name)) for name in ("gpt2", "llama"))
    assert (gpt2.tied, gpt2.norms, gpt2.activation, gpt2.hidden) == (True, "pre", "gelu", 512)
    assert (llama.tied, llama.norms, llama.activation, llama.kv_heads) == (False, "pre", "swiglu", None)
    mixed = shape(128, options=options(preset="gpt2", tied=False, activation="geglu"))
    assert (mixed.tied, mixed.activation, mixed.hidden) == (False, "geglu", 384)


def test_groups_of_queries_divide_the_heads_at_every_width():
    for width in range(48, 800, 8):
        for group in (2, 4):
            model = shape(width, options=options(queries_per_kv=group))
            assert model.heads == group * model.kv_heads


def test_a_width_that_no_heads_fit_is_refused_with_those_that_do():
    with pytest.raises(UserError, match="width 100: no whole heads of 32 in groups of 2; give multiples of 64"):
        shape(100, options=options(head_dim=32, queries_per_kv=2))
    with pytest.raises(UserError, match="give multiples of 6"):
        shape(16, options=options(queries_per_kv=3))


def test_an_unknown_preset_is_refused():
    with pytest.raises(UserError, match="preset"):
        options(preset="gpt3")
