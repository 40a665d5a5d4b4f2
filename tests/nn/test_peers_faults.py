"""Faults measured in other unit-scaling libraries, each with a test that it is not one of ours."""

import functools
import math

import pytest
import torch
import torch.nn.functional as TF
from torch._dynamo.testing import CompileCounter

from allometry import nn
from allometry.nn import functional as F
from helpers.unit_scaled import decoder as small_decoder
from helpers.unit_scaled import next_token_loss, rms

decoder = functools.partial(small_decoder, width=32, heads=4, vocab=64)


# Roles lost under wrappers: all of tests/nn/test_wrappers.py; here the three that lost them.


def test_parameters_keep_their_rates_when_their_tensors_are_replaced():
    """What fully_shard, load_state_dict(assign=True) and to_empty have in common."""
    model = decoder()
    lr = [group["lr"] for group in nn.AdamW(model, 1.0).param_groups]
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    assert [group["lr"] for group in nn.AdamW(model, 1.0).param_groups] == lr
    with torch.device("meta"):
        model = decoder()
    model.to_empty(device="cpu")
    assert [group["lr"] for group in nn.AdamW(model, 1.0).param_groups] == lr


# Accumulating over 4 pieces of a batch gave twice the gradient.


@pytest.mark.parametrize("parts", [1, 4, 8])
def test_accumulation_gives_the_gradient_of_the_whole_batch(parts):
    tokens = torch.randint(64, (8, 17))
    whole, pieces = decoder().double(), decoder().double()
    next_token_loss(whole, tokens).backward()
    for piece in tokens.chunk(parts):
        with nn.accumulation(parts):
            next_token_loss(pieces, piece).backward()
    for (name, p), q in zip(whole.named_parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=name)


@pytest.mark.parametrize("sizes", [[3, 3, 2], [1, 7], [5, 1, 2]])
def test_pieces_of_any_size_give_the_gradient_of_the_whole_or_an_error(sizes):
    tokens = torch.randint(64, (8, 17))
    whole, pieces = decoder().double(), decoder().double()
    next_token_loss(whole, tokens).backward()
    for piece in tokens.split(sizes):
        with nn.accumulation(rows=len(piece), of=8):
            next_token_loss(pieces, piece).backward()
    for (name, p), q in zip(whole.named_parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=name)

    def one_by_one():
        for piece in tokens.split(sizes):
            with nn.accumulation(len(sizes)):
                next_token_loss(pieces, piece).backward()

    def together():
        with nn.accumulation(len(sizes)):
            for piece in tokens.split(sizes):
                next_token_loss(pieces, piece).backward()

    for wrong in (one_by_one, together):
        with pytest.raises(ValueError, match=r"parts=\d is for equal pieces.*accumulation\(rows=…, of=…\)"):
            wrong()
        for size in (4, 2, 4):  # what was given up is forgotten; batches of other sizes are their own
            for piece in tokens[:size].chunk(2):
                with nn.accumulation(2):
                    next_token_loss(pieces, piece).backward()


def test_a_piece_says_how_large_it_is_in_one_way():
    for given in ({}, {"parts": 2, "rows": 1, "of": 2}, {"rows": 3}, {"rows": 3, "of": 2}, {"of": 2}):
        with pytest.raises(ValueError, match=r"accumulation: give either|rows: a piece of 3 rows of a batch of 2"):
            nn.accumulation(**given).__enter__()


def test_accumulation_covers_biases_gains_convolutions_and_embeddings():
    def model():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            nn.Embedding(20, 6), nn.Conv1d(12, 8, 3, bias=True), torch.nn.Flatten(), nn.Linear(32, 10, bias=True),
            nn.LayerNorm(10, elementwise_affine=True), nn.GELU(), nn.Readout(10, 5, bias=True),
        ).double()  # fmt: skip

    tokens, targets = torch.randint(20, (16, 12)), torch.randint(5, (16,))
    whole, pieces = model(), model()
    nn.CrossEntropyLoss()(whole(tokens), targets).backward()
    with nn.accumulation(4):
        for x, y in zip(tokens.chunk(4), targets.chunk(4), strict=True):
            nn.CrossEntropyLoss()(pieces(x), y).backward()
    for (name, p), q in zip(whole.named_parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=name)


def test_accumulation_ends_with_its_block_even_by_an_error():
    layer, x = nn.Linear(4, 4), torch.ones(2, 4)
    layer(x).sum().backward()
    before, layer.weight.grad = layer.weight.grad, None
    with pytest.raises(RuntimeError), nn.accumulation(4):
        raise RuntimeError
    layer(x).sum().backward()
    assert torch.equal(layer.weight.grad, before)


# A mean cross-entropy divided by ignored tokens too.


@pytest.mark.parametrize("ignored", [0, 1, 100, 199])
def test_ignored_tokens_change_neither_the_value_nor_the_gradients_of_the_others(ignored):
    logits, targets = torch.randn(200, 10, dtype=torch.float64), torch.randint(10, (200,))
    targets[:ignored] = -100
    padded, alone = logits.clone().requires_grad_(), logits[ignored:].clone().requires_grad_()
    loss, expected = (nn.CrossEntropyLoss()(x, y) for x, y in ((padded, targets), (alone, targets[ignored:])))
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(TF.cross_entropy(logits, targets).item(), rel=1e-12)
    torch.testing.assert_close(padded.grad[ignored:], alone.grad)
    assert padded.grad[:ignored].count_nonzero() == 0


@pytest.mark.parametrize("ignored", [0, 150])
def test_counted_rows_have_unit_gradients_at_equal_logits(ignored):
    logits, targets = torch.zeros(200, 10, requires_grad=True), torch.randint(10, (200,))
    targets[:ignored] = -100
    nn.CrossEntropyLoss()(logits, targets).backward()
    assert rms(logits.grad[ignored:]) == pytest.approx(1, rel=1e-5)


def test_a_batch_of_ignored_tokens_alone_gives_no_gradient_that_is_nan():
    logits = torch.randn(4, 10, requires_grad=True)
    nn.CrossEntropyLoss()(logits, torch.full((4,), -100)).backward()
    assert logits.grad.count_nonzero() == 0


# A bias was scaled by fan_in^-½.


@pytest.mark.parametrize("scheme", ["umup", "mup", "sp"])
@pytest.mark.parametrize("layer", [lambda: nn.Linear(256, 8, bias=True), lambda: nn.Readout(256, 8, bias=True)])
def test_a_bias_is_added_as_it_is(scheme, layer):
    layer = nn.parametrize(layer(), scheme)
    torch.nn.init.normal_(layer.bias)
    assert torch.equal(layer(torch.zeros(3, 256)), layer.bias.expand(3, 8))
    layer(torch.zeros(400, 256)).backward(torch.randn(400, 8))
    assert 0.5 < rms(layer.bias.grad) < 1.6  # eight numbers of deviation 1


@pytest.mark.parametrize(("layer", "shape"), [(nn.Conv1d, (2, 64, 5)), (nn.Conv2d, (2, 64, 5, 5))])
def test_a_bias_of_a_convolution_is_added_as_it_is(layer, shape):
    layer = layer(64, 8, 3, bias=True)
    torch.nn.init.normal_(layer.bias)
    y = layer(torch.zeros(shape))
    assert torch.equal(y, layer.bias.view(-1, *(1,) * (len(shape) - 2)).expand_as(y))


# A convolution dropped its constraint.


@pytest.mark.parametrize("scheme", ["umup", "sp"])
@pytest.mark.parametrize(("layer", "shape"), [(nn.Conv1d, (2, 6, 9)), (nn.Conv2d, (2, 6, 9, 9))])
def test_a_convolution_keeps_its_constraint(layer, shape, scheme):
    """The gradient is the true one: that of plain PyTorch times the factor of the output."""
    layer = nn.parametrize(layer(6, 24, 3, constraint="output").double(), scheme)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    grad = torch.randn_like(y)
    y.backward(grad)
    plain = x.detach().clone().requires_grad_()
    convolve = TF.conv1d if len(shape) == 3 else TF.conv2d
    convolve(plain, layer.weight.detach() * layer.factors().output).backward(grad)
    torch.testing.assert_close(x.grad, plain.grad)
    free = type(layer)(6, 24, 3).double()
    assert free.factors().grad_input != pytest.approx(free.factors().output)


# Formats: a maximum of 240 for E4M3, ties rounded down, BF16 input in another shape.


@pytest.fixture
def formats():
    return pytest.importorskip("allometry.nn.precision.formats")


def test_the_maxima_are_those_of_ocp(formats):
    huge = torch.tensor([1e9, -1e9])
    for form, top in ((formats.E4M3FN, 448.0), (formats.E5M2, 57344.0)):
        assert form.max == top
        assert form.cast(huge).tolist() == [top, -top]
        assert form.cast(torch.tensor([top])).item() == top
        assert torch.finfo(form.dtype).max == top


def test_ties_round_to_even(formats):
    between = torch.tensor([1 + 1 / 16, 1 + 3 / 16, 1 + 5 / 16, -(1 + 3 / 16), 17.0, 19.0])
    expected = [1.0, 1 + 2 / 8, 1 + 2 / 8, -(1 + 2 / 8), 16.0, 20.0]
    assert formats.E4M3FN.cast(between).tolist() == expected
    assert between.to(torch.float8_e4m3fn).float().tolist() == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 3, 4)])
def test_a_cast_keeps_shape_and_type(formats, dtype, shape):
    x = torch.randn(shape).to(dtype)
    for form in (formats.E4M3FN, formats.E5M2):
        assert form.cast(x).shape == x.shape
        assert form.cast(x).dtype == dtype
        assert torch.equal(form.cast(x).float(), x.to(form.dtype).float())


# No grouped queries.


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_queries_are_queries_that_share_keys(kv_heads):
    q, k, v = (torch.randn(2, heads, 12, 8, dtype=torch.float64) for heads in (4, kv_heads, kv_heads))
    shared = F.attention(q, k, v)
    copies = F.attention(q, *(x.repeat_interleave(4 // kv_heads, 1) for x in (k, v)))
    torch.testing.assert_close(shared, copies)


def test_grouped_queries_train():
    model = decoder(kv_heads=2)
    assert model.stack.blocks[0].attention.qkv.weight.shape == (32 + 2 * 2 * 8, 32)
    next_token_loss(model, torch.randint(64, (2, 9))).backward()
    assert all(rms(p.grad) > 0 for p in model.parameters())
    with pytest.raises(ValueError, match="kv_heads: 3"):
        decoder(kv_heads=3)


# No reduction="none".


@pytest.mark.parametrize("shape", [(7, 5), (2, 5, 3)])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_every_reduction_has_pytorchs_value_and_a_gradient_of_unit_scale(shape, reduction):
    logits = torch.zeros(shape, requires_grad=True)
    targets = torch.randint(5, shape[:1] + shape[2:])
    targets.view(-1)[0] = -100
    loss = nn.CrossEntropyLoss(reduction=reduction)(logits, targets)
    torch.testing.assert_close(loss, TF.cross_entropy(logits, targets, reduction=reduction))
    loss.sum().backward()
    counted = (targets != -100).unsqueeze(1).expand_as(logits)
    assert rms(logits.grad[counted]) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_every_reduction_of_the_squared_error(reduction):
    x, y = torch.randn(400, 100, requires_grad=True), torch.randn(400, 100)
    loss = nn.MSELoss(reduction=reduction)(x, y)
    torch.testing.assert_close(loss, TF.mse_loss(x, y, reduction=reduction))
    loss.sum().backward()
    assert rms(x.grad) == pytest.approx(1, rel=0.02)


# Five sequence lengths made five compilations.


def test_five_lengths_are_one_compilation():
    torch._dynamo.reset()
    model, counter = decoder(layers=1), CompileCounter()
    compiled = torch.compile(model, backend=counter, dynamic=True)
    for length in (9, 16, 33, 70, 128):
        tokens = torch.arange(2 * length).view(2, length) % 64
        torch.testing.assert_close(compiled(tokens), model(tokens))
        compiled(tokens).sum().backward()
    assert counter.frame_count == 1


# One optimiser group for each parameter.


@pytest.mark.parametrize("layers", [1, 6, 12])
def test_an_optimiser_has_few_groups_at_any_depth(layers):
    model = decoder(layers)
    assert len(list(model.parameters())) == 2 + 4 * layers
    for make in (nn.AdamW, nn.SGD, nn.Lion):
        assert len(make(model, 0.1, weight_decay=0.1).param_groups) == 4  # embedding, fan_in of two sizes, readout
    assert len(nn.Muon(model, 0.1).param_groups) <= 6


# A factor of the running length broke the cache of keys and values.


@pytest.mark.parametrize("options", [{}, {"window": 4}, {"multiplier": 2.0}, {"scaled": False}], ids=str)
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_last_queries_on_a_cache_give_the_last_rows_of_the_whole(options, kv_heads):
    q, k, v = (torch.randn(2, heads, 20, 8, dtype=torch.float64) for heads in (4, kv_heads, kv_heads))
    whole = F.attention(q, k, v, **options)
    for new in (1, 3, 19, 20):
        torch.testing.assert_close(F.attention(q[:, :, -new:], k, v, **options), whole[:, :, -new:])
    for seen in (1, 2, 11):
        prefix = F.attention(q[:, :, :seen], k[:, :, :seen], v[:, :, :seen], **options)
        torch.testing.assert_close(prefix, whole[:, :, :seen])


@pytest.mark.parametrize("scheme", ["umup", "sp"])
def test_the_logits_of_a_prefix_do_not_change_when_text_follows(scheme):
    model = nn.parametrize(decoder(), scheme)
    tokens = torch.randint(64, (2, 40))
    whole = model(tokens)
    for length in (1, 2, 17, 39):
        torch.testing.assert_close(model(tokens[:, :length]), whole[:, :length], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [16, 512])
def test_attention_of_independent_values_is_at_unit_scale_at_the_first_position_and_the_last(length):
    q, k, v = (torch.randn(64, 2, length, 16) for _ in range(3))
    y = F.attention(q, k, v)
    for position in (0, 1, length // 2, length - 1):
        assert rms(y[:, :, position]) == pytest.approx(1, abs=0.05 + 2 / math.sqrt(y[:, :, position].numel()))
