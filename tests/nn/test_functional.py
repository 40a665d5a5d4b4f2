"""Each operation against PyTorch's own in float64, and its scale for unit-normal inputs and upstream gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from allometry.nn import exact_scale
from allometry.nn import functional as F

f64 = torch.float64
sizes = st.integers(1, 9)
leading = st.lists(st.integers(1, 4), min_size=0, max_size=3)
# With all dimensions from 256 up, the RMS of a product of unit normals has a sampling error of at most
# ½·√(6/256²) = 0.0048, so that 0.02 is four of them.
large = st.integers(256, 640)


def rms(x: torch.Tensor) -> float:
    return x.detach().square().mean().sqrt().item()


def leaf(*shape, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def assert_same(actual, expected):
    """Equal up to the rounding of float64 in sums of at most a few hundred terms."""
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


# ---- linear


@given(leading, sizes, sizes, st.sampled_from([1.0, 1.6765, 0.3]))
def test_linear_is_the_unfused_product_with_exact_input_gradient(shape, fan_in, fan_out, gain):
    x, weight, upstream = leaf(*shape, fan_in, dtype=f64), leaf(fan_out, fan_in, dtype=f64), None
    plain_x, plain_weight = x.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()
    y = F.linear(x, weight, gain=gain)
    plain = plain_x @ plain_weight.T * (gain / math.sqrt(fan_in))
    upstream = torch.randn_like(y)
    y.backward(upstream)
    plain.backward(upstream)
    rows = math.prod(shape)
    assert_same(y, plain)
    assert_same(x.grad, plain_x.grad)
    # The weight's gradient carries rows^-½ in place of fan_in^-½.
    assert_same(weight.grad, plain_weight.grad * math.sqrt(fan_in / rows))


@given(leading, sizes, sizes)
def test_linear_with_a_backward_gain_changes_the_gradients_by_it_and_not_the_value(shape, fan_in, fan_out):
    x, weight = leaf(*shape, fan_in, dtype=f64), leaf(fan_out, fan_in, dtype=f64)
    upstream = torch.randn(*shape, fan_out, dtype=f64)
    y = F.linear(x, weight, gain=0.25, backward_gain=3.0)
    grads = torch.autograd.grad(y, (x, weight), upstream)
    same = F.linear(x, weight, gain=0.25)
    expected = torch.autograd.grad(same, (x, weight), upstream)
    assert_same(y, same)
    for grad, plain in zip(grads, expected, strict=True):
        assert_same(grad, plain * 12)


def test_linear_passes_gradcheck_in_its_input():
    weight = torch.randn(5, 7, dtype=f64)
    assert gradcheck(lambda x: F.linear(x, weight, gain=1.3), (leaf(2, 3, 7, dtype=f64),))


def test_linear_reads_strided_inputs_and_gradients():
    """As they come from transposes, slices and expanded sums."""
    weight = leaf(5, 6, dtype=f64)
    base = torch.randn(6, 4, 3, dtype=f64)
    for view in (base.permute(1, 2, 0), base.permute(2, 1, 0)[:, ::2], base[:, :1].expand(6, 4, 3).permute(2, 1, 0)):
        x = view.detach().requires_grad_()
        y = F.linear(x, weight)
        grads = torch.autograd.grad(y.transpose(0, 1).sum(), (x, weight))
        copy = view.contiguous().detach().requires_grad_()
        plain = F.linear(copy, weight)
        expected = torch.autograd.grad(plain, (copy, weight), torch.ones(plain.shape, dtype=f64))
        assert_same((y, *grads), (plain, *expected))


def test_gradients_of_a_tensor_used_twice_add_up():
    x, a, b = leaf(4, 6, dtype=f64), torch.randn(6, 6, dtype=f64), torch.randn(6, 6, dtype=f64)
    use = lambda x, op: (F.linear(op(x), a) * F.linear(x, b)).sum()
    plain = lambda x, op: ((op(x) @ a.T / math.sqrt(6)) * (x @ b.T / math.sqrt(6))).sum()
    (grad,) = torch.autograd.grad(use(x, F.rms_norm), x)
    (expected,) = torch.autograd.grad(plain(x, lambda x: torch.nn.functional.rms_norm(x, (6,), eps=1e-6)), x)
    assert_same(grad, expected)


def test_linear_leaves_out_gradients_nobody_wants():
    x, weight = leaf(3, 4), torch.randn(5, 4)
    F.linear(x, weight).sum().backward()
    assert x.grad is not None
    assert weight.grad is None


@settings(max_examples=10)
@given(large, large, large, st.sampled_from([1.0, 1.6765]))
def test_linear_is_at_unit_scale(rows, fan_in, fan_out, gain):
    """Output and weight gradient; the input's gradient is the true one, hence at √(fan_out/fan_in).

    With a gain the input is 1/gain: an operation whose own factor was folded into this one.
    """
    x, weight = (torch.randn(rows, fan_in) / gain).requires_grad_(), leaf(fan_out, fan_in)
    y = F.linear(x, weight, gain=gain)
    y.backward(torch.randn_like(y))
    assert rms(y) == pytest.approx(1, abs=0.02)
    assert rms(weight.grad) == pytest.approx(1, abs=0.02)
    assert rms(x.grad) / gain == pytest.approx(math.sqrt(fan_out / fan_in), rel=0.02)


# ---- embedding


@given(leading, st.integers(2, 9), sizes)
def test_embedding_is_torchs(shape, vocab, width):
    tokens = torch.randint(vocab, shape)
    weight = leaf(vocab, width, dtype=f64)
    y = F.embedding(tokens, weight)
    assert torch.equal(y, weight[tokens])
    upstream = torch.randn_like(y)
    (grad,) = torch.autograd.grad(y, weight, upstream)
    one_hot = torch.nn.functional.one_hot(tokens.flatten(), vocab).double()
    assert_same(grad, one_hot.T @ upstream.view(-1, width))


# ---- rms_norm


@given(leading, st.integers(2, 12), st.floats(0.1, 10))
def test_rms_norm_and_its_gradient_are_torchs(shape, width, size):
    x = (size * torch.randn(*shape, width, dtype=f64)).requires_grad_()
    ours, theirs = F.rms_norm(x), torch.nn.functional.rms_norm(x, (width,), eps=1e-6)
    upstream = torch.randn_like(ours)
    assert_same(ours, theirs)
    # The gradient's largest terms are 1/|x| apart and cancel: their rounding, not its own.
    torch.testing.assert_close(*(torch.autograd.grad(y, x, upstream)[0] for y in (ours, theirs)), rtol=1e-9, atol=1e-10)


def test_rms_norm_passes_gradcheck():
    assert gradcheck(F.rms_norm, (leaf(3, 2, 5, dtype=f64),))


def test_rms_norm_refuses_a_second_derivative_rather_than_give_a_wrong_one():
    x = leaf(3, 5, dtype=f64)
    (grad,) = torch.autograd.grad(F.rms_norm(x).pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@given(st.integers(1, 64), st.integers(64, 512), st.floats(0.2, 1e3))
def test_rms_norm_gives_unit_rows_whatever_came_in(rows, width, size):
    y = F.rms_norm(size * torch.randn(rows, width))
    # eps = 1e-6 beside a mean square of 0.04·(1 ± 0.6) takes at most half of 6e-5.
    torch.testing.assert_close(y.square().mean(-1).sqrt(), torch.ones(rows), rtol=5e-5, atol=0)


@settings(max_examples=10)
@given(large, large)
def test_rms_norm_is_at_unit_scale_for_unit_inputs(rows, width):
    x = leaf(rows, width)
    y = F.rms_norm(x)
    y.backward(torch.randn_like(y))
    assert rms(y) == pytest.approx(1, abs=1e-4)
    assert rms(x.grad) == pytest.approx(1, abs=0.02)


# ---- rope


def rotate(x: torch.Tensor, base: float = 10000.0) -> torch.Tensor:
    """The rotary embedding by complex numbers: component j of each half is one, turned by position·base^(-j/half)."""
    length, half = x.shape[-2], x.shape[-1] // 2
    angle = torch.outer(torch.arange(length, dtype=f64), base ** (-torch.arange(half, dtype=f64) / half))
    turned = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), -1)


@given(leading, st.integers(1, 40), st.integers(1, 8))
def test_rope_and_its_gradient_are_those_of_a_complex_rotation(shape, length, half):
    x = leaf(*shape, length, 2 * half, dtype=f64)
    y = F.rope(x, *F.rope_tables(length, 2 * half))
    upstream = torch.randn_like(y)
    expected = rotate(x)
    # The tables are float32: 6e-8 for each product.
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(y, expected, **close)
    torch.testing.assert_close(
        torch.autograd.grad(y, x, upstream)[0], torch.autograd.grad(expected, x, upstream)[0], **close
    )


def test_rope_passes_gradcheck():
    tables = F.rope_tables(5, 6)
    assert gradcheck(lambda x: F.rope(x, *tables), (leaf(2, 5, 6, dtype=f64),))


def test_rope_makes_products_depend_on_distance_alone():
    q, k = torch.randn(8, dtype=f64), torch.randn(8, dtype=f64)
    tables = F.rope_tables(64, 8)
    products = F.rope(q.expand(64, 8), *tables) @ F.rope(k.expand(64, 8), *tables).T
    for distance in (0, 1, 17):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)


def test_rope_keeps_every_norm_and_the_first_position():
    x = torch.randn(2, 32, 16)
    y = F.rope(x, *F.rope_tables(32, 16))
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)
    assert torch.equal(y[:, 0], x[:, 0])


# ---- attention


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 6), st.sampled_from([1.0, 0.5, 3.0]))
def test_attention_is_the_explicit_causal_softmax(heads, length, head_dim, multiplier):
    q, k, v = (leaf(2, heads, length, head_dim, dtype=f64) for _ in range(3))
    y = F.causal_attention(q, k, v, multiplier=multiplier)
    logits = multiplier * q @ k.mT / math.sqrt(head_dim)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    expected = logits.masked_fill(future, -math.inf).softmax(-1) @ v
    upstream = torch.randn_like(y)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-11)
    for mine, theirs in zip(*(torch.autograd.grad(o, (q, k, v), upstream) for o in (y, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


def test_attention_averages_so_that_only_the_first_position_stays_at_unit_scale():
    """Of i + 1 independent values with nearly equal weights: (i + 1)^-½, times e^½ for the spread of unit logits."""
    q, k, v = torch.randn(3, 64, 4, 64, 32)
    y = F.causal_attention(q, k, v)
    assert torch.equal(y[..., 0, :], v[..., 0, :])
    assert rms(y[..., 63, :]) == pytest.approx(math.exp(0.5) / 8, rel=0.1)


# ---- gated MLP, residual, loss


def test_swiglu_is_at_unit_scale_after_its_constant():
    """The gate's gradient is off by the ratio of silu's two constants, 1.033: one factor cannot serve both."""
    gate, up = leaf(2_000_000), leaf(2_000_000)  # E[y⁴] = 28 for unit y: a sampling error of 0.002
    y = F.SWIGLU_SCALE * F.swiglu(gate, up)
    y.backward(torch.randn_like(y))
    silu = exact_scale(torch.nn.functional.silu)
    assert silu.forward == F.SWIGLU_SCALE
    assert rms(y) == pytest.approx(1, abs=0.01)
    assert rms(up.grad) == pytest.approx(1, abs=0.01)
    assert rms(gate.grad) == pytest.approx(silu.forward / silu.backward, abs=0.01)


def test_swiglu_is_silu_of_the_gate_times_the_rest():
    gate, up = torch.randn(2, 50, dtype=f64)
    assert_same(F.swiglu(gate, up), up * gate / (1 + torch.exp(-gate)))


@given(st.floats(0.01, 5))
def test_residual_add_weighs_by_tau_both_ways(tau):
    skip, branch = leaf(6, dtype=f64), leaf(6, dtype=f64)
    y = F.residual_add(skip, branch, tau)
    upstream = torch.randn(6, dtype=f64)
    y.backward(upstream)
    assert_same(y, (tau * branch + skip) / math.sqrt(1 + tau**2))
    assert_same(skip.grad, upstream / math.sqrt(1 + tau**2))
    assert_same(branch.grad, tau * upstream / math.sqrt(1 + tau**2))


@given(st.floats(0.01, 5))
def test_residual_add_is_at_unit_scale_and_so_is_the_gradient_where_branch_and_skip_join(tau):
    """A branch that permutes its input is independent of the skip and passes gradients on whole."""
    x = leaf(90_000)  # a sampling error of 0.004, correlation of skip and branch included
    y = F.residual_add(x, x.roll(1), tau)
    y.backward(torch.randn_like(y))
    assert rms(y) == pytest.approx(1, abs=0.02)
    assert rms(x.grad) == pytest.approx(1, abs=0.02)


@given(st.integers(1, 30), st.integers(2, 40), st.floats(0, 5))
def test_cross_entropy_has_torchs_value_and_a_multiple_of_its_gradient(rows, classes, size):
    logits = (size * torch.randn(rows, classes, dtype=f64)).requires_grad_()
    targets = torch.randint(classes, (rows,))
    ours, theirs = F.cross_entropy(logits, targets), torch.nn.functional.cross_entropy(logits, targets)
    assert torch.equal(ours, theirs)
    mine, plain = (torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs))
    assert_same(mine, plain * (rows * classes / math.sqrt(classes - 1)))


@given(st.integers(1, 300), st.integers(2, 300))
def test_cross_entropy_gradient_is_exactly_at_unit_scale_for_equal_logits(rows, classes):
    logits = torch.zeros(rows, classes, dtype=f64, requires_grad=True)
    F.cross_entropy(logits, torch.randint(classes, (rows,))).backward()
    torch.testing.assert_close(logits.grad.square().mean(-1), torch.ones(rows, dtype=f64), rtol=1e-12, atol=0)


@given(large, st.integers(128, 1024))
def test_cross_entropy_gradient_is_at_unit_scale_for_unit_logits_of_many_classes(rows, classes):
    """E[(p − y)²]·V²/(V − 1) = 1 + (e − 1)/V + …: 1.007 in the RMS at V = 128; targets are drawn apart from logits."""
    logits = leaf(rows, classes)
    F.cross_entropy(logits, torch.randint(classes, (rows,))).backward()
    assert rms(logits.grad) == pytest.approx(1, abs=0.02)
