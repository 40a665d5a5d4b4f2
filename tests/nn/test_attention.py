"""Softmax and attention: unit scale at every length and position, true gradients, and every transform of PyTorch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import randn
from torch._dynamo.testing import CompileCounter
from torch._subclasses import FakeTensorMode

from allometry.nn.ops import moments
from allometry.nn.ops.attention import attention, softmax

F = torch.nn.functional


def rms(x, dim=None):
    return x.square().mean(dim).sqrt()


def heads(count, length, dim=32, keys=None, kv=None, dtype=None):
    """Unit-normal q, k and v of a batch of one."""
    keys, kv = keys or length, kv or count
    return (
        randn(1, count, length, dim, dtype=dtype),
        randn(1, kv, keys, dim, dtype=dtype),
        randn(1, kv, keys, dim, dtype=dtype),
    )


def reference(q, k, v, causal=True, multiplier=1.0, window=None, scaled=True, qk_norm=False):
    """The definition, in as many steps, with the gains from the quadrature."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    position = torch.arange(k.shape[2] - q.shape[2], k.shape[2])[:, None]
    other = torch.arange(k.shape[2])
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    if causal:
        seen = (other <= position) & (other > position - (window or k.shape[2]))
    logits = multiplier * q @ k.mT / math.sqrt(q.shape[3])
    y = logits.masked_fill(~seen, -math.inf).softmax(-1) @ v
    if not scaled:
        return y
    gains = [moments.attention_gain(int(n), q.shape[3], multiplier, qk_norm) for n in seen.sum(1)]
    return y * torch.tensor(gains, dtype=y.dtype)[:, None]


# Scale


@pytest.mark.parametrize(
    ("n", "multiplier"), [(2, 0.5), (2, 4.0), (16, 1.0), (16, 3.0), (256, 0.5), (256, 2.0), (4096, 0.5), (4096, 1.0)]
)
def test_softmax_is_at_unit_scale(n, multiplier):
    rows = 2_000_000 // n
    x = randn(rows, n, requires_grad=True)
    y = softmax(x, multiplier=multiplier)
    (grad,) = torch.autograd.grad(y, x, randn(rows, n))
    for value in (y.detach(), grad):
        per_row = value.square().mean(1)
        error = float(per_row.std() / per_row.mean() / math.sqrt(rows)) / 2  # of the root mean square
        assert error < 0.015
        assert float(rms(value)) == pytest.approx(1, abs=0.01 + 3 * error if n < 4096 else 0.03)


def test_the_two_gradients_of_softmax():
    x, g = randn(5, 9, dtype=torch.float64, requires_grad=True), randn(5, 9, dtype=torch.float64)
    forward, backward = moments.softmax_scale(9, 1.5)
    (plain,) = torch.autograd.grad(F.softmax(1.5 * x, -1), x, g)
    (own,) = torch.autograd.grad(softmax(x, multiplier=1.5), x, g)
    (true,) = torch.autograd.grad(softmax(x, multiplier=1.5, constraint="output"), x, g)
    torch.testing.assert_close(own, plain * backward)
    torch.testing.assert_close(true, plain * forward)
    torch.testing.assert_close(softmax(x, multiplier=1.5), forward * F.softmax(1.5 * x, -1))
    torch.testing.assert_close(softmax(x, 0), softmax(x.T).T)


# (positions before the rows, rows, heads): enough heads that the sampling error of one row is below 0.01.
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("before", "rows", "count"),
    [(0, 16, 1600), (0, 256, 800), (504, 8, 400), (2032, 16, 150), (8128, 64, 40)],
    ids=["16", "256", "512", "2048", "8192"],
)
def test_attention_is_at_unit_scale_at_every_position(before, rows, count, causal):
    y = attention(*heads(count, rows, keys=before + rows), causal=causal)
    assert y.shape[2] == rows
    if before < 512:  # each position for itself
        values = rms(y, dim=(0, 1, 3))
        assert float((values - 1).abs().max()) < 0.05
    assert float(rms(y)) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("multiplier", "qk_norm", "window"), [(0.5, False, None), (2.0, False, None), (1.0, True, None), (1.0, False, 10)]
)
def test_attention_is_at_unit_scale_with_every_option(multiplier, qk_norm, window):
    q, k, v = heads(2500, 40, dim=16)
    if qk_norm:
        q, k = (x / rms(x, -1)[..., None] for x in (q, k))
    y = attention(q, k, v, multiplier=multiplier, qk_norm=qk_norm, window=window)
    assert float((rms(y, dim=(0, 1, 3)) - 1).abs().max()) < 0.05


def test_the_gradients_of_attention():
    """What the documentation says: 1 on the average for values, and nearly for queries that see many keys."""
    for causal in (True, False):
        q, k, v = (x.requires_grad_() for x in heads(150, 256, dim=64))
        y = attention(q, k, v, causal=causal)
        dq, dk, dv = torch.autograd.grad(y, (q, k, v), randn(y.shape))
        assert float(rms(dv)) == pytest.approx(1, abs=0.02)
        assert float(rms(dk)) == pytest.approx(0.95 if causal else 0.99, abs=0.02)
        assert float(rms(dq[:, :, 64:])) == pytest.approx(0.98, abs=0.03)


# Meaning

shapes = st.tuples(st.integers(1, 6), st.integers(0, 6), st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]))


@given(shapes, st.booleans(), st.one_of(st.none(), st.integers(1, 9)), st.booleans(), st.booleans(), st.integers(0, 99))
def test_attention_is_its_definition(shape, causal, window, scaled, qk_norm, seed):
    length, before, (count, kv) = shape
    torch.manual_seed(seed)
    inputs = heads(count, length, 8, keys=length + before, kv=kv, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in inputs]
    options = {
        "causal": causal,
        "window": window if causal else None,
        "multiplier": 1.25,
        "scaled": scaled,
        "qk_norm": qk_norm,
    }
    y, expected = attention(*inputs, **options), reference(*inputs, **options)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-6)
    g = randn(y.shape, dtype=torch.float64)
    for own, true in zip(torch.autograd.grad(y, inputs, g), torch.autograd.grad(expected, inputs, g), strict=True):
        torch.testing.assert_close(own, true, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 63), st.one_of(st.none(), st.integers(1, 40)))
def test_a_prefix_does_not_see_what_follows(length, window):
    q, k, v = heads(2, 64)
    whole = attention(q, k, v, window=window)[:, :, :length]
    prefix = attention(*(x[:, :, :length] for x in (q, k, v)), window=window)
    torch.testing.assert_close(prefix, whole, rtol=1e-5, atol=1e-5)


@given(st.integers(1, 63), st.one_of(st.none(), st.integers(1, 40)))
def test_a_cache_gives_the_last_rows(length, window):
    q, k, v = heads(2, 64)
    whole = attention(q, k, v, window=window)[:, :, -length:]
    torch.testing.assert_close(attention(q[:, :, -length:], k, v, window=window), whole, rtol=1e-5, atol=1e-5)


def test_shared_heads_equal_repeated_ones():
    q, k, v = heads(6, 20, kv=2)
    repeated = attention(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1))
    torch.testing.assert_close(attention(q, k, v), repeated, rtol=1e-5, atol=1e-6)


def test_values_may_have_another_size():
    q, k, _ = heads(2, 9, dim=8)
    assert attention(q, k, randn(1, 2, 9, 5)).shape == (1, 2, 9, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_type_is_kept(dtype):
    inputs = heads(2, 40, dtype=dtype)
    y = attention(*inputs)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), attention(*(x.double() for x in inputs)), rtol=0.03, atol=0.03)
    x = randn(3, 8, dtype=dtype, requires_grad=True)
    softmax(x).sum().backward()
    assert softmax(x).dtype == x.grad.dtype == dtype


# Gradients and transforms


def test_gradcheck():
    inputs = [x.requires_grad_() for x in heads(4, 5, dim=4, kv=2, dtype=torch.float64)]
    assert torch.autograd.gradcheck(attention, inputs)
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q[:, :, -3:], k, v, window=2), inputs)
    x = randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: softmax(x, 0, multiplier=0.7, constraint="output"), x)


def graphs_of(function, make):
    """How many graphs five lengths need; each result and gradient is compared with the eager one."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=True)
    for length in (7, 12, 16, 33, 70):
        inputs = [x.requires_grad_() for x in make(length)]
        y, expected = compiled(*inputs), function(*inputs)
        torch.testing.assert_close(y, expected, rtol=2e-5, atol=2e-5)
        g = randn(y.shape)
        pairs = zip(torch.autograd.grad(y, inputs, g), torch.autograd.grad(expected, inputs, g), strict=True)
        for own, eager in pairs:
            torch.testing.assert_close(own, eager, rtol=1e-4, atol=1e-4)
    return counter.frame_count


@pytest.mark.parametrize(
    ("options", "make"),
    [
        ({}, lambda n: heads(4, n, 8)),
        ({"causal": False}, lambda n: heads(4, n, 8)),
        ({"scaled": False}, lambda n: heads(4, n, 8)),
        ({"multiplier": 1.5, "qk_norm": True}, lambda n: heads(4, n, 8, kv=2)),
        ({"window": 3}, lambda n: heads(4, n, 8)),
        ({}, lambda n: heads(4, 3, 8, keys=n)),
    ],
    ids=["causal", "full", "unscaled", "gqa", "window", "cache"],
)
def test_five_lengths_of_attention_are_one_graph(options, make):
    assert graphs_of(lambda q, k, v: attention(q, k, v, **options), make) == 1


@pytest.mark.parametrize("constraint", [None, "output"])
def test_five_lengths_of_softmax_are_one_graph(constraint):
    def function(x, multiplier=1.5):
        return softmax(x, multiplier=multiplier, constraint=constraint)

    assert graphs_of(function, lambda n: (randn(3, n),)) == 1


def test_a_compiled_softmax_of_one_entry():
    torch._dynamo.reset()
    y = torch.compile(softmax, backend="eager", fullgraph=True)(randn(4, 1))
    torch.testing.assert_close(y, torch.ones(4, 1))


class Both(torch.nn.Module):
    def forward(self, q, k, v):
        return softmax(attention(q, k, v), -2)


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_dynamic_length(strict):
    length = torch.export.Dim("length", min=2, max=4096)
    program = torch.export.export(Both(), heads(4, 9, 8), dynamic_shapes=({2: length},) * 3, strict=strict)
    for n in (5, 40):
        inputs = heads(4, n, 8)
        torch.testing.assert_close(program.module()(*inputs), Both()(*inputs), rtol=2e-5, atol=2e-5)


def test_vmap():
    q, k, v = randn(3, 2, 4, 6, 8), randn(3, 2, 2, 6, 8), randn(3, 2, 2, 6, 8)
    each = torch.stack([Both()(*(x[i] for x in (q, k, v))) for i in range(3)])
    torch.testing.assert_close(torch.func.vmap(Both())(q, k, v), each)

    def slope(q):
        return torch.func.grad(lambda q: Both()(q, k[0], v[0]).square().sum())(q)

    torch.testing.assert_close(torch.func.vmap(slope)(q), torch.stack([slope(x) for x in q]))


def test_forward_mode():
    inputs = heads(2, 6, 4, dtype=torch.float64)
    tangents = heads(2, 6, 4, dtype=torch.float64)
    y, along = torch.func.jvp(Both(), inputs, tangents)
    step = 1e-6
    ahead, behind = (Both()(*(x + s * t for x, t in zip(inputs, tangents, strict=True))) for s in (step, -step))
    torch.testing.assert_close(y, Both()(*inputs))
    torch.testing.assert_close(along, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-7)


def test_fake_and_meta_tensors():
    moments.gain_polynomial.cache_clear()  # the constants themselves must be found without real tensors
    moments.softmax_scale.cache_clear()
    with FakeTensorMode():
        assert Both()(*heads(2, 6, 16)).shape == (1, 2, 6, 16)
    with torch.device("meta"):
        assert Both()(*heads(2, 6, 16)).device.type == "meta"


# Wrong input

Q = torch.zeros(1, 4, 3, 8)


@pytest.mark.parametrize(
    ("inputs", "options", "error", "words"),
    [
        ((Q, Q[:, :3], Q[:, :3]), {}, ValueError, "k: 3 heads do not divide the 4"),
        ((Q, Q[..., :6], Q), {}, ValueError, "k: shape"),
        ((Q, Q, Q[:, :, :2]), {}, ValueError, "v: shape"),
        ((Q[0], Q, Q), {}, ValueError, "q: shape"),
        ((Q, Q[:, :, :2], Q[:, :, :2]), {}, ValueError, "q: 3 causal rows but 2 keys"),
        ((Q, Q[:, :, :0], Q[:, :, :0]), {}, ValueError, "k: shape .* size 0"),
        ((Q.int(), Q, Q), {}, TypeError, "q: torch.int32"),
        ((Q, Q, Q.to(torch.complex64)), {}, TypeError, "v: torch.complex64"),
        ((Q, [1.0], Q), {}, TypeError, "k: list"),
        ((Q, Q, Q), {"window": 0}, ValueError, "window: 0"),
        ((Q, Q, Q), {"window": 2, "causal": False}, ValueError, "window: 2 with causal=False"),
        ((Q, Q, Q), {"multiplier": 17.0}, ValueError, "multiplier: 17"),
        ((Q, Q, Q), {"multiplier": math.nan}, ValueError, "multiplier: nan"),
    ],
)
def test_attention_refuses(inputs, options, error, words):
    with pytest.raises(error, match=words):
        attention(*inputs, **options)


@pytest.mark.parametrize(
    ("x", "options", "error", "words"),
    [
        (torch.zeros(3, dtype=torch.int64), {}, TypeError, "input: torch.int64"),
        (torch.zeros(3, 0), {}, ValueError, "input: shape"),
        (torch.zeros(3), {"multiplier": -20}, ValueError, "multiplier: -20"),
        (torch.zeros(3), {"constraint": "input"}, ValueError, "constraint: 'input'"),
    ],
)
def test_softmax_refuses(x, options, error, words):
    with pytest.raises(error, match=words):
        softmax(x, **options)
