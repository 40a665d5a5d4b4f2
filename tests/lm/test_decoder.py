"""The language model: its loss, its sizes; what its layers promise is tested with them."""

import pytest
import torch

from allometry import nn
from allometry.lm.decoder import build
from helpers.builders import model_config


def test_logits_have_a_row_for_each_token_and_a_column_for_each_symbol():
    model = build(model_config(vocab_size=50, context=12), 0)
    assert model(torch.zeros(3, 7, dtype=torch.long)).shape == (3, 7, 50)


def test_the_loss_is_the_mean_cross_entropy_of_its_logits():
    model = build(model_config(), 0)
    tokens, targets = torch.randint(32, (2, 3, 16))
    expected = torch.nn.functional.cross_entropy(model(tokens).transpose(1, 2), targets)
    torch.testing.assert_close(model.loss(tokens, targets), expected)


def test_gradients_of_all_weights_are_at_a_healthy_scale():
    """Within a factor of 16 of one, which any 8-bit format holds: three layers, batch and text of usual shape.

    Not at one: a branch sees τ/√(1+τ²) of the stream's gradient, and the embedding the sum over a token's uses.
    """
    model = build(model_config(width=64, layers=3, hidden=128, head_dim=16, vocab_size=128, context=64), 0)
    tokens = torch.randint(128, (8, 65))
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    scales = {name: parameter.grad.square().mean().sqrt().item() for name, parameter in model.named_parameters()}
    assert all(1 / 16 < scale < 16 for scale in scales.values()), scales


def test_seeds_make_different_models():
    one, same, other = (build(model_config(), seed).readout.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("width", [8, 24, 48])
def test_any_width_of_whole_heads_trains(width):
    model = build(model_config(width=width, head_dim=8), 0)
    tokens = torch.randint(32, (2, 17))
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


OPTIONS = {
    "grouped": {"width": 64, "kv_heads": 2},
    "tied": {"tied": True},
    "llama": {"norms": "pre", "qk_norm": True},
    "gpt2": {"norms": "pre", "activation": "gelu", "tied": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_reach_the_model_and_train_by_its_layers_also_where_kernels_are_asked_for(options):
    config = model_config(**options)
    plain, asked = (build(config, 0, compile=compile) for compile in (False, True))
    assert asked.step is None
    tokens = torch.randint(32, (2, 2, 16))
    assert torch.equal(plain.loss(*tokens), asked.loss(*tokens))
    plain.loss(*tokens).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in plain.parameters())
    first = plain.stack.layers[0]
    assert (first.attention.norm is None) == (config.norms == "pre")
    assert first.attention.kv_heads == (config.kv_heads or config.heads)
    assert (plain.readout.weight is plain.embedding.weight) == config.tied


def test_without_the_norm_before_its_projection_attention_is_that_of_pytorch():
    """What a stock Llama computes: no gain of a row, none of a norm."""
    model = build(model_config(norms="pre", kv_heads=1, layers=1), 0)
    attention, x = model.stack.layers[0].attention, torch.randn(2, 9, 16)
    heads = attention.qkv(x).view(2, 9, 4, 8).transpose(1, 2)
    qk = nn.functional.rope(heads[:, :3], *attention.rotation(9, x))
    mixed = torch.nn.functional.scaled_dot_product_attention(
        qk[:, :2], qk[:, 2:], heads[:, 3:], is_causal=True, enable_gqa=True
    )
    expected = attention.out(mixed.transpose(1, 2).reshape(2, 9, 16))
    torch.testing.assert_close(attention(x), expected)


def test_a_context_of_4096_trains():
    model = build(model_config(context=4096, norms="pre"), 0)
    tokens = torch.randint(32, (1, 4097))
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_bf16_computes_the_same_model_to_its_precision_on_fp32_weights():
    full, half = (
        build(model_config(width=64, head_dim=16, hidden=128), 0, precision) for precision in ("fp32", "bf16")
    )
    tokens = torch.randint(32, (2, 17))
    for model in (full, half):
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    assert half(tokens[:, :-1]).dtype == torch.float32
    for name, parameter in half.named_parameters():
        other = full.get_parameter(name)
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert torch.equal(parameter, other)
        # Eight bits of mantissa, rounded in a dozen places: a few parts in a hundred of the gradient's norm.
        assert 0 < (parameter.grad - other.grad).norm() / other.grad.norm() < 0.05, name
