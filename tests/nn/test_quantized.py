"""Quantised layers: what is stored, what is computed, and that unit scales need no example."""

import math

import pytest
import torch

from allometry import nn
from allometry.nn import functional as F
from allometry.nn.precision import formats
from allometry.nn.precision.known_inputs import known_inputs
from allometry.nn.precision.quantized import LEVELS, QuantizedLinear, normal_range, quantize, quantized_bytes
from helpers.unit_scaled import decoder

FORMATS = ("int8", "fp8", "mxfp8", "mxfp6", "mxfp4", "nvfp4")
SCALES = ("unit", "rms", "absmax", "dynamic")


def relative(a, b) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("format", FORMATS)
def test_a_decoder_computes_nearly_the_same(format, scales):
    model = decoder(width=64, heads=4)
    tokens = torch.randint(32, (4, 16))
    small = quantize(model, format, scales=scales, example=tokens)
    error = relative(small(tokens), model(tokens))
    assert 0 < error < {"int8": 0.1, "fp8": 0.1, "mxfp8": 0.1, "mxfp6": 0.2}.get(format, 0.5)
    assert isinstance(model.stack.blocks[0].mlp.up, nn.Linear)  # a copy was quantised
    assert isinstance(small.readout, nn.Readout)
    weights_only = quantize(model, format, scales=scales, example=tokens, activations=False)
    assert relative(weights_only(tokens), model(tokens)) < error * 1.05


def test_the_int8_product_is_the_integers_product():
    layer = torch.nn.Linear(32, 8)
    x = torch.randn(5, 32)
    small = quantize(layer, "int8", scales="absmax", example=x)
    step_w, step_x = layer.weight.detach().abs().max() / LEVELS, x.abs().max() / LEVELS
    codes_w = (layer.weight.detach() / step_w).round().clamp(-LEVELS, LEVELS)
    codes_x = (x / step_x).round().clamp(-LEVELS, LEVELS)
    assert small.codes.dtype == torch.int8
    assert torch.equal(small.codes.float(), codes_w)
    expected = codes_x.double() @ codes_w.double().T * (step_w * step_x).double() + layer.bias.detach().double()
    torch.testing.assert_close(small(x).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batched", [False, True])
def test_dynamic_scales_are_those_of_each_row_and_need_no_example(batched):
    """A row a thousand times larger than its neighbours loses nothing, and costs them nothing."""
    layer = torch.nn.Linear(32, 8)
    with torch.no_grad():
        layer.weight[3] *= 1000
        layer.weight[5] = 0
    x = torch.randn(5, 32) * torch.tensor([1.0, 1000.0, 1.0, 1e-3, 0.0])[:, None]
    small = quantize(layer, "int8", scales="dynamic")
    x = x[:, None] if batched else x
    error = (small(x) - layer(x)).reshape(5, 8).abs()
    # Each code is off by half a step of its row, 1/254 of the row's largest entry, at most.
    bound = 32 * 2 * x.reshape(5, 32).abs().amax(1)[:, None] * layer.weight.detach().abs().amax(1) / 254
    assert bool((error <= bound + 1e-6).all())
    assert small.row_steps.shape == (8,)
    assert quantized_bytes(small) == 32 * 8 + 4 * 8 + 4 * 8  # codes, the steps of the rows, the bias


def test_the_fp8_product_is_that_of_casts():
    layer = nn.Linear(32, 8)
    x = torch.randn(5, 32)
    small = quantize(layer, "fp8", scales="unit")
    assert small.codes.dtype == torch.float8_e4m3fn
    expected = formats.E4M3FN.cast(x) @ formats.E4M3FN.cast(layer.weight.detach()).T * layer.factors().output
    torch.testing.assert_close(small(x), expected)


def steps_of(model):
    return {p: m.input_step for p, m in model.named_modules() if isinstance(m, QuantizedLinear)}


def test_unit_scales_need_no_example_and_those_after_a_norm_do_not_move_in_training():
    model = decoder(width=64, heads=4)
    fresh = steps_of(quantize(model, "int8"))
    assert len(fresh) == 8
    with torch.no_grad():
        for parameter in model.stack.parameters():
            parameter.mul_(2)
    later = steps_of(quantize(model, "int8"))
    for path, step in fresh.items():
        assert (later[path] == step) != path.endswith("mlp.down"), path
        assert later[path] >= step
    with pytest.raises(ValueError, match="'unit' and 'dynamic' do not"):
        quantize(model, "int8", scales="rms")
    quantize(model, "int8", scales="rms", activations=False)  # weights need no example


@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("activation", ["swiglu", "geglu", "gelu", "relu2", "tanh", "sigmoid"])
def test_what_an_mlp_hides_is_as_large_as_its_weights_say(activation, size):
    """Weights and biases as training leaves them, each row another size; a norm's output as the input."""
    mlp = nn.MLP(96, 64, activation, bias=True)
    with torch.no_grad():
        mlp.up.weight.mul_(size * torch.rand(mlp.up.weight.shape[0], 1))
        mlp.up.bias.normal_(std=size)
    x, seen = F.rms_norm(torch.randn(4000, 96), (96,)), []
    handle = mlp.down.register_forward_pre_hook(lambda _, args: seen.append(args[0].square().mean().sqrt().item()))
    mlp(x)
    handle.remove()
    assert known_inputs(mlp)["down"].rms == pytest.approx(seen[0], rel=0.05)


@pytest.mark.parametrize("options", [{}, {"activation": "gelu"}, {"norm": "post"}, {"out_norm": False}])
def test_after_weights_have_grown_unit_scales_still_lose_little(options):
    """Less than what calibration to root mean squares loses, and near calibration to the largest entries."""
    model = decoder(width=64, heads=4, **options)
    with torch.no_grad():
        for layer in model.stack.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(3 * torch.rand(layer.weight.shape[0], 1))
    tokens = torch.randint(32, (4, 16))
    small = {scales: quantize(model, "int8", scales=scales, example=tokens) for scales in ("unit", "rms", "absmax")}
    errors = {scales: relative(each(tokens), model(tokens)) for scales, each in small.items()}
    assert errors["unit"] < errors["rms"]
    assert errors["unit"] < 2 * errors["absmax"]


def test_layers_that_a_user_replaced_are_taken_as_unknown():
    model = decoder(width=64, heads=4)
    model.stack.blocks[0].mlp.up = torch.nn.Linear(64, 2 * model.stack.blocks[0].mlp.down.in_features)
    assert "stack.blocks.0.mlp.down" not in known_inputs(model)
    quantize(model, "int8")


def test_unit_scales_are_as_good_as_measured_ones_at_unit_scale_and_not_elsewhere():
    """What unit scaling buys: with inputs of root mean square 1 nothing is left to measure."""
    layer = torch.nn.Linear(128, 64, bias=False)
    for size, holds in ((1.0, True), (0.01, False)):
        x = size * torch.randn(64, 128)
        errors = {s: relative(quantize(layer, "int8", scales=s, example=x)(x), layer(x)) for s in ("unit", "rms")}
        assert (errors["unit"] < 1.05 * errors["rms"]) == holds


def test_calibration_is_over_all_batches():
    layer, small, large = torch.nn.Linear(16, 4), torch.randn(8, 16), 10 * torch.randn(8, 16)
    both = quantize(layer, "int8", scales="absmax", example=[small, large])
    assert both.input_step == pytest.approx(large.abs().max().item() / LEVELS)
    rms = quantize(layer, "fp8", scales="rms", example=[small, large])
    assert rms.input_step == pytest.approx(torch.cat((small, large)).square().mean().sqrt().item(), rel=1e-5)


def test_sizes_are_those_of_the_formats():
    model = torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False))
    count = 64 * 32
    bits = {"int8": 8, "fp8": 8, "mxfp8": 8.25, "mxfp6": 6.25, "mxfp4": 4.25, "nvfp4": 4.5}
    assert quantized_bytes(model) == 4 * count
    for format, each in bits.items():
        steps = 4 * 32 if format == "int8" else 0  # of the rows
        assert quantized_bytes(quantize(model, format)) == count * each / 8 + steps


def test_the_range_of_a_normal_tensor_is_the_best_one():
    x = torch.randn(400_000, dtype=torch.float64)

    def error(limit: float) -> float:
        step = limit / LEVELS
        return ((x / step).round().clamp(-LEVELS, LEVELS) * step - x).square().mean().item()

    best = normal_range()
    assert error(best) < min(error(best * 0.85), error(best * 1.2))
    assert 3 < best < 5
    assert math.isfinite(error(best))


def test_what_cannot_be_quantised_is_said():
    with pytest.raises(ValueError, match="give 'int8', 'fp8'"):
        quantize(torch.nn.Linear(2, 2), "int3")
    with pytest.raises(ValueError, match="unknown; give 'unit'"):
        quantize(torch.nn.Linear(2, 2), scales="minmax")
    with pytest.raises(ValueError, match="'unit' and 'dynamic' do not"):
        quantize(torch.nn.Linear(2, 2), scales="absmax")
    with pytest.raises(ValueError, match="no Linear"):
        quantize(torch.nn.ReLU())
