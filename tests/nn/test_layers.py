"""Single layers: they compute the operation of their name, with the constants of their scheme, and outlive copying."""

import copy
import inspect
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry import nn
from allometry.nn import functional as F
from allometry.nn.ops.activations import ACTIVATIONS
from helpers.unit_scaled import assert_same, rms

T = torch.nn.functional
f64 = torch.float64
UNIT = pytest.approx(1, abs=0.02)
BASE = nn.Base(width=8, branches=4)
SCHEMES = ("umup", "sp", "mup", "completep", "mus")
# A layer with all its parameters, an input that it takes, and the kinds of its parameters.
LAYERS = {
    "Linear": (lambda: nn.Linear(6, 5, bias=True), (3, 6), {"weight": "hidden", "bias": "bias"}),
    "Readout": (lambda: nn.Readout(6, 5, bias=True), (3, 6), {"weight": "output", "bias": "bias"}),
    "Conv1d": (lambda: nn.Conv1d(6, 4, 3, 2, 1, 2, 2, bias=True), (3, 6, 9), {"weight": "hidden", "bias": "bias"}),
    "Conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), bias=True), (2, 4, 5, 6), {"weight": "hidden", "bias": "bias"}),
    "RMSNorm": (lambda: nn.RMSNorm(6, elementwise_affine=True), (3, 6), {"weight": "gain"}),
    "LayerNorm": (lambda: nn.LayerNorm(6, elementwise_affine=True), (3, 6), {"weight": "gain", "bias": "bias"}),
    "Embedding": (lambda: nn.Embedding(9, 6), None, {"weight": "input"}),
}
NAMES = {
    "ReLU": "relu", "ReLU2": "relu2", "GELU": "gelu", "SiLU": "silu", "Tanh": "tanh", "Sigmoid": "sigmoid",
    "Softplus": "softplus",
}  # fmt: skip


def example(shape):
    return torch.randint(9, (3, 4)) if shape is None else torch.randn(shape, dtype=f64)


def outcome(function, x, parameters):
    """The output and all gradients, for the same upstream gradient at every call."""
    x = x.detach().clone()
    wanted = [*parameters]
    if x.is_floating_point():
        wanted.insert(0, x.requires_grad_())
    y = function(x)
    upstream = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(3))
    return y, *torch.autograd.grad(y, wanted, upstream)


# ---- interface


@pytest.mark.parametrize(
    "name",
    ["Linear", "Conv1d", "Conv2d", "Embedding", "LayerNorm", "RMSNorm", "ReLU", "Softmax", "Dropout", "MSELoss"],
)
def test_positional_arguments_are_a_selection_of_torchs_in_its_order(name):
    positional = lambda c: [
        p.name
        for p in inspect.signature(c).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in ("device", "dtype")
    ]
    theirs = positional(getattr(torch.nn, name))
    ours = positional(getattr(nn, name))
    assert ours == [argument for argument in theirs if argument in ours]


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_have_the_names_and_shapes_of_torchs_and_a_role_each(name):
    make, _, kinds = LAYERS[name]
    layer = make()
    assert {key: role.kind for key, role in nn.roles(layer).items()} == kinds
    assert kinds.keys() == dict(layer.named_parameters()).keys()
    theirs = {
        "Linear": lambda: torch.nn.Linear(6, 5),
        "Readout": lambda: torch.nn.Linear(6, 5),
        "Conv1d": lambda: torch.nn.Conv1d(6, 4, 3, 2, 1, 2, 2),
        "Conv2d": lambda: torch.nn.Conv2d(4, 6, (3, 2)),
        "RMSNorm": lambda: torch.nn.RMSNorm(6),
        "LayerNorm": lambda: torch.nn.LayerNorm(6),
        "Embedding": lambda: torch.nn.Embedding(9, 6),
    }[name]()
    assert {k: v.shape for k, v in layer.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_fans_are_of_the_matrix_of_one_group():
    assert nn.roles(nn.Conv1d(6, 4, 3, groups=2))["weight"] == nn.Role("hidden", 9, 6)
    assert nn.roles(nn.Conv2d(6, 4, (3, 5)))["weight"] == nn.Role("hidden", 90, 60)
    assert nn.roles(nn.Linear(6, 4))["weight"] == nn.Role("hidden", 6, 4)
    assert nn.roles(nn.Embedding(6, 4))["weight"] == nn.Role("input", 6, 4)


# ---- the start


def test_weights_start_as_unit_normals_biases_at_0_and_gains_at_1():
    for layer in (nn.Linear(300, 300), nn.Readout(300, 300), nn.Embedding(300, 300), nn.Conv1d(300, 100, 3)):
        # 90 000 draws: sampling errors of 0.0033 in the mean, 0.0024 in the deviation.
        assert layer.weight.mean().item() == pytest.approx(0, abs=0.015)
        assert layer.weight.std().item() == pytest.approx(1, abs=0.01)
    for name, (make, _, kinds) in LAYERS.items():
        for key, parameter in make().named_parameters():
            if kinds[key] in ("bias", "gain"):
                assert (parameter == (kinds[key] == "gain")).all(), (name, key)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_start_has_the_deviation_of_the_scheme_also_when_drawn_again(scheme):
    readout = nn.parametrize(nn.Readout(400, 250), scheme, BASE)
    hidden = nn.parametrize(nn.Linear(400, 250), scheme, BASE)
    expected = {"umup": (1, 1), "mus": (1, 1), "sp": (1 / 20, 1 / 20)}.get(scheme, (8**-0.5, 1 / 20))
    for _ in range(2):
        for layer, std in zip((readout, hidden), expected, strict=True):
            assert layer.weight.std().item() == pytest.approx(std, rel=0.01)
            layer.reset_parameters()


def test_an_embedding_keeps_its_padding_at_0_when_drawn_and_trained():
    embedding = nn.Embedding(7, 3, padding_idx=2)
    tokens = torch.tensor([2, 3])
    y = embedding(tokens)
    assert not y[0].any()
    assert y[1].any()
    y.sum().backward()
    assert not embedding.weight.grad[2].any()
    assert embedding.weight.grad[3].any()


def test_device_and_type_are_those_asked_for():
    for make in (
        lambda **o: nn.Linear(3, 4, True, **o),
        lambda **o: nn.Readout(3, 4, True, **o),
        lambda **o: nn.Conv1d(3, 4, 2, bias=True, **o),
        lambda **o: nn.Conv2d(3, 4, 2, bias=True, **o),
        lambda **o: nn.Embedding(3, 4, **o),
        lambda **o: nn.RMSNorm(3, elementwise_affine=True, **o),
        lambda **o: nn.LayerNorm(3, elementwise_affine=True, **o),
    ):
        for device, dtype in (("cpu", torch.bfloat16), ("meta", torch.float64)):
            layer = make(device=device, dtype=dtype)
            assert {(p.device.type, p.dtype) for p in layer.parameters()} == {(device, dtype)}


# ---- the function


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_the_function_of_its_name(name):
    make, shape, _ = LAYERS[name]
    layer, x = make().double(), example(shape)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    function = {
        "Linear": lambda x: F.linear(x, layer.weight, layer.bias),
        "Readout": lambda x: F.linear(x, layer.weight, layer.bias, factors=nn.Factors(1 / 6, 5**-0.5)),
        "Conv1d": lambda x: F.conv1d(x, layer.weight, layer.bias, 2, 1, 2, 2),
        "Conv2d": lambda x: F.conv2d(x, layer.weight, layer.bias),
        "RMSNorm": lambda x: F.rms_norm(x, x.shape[-1:], layer.weight),
        "LayerNorm": lambda x: F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias),
        "Embedding": lambda x: F.embedding(x, layer.weight),
    }[name]
    parameters = list(layer.parameters())
    for mine, expected in zip(outcome(layer, x, parameters), outcome(function, x, parameters), strict=True):
        assert_same(mine, expected)


@pytest.mark.parametrize("name", ["Linear", "Readout", "Conv1d", "Conv2d"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("constraint", [None, "output"])
def test_under_every_scheme_a_layer_is_the_plain_one_times_its_multiplier(name, scheme, constraint):
    """The gradient of the input: true under the constraint, else at unit scale for weights of its deviation."""
    fan_in, fan_out, make, plain, rows = {
        "Linear": (6, 5, lambda: nn.Linear(6, 5, constraint=constraint), T.linear, 3),
        "Readout": (6, 5, lambda: nn.Readout(6, 5, constraint=constraint), T.linear, 3),
        "Conv1d": (
            9, 6, lambda: nn.Conv1d(6, 4, 3, groups=2, constraint=constraint), lambda x, w: T.conv1d(x, w, groups=2), 21
        ),
        "Conv2d": (24, 36, lambda: nn.Conv2d(4, 6, (3, 2), constraint=constraint), T.conv2d, 30),
    }[name]  # fmt: skip
    layer, x = nn.parametrize(make(), scheme, BASE).double(), example(LAYERS[name][1])
    relative = scheme in ("mup", "completep")
    if name == "Readout":
        multiplier = {"sp": 1, "mup": 8 / 6, "completep": 8 / 6}.get(scheme, 1 / 6)
        deviation = 8**-0.5 if relative else 6**-0.5 if scheme == "sp" else 1
    else:
        multiplier, deviation = (fan_in**-0.5, 1) if scheme in ("umup", "mus") else (1, fan_in**-0.5)
    backward = multiplier if constraint else 1 / (deviation * math.sqrt(fan_out))
    y, grad_x, grad_weight = outcome(layer, x, [layer.weight])
    true, true_x, true_weight = outcome(lambda x: plain(x, layer.weight), x, [layer.weight])
    assert_same(y, multiplier * true)
    assert_same(grad_x, backward * true_x)
    assert_same(grad_weight, rows**-0.5 * true_weight)
    if name in ("Linear", "Readout"):
        assert layer.backward_ratio == pytest.approx(backward / multiplier)


@given(st.floats(0.2, 4), st.floats(0.2, 4), st.sampled_from([None, "output"]))
def test_a_gain_is_an_operation_left_out_before(forward, backward, constraint):
    """The same output and gradients as with ``scale`` before a layer without, whatever it is put to."""
    gain = nn.Scale(forward, forward if constraint else backward)
    folded = nn.Linear(6, 5, True, constraint=constraint, gain=gain).double()
    plain = nn.Linear(6, 5, True, constraint=constraint).double()
    plain.load_state_dict(folded.state_dict())
    x = torch.randn(4, 6, dtype=f64)
    mine = outcome(folded, x, folded.parameters())
    expected = outcome(lambda x: plain(nn.scale(x, *gain)), x, plain.parameters())
    for a, b in zip(mine, expected, strict=True):
        assert_same(a, b)


@settings(max_examples=8)
@given(st.integers(256, 640), st.integers(256, 640))
def test_readout_gives_logits_of_inverse_root_width_and_unit_gradients(width, vocab):
    """Forward 1/fan_in; backward fan_out^-½, so the body below and the weight have gradients at unit scale."""
    readout, x = nn.Readout(width, vocab), torch.randn(512, width, requires_grad=True)
    logits = readout(x)
    logits.backward(torch.randn_like(logits))
    assert rms(logits) * math.sqrt(width) == UNIT
    assert rms(x.grad) == UNIT
    assert rms(readout.weight.grad) == UNIT


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_starts_hidden_layers_at_unit_scale_both_ways(scheme):
    for layer, x in (
        (nn.Linear(400, 256), torch.randn(512, 400)),
        (nn.Conv1d(200, 300, 4, 2, groups=2), torch.randn(2, 200, 1000)),
    ):
        nn.parametrize(layer, scheme, BASE)
        y, grad_x, grad_weight = outcome(layer, x, [layer.weight])
        assert [rms(y), rms(grad_x), rms(grad_weight)] == [UNIT] * 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("constraint", [None, "output"])
def test_activation_layers_are_their_functions(name, constraint):
    x = torch.randn(4, 5, dtype=f64)
    function = lambda x: getattr(F, NAMES[name])(x, constraint=constraint)
    assert_same(outcome(getattr(nn, name)(constraint=constraint), x, []), outcome(function, x, []))
    assert set(NAMES.values()) == set(ACTIVATIONS)


@pytest.mark.parametrize(("name", "function"), [("SwiGLU", F.swiglu), ("GEGLU", F.geglu)])
@pytest.mark.parametrize("constraint", [None, "output"])
@pytest.mark.parametrize("dim", [-1, 0])
def test_gates_split_their_input_gate_first(name, function, constraint, dim):
    x = torch.randn(4, 6, dtype=f64)
    expected = lambda x: function(*x.chunk(2, dim), constraint=constraint)
    assert_same(outcome(getattr(nn, name)(dim, constraint=constraint), x, []), outcome(expected, x, []))


def test_softmax_dropout_and_losses_hand_on_their_arguments():
    x, targets = torch.randn(6, 5, dtype=f64), torch.tensor([0, 1, 2, 3, 1, 2])
    for options in ({}, {"multiplier": 2.0, "constraint": "output"}):
        assert_same(outcome(nn.Softmax(0, **options), x, []), outcome(lambda x, o=options: F.softmax(x, 0, **o), x, []))
    smooth = {"ignore_index": 3, "reduction": "sum", "label_smoothing": 0.1}
    for options in ({}, {"ignore_index": 1}, {"reduction": "none"}, smooth):
        assert_same(
            outcome(lambda x, o=options: nn.CrossEntropyLoss(**o)(x, targets), x, []),
            outcome(lambda x, o=options: F.cross_entropy(x, targets, **o), x, []),
        )
    for options in ({}, {"reduction": "none"}, {"reduction": "sum"}):
        assert_same(
            outcome(lambda x, o=options: nn.MSELoss(**o)(x, x.detach() + 1), x, []),
            outcome(lambda x, o=options: F.mse_loss(x, x.detach() + 1, **o), x, []),
        )
    dropout = nn.Dropout(0.4)
    torch.manual_seed(1)
    dropped = dropout(x)
    torch.manual_seed(1)
    assert_same(dropped, F.dropout(x, 0.4))
    assert dropout.eval()(x) is x


def test_norms_read_their_eps():
    x = torch.randn(3, 6, dtype=f64)
    assert_same(nn.RMSNorm(6, 0.5)(x), T.rms_norm(x, (6,), eps=0.5))
    assert_same(nn.LayerNorm(6, 0.5)(x), T.layer_norm(x, (6,), eps=0.5))


def test_layers_say_what_they_are():
    assert repr(nn.Linear(3, 4)) == "Linear(3, 4, bias=False)"
    assert repr(nn.Linear(3, 4, True, constraint="output")) == "Linear(3, 4, bias=True, constraint='output')"
    assert "kernel_size=(3, 3), stride=(2, 2)" in repr(nn.Conv2d(3, 4, 3, 2))
    assert repr(nn.RMSNorm(3)) == "RMSNorm(3, eps=1e-06, elementwise_affine=False)"
    assert repr(nn.Dropout(0.25)) == "Dropout(p=0.25)"
    assert repr(nn.ReLU(constraint="output")) == "ReLU(constraint='output')"


# ---- copies, loading, materialising


def everything():
    """Every layer in one model, none at its default scheme."""
    layers = {name: make() for name, (make, _, _) in LAYERS.items()}
    others = {"mlp": nn.MLP(6, 8, "gelu", True), "decoder": nn.Decoder(11, 2, 8, 2, norm="post", qk_norm=True)}
    return nn.parametrize(torch.nn.ModuleDict(layers | others), "completep", BASE)


def outputs(model):
    torch.manual_seed(5)
    found = [
        model[name](torch.randint(9, (3, 4)) if s is None else torch.randn(s)) for name, (_, s, _) in LAYERS.items()
    ]
    return [*found, model["mlp"](torch.randn(3, 6)), model["decoder"](torch.randint(11, (2, 7)))]


def with_gradients(model):
    model.zero_grad()
    found = outputs(model)
    sum(y.square().sum() for y in found).backward()
    return [*found, *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deep", "pickle"])
def test_a_copy_has_the_same_function_and_gradients_and_is_apart(duplicate):
    model = everything()
    twin = duplicate(model)
    before = with_gradients(model)
    for mine, theirs in zip(before, with_gradients(twin), strict=True):
        assert torch.equal(mine, theirs)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert torch.equal(outputs(model)[-1], before[len(LAYERS) + 1])
    assert repr(twin) == repr(model)


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_holds_weights_alone_and_round_trips(assign):
    model, other = everything(), everything()
    assert not torch.equal(outputs(model)[0], outputs(other)[0])
    assert set(model.state_dict()) == dict(model.named_parameters()).keys()
    other.load_state_dict(copy.deepcopy(model.state_dict()), assign=assign)
    for mine, theirs in zip(with_gradients(model), with_gradients(other), strict=True):
        assert torch.equal(mine, theirs)


def test_a_decoder_made_on_the_meta_device_and_reset_is_the_one_made_at_once():
    torch.manual_seed(7)
    model = nn.Decoder(23, 2, 16, 4, kv_heads=2)
    with torch.device("meta"):
        later = nn.Decoder(23, 2, 16, 4, kv_heads=2)
    later.to_empty(device="cpu")
    assert not list(later.buffers())
    for tensor in later.parameters():
        torch.nn.init.constant_(tensor, math.nan)
    torch.manual_seed(7)
    later.apply(lambda module: module.reset_parameters() if hasattr(module, "reset_parameters") else None)
    tokens = torch.randint(23, (2, 9))
    assert torch.equal(model(tokens), later(tokens))


def test_a_module_cast_to_another_type_keeps_its_factors():
    layer = nn.Linear(6, 5)
    factors = layer.factors()
    assert layer.bfloat16().factors() == factors
    assert layer(torch.randn(3, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16
