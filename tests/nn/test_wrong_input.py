"""What is refused: each error is of the kind that Python has for it, and names the argument and the value."""

import re
from functools import partial

import pytest
import torch

from allometry import nn
from allometry.nn import functional as F
from allometry.nn.ops.activations import ACTIVATIONS, GATES

x = torch.randn(3, 4)
weight = torch.randn(5, 4)
images, taps = torch.randn(2, 4, 9), torch.randn(6, 4, 3)
pixels, squares = torch.randn(2, 4, 9, 9), torch.randn(6, 4, 3, 3)
tokens = torch.tensor([0, 2])


def apply(function, place, tensor):
    """A gate, with ``tensor`` in one of its two places."""
    return function(*((tensor, x) if place == 0 else (x, tensor)))


def constrain(function, *arguments_and_constraint):
    *arguments, constraint = arguments_and_constraint
    return function(*arguments, constraint=constraint)


# Each operation as a function of one of its floating-point tensors: the name of the argument, a tensor that is right.
TENSORS = {
    "linear input": ("input", x, lambda t: F.linear(t, weight)),
    "linear weight": ("weight", weight, lambda t: F.linear(x, t)),
    "conv1d input": ("input", images, lambda t: F.conv1d(t, taps)),
    "conv1d weight": ("weight", taps, lambda t: F.conv1d(images, t)),
    "conv2d input": ("input", pixels, lambda t: F.conv2d(t, squares)),
    "conv2d weight": ("weight", squares, lambda t: F.conv2d(pixels, t)),
    "embedding weight": ("weight", weight, lambda t: F.embedding(tokens, t)),
    "rms_norm": ("input", x, lambda t: F.rms_norm(t, t.shape[-1:])),
    "layer_norm": ("input", x, lambda t: F.layer_norm(t, t.shape[-1:])),
    "residual_split": ("x", x, lambda t: F.residual_split(t, 0.6, 0.8)),
    "residual_split norm": ("x", x, lambda t: F.residual_split(t, 0.6, 0.8, norm=True)),
    "add a": ("a", x, lambda t: F.add(t, x)),
    "add b": ("b", x, lambda t: F.add(x, t)),
    "dropout": ("input", x, F.dropout),
    "softmax": ("input", x, F.softmax),
    "cross_entropy": ("input", x, lambda t: F.cross_entropy(t, torch.tensor([0, 1, 2]))),
    "mse_loss input": ("input", x, lambda t: F.mse_loss(t, x)),
    "mse_loss target": ("target", x, lambda t: F.mse_loss(x, t)),
    **{name: ("input", x, getattr(F, name)) for name in ACTIVATIONS},
    **{f"{name} gate": ("gate", x, partial(apply, getattr(F, name), 0)) for name in GATES},
    **{f"{name} up": ("up", x, partial(apply, getattr(F, name), 1)) for name in GATES},
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_tensors_that_are_not_real_floating_point_are_refused(name, dtype):
    argument, right, function = TENSORS[name]
    function(right)
    with pytest.raises(TypeError, match=rf"^{argument}: {re.escape(str(dtype))} "):
        function(right.to(dtype))


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_without_elements_are_refused(name):
    argument, right, function = TENSORS[name]
    for axis in range(right.dim()):
        empty = right.narrow(axis, 0, 0)
        with pytest.raises(ValueError, match=rf"^{argument}: shape {re.escape(str(tuple(empty.shape)))} "):
            function(empty)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_tokens_that_are_not_integers_are_refused(dtype):
    with pytest.raises(TypeError, match=rf"^input: {dtype} cannot index a table"):
        F.embedding(tokens.to(dtype), weight)
    with pytest.raises(TypeError, match=rf"^input: {dtype} cannot index a table"):
        nn.Decoder(5, 1, 8, 2)(tokens[None].to(dtype))


def test_no_tokens_are_refused():
    with pytest.raises(ValueError, match=r"^input: shape \(2, 0\) "):
        F.embedding(torch.zeros(2, 0, dtype=torch.long), weight)


# What is called, the error, and what its message says: the argument first, the value, what would do.
CALLS = {
    "linear features": (lambda: F.linear(x, torch.randn(5, 3)), ValueError, r"input: shape \(3, 4\), .* 3 features"),
    "Linear features": (lambda: nn.Linear(6, 2)(x), ValueError, r"input: shape \(3, 4\), .* 6 features"),
    "conv1d channels": (lambda: F.conv1d(images, torch.randn(6, 3, 3)), ValueError, r"input: shape .*4.*, .* reads 3"),
    "conv1d group channels": (lambda: F.conv1d(images, taps, groups=2), ValueError, r"input: shape .*4.*, .* reads 8"),
    "conv2d channels": (lambda: F.conv2d(pixels, torch.randn(6, 3, 3, 3)), ValueError, r"input: shape .*4.* reads 3"),
    "Conv1d groups in": (lambda: nn.Conv1d(5, 6, 3, groups=3), ValueError, "groups: 3 divides not both 5 and 6"),
    "Conv2d groups out": (lambda: nn.Conv2d(6, 5, 3, groups=3), ValueError, "groups: 3 divides not both 6 and 5"),
    "groups 0": (lambda: nn.Conv1d(4, 4, 3, groups=0), ValueError, "groups: 0 .* at least 1"),
    "in_features": (lambda: nn.Linear(0, 3), ValueError, "in_features: 0 .* at least 1"),
    "out_features": (lambda: nn.Linear(3, -2), ValueError, "out_features: -2 .* at least 1"),
    "Readout": (lambda: nn.Readout(3, 0), ValueError, "out_features: 0 .* at least 1"),
    "in_channels": (lambda: nn.Conv1d(0, 3, 3), ValueError, "in_channels: 0 .* at least 1"),
    "out_channels": (lambda: nn.Conv2d(3, 0, 3), ValueError, "out_channels: 0 .* at least 1"),
    "num_embeddings": (lambda: nn.Embedding(0, 3), ValueError, "num_embeddings: 0 .* at least 1"),
    "embedding_dim": (lambda: nn.Embedding(3, 0), ValueError, "embedding_dim: 0 .* at least 1"),
    "RMSNorm": (lambda: nn.RMSNorm(0), ValueError, "normalized_shape: 0 .* at least 1"),
    "LayerNorm": (lambda: nn.LayerNorm(-1), ValueError, "normalized_shape: -1 .* at least 1"),
    "odd gate": (lambda: nn.SwiGLU()(torch.randn(2, 5)), ValueError, "x: size 5 of dimension -1 is odd"),
    "odd gate dim": (lambda: nn.GEGLU(0)(torch.randn(3, 4)), ValueError, "x: size 3 of dimension 0 is odd"),
    "rope_tables": (lambda: F.rope_tables(4, 5), ValueError, "head_dim: 5 is odd"),
    "heads": (lambda: nn.Attention(16, 3), ValueError, "heads: 3 heads do not divide width 16"),
    "no heads": (lambda: nn.Attention(16, 0), ValueError, "heads: 0 heads do not divide width 16"),
    "negative heads": (lambda: nn.Attention(16, -2), ValueError, "heads: -2 heads do not divide width 16"),
    "odd head": (lambda: nn.Attention(12, 4), ValueError, "heads: 3 dimensions a head; rope needs an even number"),
    "kv_heads": (lambda: nn.Attention(16, 4, 3), ValueError, "kv_heads: 3 does not divide 4 heads"),
    "kv_heads 0": (lambda: nn.Attention(16, 4, 0), ValueError, "kv_heads: 0 does not divide 4 heads"),
    "kv_heads more": (lambda: nn.Attention(16, 4, 8), ValueError, "kv_heads: 8 does not divide 4 heads"),
    "window": (lambda: nn.Attention(16, 4, window=0), ValueError, "window: 0 positions"),
    "through block": (lambda: nn.TransformerBlock(16, 3), ValueError, "heads: 3 heads do not divide width 16"),
    "through decoder": (lambda: nn.Decoder(5, 1, 16, 4, kv_heads=3), ValueError, "kv_heads: 3 does not divide 4"),
    "Attention width": (lambda: nn.Attention(16, 4)(torch.randn(2, 3, 8)), ValueError, r"input: .*\(2, 3, 8\), .* 16"),
    "hidden": (lambda: nn.MLP(8, 0), ValueError, "out_features: 0 .* at least 1"),
    "activation": (lambda: nn.MLP(8, activation="mish"), ValueError, "activation: 'mish' is unknown; .*'swiglu'"),
    "block activation": (lambda: nn.TransformerBlock(8, 2, activation="x"), ValueError, "activation: 'x' is unknown"),
    "norm": (lambda: nn.TransformerBlock(8, 2, norm="sandwich"), ValueError, "norm: 'sandwich' .*'pre' or 'post'"),
    "no blocks": (lambda: nn.ResidualStack([]), ValueError, "blocks: none given"),
    "no layers": (lambda: nn.Decoder(5, 0, 8, 2), ValueError, "blocks: none given"),
    "vocab": (lambda: nn.Decoder(0, 1, 8, 2), ValueError, "num_embeddings: 0 .* at least 1"),
    "dropout p": (lambda: F.dropout(x, 1.0), ValueError, "p: 1.0 .* 0 ≤ p < 1"),
    "dropout negative": (lambda: F.dropout(x, -0.1), ValueError, "p: -0.1 .* 0 ≤ p < 1"),
    "dropout nan": (lambda: F.dropout(x, float("nan")), ValueError, "p: nan .* 0 ≤ p < 1"),
    "Dropout p": (lambda: nn.Dropout(1.5), ValueError, "p: 1.5 .* 0 ≤ p < 1"),
    "cross_entropy reduction": (
        lambda: nn.CrossEntropyLoss(reduction="avg")(x, torch.tensor([0, 1, 2])),
        ValueError,
        "reduction: 'avg' is unknown; .*'mean', 'sum', 'none'",
    ),
    "mse reduction": (lambda: nn.MSELoss(reduction="avg")(x, x), ValueError, "reduction: 'avg' is unknown; .*'mean'"),
    "one class": (lambda: F.cross_entropy(x[:, :1], torch.zeros(3).long()), ValueError, "input: 1 class .* 2"),
    "accumulation": (lambda: nn.accumulation(0).__enter__(), ValueError, "parts: 0 .* at least 1"),
    "scheme": (lambda: nn.parametrize(nn.Linear(3, 4), "ntk"), ValueError, "scheme: 'ntk' is unknown; .*'umup'"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_what_does_not_fit_is_refused_by_name_and_value(name):
    call, error, message = CALLS[name]
    with pytest.raises(error, match=f"^{message}"):
        call()


CONSTRAINED = {
    "linear": lambda c: F.linear(x, weight, constraint=c),
    "conv1d": lambda c: F.conv1d(images, taps, constraint=c),
    "conv2d": lambda c: F.conv2d(pixels, squares, constraint=c),
    "softmax": lambda c: F.softmax(x, constraint=c),
    "Linear": lambda c: nn.Linear(3, 4, constraint=c),
    "Readout": lambda c: nn.Readout(3, 4, constraint=c),
    "Conv1d": lambda c: nn.Conv1d(3, 4, 3, constraint=c),
    "Conv2d": lambda c: nn.Conv2d(3, 4, 3, constraint=c),
    **{name: partial(constrain, getattr(F, name), x) for name in ACTIVATIONS},
    **{name: partial(constrain, getattr(F, name), x, x) for name in GATES},
    **{
        name: partial(constrain, getattr(nn, name))
        for name in ("ReLU", "ReLU2", "GELU", "SiLU", "Tanh", "Sigmoid", "Softplus", "Softmax", "SwiGLU", "GEGLU")
    },
}


@pytest.mark.parametrize("name", CONSTRAINED)
@pytest.mark.parametrize("constraint", ["gmean", True, ""])
def test_a_constraint_that_is_unknown_is_refused(name, constraint):
    CONSTRAINED[name]("output")
    with pytest.raises(ValueError, match=rf"^constraint: {constraint!r} .*output"):
        CONSTRAINED[name](constraint)


# What is not refused yet, or not by name.
UNFIT = {
    "scale of integers": (lambda: nn.scale(torch.arange(3), 2.0, 2.0), TypeError, "x: torch.int64"),
    "residual_add of integers": (
        lambda: F.residual_add(torch.ones(3).long(), torch.ones(3).long(), 0.6, 0.8), TypeError, "branch: torch.int64"
    ),
    "residual_add shapes": (lambda: F.residual_add(x, x[:1], 0.6, 0.8), ValueError, r"skip: .*\(1, 4\)"),
    "onto rows": (lambda: F.linear(x, weight, onto=torch.randn(1, 5)), ValueError, r"onto: .*\(1, 5\)"),
    "onto transposed": (lambda: F.linear(x, weight, onto=torch.randn(5, 3)), ValueError, r"onto: .*\(5, 3\)"),
    "onto integers": (lambda: F.linear(x, weight, onto=torch.ones(3, 5).long()), TypeError, "onto: torch.int64"),
    "bias of one": (lambda: F.linear(x, weight, torch.randn(1)), ValueError, r"bias: .*\(1,\)"),
    "bias size": (lambda: F.linear(x, weight, torch.randn(3)), ValueError, r"bias: .*\(3,\)"),
    "bias integers": (lambda: F.linear(x, weight, torch.ones(5).long()), TypeError, "bias: torch.int64"),
    "weight axes": (lambda: F.linear(x, weight[0]), ValueError, r"weight: .*\(4,\)"),
    "x without axes": (lambda: F.linear(torch.tensor(1.0), weight), ValueError, r"input: .*\(\)"),
    "x is a list": (lambda: F.linear([1.0, 2.0], weight), TypeError, "input: list"),
    "norm's weight size": (lambda: F.rms_norm(x, (4,), torch.randn(3)), ValueError, r"weight: .*\(3,\)"),
    "gate shapes": (lambda: F.swiglu(x, x[:, :1]), ValueError, r"up: .*\(3, 1\)"),
    "mse shapes": (lambda: F.mse_loss(x, x[:, :1]), ValueError, r"target: .*\(3, 1\)"),
    "function groups": (lambda: F.conv1d(images, torch.randn(5, 2, 3), groups=2), ValueError, "groups: 2"),
    "kernel_size": (lambda: nn.Conv1d(3, 4, 0), ValueError, "kernel_size: 0"),
    "kernel_size axes": (lambda: nn.Conv2d(3, 4, (3,)), ValueError, r"kernel_size: \(3,\)"),
    "stride": (lambda: nn.Conv1d(3, 4, 3, 0), ValueError, "stride: 0"),
    "padding name": (lambda: nn.Conv1d(3, 4, 3, padding="same")(torch.randn(1, 3, 9)), ValueError, "padding: 'same'"),
    "window both ways": (lambda: nn.Attention(16, 4, causal=False, window=3), ValueError, "window: 3"),
    "attention axes": (lambda: nn.Attention(16, 4)(torch.randn(3, 16)), ValueError, r"x: .*\(3, 16\)"),
    "tokens axes": (lambda: nn.Decoder(5, 1, 8, 2)(tokens), ValueError, r"tokens: .*\(2,\)"),
    "constraint beside factors": (
        lambda: F.linear(x, weight, constraint="x", factors=nn.Factors(1.0, 1.0)), ValueError, "constraint: 'x'"
    ),
    "exact_scale of a constant": (lambda: nn.exact_scale(torch.ones_like), ValueError, "function: .*ones_like"),
    "exact_scale without a slope": (lambda: nn.exact_scale(torch.sign), ValueError, "function: .*sign"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_what_would_fit_by_accident_is_refused_by_name_and_value_too(name):
    call, error, message = UNFIT[name]
    with pytest.raises(error, match=f"^{message}"):
        call()
