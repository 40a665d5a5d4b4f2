"""Number formats, simulated bit for bit: FP8, FP6, FP4, and blocks that share a scale.

``E4M3FN.cast(x)`` rounds each value to the nearest of the format, ties to even, and returns it in the type of ``x``.
The work is done on the bits as integers, so it is exact for every input type, subnormals included, on any device and
under ``torch.compile``, and independent of how that device rounds or flushes. No gradient passes through a cast.

Sources: OCP 8-bit Floating Point Specification 1.0 (E4M3, E5M2); OCP Microscaling Formats (MX) Specification 1.0
(E3M2, E2M3, E2M1, blocks of 32 with an E8M0 scale); arXiv 2509.25149 (NVFP4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

# The layout of a type: integer of the same width, mantissa bits, exponent bias. Halves are computed in float32.
_LAYOUT = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}
_VIA = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def _check(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: {type(x).__name__} is not a tensor; give a torch.Tensor of real floating-point numbers")
    if x.dtype not in _LAYOUT and x.dtype not in _VIA:
        raise TypeError(f"x: {x.dtype} cannot be cast; give float64, float32, bfloat16 or float16")


@dataclass(frozen=True)
class Format:
    """A floating-point format: sign, exponent and mantissa bits, and the meaning of its highest codes.

    ``max`` is the largest finite value, ``has_inf`` and ``has_nan`` whether there are codes for infinity and NaN.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    max: float
    has_inf: bool = False
    has_nan: bool = False
    dtype: torch.dtype | None = None  # PyTorch's own, if there is one
    _text: tuple[str, str, str] = field(init=False, repr=False, compare=False, default=("", "", ""))

    def __post_init__(self):
        if not 0 < self.mantissa_bits < 23:
            raise ValueError(f"mantissa_bits: {self.mantissa_bits}; a format narrower than float32 has 1 to 22")
        object.__setattr__(self, "_text", (str(self.mantissa_bits), str(self.min_exponent), repr(self.max)))

    def constants(self) -> tuple[int, int, float]:
        """``mantissa_bits``, ``min_exponent`` and ``max``, as constants under ``torch.compile``.

        With ``dynamic=True`` the compiler treats numbers of an object as symbols; numbers read from text are constants.
        """
        if torch.compiler.is_compiling():
            mantissa_bits, min_exponent, largest = self._text
            return int(mantissa_bits), int(min_exponent), float(largest)
        return self.mantissa_bits, self.min_exponent, self.max

    @property
    def bits(self) -> int:
        """The number of bits of a value."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def min_exponent(self) -> int:
        """The exponent of the smallest normal value."""
        return 1 - self.bias

    @property
    def max_exponent(self) -> int:
        """The exponent of the largest value."""
        return math.frexp(self.constants()[2])[1] - 1

    @property
    def min_normal(self) -> float:
        """The smallest positive value of full precision."""
        return 2.0**self.min_exponent

    @property
    def min_subnormal(self) -> float:
        """The smallest positive value."""
        return 2.0 ** (self.min_exponent - self.mantissa_bits)

    def cast(self, x: Tensor, saturate: bool = True) -> Tensor:
        """The nearest value of the format, ties to even; shape and dtype of ``x`` are kept, and so are NaN and −0.

        What rounds beyond ``max``, infinity included, becomes ±max; with ``saturate=False`` it becomes ±inf, or NaN
        where the format has no infinity (E4M3FN). FP6 and FP4 have neither and always saturate, as OCP specifies. A
        NaN stays a NaN even there, although no code holds it, so that a fault does not become a number. Where the dtype
        of ``x`` cannot hold ``max`` (BF16's in float16), ±max is the largest value of the format that it can.

        Raises:
            TypeError: ``x`` is not float64, float32, bfloat16 or float16.
        """
        _check(x)
        wide = x.detach().to(_VIA.get(x.dtype, x.dtype))
        y, largest = self._round(wide), self.constants()[2]
        if saturate or not self.has_nan:
            top = self._largest_in(x.dtype)
            y = y.clamp(-top, top)
        elif self.has_inf:
            y = torch.where(y.abs() > largest, torch.copysign(torch.full_like(y, math.inf), y), y)
        else:
            y = torch.where(y.abs() > largest, math.nan, y)
        return torch.where(wide.isnan(), wide, y).to(x.dtype)

    def underflow(self, x: Tensor) -> float:
        """The share of the nonzero entries that become 0; 0 if all are."""
        _check(x)
        wide = x.detach().to(_VIA.get(x.dtype, x.dtype))
        nonzero = wide != 0
        return _share(nonzero & (self._round(wide) == 0), nonzero)

    def overflow(self, x: Tensor) -> float:
        """The share of the nonzero entries that round beyond ``max``, infinities included, NaN not."""
        _check(x)
        wide = x.detach().to(_VIA.get(x.dtype, x.dtype))
        return _share((self._round(wide).abs() > self.max) & ~wide.isnan(), wide != 0)

    def _round(self, x: Tensor) -> Tensor:
        """Nearest even as if the exponent had no upper end; float32 or float64. The result for a NaN is arbitrary."""
        integer, mantissa, bias = _LAYOUT[x.dtype]
        mantissa_bits, min_exponent, _ = self.constants()
        bits = x.view(integer)
        magnitude = bits & torch.iinfo(integer).max
        exponent = (magnitude >> mantissa).clamp(min=1)  # 0 marks a subnormal, whose unit is that of exponent 1
        base = (exponent - 1) << mantissa
        significand = magnitude - base
        # The number of low bits of the significand below the format's last place: more if it is subnormal. Beyond
        # mantissa + 2 bits everything is less than half a unit, and rounds to 0.
        shift = (min_exponent + bias - exponent).clamp(min=0) + (mantissa - mantissa_bits)
        shift = shift.clamp(max=mantissa + 2)
        odd = (significand >> shift) & 1
        half = torch.ones_like(shift) << (shift - 1)
        rounded = ((significand + (half - 1 + odd)) >> shift) << shift
        # A carry out of the significand correctly increments the exponent.
        magnitude = torch.where(rounded == 0, rounded, base + rounded)
        return (magnitude | (bits & torch.iinfo(integer).min)).view(x.dtype)

    def _largest_in(self, dtype: torch.dtype) -> float:
        """The largest value of the format that ``dtype`` holds."""
        mantissa_bits, _, largest = self.constants()
        info = torch.finfo(dtype)
        digits = round(-math.log2(info.eps))
        if info.max >= largest and mantissa_bits <= digits:
            return largest
        exponent = min(self.max_exponent, math.frexp(info.max)[1] - 1)
        return min(largest, (2 - 2.0 ** -min(mantissa_bits, digits)) * 2.0**exponent)

    def __repr__(self) -> str:
        return self.name


def _share(hits: Tensor, among: Tensor) -> float:
    hit, all_ = torch.stack((hits.sum(), among.sum())).tolist()  # one wait for the device
    return hit / max(all_, 1)


E4M3FN = Format("E4M3FN", 4, 3, 7, 448.0, has_nan=True, dtype=torch.float8_e4m3fn)
E5M2 = Format("E5M2", 5, 2, 15, 57344.0, has_inf=True, has_nan=True, dtype=torch.float8_e5m2)
E3M2 = Format("E3M2", 3, 2, 3, 28.0)
E2M3 = Format("E2M3", 2, 3, 1, 7.5)
E2M1 = Format("E2M1", 2, 1, 1, 6.0)
FP16 = Format("FP16", 5, 10, 15, 65504.0, has_inf=True, has_nan=True, dtype=torch.float16)
BF16 = Format("BF16", 8, 7, 127, (2 - 2.0**-7) * 2.0**127, has_inf=True, has_nan=True, dtype=torch.bfloat16)


@dataclass(frozen=True)
class MX:
    """Blocks of 32 values that share a power of two, 2^-127 to 2^127 (E8M0): an OCP Microscaling format.

    The scale is 2^(⌊log₂ max|block|⌋ − e), with e the exponent of the element format's largest value; elements are
    rounded to nearest even and saturate. A block that contains a NaN or an infinity becomes NaN: the scale has a code
    for that, and the fault stays visible. Source: OCP MX 1.0, section 6.3.
    """

    name: str
    element: Format
    block: int = 32

    def cast(self, x: Tensor, dim: int = -1) -> Tensor:
        """Each value as the format holds it, blocks running along ``dim``; shape and dtype are kept.

        A length that the block does not divide is filled up with zeros inside, which changes no scale.

        Raises:
            TypeError: ``x`` is not float64, float32, bfloat16 or float16. ValueError: no such ``dim``.
        """
        blocks, restore = _blocks(x, dim, self.block)
        amax = blocks.abs().amax(-1, keepdim=True)
        integer, mantissa, bias = _LAYOUT[blocks.dtype]
        exponent = (amax.view(integer) >> mantissa) - (bias + self.element.max_exponent)
        exponent = exponent.clamp(-127, 127)
        y = self.element.cast(blocks * _power_of_two(-exponent, blocks.dtype)) * _power_of_two(exponent, blocks.dtype)
        return restore(torch.where(amax.isfinite(), y, math.nan))

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class NVFP4Format:
    """E2M1 values in blocks of 16, an E4M3FN scale for each block and a float32 scale for the tensor.

    The tensor's scale is max|x|/(6·448), unless it is given: with unit scaling a constant will do. A block's is
    max|block|/6 over the tensor's, rounded to E4M3FN; a block too small for that becomes 0. A block with a NaN in it
    becomes NaN throughout, and so does all of a tensor with an infinity. The products of element and scales need up
    to 24 bits of mantissa: in bfloat16 and float16 they are rounded. Source: arXiv 2509.25149, appendix.
    """

    name: str = "NVFP4"
    element: Format = E2M1
    scale: Format = E4M3FN
    block: int = 16

    def cast(self, x: Tensor, dim: int = -1, tensor_scale: float | None = None) -> Tensor:
        """Each value as the format holds it, blocks running along ``dim``; shape and dtype are kept.

        A length that the block does not divide is filled up with zeros inside, which changes no scale.

        Raises:
            TypeError: ``x`` is not float64, float32, bfloat16 or float16.
            ValueError: no such ``dim``, or a ``tensor_scale`` that is not positive.
        """
        if tensor_scale is not None and not (math.isfinite(tensor_scale) and tensor_scale > 0):
            raise ValueError(f"tensor_scale: {tensor_scale} is not a scale; it must be positive")
        blocks, restore = _blocks(x, dim, self.block)
        amax = blocks.abs().amax(-1, keepdim=True)
        largest = self.element.constants()[2]
        if tensor_scale is None:
            # A block of NaN must not spoil the others.
            whole = (amax.nan_to_num(0.0, math.inf).amax() if amax.numel() else amax.new_zeros(())).float()
            outer = whole / (largest * self.scale.constants()[2])
            outer = torch.where(outer > 0, outer, 1.0).clamp(min=torch.finfo(torch.float32).tiny)
        else:
            outer = torch.full((), tensor_scale, dtype=torch.float32, device=x.device)
        outer = outer.to(blocks.dtype)
        inner = self.scale.cast(amax / largest / outer)
        step = inner * outer
        y = self.element.cast(blocks / torch.where(step > 0, step, 1.0)) * step
        return restore(torch.where(amax.isfinite(), y, math.nan))

    def __repr__(self) -> str:
        return self.name


def _blocks(x: Tensor, dim: int, block: int):
    """``x`` as (…, blocks, block) in a type to compute in, and the way back."""
    _check(x)
    if not -x.dim() <= dim < x.dim():
        raise ValueError(f"dim: {dim} is not a dimension of x, which has shape {tuple(x.shape)}")
    moved = x.detach().to(_VIA.get(x.dtype, x.dtype)).movedim(dim, -1)
    length = moved.shape[-1]
    blocks = torch.nn.functional.pad(moved, (0, -length % block)).unflatten(-1, (-1, block)).contiguous()
    return blocks, lambda y: y.flatten(-2)[..., :length].movedim(-1, dim).to(x.dtype)


def _power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """2^exponent for integers from −127 to 127, put together from bits: ``ldexp`` is not exact at the ends."""
    _, mantissa, bias = _LAYOUT[dtype]
    field = exponent + bias
    bits = torch.where(field > 0, field << mantissa, 1 << (mantissa - 1))  # 2^-127 is subnormal in float32
    return bits.view(dtype)


MXFP8_E4M3 = MX("MXFP8_E4M3", E4M3FN)
MXFP8_E5M2 = MX("MXFP8_E5M2", E5M2)
MXFP6_E3M2 = MX("MXFP6_E3M2", E3M2)
MXFP6_E2M3 = MX("MXFP6_E2M3", E2M3)
MXFP4 = MX("MXFP4", E2M1)
NVFP4 = NVFP4Format()

FORMATS = (E4M3FN, E5M2, E3M2, E2M3, E2M1, FP16, BF16)
BLOCK_FORMATS = (MXFP8_E4M3, MXFP8_E5M2, MXFP6_E3M2, MXFP6_E2M3, MXFP4, NVFP4)
_ALIASES = {
    "e4m3": E4M3FN,
    "fp8": E4M3FN,
    "float16": FP16,
    "half": FP16,
    "bfloat16": BF16,
    "fp4": E2M1,
    "mxfp8": MXFP8_E4M3,
    "mxfp6": MXFP6_E3M2,
}


@lru_cache
def _table() -> dict[str, Format | MX | NVFP4Format]:
    return {form.name.lower(): form for form in FORMATS + BLOCK_FORMATS} | _ALIASES


def by_name(name: str) -> Format | MX | NVFP4Format:
    """The format of this name, whatever its case: "e4m3", "E5M2", "bf16", "mxfp8_e5m2", "nvfp4" …

    Raises:
        ValueError: there is none.
    """
    table = _table()
    key = str(name).lower().removeprefix("torch.").removeprefix("float8_").replace("-", "_")
    if key not in table:
        raise ValueError(f"name: no format {name!r}; there are {', '.join(sorted(table))}")
    return table[key]


def MXFP8(element: Format | str = E4M3FN) -> MX:
    """MXFP8 with E4M3FN or E5M2 elements."""
    return _mx("MXFP8", element, (MXFP8_E4M3, MXFP8_E5M2))


def MXFP6(element: Format | str = E3M2) -> MX:
    """MXFP6 with E3M2 or E2M3 elements."""
    return _mx("MXFP6", element, (MXFP6_E3M2, MXFP6_E2M3))


def _mx(name: str, element: Format | str, choices: tuple[MX, ...]) -> MX:
    form = by_name(element) if isinstance(element, str) else element
    for choice in choices:
        if choice.element == form:
            return choice
    raise ValueError(f"element: {element!r} is none of {name}'s; give {' or '.join(c.element.name for c in choices)}")
