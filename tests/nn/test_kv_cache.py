"""A cache changes what a token costs, never what a model says: logits are those of the whole text at once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allometry import nn
from helpers.unit_scaled import decoder_of

OPTIONS = [
    {},
    {"kv_heads": 2},
    {"kv_heads": 1, "qk_norm": True},
    {"window": 5},
    {"window": 1, "kv_heads": 2},
    {"rope": False},
    {"norm": "post"},
    {"activation": "relu2"},
    {"tied": True, "multiplier": 2.0},
    {"out_norm": False, "kv_heads": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_logits_are_those_of_the_whole_text(options):
    model = decoder_of(**options)
    tokens = torch.randint(31, (3, 24))
    with torch.no_grad():
        whole = model(tokens)
        cache = model.cache(24, rows=3)
        pieces = [model(part, cache) for part in tokens.split([1, 7, 1, 1, 9, 5], 1)]
    assert cache.lengths == (24, 24, 24)
    assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-5 * whole.abs().max()


@pytest.mark.parametrize("options", OPTIONS[:6], ids=str)
def test_texts_of_different_lengths_share_a_batch(options):
    model = decoder_of(**options)
    tokens, lengths = torch.randint(31, (3, 20)), (4, 11, 7)
    with torch.no_grad():
        cache = model.cache(20, rows=3)
        for row, length in enumerate(lengths):
            model(tokens[row : row + 1, :length], cache.row(row))
        assert cache.lengths == lengths
        following = torch.stack([tokens[row, length : length + 3] for row, length in enumerate(lengths)])
        together = torch.cat([model(following[:, :1], cache), model(following[:, 1:], cache)], 1)
        for row, length in enumerate(lengths):
            alone = model(tokens[row : row + 1, : length + 3])[0, -3:]
            assert (together[row] - alone).abs().max() < 1e-5 * alone.abs().max()


@given(st.lists(st.sampled_from(range(4)), min_size=1, max_size=4, unique=True))
def test_rows_that_are_kept_go_on_as_before(rows):
    model = decoder_of()
    tokens = torch.randint(31, (4, 9))
    with torch.no_grad():
        cache = model.cache(9, rows=4)
        model(tokens[:, :8], cache)
        cache.keep(rows)
        after = model(tokens[rows, 8:], cache)
        whole = model(tokens[rows])[:, -1:]
    assert (after - whole).abs().max() < 1e-5 * whole.abs().max()


def test_a_row_that_is_forgotten_begins_anew():
    model = decoder_of()
    tokens = torch.randint(31, (2, 6))
    with torch.no_grad():
        cache = model.cache(6, rows=2)
        model(tokens, cache)
        cache.row(1).forget()
        assert cache.lengths == (6, 0)
        again = model(tokens[:1], cache.row(1))
        assert torch.equal(again, model(tokens[:1], model.cache(6)))


def test_what_does_not_fit_is_refused():
    model = decoder_of()
    cache = model.cache(4)
    with pytest.raises(ValueError, match="5 more after 0, but the cache holds 4"):
        model(torch.zeros(1, 5, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="2 rows, but the cache was made for 1"):
        model(torch.zeros(2, 1, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="at least one position"):
        model.cache(0)
    with pytest.raises(ValueError, match="what follows"):
        decoder_of(causal=False).cache(4)


def test_a_decoder_trains_as_before_without_a_cache():
    """Without gradients an operation is its plain forward pass; with them, or under forward mode, it is not."""
    model = decoder_of()
    tokens = torch.randint(31, (2, 6))
    logits = model(tokens)
    with torch.no_grad():
        assert torch.equal(model(tokens), logits)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    layer = nn.Linear(4, 4)
    x, direction = torch.randn(2, 2, 4)
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        tangent = torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent
    torch.testing.assert_close(tangent, layer(direction).detach())
