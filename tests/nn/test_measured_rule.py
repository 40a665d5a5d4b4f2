"""Measured scaling: the same function and gradients from operands near 1, for any of the modules it treats."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from allometry.nn.conversion.measured.measured_factors import ActivationFactor, GradientFactor, WeightFactor
from allometry.nn.conversion.measured.measured_modules import MeasuredLinear, finetune_groups, measured_modules, unscale
from allometry.nn.conversion.measured.operand_ranges import exponent_bits, range_report
from allometry.nn.conversion.scale_model import scale_model
from allometry.nn.precision.formats import E3M2

CROSS_ENTROPY = F.cross_entropy


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


def mlp():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def audio_net():
    return nn.Sequential(
        nn.Conv1d(1, 8, 9, stride=4, padding=4, bias=False),  # a norm follows, and the gradient of a bias would be 0
        nn.BatchNorm1d(8, eps=1e-10),
        nn.ReLU(),
        nn.Conv1d(8, 8, 5, padding="same", padding_mode="circular", dilation=2, groups=2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def image_net():
    return nn.Sequential(nn.Conv2d(3, 4, (3, 5), stride=(1, 2), padding=(1, 2)), nn.Flatten(), nn.Linear(4 * 6 * 3, 5))


class Text(nn.Module):
    """A tied table: one parameter, used by two modules."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 16, padding_idx=0)
        self.hidden = nn.Linear(16, 16)
        self.out = nn.Linear(16, 11, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens):
        return self.out(torch.tanh(self.hidden(self.table(tokens)))).flatten(0, 1)


CASES = {
    "mlp": (mlp, lambda: torch.randn(20, 64) * 40, 10),
    "audio": (audio_net, lambda: torch.randn(5, 1, 64) * 1e-3, 3),
    "image": (image_net, lambda: torch.randn(4, 3, 6, 6), 5),
    "tied": (Text, lambda: torch.randint(11, (2, 3)), 11),
}


def case(name, seed=0):
    torch.manual_seed(seed)
    make, inputs, classes = CASES[name]
    model, x = make(), inputs()
    rows = len(model(x))
    return model, (x, torch.randint(classes, (rows,)))


def gradients(model, x, y):
    """Of the input (where it has one) and of every θ, whatever the parameter holds."""
    x = x.clone().requires_grad_() if x.is_floating_point() else x
    model.zero_grad()
    CROSS_ENTROPY(model(x), y).backward()
    factors = {id(m.weight): float(m.weight_factor.value) for m in measured_modules(model).values()}
    found = {name: p.grad / factors.get(id(p), 1.0) for name, p in model.named_parameters()}
    return found | ({"input": x.grad} if x.is_floating_point() else {})


@pytest.mark.parametrize("rule", ["absmax", "rms"])
@pytest.mark.parametrize("options", [{}, {"running": True}, {"power_of_two": True}], ids=["fixed", "running", "pow2"])
@pytest.mark.parametrize("name", CASES)
def test_the_function_and_its_gradients_stay(name, rule, options):
    model, batch = case(name)
    scaled = scale_model(model, batch, rule, CROSS_ENTROPY, **options)
    for training in (False, True):
        # A batch norm in training moves its statistics, alike in both.
        plain, other = copy.deepcopy(model).train(training), copy.deepcopy(scaled).train(training)
        assert relative(other(batch[0]), plain(batch[0])) < 1e-6
        expected = gradients(plain, *batch)
        found = gradients(other, *batch)
        assert found.keys() == expected.keys()
        for key, grad in found.items():
            assert relative(grad, expected[key]) < 1e-5, key
    if options.get("power_of_two"):
        assert torch.equal(scaled.eval()(batch[0]), model.eval()(batch[0]))


@given(rule=st.sampled_from(["absmax", "rms"]), rows=st.integers(1, 9), fan_in=st.integers(1, 40), data=st.data())
def test_any_linear_map_of_any_scale(rule, rows, fan_in, data):
    bias, exponent = data.draw(st.booleans()), data.draw(st.integers(-12, 12))
    plain = nn.Linear(fan_in, 7, bias=bias)
    with torch.no_grad():
        plain.weight.mul_(10.0**exponent)
    x = torch.randn(2, rows, fan_in) * 10.0 ** data.draw(st.integers(-6, 6))
    scaled = scale_model(plain, x, rule)
    assert isinstance(scaled, MeasuredLinear)
    torch.testing.assert_close(scaled(x), plain(x), rtol=1e-6, atol=1e-6 * float(plain(x).detach().abs().max()))
    with torch.no_grad():
        torch.testing.assert_close(scaled.unscaled_weight(), plain.weight, rtol=1e-6, atol=0)
    weight = scaled.weight.detach()
    size = weight.abs().max() / math.sqrt(fan_in) if rule == "absmax" else weight.square().mean().sqrt()
    assert float(size) == pytest.approx(1, rel=1e-5)


def test_the_factors_are_those_of_the_definition():
    model, batch = case("mlp")
    scaled = scale_model(model, batch, "absmax", CROSS_ENTROPY)
    assert float(scaled[0].weight_factor.measured) == pytest.approx(float(model[0].weight.detach().abs().max()) / 8)
    assert float(scaled[0].input_factor.measured) == pytest.approx(float(batch[0].abs().max()) / 8)
    hidden = model[:1](batch[0])
    hidden.retain_grad()
    CROSS_ENTROPY(model[1:](hidden), batch[1]).backward()
    assert float(scaled[0].grad_factor.measured) == pytest.approx(float(hidden.grad.abs().max()) / math.sqrt(32))
    scaled = scale_model(model, batch, "rms", CROSS_ENTROPY)
    assert float(scaled[0].grad_factor.measured) == pytest.approx(float(hidden.grad.square().mean().sqrt()))


def test_convolutions_count_channels_and_not_the_length():
    model, (x, _) = case("audio")
    model.eval()
    scaled = scale_model(model, x, "absmax")
    assert float(scaled[0].input_factor.measured) == pytest.approx(float(x.abs().max()))
    assert float(scaled[0].weight_factor.measured) == pytest.approx(float(model[0].weight.detach().abs().max()) / 3)
    inputs = model[:3](x).detach()
    assert float(scaled[3].input_factor.measured) == pytest.approx(float(inputs.abs().max()) / math.sqrt(8))


class Spy:
    """A format that rounds nothing and keeps what it was given."""

    def __init__(self):
        self.seen = []

    def cast(self, x):
        self.seen.append(x.clone())
        return x


def test_what_the_products_read_is_near_one():
    model, batch = case("mlp")
    operands, grads = Spy(), Spy()
    scaled = scale_model(model, batch, "rms", CROSS_ENTROPY, format=(operands, grads))
    CROSS_ENTROPY(scaled(batch[0]), batch[1]).backward()
    assert (len(operands.seen), len(grads.seen)) == (4, 2)
    for seen in operands.seen + grads.seen:
        assert float(seen.square().mean().sqrt()) == pytest.approx(1, rel=1e-4)


def test_a_running_gradient_factor_needs_no_loss():
    """Nothing was measured, so the first gradient sets the factor, and its product already reads it at unit scale."""
    model, (x, y) = case("mlp")
    grads = Spy()
    scaled = scale_model(model, x, "rms", running=True, momentum=0.5, format=(None, grads))
    assert float(scaled[2].grad_factor.value) == 1
    CROSS_ENTROPY(scaled(x), y).backward()
    for seen in grads.seen:
        assert float(seen.square().mean().sqrt()) == pytest.approx(1, rel=1e-4)
    before = float(scaled[2].grad_factor.value)
    (3 * CROSS_ENTROPY(scaled(x), y)).backward()
    assert float(scaled[2].grad_factor.value) == pytest.approx(2 * before, rel=1e-4)
    (9 * CROSS_ENTROPY(scaled.eval()(x), y)).backward()
    assert float(scaled[2].grad_factor.value) == pytest.approx(2 * before, rel=1e-4)


# Not for text alone: scikit-learn's digits, and sounds


def sound(count=24, length=128):
    """Tones and chirps in noise, 50 dB below full scale, by kind."""
    kind = torch.arange(count) % 2
    time = torch.arange(length) / length
    phase = 2 * math.pi * (8 * time + 12 * kind[:, None] * time**2 + torch.rand(count, 1))
    return 0.003 * (phase.sin() + 0.5 * torch.randn(count, length))[:, None], kind


def digits(count=64):
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    return torch.tensor(x[:count]).float(), torch.tensor(y[:count]).long()


@pytest.mark.parametrize("rule", ["absmax", "rms"])
@pytest.mark.parametrize(("data", "make"), [(digits, mlp), (sound, audio_net)], ids=["digits", "sound"])
def test_digits_and_sounds(data, make, rule):
    """The same outputs and gradients, and a format of three exponent bits that serves only the scaled one."""
    model, (x, y) = make(), data()
    scaled = scale_model(model, (x, y), rule, CROSS_ENTROPY)
    assert relative(scaled(x), model(x)) < 1e-6
    expected, found = gradients(model, x, y), gradients(scaled, x, y)
    for key, grad in found.items():
        assert relative(grad, expected[key]) < 1e-5, key
    report = range_report(scaled, (x, y), CROSS_ENTROPY)
    assert report.after == 4 < report.before

    def error(**options):
        rough = scale_model(model, (x, y), rule, CROSS_ENTROPY, format=E3M2, **options)
        grads = gradients(rough, x, y)
        return max(relative(grads[key], expected[key]) for key in grads if key.endswith("weight"))

    assert error() < 0.3
    assert error(parts=()) > 0.8


def test_the_mode_is_the_models_own():
    """Before training, a batch norm passes quiet inputs on as they are in evaluation, and at unit scale in training."""
    model, (x, _) = case("audio")
    training = scale_model(model.train(), x, "rms")[3].input_factor.value
    evaluating = scale_model(model.eval(), x, "rms")[3].input_factor.value
    assert training == pytest.approx(0.5**0.5, rel=0.1)
    assert evaluating < 0.01


def test_dropout_is_drawn_alike():
    """In training the plain and the scaled model are compared on the same draws, and none is taken from the user."""
    model = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    x = torch.randn(8, 16)
    state = torch.get_rng_state()
    scaled = scale_model(model, x, "absmax", running=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert int(scaled[0].input_factor.seen) == x.numel()


def test_parts_are_scaled_alone():
    model, batch = case("mlp")
    for part in ("weight", "activation", "gradient"):
        layer = scale_model(model, batch, "absmax", CROSS_ENTROPY, parts=(part,))[0]
        factors = {"weight": layer.weight_factor, "activation": layer.input_factor, "gradient": layer.grad_factor}
        assert [name for name, scaling in factors.items() if scaling.value != 1] == [part]
    assert torch.equal(scale_model(model, batch, "absmax", CROSS_ENTROPY, parts=())[0].weight, model[0].weight)
    with pytest.raises(ValueError, match="parts: 'bias' is unknown"):
        scale_model(model, batch, "absmax", CROSS_ENTROPY, parts=("bias",))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_fine_tuning_takes_the_steps_of_the_plain_model(optimizer):
    model, (x, y) = case("mlp")
    scaled = scale_model(model, (x, y), "absmax", CROSS_ENTROPY)
    options = {"lr": 0.01, "weight_decay": 0.1} | ({"eps": 1e-4} if optimizer == "adamw" else {})
    make = torch.optim.AdamW if optimizer == "adamw" else lambda p, **o: torch.optim.SGD(p, momentum=0.9, **o)
    lost = []
    for net, groups in ((model, model.parameters()), (scaled, finetune_groups(scaled, optimizer=optimizer, **options))):
        steps = make(groups, **options)
        for _ in range(20):
            steps.zero_grad()
            loss = CROSS_ENTROPY(net(x), y)
            loss.backward()
            steps.step()
        lost.append(float(loss))
    assert lost[0] < 0.8 * float(CROSS_ENTROPY(case("mlp")[0](x), y))
    assert lost[1] == pytest.approx(lost[0], rel=1e-4)
    back = unscale(scaled)
    assert [type(m) for m in back] == [type(m) for m in model]
    for name, parameter in back.state_dict().items():
        assert relative(parameter, model.state_dict()[name]) < 1e-4, name
    with pytest.raises(ValueError, match="optimizer: 'lion'"):
        finetune_groups(scaled, 1.0, optimizer="lion")


def test_a_shared_weight_is_divided_once():
    model, (tokens, _) = case("tied")
    scaled = scale_model(model, tokens, "absmax")
    assert scaled.out.weight is scaled.table.weight
    assert scaled.out.weight_factor is scaled.table.weight_factor
    assert relative(unscale(scaled).table.weight, model.table.weight) < 1e-6


class Reaches(nn.Module):
    """Reads a weight past the module that owns it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return F.linear(self.layer(x), self.layer.weight)


def test_a_weight_read_past_its_module_is_found_out():
    model = Reaches()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"read a weight past the module"):
        scale_model(model, torch.randn(3, 8), "absmax", inplace=True)
    assert not measured_modules(model)
    torch.testing.assert_close(model.state_dict(), before, rtol=1e-6, atol=0)


def test_copies_state_and_types():
    model, batch = case("audio")
    scaled = scale_model(model, batch, "absmax", CROSS_ENTROPY).eval()
    reference = scaled(batch[0])
    assert torch.equal(copy.deepcopy(scaled)(batch[0]), reference)
    other = scale_model(audio_net(), (batch[0] * 5, batch[1]), "absmax", CROSS_ENTROPY).eval()
    other.load_state_dict(scaled.state_dict())
    assert torch.equal(other(batch[0]), reference)
    assert {"0.weight", "3.bias", "0.weight_factor.measured", "0.grad_factor.measured"} <= scaled.state_dict().keys()
    half = copy.deepcopy(scaled).to(torch.bfloat16)
    assert half[0].grad_factor.measured.dtype == torch.float32
    assert half(batch[0].bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        out = scaled(batch[0])
        assert out.dtype == torch.bfloat16
        out.float().sum().backward()
    assert relative(out.float(), reference) < 0.05


@pytest.mark.parametrize("name", ["mlp", "audio"])
def test_compiles(name):
    model, batch = case(name)
    scaled = scale_model(model, batch, "absmax", CROSS_ENTROPY)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(scaled), backend="aot_eager", fullgraph=True)
    assert relative(compiled(batch[0]), scaled(batch[0])) < 1e-6
    expected = gradients(scaled, *batch)
    CROSS_ENTROPY(compiled(batch[0]), batch[1]).backward()
    for (key, parameter), other in zip(compiled.named_parameters(), expected.values(), strict=False):
        owner = measured_modules(compiled)
        factors = {id(m.weight): float(m.weight_factor.value) for m in owner.values()}
        assert relative(parameter.grad / factors.get(id(parameter), 1.0), other) < 1e-5, key


def test_compiles_with_running_statistics_and_moves_them():
    model, (x, y) = case("mlp")
    scaled = scale_model(model, (x, y), "absmax", CROSS_ENTROPY, running=True)
    torch._dynamo.reset()
    compiled = torch.compile(scaled, backend="aot_eager")
    CROSS_ENTROPY(compiled(3 * x), y).backward()
    before = float(x.abs().max()) / 8
    assert float(scaled[0].input_factor.measured) == pytest.approx(before * (0.9 + 0.1 * 3), rel=1e-5)
    scaled.eval()
    compiled(100 * x)
    assert float(scaled[0].input_factor.measured) == pytest.approx(before * 1.2, rel=1e-5)


def test_running_statistics_pass_over_what_is_not_finite():
    scaling = GradientFactor(running=True, momentum=0.5)
    assert float(scaling.value) == 1
    for value, expected in ((0.0, 1), (8.0, 4), (float("inf"), 4), (16.0, 6), (float("nan"), 6)):
        scaling.observe(torch.full((3, 4), value))
        assert float(scaling.value) == pytest.approx(expected)


def test_fixed_statistics_are_of_everything_seen():
    batches = [torch.randn(n, 16) * n for n in (1, 7, 3)]
    peak, root = ActivationFactor("absmax"), ActivationFactor("rms")
    for batch in batches:
        peak.observe(batch)
        root.observe(batch)
    together = torch.cat(batches)
    assert peak.value == pytest.approx(float(together.abs().max()) / 4)
    assert root.value == pytest.approx(float(together.double().square().mean().sqrt()), rel=1e-6)
    peak.train()(100 * batches[0])
    assert peak.value == pytest.approx(float(together.abs().max()) / 4)


@pytest.mark.parametrize("running", [False, True])
def test_each_scaling_alone(running):
    x, weight = torch.randn(6, 16) * 50, torch.randn(3, 16) / 70
    activation, theta, gradient = (kind(running=running) for kind in (ActivationFactor, WeightFactor, GradientFactor))
    if not running:
        activation.observe(x)
        theta.observe(weight)
    inputs, weights = activation(x), theta(weight)
    assert float(inputs.abs().max()) == pytest.approx(4, rel=1e-5)
    assert float(weights.abs().max()) == pytest.approx(4, rel=1e-5)
    torch.testing.assert_close(theta.restore(activation.restore(F.linear(inputs, weights))), F.linear(x, weight))

    upstream, seen = torch.randn(6, 3) * 1e-9, []
    if not running:
        gradient.observe(upstream)
    x = x.requires_grad_()
    between = F.linear(gradient.restore(x), weight)
    between.register_hook(seen.append)
    y = gradient(between)
    assert torch.equal(y, F.linear(x, weight))
    y.backward(upstream)
    torch.testing.assert_close(x.grad, upstream @ weight, rtol=1e-5, atol=0)
    assert float(seen[0].abs().max()) == pytest.approx(math.sqrt(3), rel=1e-5)


# The range that a tensor needs


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ([0.0, 0.0], 0),
        ([1.0, 3.99], 2),
        ([4.0], 3),
        ([0.25], 3),
        ([0.2499], 4),
        ([16.0], 4),
        ([2.0**-6], 4),
        ([2.0**-7], 5),
        ([256.0], 5),
        ([2.0**-14], 5),
        ([2.0**-15], 6),
        ([1e38], 8),
        ([-3.0, 1e-20], 2),
    ],
)
def test_exponent_bits_of_known_values(values, bits):
    assert exponent_bits(torch.tensor(values)) == bits


@given(shift=st.integers(-30, 30), seed=st.integers(0, 99))
def test_exponent_bits_hold_all_but_the_share(shift, seed):
    """Against a plain count: with the bits returned the loss is within the share, with one fewer beyond it."""
    torch.manual_seed(seed)
    x = torch.randn(500).double() * 2.0**shift

    def lost(bits):
        bias = 2 ** (bits - 1) - 1
        low, high = 2.0 ** (1 - bias), 2.0 ** (bias + 1)
        inside = (x.abs() >= low) & (x.abs() < high)
        return float(x[~inside].square().sum() / x.square().sum())

    bits = exponent_bits(x)
    assert lost(bits) <= 1e-3
    assert bits == 2 or lost(bits - 1) > 1e-3


def test_the_report_shows_what_scaling_gains():
    model, batch = case("audio")
    scaled = scale_model(model, batch, "rms", CROSS_ENTROPY)
    report = range_report(scaled, batch, CROSS_ENTROPY)
    assert [(r.module, r.tensor) for r in report.ranges] == [
        (path, kind) for path in ("0", "3", "6") for kind in ("weight", "activation", "gradient")
    ]
    assert report.after == 4
    assert report.before > 4  # inputs of 1e-3
    assert report.ranges[1] == type(report.ranges[1])("0", "activation", 5, 4)
    assert "activation" in str(report)
    assert report._repr_html_().startswith("<div>")
    assert report.to_dict()["ranges"][1]["before"] == 5
    assert {r.tensor for r in range_report(scaled, batch[0]).ranges} == {"weight", "activation"}
    with pytest.raises(ValueError, match="no scaled modules"):
        range_report(model, batch)


# Wrong input


def test_examples_that_cannot_be_measured():
    model, (x, y) = case("mlp")
    bad = x.clone()
    bad[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"example: 1 of 1280 entries"):
        scale_model(model, bad, "absmax")
    with pytest.raises(ValueError, match=r"example\[1\]\[0\]: 1 of"):
        scale_model(model, [(x, y), (bad, y)], "absmax", CROSS_ENTROPY)
    with pytest.raises(TypeError, match=r"input of 0: torch\.int64"):
        scale_model(model, torch.ones(2, 64, dtype=torch.int64), "absmax")
    with pytest.raises(TypeError, match=r"example: torch\.complex64"):
        scale_model(model, x.to(torch.complex64), "absmax")
    with pytest.raises(ValueError, match="no elements"):
        scale_model(model, torch.zeros(0, 64), "absmax")
    with pytest.raises(ValueError, match="example: no batches"):
        scale_model(model, [], "absmax")
    with pytest.raises(TypeError, match="example: int"):
        scale_model(model, 3, "absmax")
    with pytest.raises(TypeError, match=r"WeightFactor: torch\.int64"):
        WeightFactor().observe(torch.ones(3, dtype=torch.int64))
    with torch.no_grad():
        model[2].weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"2.weight: 1 of 320|output gradient"):
        scale_model(model, x, "absmax")


def test_modules_that_cannot_be_treated():
    model = nn.ModuleDict({"body": nn.Linear(4, 4), "cell": nn.GRUCell(4, 4)})
    model.forward = lambda x: model["cell"](model["body"](x))
    with pytest.raises(ValueError, match=r"cell \(GRUCell\).*strict=False"):
        scale_model(model, torch.randn(2, 4), "absmax", inplace=True)
    with pytest.warns(UserWarning, match=r"cell \(GRUCell\)"):
        scaled = scale_model(model, torch.randn(2, 4), "absmax", inplace=True, strict=False)
    assert type(scaled["cell"]) is nn.GRUCell
    assert isinstance(scaled["body"], MeasuredLinear)
    with pytest.raises(ValueError, match="holds no module"):
        scale_model(nn.ReLU(), torch.randn(2), "absmax")
    unused = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    unused.forward = lambda x: unused[0](x)
    with pytest.raises(ValueError, match="no batch reached 1"):
        scale_model(unused, torch.randn(2, 4), "absmax", inplace=True)
    with pytest.raises(ValueError, match="rule: 'max' is unknown"):
        scale_model(mlp(), torch.randn(2, 64), "max")
    with pytest.raises(ValueError, match="loss: must return a scalar"):
        scale_model(mlp(), torch.randn(2, 64), "absmax", lambda y: y)
    with pytest.raises(ValueError, match="rule: 'unit' is unknown; a measured rule"):
        ActivationFactor("unit")


def test_measuring_leaves_no_trace():
    model, batch = case("audio")
    model.train()
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    scaled = scale_model(model, [batch, batch], "absmax", CROSS_ENTROPY)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for net in (model, scaled) for p in net.parameters())
    assert scaled.training
    assert not any(m._forward_hooks for m in scaled.modules())
    assert scale_model(model, batch, "absmax", inplace=True) is model
