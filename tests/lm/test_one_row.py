"""The step of one text computes what the decoder computes, or is not offered."""

import pytest
import torch

from allometry import nn
from allometry.lm.inference.one_row import OneRowStep, can_step
from helpers.unit_scaled import decoder_of

KNOWN = [
    {},
    {"kv_heads": 2},
    {"kv_heads": 1, "window": 5},
    {"rope": False},
    {"activation": "geglu"},
    {"activation": "relu2"},
    {"tied": True, "multiplier": 2.0, "eps": 1e-3},
    {"out_norm": False, "kv_heads": 2},
]


@pytest.mark.parametrize("options", KNOWN, ids=str)
def test_its_logits_are_the_decoders(options):
    model = decoder_of(**options)
    assert can_step(model)
    tokens = torch.randint(31, (1, 20))
    with torch.no_grad():
        whole = model(tokens)[0]
        cache = model.cache(20)
        model(tokens[:, :6], cache)
        step = OneRowStep(model, cache)
        logits = torch.stack([step(token) for token in tokens[0, 6:].tolist()])
    assert cache.lengths == (20,)
    assert (logits - whole[6:]).abs().max() < 1e-5 * whole.abs().max()


@pytest.mark.parametrize("options", [{"norm": "post"}, {"qk_norm": True}, {"compute": torch.bfloat16}], ids=str)
def test_it_is_not_offered_where_it_would_compute_something_else(options):
    assert not can_step(decoder_of(**options))


def test_a_layer_that_is_not_ours_is_left_to_the_decoder():
    class Louder(nn.Linear):
        def forward(self, *arguments):
            return 2 * super().forward(*arguments)

    model = decoder_of()
    model.stack.layers[1].mlp.down = Louder(40, 32)
    assert not can_step(model)
    assert not can_step(decoder_of().double())
