"""Attention, MLP, block, stack and decoder: the function that they say, its true gradient, and unit scale at depth.

The judge is the same transformer written with plain tensor operations in float64, from the formulas of the papers.
"""

import math
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry import nn
from allometry.nn import functional as F
from allometry.nn.layers.transformer import default_hidden
from allometry.nn.ops.activations import ACTIVATIONS, GATES
from helpers.unit_scaled import next_token_loss, rms

T = torch.nn.functional
f64 = torch.float64
WIDTH, HEADS, VOCAB = 16, 4, 23
ATTENTION = {
    "plain": {},
    "grouped": {"kv_heads": 2},
    "one-kv-head": {"kv_heads": 1},
    "window": {"window": 3},
    "qk-norm": {"qk_norm": True},
    "no-rope": {"rope": False},
    "both-ways": {"causal": False},
    "sharp": {"multiplier": 2.5},
    "all": {"kv_heads": 2, "window": 4, "qk_norm": True, "multiplier": 0.5},
}


# ---- the judge


def plain_norm(x, eps=1e-6):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def plain_rope(x):
    """Component j of each half of a head is a complex number, turned by position·10000^(-j/half)."""
    half = x.shape[-1] // 2
    angle = torch.outer(torch.arange(x.shape[-2], dtype=f64), 10000.0 ** (-torch.arange(half, dtype=f64) / half))
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), -1)


def plain_attention(
    x, qkv, out, multipliers, heads, kv_heads=None, causal=True, rope=True, qk_norm=False, window=None, multiplier=1.0
):
    batch, length, width = x.shape
    size, kv_heads = width // heads, kv_heads or heads
    y = multipliers(width) * x @ qkv.T
    q, k, v = (
        part.view(batch, length, -1, size).transpose(1, 2)
        for part in y.split([heads * size, kv_heads * size, kv_heads * size], -1)
    )
    if qk_norm:
        q, k = plain_norm(q), plain_norm(k)
    if rope:
        q, k = plain_rope(q), plain_rope(k)
    k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
    back = torch.arange(length)[:, None] - torch.arange(length)
    seen = torch.ones(length, length, dtype=torch.bool) if not causal else (back >= 0) & (back < (window or length))
    logits = multiplier / math.sqrt(size) * q @ k.mT
    y = logits.masked_fill(~seen, -math.inf).softmax(-1) @ v
    return multipliers(width) * plain_norm(y.transpose(1, 2).reshape(batch, length, width)) @ out.T


def plain_mlp(x, up, down, multipliers, activation):
    y = multipliers(up.shape[1]) * x @ up.T
    function = (ACTIVATIONS | GATES)[activation]
    if activation in GATES:
        gate, y = y.chunk(2, -1)
        y = function(gate) * y
    else:
        y = function(y)
    return nn.exact_scale(function).forward * multipliers(down.shape[1]) * y @ down.T


def plain_block(x, weights, pairs, multipliers, activation="swiglu", norm="pre", eps=1e-6, heads=HEADS, **options):
    """``weights`` are qkv, out, up, down; ``pairs`` the (keep, share) of the two branches."""
    qkv, out, up, down = weights
    branches = (
        lambda y: plain_attention(y, qkv, out, multipliers, heads, **options),
        lambda y: plain_mlp(y, up, down, multipliers, activation),
    )
    for branch, (keep, share) in zip(branches, pairs, strict=True):
        x = keep * x + share * (branch(plain_norm(x, eps)) if norm == "pre" else plain_norm(branch(x), eps))
    return x


def umup_pairs(branches):
    return [(1 / math.sqrt(1 + tau**2), tau / math.sqrt(1 + tau**2)) for tau in nn.residual_taus(branches)]


# What a scheme multiplies a hidden weight of a fan-in, and the readout's, with; and how it weighs the branches.
BASE = nn.Base(width=8, branches=4, tau=0.3)
root = lambda fan_in: fan_in**-0.5
one = lambda fan_in: 1.0
SCHEMES = {
    "umup": (root, lambda fan_in: 1 / fan_in, umup_pairs),
    "sp": (one, one, lambda branches: [(1.0, 1.0)] * branches),
    "mup": (one, lambda fan_in: 8 / fan_in, lambda branches: [(1.0, 1.0)] * branches),
    "completep": (one, lambda fan_in: 8 / fan_in, lambda branches: [(1.0, 4 / branches)] * branches),
    "mus": (root, lambda fan_in: 1 / fan_in, lambda branches: [(math.sqrt(0.7), math.sqrt(0.3))] * branches),
}


def plain_decoder(tokens, weights, scheme="umup", **options):
    """``weights`` as a Decoder's parameters come: the embedding, four a layer, the readout."""
    hidden, output, pairs = SCHEMES[scheme]
    embedding, *blocks, readout = weights
    layers = len(blocks) // 4
    pairs = pairs(2 * layers)
    x = embedding[tokens]
    for i in range(layers):
        x = plain_block(x, blocks[4 * i : 4 * i + 4], pairs[2 * i : 2 * i + 2], hidden, **options)
    return output(embedding.shape[1]) * plain_norm(x) @ readout.T


def copies(model):
    return [p.detach().clone().requires_grad_() for p in model.parameters()]


def assert_proportional(gradient, true):
    """Equal up to a positive constant, which is returned."""
    cosine = T.cosine_similarity(gradient.flatten(), true.flatten(), 0).item()
    assert cosine > 1 - 1e-10
    return (gradient.norm() / true.norm()).item()


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


# ---- block and stack


def check_block(activation="swiglu", norm="pre", hidden=24, **options):
    block = nn.TransformerBlock(WIDTH, HEADS, hidden, activation=activation, norm=norm, **options).double()
    x = torch.randn(3, 7, WIDTH, dtype=f64, requires_grad=True)
    weights, twin = copies(block), x.detach().clone().requires_grad_()
    assert [tuple(w.shape) for w in weights][1] == (WIDTH, WIDTH)
    pairs = umup_pairs(2)
    y = block(x)
    true = plain_block(twin, weights, pairs, root, activation, norm, **options)
    assert_same(y, true)
    upstream = torch.randn_like(y)
    grads = torch.autograd.grad(y, [x, *block.parameters()], upstream)
    expected = torch.autograd.grad(true, [twin, *weights], upstream)
    assert_same(grads[0], expected[0])
    constants = [assert_proportional(*pair) for pair in zip(grads[1:], expected[1:], strict=True)]
    if norm == "pre":
        # The last map of a branch sees the gradient of the stream: its share is missing, and rows^-½ is for its factor.
        assert constants[1] == pytest.approx(math.sqrt(WIDTH / 21) / pairs[0][1])
        assert constants[3] == pytest.approx(math.sqrt(hidden / 21) / pairs[1][1])


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("options", ATTENTION.values(), ids=ATTENTION)
def test_block_is_the_plain_one_with_the_true_gradient_of_the_stream(norm, options):
    check_block(norm=norm, **options)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", [*ACTIVATIONS, *GATES])
def test_block_has_the_true_gradient_with_every_activation(norm, activation):
    check_block(activation, norm, hidden=40)


def test_block_reads_its_own_eps():
    check_block(eps=0.1)
    check_block(norm="post", eps=0.1)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_stack_tells_each_block_its_place_and_passes_the_true_gradient(norm):
    stack = nn.ResidualStack(nn.TransformerBlock(WIDTH, HEADS, 24, norm=norm) for _ in range(3)).double()
    x = torch.randn(2, 5, WIDTH, dtype=f64, requires_grad=True)
    weights, pairs, true = copies(stack), umup_pairs(6), x
    for i in range(3):
        true = plain_block(true, weights[4 * i : 4 * i + 4], pairs[2 * i : 2 * i + 2], root, norm=norm)
    y, upstream = stack(x), torch.randn(2, 5, WIDTH, dtype=f64)
    assert_same(y, true)
    assert_same(*(torch.autograd.grad(out, x, upstream, retain_graph=True)[0] for out in (y, true)))
    assert stack.branches == 6


@pytest.mark.parametrize("given_onto", [False, True])
def test_branches_alone_are_the_plain_ones_and_know_how_far_their_gradient_is_off(given_onto):
    x, stream = torch.randn(2, 2, 5, WIDTH, dtype=f64)
    x.requires_grad_()
    attention = nn.Attention(WIDTH, HEADS, 2).double()
    branches = [(attention, plain_attention(x, *copies(attention), root, HEADS, 2))]
    for activation in (*ACTIVATIONS, *GATES):
        mlp = nn.MLP(WIDTH, 40, activation).double()
        branches.append((mlp, plain_mlp(x, *copies(mlp), root, activation)))
    for branch, true in branches:
        y = branch(x, onto=stream, keep=0.6, share=0.8) if given_onto else branch(x)
        assert_same(y, 0.6 * stream + 0.8 * true if given_onto else true)
        upstream = torch.randn_like(y)
        grad, expected = (torch.autograd.grad(out, x, upstream)[0] for out in (y, true))
        assert_same(grad, expected * branch.backward_ratio)


# ---- the decoder's gradient


def check_decoder(scheme="umup", tied=False, layers=2, **options):
    model = nn.Decoder(VOCAB, layers, WIDTH, HEADS, 24, tied=tied, **options)
    nn.parametrize(model, scheme, BASE)
    model.double()
    tokens, targets = torch.randint(VOCAB, (2, 3, 9))
    loss = nn.CrossEntropyLoss()(model(tokens).flatten(0, 1), targets.flatten())
    weights = copies(model)
    logits = plain_decoder(tokens, [*weights, weights[0]] if tied else weights, scheme, **options)
    true = T.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert_same(loss, true)
    grads, expected = torch.autograd.grad(loss, list(model.parameters())), torch.autograd.grad(true, weights)
    return [assert_proportional(*pair) for pair in zip(grads, expected, strict=True)]


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_gradient_of_a_decoder_is_proportional_to_the_true_one_under_every_scheme(scheme, norm):
    constants = check_decoder(scheme, norm=norm)
    assert len(constants) == 2 + 2 * 4


@pytest.mark.parametrize("options", ATTENTION.values(), ids=ATTENTION)
def test_every_gradient_of_a_decoder_is_proportional_to_the_true_one_with_every_option(options):
    check_decoder(**options)


def test_the_constants_of_a_decoder_are_those_of_the_factors():
    """Below the readout's gradient V/√(V−1)·rows, the stream carries width·V^-½, the embedding √(V/rows) more."""
    rows = 27
    embedding, *blocks, readout = check_decoder()
    loss = VOCAB / math.sqrt(VOCAB - 1) * rows
    # The loss's factor is a float32.
    assert readout == pytest.approx(loss * WIDTH * rows**-0.5, rel=1e-6)
    assert embedding == pytest.approx(loss * WIDTH * rows**-0.5, rel=1e-6)
    pairs = umup_pairs(4)
    stream = loss * WIDTH / math.sqrt(VOCAB)
    for i, fan_in in enumerate([16, 24] * 2):
        assert blocks[2 * i + 1] == pytest.approx(stream * math.sqrt(fan_in / rows) / pairs[i][1], rel=1e-6)


def test_the_gradient_of_a_tied_table_is_the_true_one_times_a_constant():
    """Both uses have the same constant under u-μP, so their sum is right too."""
    constants = check_decoder(tied=True)
    assert len(constants) == 1 + 2 * 4
    model = nn.Decoder(VOCAB, 1, WIDTH, HEADS, tied=True)
    assert model.readout.weight is model.embedding.weight


# ---- what the function is


def test_grouped_queries_equal_repeated_heads():
    grouped, full = nn.Attention(WIDTH, HEADS, 2).double(), nn.Attention(WIDTH, HEADS).double()
    q, k, v = grouped.qkv.weight.detach().split([16, 8, 8])
    k, v = (part.view(2, 4, WIDTH).repeat_interleave(2, 0).view(16, WIDTH) for part in (k, v))
    with torch.no_grad():
        full.qkv.weight.copy_(torch.cat((q, k, v)))
        full.out.weight.copy_(grouped.out.weight)
    x = torch.randn(2, 6, WIDTH, dtype=f64)
    torch.testing.assert_close(grouped(x), full(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [1, 3, 6])
def test_a_window_sees_that_many_positions_back_itself_included(window):
    attention, x = nn.Attention(WIDTH, HEADS, window=window), torch.randn(1, 6, WIDTH)
    changed = x.clone()
    changed[0, 0] += 1
    with torch.no_grad():
        moved = (attention(x) - attention(changed)).abs().amax(-1)[0] > 1e-6
    assert moved.tolist() == [i < window for i in range(6)]


@pytest.mark.parametrize(("layers", "kv_heads", "activation", "tied"), [(1, 4, "gelu", False), (3, 2, "swiglu", True)])
def test_the_number_of_parameters_is_that_of_the_formula(layers, kv_heads, activation, tied):
    model = nn.Decoder(VOCAB, layers, WIDTH, HEADS, 24, kv_heads=kv_heads, activation=activation, tied=tied)
    head = WIDTH // HEADS
    block = WIDTH * (HEADS + 2 * kv_heads) * head + WIDTH**2 + WIDTH * 24 * (3 if activation == "swiglu" else 2)
    assert sum(p.numel() for p in model.parameters()) == layers * block + VOCAB * WIDTH * (1 if tied else 2)


@given(st.integers(1, 5000))
def test_default_hidden_of_a_gate_costs_what_four_widths_cost(width):
    """3·hidden against 2·4·width, up to the next multiple of 8."""
    for name in GATES:
        hidden = default_hidden(width, name)
        assert hidden % 8 == 0
        assert 8 * width <= 3 * hidden < 8 * width + 24
    assert {default_hidden(width, name) for name in ACTIVATIONS} == {4 * width}
    assert nn.MLP(12).down.weight.shape == (12, 32)
    assert nn.MLP(12, activation="gelu").down.weight.shape == (12, 48)


@pytest.mark.parametrize("options", [{}, {"window": 7}, {"norm": "post", "qk_norm": True, "kv_heads": 1}])
def test_logits_of_a_prefix_do_not_change_with_what_follows_nor_with_the_length(options):
    model = nn.Decoder(VOCAB, 4, 64, HEADS, **options)
    tokens = torch.randint(VOCAB, (2, 64))
    other = torch.cat((tokens[:, :40], torch.randint(VOCAB, (2, 24))), 1)
    with torch.no_grad():
        whole, changed = model(tokens), model(other)
        assert not torch.allclose(whole[:, 40:], changed[:, 40:])
        # Logits have RMS 64^-½ here; 1e-5 is what float32 leaves after four layers.
        torch.testing.assert_close(changed[:, :40], whole[:, :40], rtol=0, atol=1e-5)
        for length in (1, 2, 33, 63):
            torch.testing.assert_close(model(tokens[:, :length]), whole[:, :length], rtol=0, atol=1e-5)


def test_every_position_and_every_earlier_token_counts():
    model, tokens = nn.Decoder(VOCAB, 1, WIDTH, HEADS), torch.arange(16)[None]
    changed = tokens.clone()
    changed[0, 3] = 20
    with torch.no_grad():
        moved = (model(tokens) - model(changed)).abs().amax(-1)[0] > 1e-6
    assert moved.tolist() == [i >= 3 for i in range(16)]


# ---- unit scale at depth


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_activations_and_their_gradients_are_at_unit_scale_through_24_layers(norm):
    """What every GEMM reads and gives, the stream after each block, and the gradients of all these but q and k's."""
    width, vocab, length = 64, 256, 96
    model = nn.Decoder(vocab, 24, width, HEADS, norm=norm)
    forward, backward = {}, {}

    def watch(name):
        def hook(module, inputs, output):
            if isinstance(module, nn.Linear):
                forward[f"{name} in"] = rms(inputs[0]) * module.gain.forward
            if not isinstance(module, nn.Readout):
                forward[f"{name} out"] = rms(output)
                output.register_hook(lambda grad: backward.update({name: rms(grad)}))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.TransformerBlock):
            module.register_forward_hook(watch(name))
    tokens, targets = torch.randint(vocab, (2, 4, length))
    logits = model(tokens)
    nn.CrossEntropyLoss()(logits.flatten(0, 1), targets.flatten()).backward()
    assert len(forward) == 24 * 9 + 1
    assert rms(logits) * math.sqrt(width) == pytest.approx(1, abs=0.1)
    assert not {name: value for name, value in forward.items() if not 0.7 < value < 1.4}
    stream = {name: value for name, value in backward.items() if name.count(".") == 2}
    assert len(stream) == 24
    assert not {name: value for name, value in stream.items() if not 0.7 < value < 1.6}
    mlp = {name: value for name, value in backward.items() if ".mlp." in name}
    assert not {name: value for name, value in mlp.items() if not 0.6 < value < 2}


@pytest.mark.parametrize("activation", [*ACTIVATIONS, *GATES])
@settings(max_examples=2)
@given(st.integers(256, 448), st.integers(256, 640))
def test_mlp_keeps_unit_scale(activation, width, hidden):
    """Output, gradients of the input and of both weights; a gate's own at the ratio of its two constants."""
    mlp, x = nn.MLP(width, hidden, activation), torch.randn(1024, width, requires_grad=True)
    y = mlp(x)
    y.backward(torch.randn_like(y))
    # A mean that is not 0 is one draw for a whole column: of 256 columns the error is up to ½·√(2/256) = 0.04.
    close = 0.16 if activation in ("sigmoid", "softplus") else 0.06
    assert rms(y) == pytest.approx(1, abs=close)
    assert rms(mlp.down.weight.grad) == pytest.approx(1, abs=close)
    if activation in GATES:
        gate, up = mlp.up.weight.grad.chunk(2)
        scale = nn.exact_scale(GATES[activation])
        assert rms(up) == pytest.approx(1, abs=0.04)
        assert rms(gate) == pytest.approx(scale.forward / scale.backward, rel=0.04)
    else:
        assert rms(mlp.up.weight.grad) == pytest.approx(1, abs=0.06)
    assert rms(x.grad) == pytest.approx(1, abs=0.06)


# ---- types, training


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_computing_in_bfloat16_is_near_float32_and_leaves_the_weights_alone(norm):
    model = nn.Decoder(VOCAB, 3, 64, HEADS, norm=norm)
    tokens = torch.randint(VOCAB, (2, 32))
    exact = model(tokens)
    model.compute = torch.bfloat16
    logits = model(tokens)
    assert logits.dtype == torch.bfloat16
    assert rms(logits.float() - exact) < 0.03 * rms(exact)
    grads = [torch.autograd.grad(y.float().square().sum(), list(model.parameters())) for y in (logits, exact)]
    for low, high in zip(*grads, strict=True):
        assert low.dtype == torch.float32
        assert T.cosine_similarity(low.flatten(), high.flatten(), 0) > 0.998


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_near_float32(norm, dtype):
    model, tokens = nn.Decoder(VOCAB, 2, 64, HEADS, norm=norm, qk_norm=True), torch.randint(VOCAB, (2, 32))
    exact = model(tokens)
    with torch.autocast("cpu", dtype=dtype):
        logits = model(tokens)
    assert logits.dtype == dtype
    assert rms(logits.float() - exact) < 0.03 * rms(exact)
    logits.sum().backward()
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


def test_the_first_loss_is_that_of_guessing_and_the_loss_falls():
    model = nn.Decoder(32, 2, 64, HEADS)
    tokens = torch.arange(17).repeat(8, 1)
    loss = lambda: next_token_loss(model, tokens)
    optimizer = nn.AdamW(model, 0.5)
    # Logits of variance 1/64 cost half of it on average.
    assert loss().item() == pytest.approx(math.log(32), abs=0.15)
    for _ in range(20):
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss().item() < 0.2


# ---- a batch in pieces


def chain():
    """Every kind of parameter but an embedding's: (rows, 3, 10) → (rows, 5)."""
    return torch.nn.Sequential(
        nn.Conv1d(3, 4, 3, bias=True),
        torch.nn.Flatten(),
        nn.Linear(32, 10, bias=True),
        nn.GELU(),
        nn.RMSNorm(10, elementwise_affine=True),
        nn.MLP(10, 12, bias=True),
        nn.LayerNorm(10, elementwise_affine=True),
        nn.Readout(10, 5, bias=True),
    )


def summed(model, loss, inputs, targets, pieces, parts):
    """The gradients of so many pieces of the batch, summed, in a context of ``parts``."""
    model.zero_grad()
    with nn.accumulation(parts):
        for piece, target in zip(inputs.chunk(pieces), targets.chunk(pieces), strict=True):
            logits = model(piece)
            loss(logits.reshape(-1, logits.shape[-1]), target.flatten()).backward()
    return [p.grad.clone() for p in model.parameters()]


def assert_pieces_make_the_whole(model, loss, inputs, targets, pieces):
    whole = summed(model, loss, inputs, targets, 1, 1)
    parts = summed(model, loss, inputs, targets, pieces, pieces)
    without = summed(model, loss, inputs, targets, pieces, 1)
    for grad, expected, larger in zip(parts, whole, without, strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-7 * expected.abs().max().item())
        torch.testing.assert_close(larger, math.sqrt(pieces) * grad)


@pytest.mark.parametrize("pieces", [2, 8])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_pieces_of_a_batch_sum_to_the_gradient_of_the_whole(pieces, reduction):
    inputs, targets = torch.randn(16, 3, 10, dtype=f64), torch.randint(5, (16,))
    targets[:3] = -100  # and not as many in every piece
    assert_pieces_make_the_whole(chain().double(), nn.CrossEntropyLoss(reduction=reduction), inputs, targets, pieces)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_pieces_of_a_batch_sum_to_the_gradient_of_the_whole_for_a_decoder(norm):
    model = nn.Decoder(VOCAB, 2, WIDTH, HEADS, norm=norm).double()
    tokens, targets = torch.randint(VOCAB, (2, 8, 9))
    targets[targets == 2] = -100
    assert_pieces_make_the_whole(model, nn.CrossEntropyLoss(), tokens, targets, 4)


def test_pieces_within_pieces_multiply_and_end_with_their_context():
    def gradient():
        weight = torch.ones(2, 3, requires_grad=True)
        F.linear(torch.ones(4, 3), weight).sum().backward()
        return weight.grad[0, 0].item()

    alone = gradient()
    with nn.accumulation(4):
        assert gradient() == pytest.approx(alone / 2)
        with nn.accumulation(9):
            assert gradient() == pytest.approx(alone / 6)
        assert gradient() == pytest.approx(alone / 2)
    with suppress(KeyError), nn.accumulation(4):
        raise KeyError
    assert gradient() == alone
