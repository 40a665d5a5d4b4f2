"""Each operation against PyTorch's own in float64, and its scale for unit-normal inputs and upstream gradients."""

import inspect
import math
import re
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from allometry.nn import Factors, exact_scale
from allometry.nn import functional as F
from allometry.nn.ops.activations import ACTIVATIONS, GATES, gated_halves
from helpers.unit_scaled import assert_same, rms

T = torch.nn.functional
f64 = torch.float64
sizes = st.integers(1, 9)
leading = st.lists(st.integers(1, 4), min_size=0, max_size=3)
constraints = st.sampled_from([None, "output"])
# With all dimensions from 256 up, the RMS of a product of unit normals has a sampling error of at most
# ½·√(6/256²) = 0.0048, so that 0.02 is four of them.
large = st.integers(256, 640)
UNIT = pytest.approx(1, abs=0.02)


def leaf(*shape, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def leaves(*shapes) -> list[torch.Tensor]:
    return [leaf(*shape, dtype=f64) for shape in shapes]


def rms_rows(x, weight=None):
    return F.rms_norm(x, x.shape[-1:], weight)


def layer_rows(x, weight=None, bias=None):
    return F.layer_norm(x, x.shape[-1:], weight, bias)


def compare(ours, plain, inputs, value: float, *factors: float):
    """``ours`` is ``value`` times ``plain``, and its gradients ``factors`` times the plain ones, for one upstream."""
    y, expected = ours(*inputs), plain(*inputs)
    upstream = torch.randn_like(expected)
    assert_same(y, value * expected)
    mine, theirs = (torch.autograd.grad(out, inputs, upstream) for out in (y, expected))
    assert len(factors) == len(inputs)
    for grad, true, factor in zip(mine, theirs, factors, strict=True):
        assert_same(grad, factor * true)


def scales(function, *inputs) -> list[float]:
    """Root mean squares of the output and of the gradient of each input, for a unit-normal upstream gradient."""
    y = function(*inputs)
    return [rms(y), *map(rms, torch.autograd.grad(y, inputs, torch.randn_like(y)))]


# ---- linear


@given(leading, sizes, sizes, st.booleans(), constraints)
def test_linear_is_the_plain_product_and_each_gradient_a_constant_off(shape, fan_in, fan_out, biased, constraint):
    inputs = leaves((*shape, fan_in), (fan_out, fan_in), *[(fan_out,)] * biased)
    rows = math.prod(shape)
    output, grad_input = fan_in**-0.5, (fan_in if constraint else fan_out) ** -0.5
    inputs = (inputs[0], inputs[1], *inputs[2:])
    mine, plain = inputs[:2], inputs[:2]
    # Without the bias, which the output's factor does not touch, all is a multiple of the plain product.
    compare(lambda x, w: F.linear(x, w, constraint=constraint), T.linear, mine, output, grad_input, rows**-0.5)
    if biased:
        ours = lambda x, w, b: F.linear(x, w, b, constraint=constraint)
        plain = lambda x, w, b: T.linear(x, w) * output + b
        compare(ours, plain, inputs, 1, grad_input / output, rows**-0.5 / output, rows**-0.5)


factor = st.floats(0.1, 3)


@given(leading, sizes, sizes, factor, factor, factor)
def test_linear_takes_any_factors_in_place_of_its_own(shape, fan_in, fan_out, output, grad_input, grad_weight):
    inputs = leaves((*shape, fan_in), (fan_out, fan_in))
    ours = lambda x, w: F.linear(x, w, factors=Factors(output, grad_input, grad_weight))
    compare(ours, T.linear, inputs, output, grad_input, grad_weight * math.prod(shape) ** -0.5)


def check_onto(shape, fan_in, fan_out, biased, keep, share):
    x, weight, stream = leaves((*shape, fan_in), (fan_out, fan_in), (*shape, fan_out))
    bias = leaf(fan_out, dtype=f64) if biased else None
    y = F.linear(x, weight, bias, onto=stream, keep=keep, share=share)
    branch = F.linear(x, weight, bias)
    assert y.shape == branch.shape
    assert_same(y, keep * stream + share * branch)
    upstream = torch.randn_like(y)
    wanted = (x, weight, *[bias] * biased)
    grads = torch.autograd.grad(y, (stream, *wanted), upstream)
    assert_same(grads[0], upstream)
    for grad, alone in zip(grads[1:], torch.autograd.grad(branch, wanted, upstream), strict=True):
        assert_same(grad, alone)


@given(leading, sizes, sizes, factor, factor)
def test_linear_onto_a_stream_weighs_the_sum_and_gives_both_sides_the_gradient_as_it_comes(
    shape, fan_in, fan_out, keep, share
):
    check_onto(shape, fan_in, fan_out, False, keep, share)


def test_the_bias_of_a_branch_has_the_gradient_as_it_comes_too():
    check_onto((3,), 4, 5, True, 0.8, 0.6)


def test_linear_under_a_constraint_passes_gradcheck_twice():
    weight, x = torch.randn(5, 7, dtype=f64), leaf(2, 3, 7, dtype=f64)
    function = lambda x: F.linear(x, weight, constraint="output")
    assert gradcheck(function, (x,))
    assert gradgradcheck(lambda x: function(x).tanh(), (x,))
    # The defaults differentiate their own gradient with the same factors, hence not the value's.
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradcheck(lambda x: F.linear(x, weight), (x,))


def test_linear_reads_strided_inputs_and_gradients():
    """As they come from transposes, slices and expanded sums."""
    weight = leaf(5, 6, dtype=f64)
    base = torch.randn(6, 4, 3, dtype=f64)
    for view in (base.permute(1, 2, 0), base.permute(2, 1, 0)[:, ::2], base[:, :1].expand(6, 4, 3).permute(2, 1, 0)):
        x, stream = view.detach().requires_grad_(), torch.randn(5, *view.shape[:2], dtype=f64).permute(1, 2, 0)
        y = F.linear(x, weight, onto=stream)
        grads = torch.autograd.grad(y.transpose(0, 1).sum(), (x, weight))
        copy = view.contiguous().detach().requires_grad_()
        plain = F.linear(copy, weight, onto=stream.contiguous())
        expected = torch.autograd.grad(plain, (copy, weight), torch.ones(plain.shape, dtype=f64))
        assert_same((y, *grads), (plain, *expected))
    transposed = leaf(6, 5, dtype=f64)
    assert_same(F.linear(base.permute(1, 2, 0), transposed.t()), base.permute(1, 2, 0) @ transposed / math.sqrt(6))


@pytest.mark.parametrize("norm", [False, True])
def test_gradients_of_a_tensor_used_twice_add_up_under_a_constraint(norm):
    x, a, b = leaf(4, 6, dtype=f64), torch.randn(5, 6, dtype=f64), torch.randn(5, 6, dtype=f64)
    norms = rms_rows, lambda x: T.rms_norm(x, (6,), eps=1e-6)
    ours, plain = norms if norm else (torch.sin, torch.sin)
    use = (F.linear(ours(x), a, constraint="output") * F.linear(x, b, constraint="output")).sum()
    true = ((plain(x) @ a.T / math.sqrt(6)) * (x @ b.T / math.sqrt(6))).sum()
    assert_same(*(torch.autograd.grad(loss, x)[0] for loss in (use, true)))


def test_linear_leaves_out_gradients_nobody_wants():
    x, weight = leaf(3, 4), torch.randn(5, 4)
    F.linear(x, weight).sum().backward()
    assert x.grad is not None
    assert weight.grad is None
    x, weight = torch.randn(3, 4), leaf(5, 4)
    F.linear(x, weight).sum().backward()
    assert weight.grad is not None


@settings(max_examples=10)
@given(large, large, large)
def test_linear_is_at_unit_scale(rows, fan_in, fan_out):
    assert scales(F.linear, leaf(rows, fan_in), leaf(fan_out, fan_in)) == [UNIT] * 3


@settings(max_examples=5)
@given(st.integers(24, 64), st.integers(24, 64))
def test_gradients_of_biases_and_gains_are_at_unit_scale(rows, length):
    """20 000 of them at once: a sampling error of ½·√(2/20 000) = 0.005."""
    many = 20_000
    assert scales(lambda b: F.linear(torch.randn(rows, 1), torch.randn(many, 1), b), leaf(many))[1] == UNIT
    y = lambda b: F.conv1d(torch.randn(1, 1, length), torch.randn(many, 1, 3), b)
    assert scales(y, leaf(many))[1] == UNIT
    x = torch.randn(rows, many)
    assert scales(lambda w: F.rms_norm(x, (many,), w), leaf(many))[1] == UNIT
    assert scales(lambda w, b: F.layer_norm(x, (many,), w, b), leaf(many), leaf(many))[1:] == [UNIT] * 2


@given(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.booleans())
def test_linear_runs_in_the_type_of_its_input_and_returns_gradients_in_their_own(dtype, biased):
    for own in (torch.float32, torch.bfloat16):
        x, weight = leaf(64, 48, dtype=dtype), leaf(40, 48, dtype=own)
        bias, stream = leaf(40, dtype=own) if biased else None, leaf(64, 40, dtype=f64)
        for onto in (None, stream):
            y = F.linear(x, weight, bias, onto=onto)
            assert y.dtype == dtype
            y.sum().backward()
            for tensor in (x, weight, *[bias] * biased, *[onto] * (onto is not None)):
                assert tensor.grad.dtype == tensor.dtype
            exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double(), onto=onto)
            # Values up to about 5, three roundings of 2⁻⁹ for bfloat16.
            torch.testing.assert_close(y.double(), exact, rtol=0, atol=0.05 if torch.bfloat16 in (dtype, own) else 5e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_linear_under_autocast_runs_in_its_type(dtype):
    x, weight, bias, stream = leaf(8, 6), leaf(5, 6), leaf(5), leaf(8, 5)
    with torch.autocast("cpu", dtype=dtype):
        y = F.linear(x, weight, bias)
        onto = F.linear(x, weight, onto=stream)
    assert y.dtype == onto.dtype == dtype
    assert torch.equal(y, F.linear(x.to(dtype), weight, bias))
    (y.sum() + onto.sum()).backward()
    assert {tensor.grad.dtype for tensor in (x, weight, bias, stream)} == {torch.float32}


# ---- convolutions


@st.composite
def convolutions(draw, axes: int, small: bool = True):
    """(batch, in, out, groups, taps, stride, padding, dilation, lengths), the last four a number for each axis."""
    each = lambda strategy: tuple(draw(strategy) for _ in range(axes))
    groups = draw(st.sampled_from([1, 2, 3]))
    fan = lambda: groups * draw(st.integers(1, 3))
    taps, stride = each(st.integers(1, 3)), each(st.integers(1, 3))
    padding, dilation = each(st.integers(0, 2)), each(st.integers(1, 2))
    lengths = each(st.integers(5, 9))
    return draw(st.integers(1, 3)), fan(), fan(), groups, taps, stride, padding, dilation, lengths


@pytest.mark.parametrize("axes", [1, 2])
@given(st.data(), constraints)
def test_convolutions_are_torchs_and_each_gradient_a_constant_off(axes, data, constraint):
    batch, fan_in, fan_out, groups, taps, stride, padding, dilation, lengths = data.draw(convolutions(axes))
    ours, theirs = ((F.conv1d, T.conv1d), (F.conv2d, T.conv2d))[axes - 1]
    geometry = (stride, padding, dilation, groups)
    inputs = leaves((batch, fan_in, *lengths), (fan_out, fan_in // groups, *taps), (fan_out,))
    x, weight, bias = inputs
    rows = theirs(x, weight, None, *geometry).numel() // fan_out
    output = (fan_in * math.prod(taps) / groups) ** -0.5
    unit = math.sqrt(math.prod(stride) * groups / (fan_out * math.prod(taps)))
    grad_input = output if constraint else unit
    options = {"constraint": constraint}
    mine = lambda x, w: ours(x, w, None, *geometry, **options)
    compare(mine, lambda x, w: theirs(x, w, None, *geometry), inputs[:2], output, grad_input, rows**-0.5)
    mine = lambda x, w, b: ours(x, w, b, *geometry, **options)
    plain = lambda x, w, b: output * theirs(x, w, None, *geometry) + b.view(-1, *[1] * axes)
    compare(mine, plain, inputs, 1, grad_input / output, rows**-0.5 / output, rows**-0.5)
    # Without a batch, and from memory in another order.
    assert_same(ours(x[0], weight, bias, *geometry), ours(x[:1], weight, bias, *geometry)[0])
    assert_same(ours(x.mT.contiguous().mT, weight, bias, *geometry), ours(x, weight, bias, *geometry))


def test_convolutions_take_a_number_for_all_axes_and_any_factors():
    x, weight = leaves((2, 3, 7, 8), (4, 3, 3, 3))
    assert_same(F.conv2d(x, weight, None, 2, 1), F.conv2d(x, weight, None, (2, 2), (1, 1), (1, 1)))
    ours = lambda x, w: F.conv2d(x, w, factors=Factors(0.5, 0.25, 2.0))
    compare(ours, T.conv2d, (x, weight), 0.5, 0.25, 2 * (2 * 5 * 6) ** -0.5)


def test_convolution_under_a_constraint_passes_gradcheck_twice():
    weight, x = torch.randn(4, 2, 3, dtype=f64), leaf(2, 4, 7, dtype=f64)
    function = lambda x: F.conv1d(x, weight, stride=2, padding=1, groups=2, constraint="output")
    assert gradcheck(function, (x,))
    assert gradgradcheck(lambda x: function(x).tanh(), (x,))


@settings(max_examples=8)
@given(
    st.integers(160, 224),
    st.integers(160, 224),
    st.sampled_from([1, 2]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 2),
)
def test_conv1d_is_at_unit_scale(fan_in, fan_out, groups, taps, stride, dilation):
    """Sampling errors as for a matrix; of 1500 positions the border's share is below 0.003 in the RMS."""
    fan_in, fan_out = fan_in - fan_in % groups, fan_out - fan_out % groups
    x, weight = leaf(2, fan_in, 1500), leaf(fan_out, fan_in // groups, taps)
    assert scales(lambda x, w: F.conv1d(x, w, None, stride, 0, dilation, groups), x, weight) == [UNIT] * 3


@settings(max_examples=6)
@given(st.integers(96, 128), st.integers(96, 128), st.sampled_from([1, 2]), st.sampled_from([(3, 3), (2, 4), (5, 1)]))
def test_conv2d_is_at_unit_scale(fan_in, fan_out, stride, taps):
    """The gradient at the border, which fewer outputs read, counts by how many do: s·outputs/inputs on each axis."""
    x, weight = leaf(1, fan_in, 64, 48), leaf(fan_out, fan_in, *taps)
    y = F.conv2d(x, weight, None, stride)
    border = stride**2 * math.prod(y.shape[2:]) / (64 * 48)
    y, grad_x, grad_weight = scales(lambda x, w: F.conv2d(x, w, None, stride), x, weight)
    assert [y, grad_x / math.sqrt(border), grad_weight] == [UNIT] * 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_convolution_runs_in_the_type_of_its_input(dtype):
    x, weight, bias = leaf(2, 6, 9, dtype=dtype), leaf(4, 6, 3), leaf(4)
    y = F.conv1d(x, weight, bias)
    assert y.dtype == dtype
    y.sum().backward()
    assert (x.grad.dtype, weight.grad.dtype, bias.grad.dtype) == (dtype, torch.float32, torch.float32)
    exact = F.conv1d(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=0.05)


# ---- embedding


@given(leading, st.integers(2, 9), sizes)
def test_embedding_is_torchs_and_its_gradient_a_constant_off(shape, vocab, width):
    tokens = torch.randint(vocab, shape)
    factor = math.sqrt(vocab / math.prod(shape))
    compare(lambda w: F.embedding(tokens, w), lambda w: w[tokens], leaves((vocab, width)), 1, factor)


def test_embedding_gives_no_gradient_to_the_padding():
    weight = leaf(5, 3, dtype=f64)
    (grad,) = torch.autograd.grad(F.embedding(torch.tensor([1, 2, 2, 4]), weight, 2).sum(), weight)
    expected = torch.zeros(5, 3, dtype=f64)
    expected[[1, 4]] = math.sqrt(5 / 4)
    assert_same(grad, expected)


@settings(max_examples=8)
@given(st.integers(200, 2000), st.integers(64, 256), st.integers(500, 4000))
def test_embedding_is_at_unit_scale_for_tokens_spread_evenly(vocab, width, tokens):
    # Squared counts of tokens make the mean square a little uneven, not larger: their sum is what it is.
    assert scales(lambda w: F.embedding(torch.randint(vocab, (tokens,)), w), leaf(vocab, width)) == [UNIT] * 2


# ---- norms


@given(leading, st.integers(2, 12), st.floats(0.1, 10), st.booleans())
def test_norms_are_torchs_and_so_are_their_gradients(shape, width, size, affine):
    x = (size * torch.randn(*shape, width, dtype=f64)).requires_grad_()
    weight, bias = leaves((width,), (width,))
    rows = math.prod(shape)
    pairs = [
        (
            F.rms_norm(x, (width,), weight if affine else None),
            T.rms_norm(x, (width,), weight if affine else None, eps=1e-6),
        ),
        (
            F.layer_norm(x, (width,), *((weight, bias) if affine else ())),
            T.layer_norm(x, (width,), *((weight, bias) if affine else ())),
        ),
    ]
    for i, (ours, theirs) in enumerate(pairs):
        upstream = torch.randn_like(ours)
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
        wanted = (x, *((weight, bias)[: i + 1] if affine else ()))
        mine, true = (torch.autograd.grad(y, wanted, upstream) for y in (ours, theirs))
        # The gradient's largest terms are 1/|x| apart and cancel: their rounding, not its own.
        torch.testing.assert_close(mine[0], true[0], rtol=1e-9, atol=1e-9)
        for grad, plain in zip(mine[1:], true[1:], strict=True):
            torch.testing.assert_close(grad, plain * rows**-0.5, rtol=1e-9, atol=1e-9)


def test_norms_pass_gradcheck():
    x = leaf(3, 2, 5, dtype=f64)
    check = partial(gradcheck, check_undefined_grad=False)
    assert check(rms_rows, (x,))
    assert check(lambda x: rms_rows(x, torch.arange(5.0)), (x,))
    assert check(layer_rows, (x,))
    assert check(rms_rows, (torch.randn(3, 5, 2, dtype=f64).mT.requires_grad_(),))


def test_rms_norm_takes_an_undefined_gradient_for_none():
    assert gradcheck(rms_rows, (leaf(3, 2, 5, dtype=f64),))


def test_rms_norm_refuses_a_second_derivative_rather_than_give_a_wrong_one():
    x = leaf(3, 5, dtype=f64)
    for y in (rms_rows(x), F.residual_split(x, 1.0, 1.0, norm=True)[0]):
        (grad,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()


@given(st.integers(1, 64), st.integers(64, 512), st.floats(0.2, 1e3), st.floats(-3, 3))
def test_norms_give_unit_rows_whatever_came_in(rows, width, size, offset):
    x = size * torch.randn(rows, width)
    # eps = 1e-6 beside a mean square of 0.04·(1 ± 0.6) takes at most half of 6e-5, LayerNorm's 1e-5 ten times that.
    for y, close in ((rms_rows(x), 5e-5), (layer_rows(x + size * offset), 5e-4)):
        torch.testing.assert_close(y.square().mean(-1).sqrt(), torch.ones(rows), rtol=close, atol=0)


@settings(max_examples=10)
@given(large, large)
def test_norms_are_at_unit_scale_for_unit_inputs(rows, width):
    for norm in (rms_rows, layer_rows):
        assert scales(norm, leaf(rows, width)) == [UNIT] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_in_half_precision_are_near_the_exact_ones(dtype):
    x, weight, bias = leaf(64, 512, dtype=dtype), leaf(512), leaf(512)
    for ours, exact in (
        (rms_rows(x, weight), rms_rows(x.double(), weight.double())),
        (layer_rows(x, weight, bias), layer_rows(x.double(), weight.double(), bias.double())),
    ):
        assert ours.dtype == dtype
        # Four roundings, of numbers up to about 12.
        torch.testing.assert_close(ours.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=0.03)
        (grad,) = torch.autograd.grad(ours.sum(), weight)
        assert grad.dtype == torch.float32


# ---- rope


def rotate(x: torch.Tensor, base: float = 10000.0, first: int = 0) -> torch.Tensor:
    """The rotary embedding by complex numbers: component j of each half is one, turned by position·base^(-j/half)."""
    length, half = x.shape[-2], x.shape[-1] // 2
    angle = torch.outer(torch.arange(first, first + length, dtype=f64), base ** (-torch.arange(half, dtype=f64) / half))
    turned = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), -1)


@given(leading, st.integers(1, 40), st.integers(1, 8), st.integers(0, 9000), st.sampled_from([10000.0, 500.0]))
def test_rope_and_its_gradient_are_those_of_a_complex_rotation(shape, length, half, first, base):
    tables = F.rope_tables(length, 2 * half, first=first, base=base, dtype=f64)
    ours, plain = lambda x: F.rope(x, *tables), lambda x: rotate(x, base, first)
    compare(ours, plain, leaves((*shape, length, 2 * half)), 1, 1)


def test_rope_tables_are_as_precise_as_their_type_far_out():
    tables = (F.rope_tables(8, 16, first=100_000, dtype=dtype) for dtype in (torch.float32, f64))
    for table, exact in zip(*tables, strict=True):
        assert table.dtype == torch.float32
        torch.testing.assert_close(table.double(), exact, rtol=0, atol=6e-8)


def test_rope_passes_gradcheck():
    tables = F.rope_tables(5, 6, dtype=f64)
    assert gradcheck(lambda x: F.rope(x, *tables), (leaf(2, 5, 6, dtype=f64),))
    assert gradcheck(lambda x: F.rope(x.mT, *tables), (leaf(2, 6, 5, dtype=f64),))


def test_rope_makes_products_depend_on_distance_alone():
    q, k = torch.randn(8, dtype=f64), torch.randn(8, dtype=f64)
    tables = F.rope_tables(64, 8, dtype=f64)
    products = F.rope(q.expand(64, 8), *tables) @ F.rope(k.expand(64, 8), *tables).T
    for distance in (0, 1, 17):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-12)


def test_rope_keeps_every_norm_and_the_first_position():
    x = torch.randn(2, 32, 16)
    y = F.rope(x, *F.rope_tables(32, 16))
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)
    assert torch.equal(y[:, 0], x[:, 0])


@settings(max_examples=5)
@given(large, st.integers(16, 64))
def test_rope_is_at_unit_scale(length, half):
    assert scales(lambda x: F.rope(x, *F.rope_tables(length, 2 * half)), leaf(2, length, 2 * half)) == [UNIT] * 2


# ---- activations, gates, dropout


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(leading, constraints)
def test_activations_are_torchs_times_their_exact_constants(name, shape, constraint):
    forward, backward = exact_scale(ACTIVATIONS[name])
    ours = lambda x: getattr(F, name)(x, constraint=constraint)
    compare(ours, ACTIVATIONS[name], leaves((*shape, 3)), forward, forward if constraint else backward)


@pytest.mark.parametrize("name", GATES)
@given(leading, constraints)
def test_gates_are_torchs_times_their_exact_constants(name, shape, constraint):
    forward, backward = exact_scale(GATES[name])
    ours = lambda gate, up: getattr(F, name)(gate, up, constraint=constraint)
    plain = lambda gate, up: GATES[name](gate) * up
    compare(ours, plain, leaves((*shape, 3), (*shape, 3)), forward, forward if constraint else backward, forward)


@pytest.mark.parametrize("name", GATES)
@given(leading, st.floats(0.2, 3))
def test_gated_halves_are_a_gate_of_two_halves_with_the_true_gradient(name, shape, factor):
    plain = lambda x: GATES[name](x.chunk(2, -1)[0]) * x.chunk(2, -1)[1]
    compare(lambda x: gated_halves(name, x, factor), plain, leaves((*shape, 6)), factor, factor)


def test_activations_are_the_functions_of_their_names():
    x, up = torch.randn(2, 500, dtype=f64)
    by_hand = {
        "relu": x.clamp(min=0),
        "relu2": x.clamp(min=0) ** 2,
        "gelu": x * torch.special.ndtr(x),
        "silu": x / (1 + torch.exp(-x)),
        "tanh": 2 / (1 + torch.exp(-2 * x)) - 1,
        "sigmoid": 1 / (1 + torch.exp(-x)),
        "softplus": torch.log(1 + torch.exp(x)),
    }
    assert by_hand.keys() == ACTIVATIONS.keys()
    for name, y in by_hand.items():
        assert_same(getattr(F, name)(x), y * exact_scale(ACTIVATIONS[name]).forward)
    for name, inner in (("swiglu", "silu"), ("geglu", "gelu")):
        assert_same(getattr(F, name)(x, up), up * by_hand[inner] * exact_scale(ACTIVATIONS[inner]).forward)


@pytest.mark.parametrize("name", [*ACTIVATIONS, *GATES])
def test_activations_pass_gradcheck_under_a_constraint(name):
    inputs = leaves(*[(4, 3)] * (2 if name in GATES else 1))
    assert gradcheck(lambda *xs: getattr(F, name)(*xs, constraint="output"), inputs)


# Fourth moments of the outputs and gradients are below 30: of 600 000 of them the RMS has an error below 0.0036.
shapes_of_many = st.sampled_from([(600_000,), (1, 600_000), (800, 750), (200, 100, 30), (6, 10, 100, 100)])


@pytest.mark.parametrize("name", [*ACTIVATIONS, *GATES])
@settings(max_examples=3)
@given(shapes_of_many)
def test_activations_and_gates_are_at_unit_scale(name, shape):
    inputs = [leaf(*shape) for _ in range(2 if name in GATES else 1)]
    assert scales(getattr(F, name), *inputs) == [UNIT] * (1 + len(inputs))


@given(shapes_of_many, st.floats(0.01, 0.9))
@settings(max_examples=6)
def test_dropout_is_at_unit_scale_and_drops_its_share(shape, p):
    x = leaf(*shape)
    y = F.dropout(x, p)
    (grad,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert [rms(y), rms(grad)] == [UNIT] * 2
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.003)
    assert torch.equal(y == 0, grad == 0)
    kept = y != 0
    torch.testing.assert_close(y[kept], x[kept] / math.sqrt(1 - p))


def test_dropout_does_nothing_when_there_is_nothing_to_drop():
    x = torch.randn(4)
    assert F.dropout(x, 0.5, training=False) is x
    assert F.dropout(x, 0.0) is x


# ---- the residual stream


weights = st.floats(0.05, 3)


@given(weights, weights)
def test_residual_add_weighs_the_sum_and_passes_the_gradient_as_it_comes(keep, share):
    branch, skip = leaves((2, 6), (2, 6))
    y = F.residual_add(branch, skip, keep, share)
    upstream = torch.randn(2, 6, dtype=f64)
    y.backward(upstream)
    assert_same(y, share * branch + keep * skip)
    assert_same(skip.grad, upstream)
    assert_same(branch.grad, upstream)


@given(leading, st.integers(2, 8), weights, weights, st.booleans())
def test_residual_split_weighs_the_gradients_and_not_the_values(shape, width, keep, share, norm):
    (x,) = leaves((*shape, width))
    branch, skip = F.residual_split(x, keep, share, norm=norm, eps=0.01)
    plain = T.rms_norm(x, (width,), eps=0.01) if norm else x * 1
    assert_same(branch, plain)
    assert torch.equal(skip, x)
    up_branch, up_skip = torch.randn_like(x), torch.randn_like(x)
    (true,) = torch.autograd.grad(plain, x, up_branch)
    assert_same(torch.autograd.grad((branch, skip), x, (up_branch, up_skip))[0], share * true + keep * up_skip)
    for wanted, expected in ((0, share * true), (1, keep * up_skip)):  # one side alone is used
        y = F.residual_split(x, keep, share, norm=norm, eps=0.01)[wanted]
        assert_same(torch.autograd.grad(y, x, (up_branch, up_skip)[wanted])[0], expected)


@given(weights, weights, st.booleans(), st.booleans(), sizes)
def test_split_and_add_together_give_the_true_gradient_of_the_stream(keep, share, norm, fused, hidden):
    """Also where the branch's own gradient is a constant off, once ``share`` is divided by it."""
    (x,), a, b = leaves((5, 6)), torch.randn(hidden, 6, dtype=f64), torch.randn(6, hidden, dtype=f64)
    forward, backward = exact_scale(torch.tanh)
    ratio = (hidden**-0.5 / 6**-0.5) * (backward / forward) * (6**-0.5 / hidden**-0.5)
    y, skip = F.residual_split(x, keep, share / ratio, norm=norm)
    h = F.tanh(F.linear(y, a))
    out = (
        F.linear(h, b, onto=skip, keep=keep, share=share)
        if fused
        else F.residual_add(F.linear(h, b), skip, keep, share)
    )
    inner = T.rms_norm(x, (6,), eps=1e-6) if norm else x
    plain = keep * x + share * (forward * torch.tanh(inner @ a.T * 6**-0.5) @ b.T * hidden**-0.5)
    upstream = torch.randn_like(x)
    torch.testing.assert_close(out, plain, rtol=1e-11, atol=1e-11)
    mine, true = (torch.autograd.grad(o, x, upstream)[0] for o in (out, plain))
    torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-9)


@given(st.floats(0.01, 5))
def test_the_residual_stream_is_at_unit_scale_both_ways(tau):
    """A branch that permutes its input is independent of the skip and passes gradients on whole."""
    keep = 1 / math.sqrt(1 + tau**2)
    x = leaf(90_000)  # a sampling error of 0.004, correlation of skip and branch included

    def stream(x):
        branch, skip = F.residual_split(x, keep, tau * keep)
        return F.residual_add(branch.roll(1), skip, keep, tau * keep)

    assert scales(stream, x) == [UNIT] * 2


@given(leading)
def test_add_is_the_sum_over_root_two_with_true_gradients(shape):
    half = math.sqrt(1 / 2)
    compare(F.add, torch.add, leaves((*shape, 3), (*shape, 3)), half, half, half)
    assert rms(F.add(torch.randn(90_000), torch.randn(90_000))) == UNIT


# ---- losses


@given(st.integers(1, 30), st.integers(2, 40), st.floats(0, 5), st.sampled_from(["mean", "sum", "none"]))
def test_cross_entropy_has_torchs_value_and_a_multiple_of_its_gradient(rows, classes, size, reduction):
    logits = (size * torch.randn(rows, classes, dtype=f64)).requires_grad_()
    targets = torch.randint(classes, (rows,))
    ours = F.cross_entropy(logits, targets, reduction=reduction)
    theirs = T.cross_entropy(logits, targets, reduction=reduction)
    assert torch.equal(ours, theirs)
    mine, plain = (torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs))
    factor = classes / math.sqrt(classes - 1) * (rows if reduction == "mean" else 1)
    torch.testing.assert_close(mine, plain * factor, rtol=2e-7, atol=1e-12)  # the factor is a float32


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignore_index", [-100, 3])
def test_ignored_rows_change_neither_the_mean_nor_the_gradient_of_the_rest(reduction, ignore_index):
    logits, targets = leaf(12, 7, dtype=f64), torch.randint(7, (12,))
    targets[[0, 5, 6]] = ignore_index
    counted = targets != ignore_index
    ours = F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction=reduction)
    assert_same(ours, T.cross_entropy(logits, targets, ignore_index=ignore_index, reduction=reduction))
    (grad,) = torch.autograd.grad(ours.sum(), logits)
    alone = logits.detach()[counted].requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(alone, targets[counted], reduction=reduction).sum(), alone)
    torch.testing.assert_close(grad[counted], expected, rtol=2e-7, atol=1e-12)
    assert not grad[~counted].any()


def test_rows_that_are_all_ignored_give_no_gradient():
    """The mean of nothing is not a number, as in PyTorch; the gradient is 0."""
    logits = leaf(3, 5)
    loss = F.cross_entropy(logits, torch.full((3,), -100))
    assert loss.isnan()
    for reduction in ("sum", "none"):
        (grad,) = torch.autograd.grad(
            F.cross_entropy(logits, torch.full((3,), -100), reduction=reduction).sum(), logits
        )
        assert not grad.any()


def test_cross_entropy_reads_classes_on_the_second_axis_and_single_rows():
    logits, targets = leaf(2, 5, 3, 4, dtype=f64), torch.randint(5, (2, 3, 4))
    targets[0, 0, 0] = -100
    flat = logits.detach().permute(0, 2, 3, 1).reshape(-1, 5).requires_grad_()
    ours, expected = F.cross_entropy(logits, targets), F.cross_entropy(flat, targets.flatten())
    assert_same(ours, expected)
    (grad,) = torch.autograd.grad(ours, logits)
    assert_same(grad.permute(0, 2, 3, 1).reshape(-1, 5), torch.autograd.grad(expected, flat)[0])
    row = leaf(5, dtype=f64)
    one = F.cross_entropy(row, torch.tensor(2))
    (grad,) = torch.autograd.grad(one, row)
    assert_same(grad, torch.autograd.grad(T.cross_entropy(row, torch.tensor(2)), row)[0] * 5 / 2)


@given(st.integers(1, 300), st.integers(2, 300))
def test_cross_entropy_gradient_is_exactly_at_unit_scale_for_equal_logits(rows, classes):
    logits = torch.zeros(rows, classes, dtype=f64, requires_grad=True)
    F.cross_entropy(logits, torch.randint(classes, (rows,))).backward()
    torch.testing.assert_close(logits.grad.square().mean(-1), torch.ones(rows, dtype=f64), rtol=4e-7, atol=0)


@settings(max_examples=10)
@given(large, st.one_of(st.integers(128, 1024), st.integers(10_000, 20_000)))
def test_cross_entropy_gradient_is_at_unit_scale_for_unit_logits_of_many_classes(rows, classes):
    """E[(p − y)²]·V²/(V − 1) = 1 + (e − 1)/V + …: 1.007 in the RMS at V = 128; targets are drawn apart from logits."""
    logits = leaf(rows, classes)
    F.cross_entropy(logits, torch.randint(classes, (rows,))).backward()
    assert rms(logits.grad) == UNIT


@given(st.floats(0.01, 0.5), st.integers(2, 50))
def test_smoothed_labels_keep_torchs_value(smoothing, classes):
    logits, targets = leaf(6, classes, dtype=f64), torch.randint(classes, (6,))
    ours = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    assert_same(ours, T.cross_entropy(logits, targets, label_smoothing=smoothing))


def test_smoothed_labels_leave_the_gradient_at_unit_scale():
    logits = torch.zeros(8, 10, dtype=f64, requires_grad=True)
    F.cross_entropy(logits, torch.arange(8), label_smoothing=0.1).backward()
    assert rms(logits.grad) == UNIT


def test_targets_given_as_probabilities_count_by_row():
    logits, targets = leaf(8, 10, dtype=f64), torch.randint(10, (8,))
    by_index, by_share = (
        torch.autograd.grad(F.cross_entropy(logits, t), logits)[0] for t in (targets, T.one_hot(targets, 10).double())
    )
    assert_same(by_share, by_index)


def test_cross_entropy_gradient_in_float16_does_not_underflow_on_the_way():
    rows, classes = 300, 20_000
    logits = torch.zeros(rows, classes, dtype=torch.float16, requires_grad=True)
    targets = torch.zeros(rows, dtype=torch.long)
    F.cross_entropy(logits, targets).backward()
    rest = logits.grad[:, 1:].double()
    torch.testing.assert_close(rest, torch.full_like(rest, (classes - 1) ** -0.5), rtol=1e-2, atol=0)


@given(leading, st.sampled_from(["mean", "sum", "none"]))
def test_mse_has_torchs_value_and_a_multiple_of_its_gradients(shape, reduction):
    inputs = leaves((*shape, 3), (*shape, 3))
    factor = 8**-0.5 * (3 * math.prod(shape) if reduction == "mean" else 1)
    options = {"reduction": reduction}
    compare(
        lambda p, t: F.mse_loss(p, t, **options), lambda p, t: T.mse_loss(p, t, **options), inputs, 1, factor, factor
    )


@settings(max_examples=5)
@given(st.sampled_from(["mean", "sum"]), shapes_of_many)
def test_mse_gradients_are_at_unit_scale(reduction, shape):
    inputs = leaf(*shape), leaf(*shape)
    grads = torch.autograd.grad(F.mse_loss(*inputs, reduction=reduction), inputs)
    assert list(map(rms, grads)) == [UNIT] * 2


def test_scaled_dot_product_attention_has_torchs_arguments():
    """A port is a change of import: PyTorch's function of the same arguments, each row times its gain."""
    q, k, v = torch.randn(3, 2, 4, 9, 16).unbind(0)
    for options in ({"is_causal": True}, {}, {"is_causal": True, "scale": 0.5}, {"scale": 0.1}):
        ours = F.scaled_dot_product_attention(q, k, v, **options)
        plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)
        gain = ours / plain
        torch.testing.assert_close(gain, gain[:1, :1, :, :1].expand_as(gain), rtol=1e-3, atol=1e-3)
    shared = F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], is_causal=True, enable_gqa=True)
    assert shared.shape == q.shape
    for refused in (
        {"attn_mask": torch.ones(9, 9)},
        {"attn_mask": torch.ones(9, 9).bool(), "is_causal": True},
        {"dropout_p": 1.0},
        {"key": k[:, :2], "value": v[:, :2]},
    ):
        with pytest.raises(ValueError, match=r"attn_mask|dropout_p|is_causal|enable_gqa"):
            F.scaled_dot_product_attention(**{"query": q, "key": k, "value": v} | refused)


def test_a_row_of_attention_under_a_mask_has_the_gain_of_the_keys_that_it_sees():
    """Row by row the same as attention over those keys alone; PyTorch's causal rows begin at the first key."""
    q, k, v = torch.randn(3, 2, 4, 9, 16).unbind(0)
    mask = torch.rand(2, 1, 9, 9) < 0.5
    mask[..., 0] = True
    masked = F.scaled_dot_product_attention(q, k, v, mask)
    for batch, row in ((0, 0), (0, 4), (1, 8)):
        seen = mask[batch, 0, row]
        alone = F.attention(
            q[batch, None, :, row : row + 1], k[batch, None, :, seen], v[batch, None, :, seen], causal=False
        )
        torch.testing.assert_close(masked[batch, :, row], alone[0, :, 0])
    fewer = F.scaled_dot_product_attention(q[:, :, :5], k, v, is_causal=True)
    torch.testing.assert_close(fewer, F.attention(q, k, v)[:, :, :5])
    padded = F.scaled_dot_product_attention(q, k, v, torch.arange(9)[None] < 6)
    torch.testing.assert_close(padded, F.attention(q, k[:, :, :6], v[:, :, :6], causal=False))


def test_attention_with_dropout_keeps_its_scale():
    """Over 400 keys the draws leave each row's mean square within 4·√(2/16/64/400) = 0.009 of its mean."""
    q, k, v = torch.randn(3, 16, 4, 400, 64).unbind(0)
    assert rms(F.scaled_dot_product_attention(q, k, v, dropout_p=0.3)) == pytest.approx(1, abs=0.03)


def signature_of(name: str) -> list[inspect.Parameter]:
    """The parameters of a function of torch.nn.functional; of a builtin, as the first line of its help has them."""
    function = getattr(torch.nn.functional, name)
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:
        head = re.match(rf"\s*({name}\(.*?\)) *->", function.__doc__, re.DOTALL)[1]
        scope = {}
        exec(f"def {head}: pass", scope)
        return list(inspect.signature(scope[name]).parameters.values())


@pytest.mark.parametrize("name", [name for name in F.__all__ if hasattr(torch.nn.functional, name)])
def test_functions_of_torchs_names_take_torchs_arguments(name):
    """The same names in the same order with the same defaults, so that a port is a change of import."""
    theirs, ours = signature_of(name), list(inspect.signature(getattr(F, name)).parameters.values())
    assert [p.name for p in ours[: len(theirs)]] == [p.name for p in theirs]
    assert [p.default for p in ours[: len(theirs)]] == [p.default for p in theirs]
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in ours[: len(theirs)])
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


def test_a_name_of_torchs_without_a_counterpart_says_what_to_take():
    with pytest.raises(AttributeError, match=r"no unit-scaled unfold; torch\.nn\.functional\.unfold"):
        _ = F.unfold
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = F.nothing


x34, table = torch.randn(3, 4), torch.randn(5, 4)
LEFT_OUT = {
    "weight": lambda: F.cross_entropy(x34, torch.tensor([0, 1, 2]), torch.ones(4)),
    "reduce": lambda: F.cross_entropy(
        x34, torch.tensor([0, 1, 2]), reduce=False
    ),  # to PyTorch this is reduction="none"
    "size_average": lambda: F.mse_loss(x34, x34, True),
    "max_norm": lambda: F.embedding(torch.tensor([0]), table, max_norm=1.0),
    "sparse": lambda: F.embedding(torch.tensor([0]), table, sparse=True),
    "beta": lambda: F.softplus(x34, 2),
    "approximate": lambda: F.gelu(x34, "erf"),
    "normalized_shape": lambda: F.rms_norm(x34, (3,)),
}


@pytest.mark.parametrize("argument", LEFT_OUT)
def test_what_has_no_unit_scale_is_refused_by_its_name(argument):
    with pytest.raises(ValueError, match=f"^{argument}: "):
        LEFT_OUT[argument]()


def test_norms_over_several_dimensions_are_torchs():
    x, weight, bias = torch.randn(5, 3, 4, dtype=f64), torch.randn(3, 4, dtype=f64), torch.randn(3, 4, dtype=f64)
    assert_same(F.layer_norm(x, (3, 4), weight, bias), T.layer_norm(x, (3, 4), weight, bias))
    assert_same(F.rms_norm(x, [3, 4], weight, 1e-6), T.rms_norm(x, [3, 4], weight, 1e-6))
    assert_same(F.layer_norm(x, 4), T.layer_norm(x, (4,)))


def test_gelu_by_tanh_is_torchs_times_its_own_constants():
    x = torch.randn(1000, dtype=f64)
    plain = partial(T.gelu, approximate="tanh")
    assert_same(F.gelu(x, approximate="tanh"), exact_scale(plain).forward * plain(x))
    assert_same(F.softmax(x.float(), dtype=f64), F.softmax(x.float().double(), -1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_distillation_has_the_gradient_of_the_divergence_times_the_constant_of_cross_entropy(temperature, share):
    rows, classes = 64, 40
    student = torch.randn(rows, classes, dtype=torch.float64, requires_grad=True)
    teacher = 2 * torch.randn(rows, classes, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(classes, (rows,))
    loss = F.distillation_loss(student, teacher, targets, temperature=temperature, share=share)
    ours, of_teacher = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
    assert of_teacher is None
    softened = [torch.log_softmax(logits / temperature, 1) for logits in (student, teacher)]
    divergence = torch.nn.functional.kl_div(*softened, reduction="batchmean", log_target=True)
    own = torch.nn.functional.cross_entropy(student, targets)
    (true,) = torch.autograd.grad(share * temperature**2 * divergence + (1 - share) * own, student)
    assert torch.allclose(ours, rows * classes / (classes - 1) ** 0.5 * true, rtol=1e-10, atol=1e-12)


def test_distillation_is_the_divergence_and_the_teachers_entropy():
    student, teacher, targets = torch.randn(9, 7).double(), torch.randn(9, 7).double(), torch.randint(7, (9,))
    p = teacher.softmax(1)
    divergence = torch.nn.functional.kl_div(student.log_softmax(1), p, reduction="batchmean")
    entropy = -(p * p.log()).sum(1).mean()
    assert F.distillation_loss(student, teacher, targets) == pytest.approx(float(divergence + entropy), rel=1e-10)


def test_distillation_gradients_are_at_unit_scale_against_a_certain_teacher():
    student = torch.zeros(500, 64, requires_grad=True)
    teacher = 50.0 * torch.nn.functional.one_hot(torch.randint(64, (500,)), 64)
    F.distillation_loss(student, teacher, torch.zeros(500, dtype=torch.long)).backward()
    assert rms(student.grad) == pytest.approx(1, abs=1e-5)


def test_distillation_refuses_what_has_no_meaning():
    logits, targets = torch.randn(4, 5), torch.zeros(4, dtype=torch.long)
    for teacher, options in (
        (torch.randn(4, 6), {}),
        (logits, {"temperature": 0.0}),
        (logits, {"temperature": float("nan")}),
        (logits, {"share": 1.5}),
    ):
        with pytest.raises(ValueError):
            F.distillation_loss(logits, teacher, targets, **options)
