"""Layers, and the decoder that they make: causal, exact on prefixes, at unit scale at every depth."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry import nn
from allometry.lm.model import build
from allometry.nn import functional as F
from builders import model_config


def rms(x: torch.Tensor) -> float:
    return x.detach().square().mean().sqrt().item()


def decoder(seed: int = 0, **changes):
    return build(model_config(**changes), seed)


def gemm_scales(model: torch.nn.Module, tokens: torch.Tensor) -> dict[str, tuple[float, float]]:
    """RMS of what enters each GEMM, the folded factor included, and of what leaves it, by name."""
    found = {}

    def watch(name):
        def hook(module, inputs, output):
            found[name] = rms(inputs[0]) * module.gain, rms(output)

        return hook

    handles = [m.register_forward_hook(watch(n)) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    model(tokens)
    for handle in handles:
        handle.remove()
    return found


# ---- single layers


def test_weights_start_as_unit_normals():
    for layer in (nn.Linear(300, 300), nn.Readout(300, 300), nn.Embedding(300, 300)):
        # 90 000 draws: sampling errors of 0.0033 in the mean, 0.0024 in the deviation.
        assert layer.weight.mean().item() == pytest.approx(0, abs=0.015)
        assert layer.weight.std().item() == pytest.approx(1, abs=0.01)


@settings(max_examples=8)
@given(st.integers(256, 640), st.integers(256, 640))
def test_readout_gives_logits_of_inverse_root_width_and_unit_gradients(width, vocab):
    """Forward 1/fan_in, backward fan_in^-½ (so √(vocab/width) on the input's gradient), the weight's at unit scale."""
    readout, x = nn.Readout(width, vocab), torch.randn(512, width, requires_grad=True)
    logits = readout(x)
    logits.backward(torch.randn_like(logits))
    assert rms(logits) * math.sqrt(width) == pytest.approx(1, abs=0.02)
    assert rms(x.grad) == pytest.approx(math.sqrt(vocab / width), rel=0.02)
    assert rms(readout.weight.grad) == pytest.approx(1, abs=0.02)


@settings(max_examples=8)
@given(st.integers(256, 512), st.integers(256, 512))
def test_mlp_keeps_unit_scale(width, hidden):
    """Of output and both weights' gradients (the first's: two branches' halves at 1.033 and 1, by √(width/hidden))."""
    mlp = nn.MLP(width, hidden)
    y = mlp(torch.randn(1024, width))
    y.backward(torch.randn_like(y))
    assert rms(y) == pytest.approx(1, abs=0.03)  # heavier tails than a normal's: a sampling error of 0.007
    assert rms(mlp.down.weight.grad) == pytest.approx(1, abs=0.03)
    gate, up = mlp.gate_up.weight.grad.chunk(2)
    back = math.sqrt(width / hidden)
    assert rms(up) == pytest.approx(back, rel=0.03)
    silu = nn.exact_scale(torch.nn.functional.silu)
    assert rms(gate) == pytest.approx(back * silu.forward / silu.backward, rel=0.03)


@pytest.mark.parametrize(("width", "heads"), [(16, 3), (12, 4), (9, 1), (16, 0), (16, -2)])
def test_heads_that_do_not_split_the_width_evenly_are_refused(width, heads):
    with pytest.raises(ValueError, match=rf"heads: {heads} heads .* width {width}"):
        nn.Attention(width, heads)


def test_attention_is_its_projections_around_the_operations():
    """Written out in float64 from the weights: query, key and value in that order, heads within."""
    attention, x = nn.Attention(8, 2).double(), torch.randn(3, 5, 8, dtype=torch.float64)
    tables = F.rope_tables(5, 4)
    q, k, v = (x @ w.T / math.sqrt(8) for w in attention.qkv.weight.chunk(3))
    heads = lambda y: y.view(3, 5, 2, 4).transpose(1, 2)
    y = F.causal_attention(F.rope(heads(q), *tables), F.rope(heads(k), *tables), heads(v))
    y = torch.nn.functional.rms_norm(y.transpose(1, 2).reshape(3, 5, 8), (8,), eps=1e-6)
    torch.testing.assert_close(attention(x, *tables), y @ attention.out.weight.T / math.sqrt(8))


# ---- the decoder


def test_logits_of_a_prefix_do_not_change_with_what_follows_nor_with_the_length():
    model = decoder(width=64, layers=4, context=64, head_dim=16)
    tokens = torch.randint(32, (2, 64))
    other = torch.cat((tokens[:, :40], torch.randint(32, (2, 24))), 1)
    with torch.no_grad():
        whole, changed = model(tokens), model(other)
        assert not torch.equal(whole[:, 40:], changed[:, 40:])
        # Logits have RMS 64^-½ here; 1e-5 is what float32 leaves after four layers.
        torch.testing.assert_close(changed[:, :40], whole[:, :40], rtol=0, atol=1e-5)
        for length in (1, 2, 33, 63):
            torch.testing.assert_close(model(tokens[:, :length]), whole[:, :length], rtol=0, atol=1e-5)


def test_every_position_and_every_earlier_token_counts():
    model = decoder(layers=1)
    tokens = torch.arange(16)[None]
    changed = tokens.clone()
    changed[0, 3] = 20
    with torch.no_grad():
        moved = (model(tokens) - model(changed)).abs().amax(-1)[0] > 1e-6
    assert moved.tolist() == [i >= 3 for i in range(16)]


def test_a_sequence_longer_than_the_context_is_refused():
    model = decoder(context=16)
    model(torch.zeros(1, 16, dtype=torch.long))
    with pytest.raises(ValueError, match=r"17 positions, but .* a context of 16"):
        model(torch.zeros(1, 17, dtype=torch.long))


@pytest.mark.parametrize("width", [64, 192])
def test_every_gemm_reads_unit_scale_at_every_depth(width):
    """Twelve layers, random tokens. Projections give unit scale too, and logits width^-½."""
    model = decoder(width=width, layers=12, hidden=2 * width, head_dim=16, vocab_size=256, context=128)
    scales = gemm_scales(model, torch.randint(256, (4, 128)))
    assert len(scales) == 12 * 4 + 1
    readout = scales.pop("readout")
    outside = {name: pair for name, pair in scales.items() if not all(0.7 < value < 1.4 for value in pair)}
    assert not outside
    assert 0.7 < readout[0] < 1.4
    assert 0.7 < readout[1] * math.sqrt(width) < 1.4


def test_the_residual_stream_keeps_unit_scale_at_every_depth():
    model = decoder(width=128, layers=12, hidden=256, head_dim=16, context=64)
    found = []
    for block in model.stack.blocks:
        block.register_forward_hook(lambda module, inputs, output: found.append(rms(output)))
    model(torch.randint(32, (4, 64)))
    assert len(found) == 12
    assert all(0.7 < value < 1.4 for value in found), found


def test_the_first_loss_is_that_of_guessing_and_the_loss_falls():
    model = decoder(width=64, head_dim=16)
    tokens = torch.arange(17).repeat(8, 1)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    optimizer = nn.AdamW(model, 0.5)
    first = model.loss(inputs, targets)
    # Logits of variance 1/64 cost half of it on average.
    assert first.item() == pytest.approx(math.log(32), abs=0.15)
    for _ in range(20):
        model.loss(inputs, targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.loss(inputs, targets).item() < 0.2


# ---- copies, loading, materialising


def same_logits(a, b) -> bool:
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        return torch.equal(a(tokens), b(tokens))


def test_a_state_dict_holds_weights_alone_and_round_trips():
    model, other = decoder(0), decoder(1)
    assert not same_logits(model, other)
    assert set(model.state_dict()) == dict(model.named_parameters()).keys()
    other.load_state_dict(model.state_dict())
    assert same_logits(model, other)


def test_a_deep_copy_is_equal_and_apart():
    model = decoder()
    twin = copy.deepcopy(model)
    assert same_logits(model, twin)
    with torch.no_grad():
        twin.readout.weight.add_(1)
    assert not same_logits(model, twin)


def test_a_model_made_on_the_meta_device_and_reset_is_the_one_made_at_once():
    """Rotary tables included: no checkpoint holds them, so materialising must."""
    model = decoder(seed=7)
    with torch.device("meta"):
        later = decoder()
    later.to_empty(device="cpu")
    for tensor in (*later.parameters(), *later.buffers()):
        torch.nn.init.constant_(tensor, math.nan)
    torch.manual_seed(7)
    later.apply(lambda module: module.reset_parameters() if hasattr(module, "reset_parameters") else None)
    assert same_logits(model, later)


def test_a_build_depends_on_its_seed_alone_and_leaves_the_generator_as_it_was():
    model = decoder(3)
    torch.randn(100)
    before = torch.get_rng_state()
    assert same_logits(model, decoder(3))
    assert torch.equal(torch.get_rng_state(), before)
