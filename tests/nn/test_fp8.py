"""FP8 layers, judged by products in float64 of operands that PyTorch's own 8-bit types have rounded."""

import copy
import functools
import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allometry import nn
from allometry.nn.precision import formats, fp8
from helpers.unit_scaled import decoder as small_decoder
from helpers.unit_scaled import next_token_loss

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
FACTORS = (0.37, 0.23, 0.71)
needs_real = pytest.mark.skipif(not fp8.supported("cpu"), reason="this PyTorch has no _scaled_mm on the CPU")
MODES = [pytest.param("real", marks=needs_real), "simulated"]


def rounded(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What an 8-bit type holds of ``x``, in float64, saturating."""
    largest = torch.finfo(dtype).max
    return x.detach().float().clamp(-largest, largest).to(dtype).double()


def close(a: torch.Tensor, b: torch.Tensor, terms: int) -> bool:
    """Equal but for summing ``terms`` products in float32 and rounding the sum to the type of ``a``."""
    bound = 2 * torch.finfo(a.dtype).eps * b.abs() + 4 * terms**0.5 * 2**-24 * b.square().mean().sqrt()
    return a.shape == b.shape and bool(((a.double() - b).abs() <= bound).all())


def case(rows=24, fan_in=40, fan_out=33, dtype=torch.float32, size=1.0):
    x = (torch.randn(rows, fan_in) * size).to(dtype).requires_grad_()
    weight = torch.randn(fan_out, fan_in, requires_grad=True)
    return x, weight, torch.randn(rows, fan_out).to(dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1.0, 2.0**-8, 300.0]))
def test_all_three_products_are_those_of_the_cast_operands(mode, dtype, rows, fan_in, fan_out, size):
    x, weight, grad = case(rows, fan_in, fan_out, dtype, size)
    y = fp8.linear(x, weight, factors=(FACTORS[0] / size, *FACTORS[1:]), mode=mode)
    grad_x, grad_weight = torch.autograd.grad(y, (x, weight), grad)
    assert (y.dtype, grad_x.dtype, grad_weight.dtype) == (dtype, dtype, torch.float32)
    x8, w8, g8 = rounded(x, E4M3), rounded(weight, E4M3), rounded(grad, E5M2)
    assert close(y, FACTORS[0] / size * x8 @ w8.t(), fan_in)
    assert close(grad_x, FACTORS[1] * g8 @ w8, fan_out)
    expected = FACTORS[2] * rows**-0.5 * g8.t() @ x8
    # The simulation multiplies in the type of x.
    assert close(grad_weight.to(dtype) if mode == "simulated" else grad_weight, expected, rows)


@needs_real
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_real_and_simulated_agree(dtype):
    x, weight, grad = case(64, 96, 80, dtype)
    results = []
    for mode in ("real", "simulated"):
        y = fp8.linear(x, weight, factors=FACTORS, mode=mode)
        results.append((y, *torch.autograd.grad(y, (x, weight), grad)))
    for real, simulated in zip(*results, strict=True):
        error = (real.double() - simulated.double()).norm() / simulated.double().norm()
        assert error < (1e-6 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("form", [formats.E4M3FN, formats.E5M2], ids=repr)
def test_the_two_casts_are_equal_bit_for_bit(form):
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    real, simulated = fp8.to_fp8(x, form).to(x.dtype), form.cast(x)
    assert torch.equal(real.nan_to_num(9e9), simulated.nan_to_num(9e9))
    assert torch.equal(real.signbit() | real.isnan(), simulated.signbit() | simulated.isnan())


@pytest.mark.parametrize("mode", MODES)
def test_values_out_of_range_saturate_in_each_direction(mode):
    x, weight = torch.full((16, 16), 1e6, requires_grad=True), torch.eye(16, requires_grad=True)
    y = fp8.linear(x, weight, factors=(1.0, 1.0, 1.0), mode=mode)
    assert (y == 448).all()
    (grad_x,) = torch.autograd.grad(y, x, torch.full((16, 16), -1e9))
    assert (grad_x == -57344).all()


@pytest.mark.parametrize("mode", MODES)
def test_gradients_have_the_range_of_e5m2_and_not_of_e4m3(mode):
    """2^-14 is 0 in E4M3, and 1 + 1/8 is lost in E5M2."""
    x, weight = torch.eye(16, requires_grad=True), torch.eye(16, requires_grad=True)
    grad = torch.full((16, 16), 2.0**-14)
    grad[0] = 1 + 1 / 8
    y = fp8.linear(x, weight, factors=(1.0, 1.0, 1.0), mode=mode)
    expected = torch.full((16, 16), 2.0**-14)
    expected[0] = 1
    grad_x, grad_weight = torch.autograd.grad(y, (x, weight), grad)
    assert torch.equal(grad_x, expected)
    assert torch.equal(grad_weight, expected.t() / 4)  # 16 rows


@pytest.mark.parametrize("mode", MODES)
def test_bias_and_onto_are_not_cast_and_get_their_gradients(mode):
    x, weight, grad = case()
    bias = (1 + torch.randn(33) * 1e-3).requires_grad_()
    onto = torch.randn(24, 33, requires_grad=True)
    plain = fp8.linear(x, weight, factors=FACTORS, mode=mode)
    biased = fp8.linear(x, weight, bias, factors=FACTORS, mode=mode)
    assert torch.equal(biased, plain + bias)
    (grad_bias,) = torch.autograd.grad(biased, bias, grad)
    torch.testing.assert_close(grad_bias, grad.sum(0) * 24**-0.5)
    y = fp8.linear(x, weight, bias, factors=FACTORS, mode=mode, onto=onto, keep=0.8, share=0.6)
    torch.testing.assert_close(y, 0.8 * onto + 0.6 * biased)
    ours = torch.autograd.grad(y, (x, weight, bias, onto), grad)
    parts = (*torch.autograd.grad(plain, (x, weight), grad), grad_bias, grad)
    theirs = nn.functional.linear(x, weight, bias, factors=nn.Factors(*FACTORS), onto=onto, keep=0.8, share=0.6)
    reference = torch.autograd.grad(theirs, (x, weight, bias, onto), grad)
    for a, b, c in zip(ours, parts, reference, strict=True):
        torch.testing.assert_close(a, b)
        assert ((a - c).norm() / c.norm()).item() < 0.1
    torch.testing.assert_close(ours[3], reference[3])


@pytest.mark.parametrize("mode", MODES)
def test_pieces_of_a_batch_add_up_to_the_gradient_of_the_whole(mode):
    x, weight, grad = case(rows=32)

    def gradient(rows):
        return torch.autograd.grad(fp8.linear(x[rows], weight, factors=FACTORS, mode=mode), weight, grad[rows])[0]

    whole = gradient(slice(None))
    with nn.accumulation(2):
        torch.testing.assert_close(gradient(slice(16)) + gradient(slice(16, 32)), whole)


@pytest.mark.parametrize("mode", MODES)
def test_layers_keep_unit_scale(mode):
    layer = fp8.FP8Linear(256, 384, formats=fp8.FP8Formats(mode=mode))
    x = torch.randn(2, 256, 256, requires_grad=True)
    y = layer(x)
    y.backward(torch.randn_like(y))
    for tensor in (y, x.grad, layer.weight.grad):
        assert tensor.square().mean().sqrt().item() == pytest.approx(1, abs=0.02)


@needs_real
def test_what_is_kept_for_the_backward_pass_is_8_bits_wide():
    x, weight, _ = case()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype) or t, lambda t: t):
        fp8.linear(x, weight, factors=FACTORS)
    assert kept == [E4M3, E4M3]


decoder = functools.partial(small_decoder, width=32, vocab=40)


def test_convert_keeps_every_object_and_name():
    model = decoder()
    model.stack.blocks[0].mlp.up.register_forward_hook(lambda *_: None)
    before = dict(model.named_parameters()), dict(model.named_modules()), nn.roles(model), model.state_dict()
    optimizer = nn.AdamW(model, lr=0.01)
    assert fp8.convert(model) is model
    for name, parameter in model.named_parameters():
        assert parameter is before[0][name]
    assert all(module is before[1][name] for name, module in model.named_modules())
    assert nn.roles(model) == before[2]
    assert list(model.state_dict()) == list(before[3])
    assert model.stack.blocks[0].mlp.up._forward_hooks
    converted = {name for name, module in model.named_modules() if isinstance(module, fp8.FP8Linear)}
    assert len(converted) == 8
    assert all(nn.roles(model)[f"{name}.weight"].kind == "hidden" for name in converted)
    assert type(model.readout) is nn.Readout
    weight = model.stack.blocks[0].mlp.up.weight
    held = weight.detach().clone()
    model(torch.randint(0, 40, (2, 8))).square().mean().backward()
    optimizer.step()
    assert not torch.equal(held, weight)
    model.load_state_dict(before[3])


def test_a_converted_model_computes_nearly_the_same_and_really_in_8_bits():
    model = decoder()
    tokens = torch.randint(0, 40, (4, 16))
    with torch.no_grad():
        exact = model(tokens)
        error = lambda: ((model(tokens) - exact).norm() / exact.norm()).item()
        fp8.convert(model)
        assert 0.01 < error() < 0.15
        fp8.convert(model, fp8.FP8Formats("bf16", None, mode="simulated"))  # and again, with other formats
        assert 1e-5 < error() < 0.01
        errors = []
        for name in ("e4m3", "mxfp8", "mxfp6_e2m3", "nvfp4", "mxfp4"):
            fp8.convert(model, name)
            errors.append(error())
        assert errors[0] < 0.15
        assert max(errors[:3]) < errors[3] < errors[4] < 1


@pytest.mark.parametrize("tied", [False, True])
def test_the_readout_is_converted_when_asked_for(tied):
    model = decoder(tied=tied)
    fp8.convert(model, fp8.FP8Formats(roles=("output",)))
    assert [name for name, m in model.named_modules() if isinstance(m, fp8.FP8Linear | fp8.FP8Readout)] == ["readout"]
    assert type(model.readout) is fp8.FP8Readout
    assert nn.roles(model)["embedding.weight" if tied else "readout.weight"].kind in ("input", "output")
    assert (model.readout.weight is model.embedding.weight) == tied
    assert model(torch.randint(0, 40, (1, 4))).isfinite().all()


def test_a_model_that_is_one_layer_is_converted_in_place():
    layer = nn.Linear(16, 16)
    assert type(fp8.convert(layer)) is fp8.FP8Linear
    assert "E4M3FN" in repr(layer)
    clone = copy.deepcopy(layer)
    assert clone.formats == layer.formats
    assert torch.equal(clone(torch.ones(1, 16)), layer(torch.ones(1, 16)))


def test_parametrize_after_converting_changes_the_factors():
    layer = fp8.convert(nn.Linear(64, 64))
    x = torch.randn(8, 64)
    before = layer(x)
    nn.parametrize(layer, "sp")
    factor = layer.factors().output
    assert not torch.allclose(layer(x), before)
    expected = factor * rounded(x, E4M3) @ rounded(layer.weight, E4M3).t()
    assert close(layer(x), expected, 64)


@pytest.mark.parametrize("mode", MODES)
def test_compiled_equals_eager(mode):
    torch._dynamo.reset()
    model = fp8.convert(nn.MLP(24, 40, bias=True), fp8.FP8Formats(mode=mode))
    x, onto = torch.randn(2, 8, 24), torch.randn(2, 8, 24)
    results = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        y = run(x, onto, 0.8, 0.6)
        y.square().mean().backward()
        results.append((y, [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(results[1][0], results[0][0])
    for a, b in zip(results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item())


def test_autocast_sets_the_type_of_the_output():
    layer = fp8.FP8Linear(16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(4, 16)).dtype == torch.bfloat16
    assert layer(torch.randn(4, 16)).dtype == torch.float32


def test_padding_for_cuda_changes_nothing():
    """The path of CUDA up to the product itself: layouts, sizes in multiples of 16, zeros in between."""
    for rows, inner, columns in ((3, 5, 7), (16, 32, 48), (1, 16, 17)):
        a, b = torch.randn(rows, inner).to(E5M2), torch.randn(columns, inner).to(E4M3).t()
        left, right = fp8._row_major(a, 1, fp8.TILE), fp8._row_major(b.t(), fp8.TILE, fp8.TILE).t()
        assert left.is_contiguous()
        assert right.t().is_contiguous()
        assert left.shape[1] % 16 == right.shape[0] % 16 == right.shape[1] % 16 == 0
        assert (left.dtype, right.dtype) == (E5M2, E4M3)
        product = (left.double() @ right.double())[:, :columns]
        assert torch.equal(product, a.double() @ b.double())


def test_a_format_that_the_device_lacks_is_an_error_that_names_both():
    x, weight = torch.zeros(16, 16, device="meta"), torch.zeros(16, 16, device="meta")
    assert not fp8.supported("meta")
    with pytest.raises(ValueError, match=r"mode: 'real', but device 'meta' .*E4M3FN .*simulated"):
        fp8.linear(x, weight, factors=FACTORS, mode="real")
    assert fp8.linear(x, weight, factors=FACTORS).shape == (16, 16)
    with pytest.raises(ValueError, match=r"'cpu' .*float64"):
        fp8.linear(torch.zeros(16, 16).double(), torch.zeros(16, 16), factors=FACTORS, mode="real")
    with pytest.raises(ValueError, match=r"mode: 'real' knows .* not MXFP4 and E5M2"):
        fp8.FP8Formats("mxfp4", mode="real")


def test_wrong_input_is_named():
    x, weight, _ = case()
    with pytest.raises(TypeError, match=r"x: torch.int64"):
        fp8.linear(torch.ones(4, 40, dtype=torch.int64), weight, factors=FACTORS)
    with pytest.raises(ValueError, match="x: last dimension is 39"):
        fp8.linear(x[:, :39], weight, factors=FACTORS)
    with pytest.raises(ValueError, match=r"x: shape \(0, 40\)"):
        fp8.linear(x[:0], weight, factors=FACTORS)
    with pytest.raises(ValueError, match="mode: 'fast' is unknown"):
        fp8.linear(x, weight, factors=FACTORS, mode="fast")
    with pytest.raises(ValueError, match=r"roles: .*embedding"):
        fp8.FP8Formats(roles="embedding")
    with pytest.raises(ValueError, match="no format 'e9m9'"):
        fp8.convert(nn.Linear(4, 4), "e9m9")
    with pytest.raises(TypeError, match="formats: int"):
        fp8.convert(nn.Linear(4, 4), 8)
    with pytest.raises(ValueError, match=r"model: no allometry.nn.Linear .*hidden.* only Readout"):
        fp8.convert(nn.Readout(4, 4))
    with pytest.raises(ValueError, match="scale_model"):
        fp8.convert(torch.nn.Sequential(torch.nn.Linear(4, 4)))


@pytest.mark.parametrize("mode", MODES)
def test_a_small_decoder_learns_as_in_full_precision(mode):
    losses = {}
    for name in ("exact", mode):
        model = decoder()
        if name != "exact":
            fp8.convert(model, fp8.FP8Formats(mode=mode))
        optimizer = nn.AdamW(model, lr=0.1)
        tokens = (torch.arange(17)[None] * torch.arange(1, 9)[:, None]) % 40
        for _ in range(30):
            loss = next_token_loss(model, tokens)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[name] = loss.item()
    assert losses["exact"] < 0.5 * math.log(40)
    assert losses[mode] == pytest.approx(losses["exact"], rel=0.1)


@pytest.fixture
def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "fp8_gpu.py"
    spec = importlib.util.spec_from_file_location("fp8_gpu", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    return benchmark


def test_the_benchmark_runs_on_the_cpu(benchmark, tmp_path, capsys):
    out = tmp_path / "fp8.json"
    benchmark.main(["--device", "cpu", "--small", "--rounds", "2", "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["machine"]["torch"] == torch.__version__
    if benchmark.torchao_version() is None:
        assert "torchao is not installed" in result["notes"][0]
        assert "torchao is not installed" in capsys.readouterr().err
    rows = result["layers"]["wide"]["results"] | {f"step {k}": v for k, v in result["step"]["results"].items()}
    assert {"bf16", "ours fp8", "products alone, fp8", "step bf16", "step ours fp8"} <= set(rows)
    for row in rows.values():
        assert "failed" in row or 0 < row["min_ms"] <= row["median_ms"] <= row["max_ms"]
    assert "failed" not in rows["ours fp8"] | rows["step ours fp8"] | rows["step bf16"]
    with pytest.raises(SystemExit):
        benchmark.main(["--device", "cuda"] if not torch.cuda.is_available() else ["--device", "tpu"])


def test_the_benchmarks_plain_model_computes_what_ours_does(benchmark):
    model, tokens = decoder(), torch.randint(0, 40, (2, 8))
    expected = model(tokens)
    plain = benchmark.plain_copy(model)
    assert not [m for m in plain.modules() if type(m) is nn.Linear]
    torch.testing.assert_close(plain(tokens), expected)


@pytest.mark.parametrize("mode", MODES)
def test_lengths_do_not_recompile_under_dynamic(mode):
    torch._dynamo.reset()
    layer = fp8.FP8Linear(16, 16, formats=fp8.FP8Formats(mode=mode))
    graphs = []
    compiled = torch.compile(layer, backend=lambda graph, _: graphs.append(1) or graph, dynamic=True, fullgraph=True)
    for length in (3, 5, 8, 13):
        assert compiled(torch.randn(2, length, 16)).shape == (2, length, 16)
    assert len(graphs) == 1
