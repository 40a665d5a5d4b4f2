"""Number formats, judged by PyTorch's own types where there are some and by brute force over all values elsewhere."""

import bisect
import functools
import itertools
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allometry.nn.precision import formats
from allometry.nn.precision.formats import (
    BF16,
    E2M1,
    E2M3,
    E3M2,
    E4M3FN,
    E5M2,
    FP16,
    MX,
    MXFP4,
    MXFP6,
    MXFP8,
    NVFP4,
    Format,
)

ELEMENTS = (E4M3FN, E5M2, E3M2, E2M3, E2M1)
SMALL = (E3M2, E2M3, E2M1)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BF16_VALUES = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
FP16_VALUES = BF16_VALUES.view(torch.float16)


def random_floats(count: int) -> torch.Tensor:
    """Every bit pattern equally likely: all exponents, subnormals, infinities and NaN."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 2**32, count, dtype=np.uint32).view(np.float32))


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit for bit, but for what a NaN carries."""
    equal = (a == b) & (a.signbit() == b.signbit())
    return a.shape == b.shape and a.dtype == b.dtype and bool((equal | (a.isnan() & b.isnan())).all())


@functools.cache
def values_of(form: Format) -> list[Fraction]:
    """All nonnegative finite values in order, from the definition: those of even place have an even last bit."""
    found = []
    for exponent in range(2**form.exponent_bits):
        for mantissa in range(2**form.mantissa_bits):
            unit = Fraction(2) ** (max(exponent, 1) - form.bias - form.mantissa_bits)
            found.append((mantissa + (2**form.mantissa_bits if exponent else 0)) * unit)
    return [value for value in found if value <= form.max]


def nearest(form: Format, x: float) -> float:
    """By exact arithmetic: the nearest value, the one with even last bit if two are as near, saturating."""
    if math.isnan(x):
        return x
    magnitude = abs(Fraction(x)) if math.isfinite(x) else Fraction(form.max)
    return math.copysign(float(nearest_magnitude(form, magnitude)), x)


def nearest_magnitude(form: Format, magnitude: Fraction) -> Fraction:
    values = values_of(form)
    above = bisect.bisect_left(values, magnitude)
    near = range(max(above - 1, 0), min(above + 1, len(values)))
    return values[min(near, key=lambda i: (abs(values[i] - magnitude), i % 2))]


@pytest.mark.parametrize(
    ("form", "count", "largest", "normal", "subnormal"),
    [
        (E4M3FN, 127, 448, 2**-6, 2**-9),
        (E5M2, 124, 57344, 2**-14, 2**-16),
        (E3M2, 32, 28, 0.25, 0.0625),
        (E2M3, 32, 7.5, 1, 0.125),
        (E2M1, 8, 6, 1, 0.5),
    ],
)
def test_the_constants_are_those_of_the_specification(form, count, largest, normal, subnormal):
    values = values_of(form)
    assert (len(values), form.max, form.min_normal, form.min_subnormal) == (count, largest, normal, subnormal)
    assert values[1] == subnormal
    assert form.bits == {E4M3FN: 8, E5M2: 8, E3M2: 6, E2M3: 6, E2M1: 4}[form]


@pytest.mark.parametrize("form", [E4M3FN, E5M2, FP16, BF16], ids=repr)
def test_the_constants_are_those_of_torch(form):
    info = torch.finfo(form.dtype)
    assert (form.max, form.min_normal, form.min_subnormal) == (
        info.max,
        info.tiny,
        info.smallest_normal * 2.0**-form.mantissa_bits,
    )
    assert form.bits == info.bits


@pytest.mark.parametrize("form", [E4M3FN, E5M2], ids=repr)
@pytest.mark.parametrize(
    "x", [BF16_VALUES, FP16_VALUES, random_floats(1_000_000)], ids=["all bf16", "all fp16", "million fp32"]
)
def test_saturating_casts_equal_torch(form, x):
    assert same(form.cast(x), x.clamp(-form.max, form.max).to(form.dtype).to(x.dtype))


@pytest.mark.parametrize("form", [E5M2, FP16, BF16], ids=repr)
@pytest.mark.parametrize("x", [BF16_VALUES, FP16_VALUES, random_floats(1_000_000)], ids=["bf16", "fp16", "fp32"])
def test_overflow_to_infinity_equals_torch(form, x):
    assert same(form.cast(x, saturate=False), x.to(form.dtype).to(x.dtype))


def test_e4m3_without_saturation_overflows_to_nan_where_torch_would_leave_the_range():
    """PyTorch saturates itself since 2.12, so that it judges only what rounds to 448 or less."""
    x = random_floats(100_000)
    y = E4M3FN.cast(x, saturate=False)
    inside = x.abs() <= 464  # halfway to the code of NaN; the tie goes to 448, which is even
    assert same(y[inside], x[inside].to(torch.float8_e4m3fn).float())
    assert y[~inside].isnan().all()
    edge = torch.tensor([448.0, 464.0, math.nextafter(464.0, 465.0)], dtype=torch.float64)
    assert E4M3FN.cast(edge, saturate=False).tolist()[:2] == [448, 448]
    assert E4M3FN.cast(edge, saturate=False)[2].isnan()


@pytest.mark.parametrize("form", ELEMENTS, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_casts_equal_brute_force(form, dtype):
    """All values, all halfway points, and the neighbours of both that the type can hold."""
    values = [float(v) for v in values_of(form)]
    halves = [(a + b) / 2 for a, b in itertools.pairwise(values)]
    points = torch.tensor(values + halves + [form.max * 1.01, form.max * 4, math.inf], dtype=torch.float64).to(dtype)
    up, down = (points.nextafter(points.new_full((), end)) for end in (math.inf, -math.inf))
    x = torch.cat([points, up, down])
    x = torch.cat([x, -x])
    expected = torch.tensor([nearest(form, v) for v in x.double().tolist()], dtype=torch.float64)
    assert same(form.cast(x), expected.to(dtype))


@pytest.mark.parametrize("form", ELEMENTS, ids=repr)
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=8))
def test_float64_is_rounded_once(form, numbers):
    """By way of float32 a value just past a tie would be rounded to the tie and then to even."""
    x = torch.tensor(numbers, dtype=torch.float64)
    assert form.cast(x).tolist() == [nearest(form, v) for v in numbers]
    past = torch.tensor([1 + 2.0 ** -(form.mantissa_bits + 1) + 2.0**-45], dtype=torch.float64)
    assert form.cast(past).item() == 1 + 2.0**-form.mantissa_bits
    assert form.cast(past.float()).item() == 1


@pytest.mark.parametrize("form", SMALL, ids=repr)
def test_small_formats_always_saturate_and_keep_nan(form):
    x = torch.tensor([math.inf, -1e9, math.nan, -0.0])
    for saturate in (True, False):
        y = form.cast(x, saturate)
        assert y[:2].tolist() == [form.max, -form.max]
        assert y[2].isnan()
        assert y[3] == 0
        assert y[3].signbit()


def test_saturation_stays_finite_in_a_type_that_is_too_narrow_for_the_format():
    assert BF16.cast(torch.tensor([65504.0, -math.inf], dtype=torch.float16)).tolist() == [65280, -65280]
    assert FP16.cast(torch.tensor([1e30], dtype=torch.bfloat16)).tolist() == [65280]
    assert FP16.cast(torch.tensor([1e30])).tolist() == [65504]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", [*ELEMENTS, FP16, BF16, *formats.BLOCK_FORMATS], ids=repr)
def test_shape_dtype_and_strides_do_not_matter(form, dtype):
    x = torch.randn(3, 5, 64).to(dtype)
    y = form.cast(x)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    assert same(form.cast(x.transpose(0, 1)), y.transpose(0, 1).contiguous())
    assert not form.cast(x.requires_grad_()).requires_grad
    assert same(form.cast(y), y) or form is NVFP4 or form == BF16  # a cast value stays; NVFP4's scale is found anew
    assert form.cast(x[:0]).shape == (0, 5, 64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_casts_compile(dtype):
    torch._dynamo.reset()
    x = random_floats(4096).to(dtype)
    for form in (E4M3FN, MXFP4, NVFP4):
        compiled = torch.compile(form.cast, fullgraph=True, backend="aot_eager")
        assert same(compiled(x), form.cast(x))


def test_casts_compile_to_machine_code():
    torch._dynamo.reset()
    x = random_floats(4096)
    assert same(torch.compile(E5M2.cast, fullgraph=True)(x, saturate=False), E5M2.cast(x, saturate=False))


def test_shares_of_underflow_and_overflow():
    x = torch.tensor([0.0, 2.0**-10, -(2.0**-10), 2.0**-9, 1.0, 464.0, 465.0, -math.inf, math.nan, 0.0])
    assert E4M3FN.underflow(x) == 2 / 8
    assert E4M3FN.overflow(x) == 2 / 8
    assert (E4M3FN.underflow(torch.zeros(3)), E4M3FN.overflow(torch.zeros(0))) == (0, 0)
    y = torch.randn(100_000) * 2.0**-8
    assert E4M3FN.underflow(y) == pytest.approx(math.erf(0.25 / math.sqrt(2)), abs=0.005)
    assert BF16.underflow(y) == BF16.overflow(y) == 0
    assert FP16.overflow(torch.tensor([65519.0, 65520.0])) == 0.5


def brute_mx(form: MX, block: list[float]) -> list[float]:
    """One block by the words of OCP MX 1.0, section 6.3, in exact arithmetic."""
    largest = max(abs(Fraction(v)) for v in block)
    exponent = -127
    if largest:
        exponent = math.frexp(float(largest))[1] - 1 - (math.frexp(form.element.max)[1] - 1)
    scale = Fraction(2) ** min(max(exponent, -127), 127)
    return [math.copysign(float(nearest_magnitude(form.element, abs(Fraction(v)) / scale) * scale), v) for v in block]


@pytest.mark.parametrize("form", [f for f in formats.BLOCK_FORMATS if isinstance(f, MX)], ids=repr)
@pytest.mark.parametrize("size", [1.0, 1e-38, 2.0**-140, 1e36, 0.0])
def test_mx_blocks_equal_the_specification(form, size):
    x = torch.randn(4, 32) * torch.randn(4, 32).exp() * size
    expected = [brute_mx(form, row) for row in x.tolist()]
    assert same(form.cast(x), torch.tensor(expected))
    assert same(form.cast(x.double()), torch.tensor(expected, dtype=torch.float64))


def test_the_mx_scale_is_torchs_e8m0():
    """A block with one value: the scale is a code of float8_e8m0fnu, and the quotient lies in E2M1's top binade."""
    x = random_floats(2000)
    x = x[x.isfinite() & (x.abs() > 2.0**-120)]
    blocks = torch.zeros(len(x), 32)
    blocks[:, 5] = x
    scale = torch.exp2(x.abs().double().log2().floor() - 2).float()
    assert same(scale.to(torch.float8_e8m0fnu).float(), scale)
    assert same(MXFP4.cast(blocks)[:, 5], E2M1.cast(x / scale) * scale)


def test_blocks_run_along_any_dimension_and_may_be_filled_up():
    x = torch.randn(3, 45, 7)
    filled = torch.nn.functional.pad(x, (0, 0, 0, 64 - 45))
    for form in formats.BLOCK_FORMATS:
        along = form.cast(x, dim=1)
        assert same(along, form.cast(x.movedim(1, -1)).movedim(-1, 1).contiguous())
        assert same(along, form.cast(filled, dim=1)[:, :45].contiguous())
        assert same(form.cast(x, dim=-2), along)
        assert not same(form.cast(x, dim=0), along)
        with pytest.raises(ValueError, match=r"dim: 3 is not a dimension of x.*\(3, 45, 7\)"):
            form.cast(x, dim=3)


def test_a_faulty_block_shows():
    x = torch.randn(2, 64)
    x[0, 3], x[1, 40] = math.nan, math.inf
    for form in (MXFP4, MXFP6(), MXFP8()):
        bad = form.cast(x).isnan()
        assert bad[0, :32].all()
        assert bad[1, 32:].all()
        assert bad.sum() == 64
    assert NVFP4.cast(x[:1]).isnan().sum() == 16
    assert NVFP4.cast(x).isnan().all()


def brute_nvfp4(rows: list[list[float]], outer: float | None = None) -> np.ndarray:
    """The recipe of arXiv 2509.25149 block by block, in NumPy's float32."""
    x = np.array(rows, dtype=np.float32)
    outer = np.float32(np.abs(x).max() / np.float32(6 * 448)) if outer is None else np.float32(outer)
    out = np.zeros_like(x)
    for i, row in enumerate(x):
        for j in range(0, len(row), 16):
            block = row[j : j + 16]
            inner = np.float32(nearest(E4M3FN, float(np.abs(block).max() / np.float32(6) / outer)))
            step = inner * outer
            if step:
                out[i, j : j + 16] = [np.float32(nearest(E2M1, float(v / step))) * step for v in block]
    return out


@pytest.mark.parametrize("outer", [None, 1.0, 2.0**-8])
def test_nvfp4_equals_the_recipe(outer):
    x = torch.randn(6, 48) * torch.logspace(-4, 2, 6)[:, None]
    y = NVFP4.cast(x, tensor_scale=outer)
    assert y.numpy() == pytest.approx(brute_nvfp4(x.tolist(), outer), rel=1e-6, abs=0)
    assert same(NVFP4.cast(torch.zeros(2, 16)), torch.zeros(2, 16))


def test_nvfp4_has_less_error_than_mxfp4_and_that_less_than_plain_e2m1():
    x = torch.randn(256, 256) * torch.randn(256, 1).exp()
    error = lambda form: ((form.cast(x) - x).norm() / x.norm()).item()
    assert 0.05 < error(NVFP4) < error(MXFP4) < error(E2M1)


def test_formats_by_name():
    assert formats.by_name("e4m3") is formats.by_name("E4M3FN") is formats.by_name("float8_e4m3fn") is E4M3FN
    assert formats.by_name("bfloat16") is BF16
    assert formats.by_name("nvfp4") is NVFP4
    assert all(formats.by_name(form.name) is form for form in formats.FORMATS + formats.BLOCK_FORMATS)
    assert (MXFP8("e5m2").element, MXFP6(E2M3).element, MXFP4.element) == (E5M2, E2M3, E2M1)
    with pytest.raises(ValueError, match=r"name: no format 'e9m9'; there are .*e4m3"):
        formats.by_name("e9m9")
    with pytest.raises(ValueError, match=r"element: E2M1 .* give E3M2 or E2M3"):
        MXFP6(E2M1)


def test_wrong_input_is_named():
    for form in (E4M3FN, MXFP4, NVFP4):
        for x in (torch.ones(4, dtype=torch.int32), torch.ones(4, dtype=torch.complex64)):
            with pytest.raises(TypeError, match=rf"x: {x.dtype} .*float32"):
                form.cast(x)
        with pytest.raises(TypeError, match=r"x: list"):
            form.cast([1.0])
    with pytest.raises(TypeError, match=r"x: torch.int64"):
        E4M3FN.underflow(torch.ones(3, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"x: torch.bool"):
        E4M3FN.overflow(torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"tensor_scale: -1"):
        NVFP4.cast(torch.ones(16), tensor_scale=-1)
    with pytest.raises(ValueError, match="mantissa_bits: 23"):
        Format("FP32", 8, 23, 127, 3e38)


def test_formats_are_values():
    for form in formats.FORMATS + formats.BLOCK_FORMATS:
        assert pickle.loads(pickle.dumps(form)) == form
        assert hash(form) == hash(pickle.loads(pickle.dumps(form)))
