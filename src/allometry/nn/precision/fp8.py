"""Linear layers whose three products run in FP8, with static unit scale: no maximum of a tensor is ever taken.

Operands are cast as they are, which unit scale allows: x and the weight to E4M3FN, gradients to E5M2. The layer's
factors go into the scales of ``torch._scaled_mm``. If that is missing, or the format has no such product, the same
casts are simulated (:mod:`allometry.nn.precision.formats`, equal bit for bit) and the product is an ordinary one.

    from allometry import nn

    nn.fp8.convert(model)              # every hidden Linear, in place; the same parameters
    nn.fp8.convert(model, "mxfp4")     # simulated

Requirements of ``torch._scaled_mm``, as measured with PyTorch 2.13:

- CUDA (compute capability 8.9 and above): the first operand row-major, the second column-major, the inner size and the
  columns multiples of 16, not E5M2 with E5M2. Operands are transposed and padded here as needed.
- TorchInductor: the same layouts, on the CPU too.
- CPU: any layout, size, and output type. E4M3FN with E4M3FN under a scale without dimensions goes to oneDNN, which on
  a processor without FP8 arithmetic runs a reference loop, 700 ms for 256³; under a scale for each row and column it
  is converted and multiplied in float32, 0.7 ms. So scales are given in that form. This still takes about three times
  as long as a float32 product: on the CPU it is for studying FP8, not for speed.
- ``x.to(torch.float8_e4m3fn)`` returns NaN for overflow up to PyTorch 2.11, and saturates in later versions; E5M2
  becomes infinite. Operands are therefore clamped first.
"""

# torch._scaled_mm is not in PyTorch's type declarations.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..layers import with_parameters as layers
from ..ops.arguments import check_float
from ..ops.autograd import NamedArguments
from ..ops.products import Factors, over_rows, over_rows_of
from ..ops.scale import scale
from .formats import E4M3FN, E5M2, MX, Format, NVFP4Format, by_name

MODES = ("auto", "real", "simulated")
REAL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
GRADIENTS = {"E5M2": E5M2, "E4M3FN": E4M3FN}  # the formats that may be multiplied with E4M3FN
TILE = 16  # CUDA requires sizes that are multiples of it
AnyFormat = Format | MX | NVFP4Format


@dataclass(frozen=True)
class FP8Formats:
    """The number formats of linear layers: which operands are cast to which format, and in which layers.

    ``forward`` is the format of activations and weights; ``gradient`` is the format of the gradients that enter a layer
    from above (None: they are not cast). Each is a format or its name. A block format runs along the dimension that the
    forward product sums over; the backward products read the same operands again. ``roles`` names the roles of the
    weights whose layers are converted. ``mode`` "real" requires ``torch._scaled_mm``, "simulated" uses the simulation,
    "auto" takes the real product if there is one.

    Raises:
        ValueError: an unknown format, role or mode, or "real" for formats without a real product.
    """

    forward: AnyFormat = E4M3FN
    gradient: AnyFormat | None = E5M2
    roles: Collection[str] = ("hidden",)
    mode: str = "auto"

    def __post_init__(self):
        for name in ("forward", "gradient"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, by_name(getattr(self, name)))
        roles = (self.roles,) if isinstance(self.roles, str) else tuple(self.roles)
        object.__setattr__(self, "roles", roles)
        if not roles or set(roles) - {"hidden", "output"}:
            raise ValueError(f"roles: {roles!r}; linear layers have the roles 'hidden' and 'output'")
        if self.mode not in MODES:
            raise ValueError(f"mode: {self.mode!r} is unknown; give {', '.join(map(repr, MODES))}")
        if self.mode == "real" and not self.has_product:
            raise ValueError(
                f"mode: 'real' knows E4M3FN forward and E5M2 or E4M3FN for gradients, "
                f"not {self.forward} and {self.gradient}; give 'simulated' or 'auto'"
            )

    @property
    def has_product(self) -> bool:
        """Whether ``torch._scaled_mm`` supports these formats on some device."""
        # By name: a float in a comparison (their maxima) would become a symbol under torch.compile(dynamic=True).
        return self.forward.name == "E4M3FN" and self.gradient is not None and self.gradient.name in GRADIENTS


E4M3 = FP8Formats()


def supported(device: torch.device | str = "cpu", formats: FP8Formats = E4M3) -> bool:
    """Whether this device has a real FP8 product of these formats; the first call tries one."""
    return formats.has_product and formats.gradient is not None and _has_product(str(device), formats.gradient.name)


def _try_product(device: str, gradient: str) -> bool:
    if torch.device(device).type == "meta":
        return False
    try:
        a = torch.ones(TILE, TILE, device=device).to(torch.float8_e4m3fn)
        g = torch.ones(TILE, TILE, device=device).to(GRADIENTS[gradient].dtype)
        outputs = (_product(a, a.t(), 1.0, torch.float32, True), _product(g, a, 1.0, torch.float32))
        return all(bool((y == TILE).all()) for y in outputs)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError, AssertionError):
        return False


# PyTorch declares all forms of ``disable`` at once.
_has_product: Callable[[str, str], bool] = lru_cache(  # pyright: ignore[reportAssignmentType]
    torch.compiler.disable(_try_product)
)
# Compilation calls this once; the answer becomes a constant of the graph.
_has_product_constant: Callable[[str, str], bool] = torch.compiler.assume_constant_result(
    lambda device, gradient: _has_product(device, gradient)
)


def _is_real(x: Tensor, formats: FP8Formats) -> bool:
    gradient = formats.gradient
    if formats.mode == "simulated" or not formats.has_product or gradient is None:
        return False
    has_product = _has_product_constant if torch.compiler.is_compiling() else _has_product
    real = x.dtype in REAL_DTYPES and has_product(str(x.device), gradient.name)
    if formats.mode == "real" and not real:
        raise ValueError(
            f"mode: 'real', but device {str(x.device)!r} has no FP8 product of {formats.forward} with "
            f"{gradient} gradients for {x.dtype}; give mode='simulated' or 'auto'"
        )
    return real


def to_fp8(x: Tensor, form: Format) -> Tensor:
    """``x`` in PyTorch's own 8-bit type, saturating: bit for bit what ``form.cast`` simulates."""
    largest = form.constants()[2]
    return x.clamp(-largest, largest).to(form.dtype)


def _product(a: Tensor, b: Tensor, factor: float, dtype: torch.dtype, fast: bool = False) -> Tensor:
    """factor·a·b of two 8-bit matrices, summed in float32; ``fast`` lets Hopper sum in fewer bits."""
    rows, columns = a.shape[0], b.shape[1]
    tiled = a.device.type != "cpu"
    a, b = _row_major(a, 1, TILE if tiled else 1), _row_major(b.t(), TILE if tiled else 1, TILE if tiled else 1).t()
    shapes = ((), ()) if tiled else ((rows, 1), (1, columns))
    scale_a = torch.full(shapes[0], factor, dtype=torch.float32, device=a.device)
    scale_b = torch.ones(shapes[1], dtype=torch.float32, device=a.device)
    y = torch._scaled_mm(a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=dtype, use_fast_accum=fast)
    return y if y.shape[1] == columns else y[:, :columns].contiguous()


def _row_major(a: Tensor, rows: int, columns: int) -> Tensor:
    """``a`` row-major, filled up with zeros to multiples of the two sizes. Zero is the byte 0, so bytes are padded."""
    missing = (0, -a.shape[1] % columns, 0, -a.shape[0] % rows)
    if any(missing):
        return nn.functional.pad(a.contiguous().view(torch.uint8), missing).view(a.dtype)
    return a.contiguous()


def _simulated(a: Tensor, b: Tensor, factor: float) -> Tensor:
    return torch.addmm(a.new_zeros(1), a, b, beta=0, alpha=factor)


class _FP8LinearFunction(NamedArguments):
    """β·addend + x·wᵀ with cast operands; the addend is a bias (columns) or a tensor to add onto (rows, columns)."""

    @staticmethod
    def forward(
        ctx, x, weight, addend, beta: float, output: float, grad_input: float, grad_weight: float, formats, real
    ):
        ctx.dtypes, ctx.formats, ctx.real = (x.dtype, weight.dtype), formats, real
        ctx.factors = grad_input, grad_weight
        ctx.bias = addend is not None and addend.dim() == 1
        if real:
            x, weight = to_fp8(x, formats.forward), to_fp8(weight, formats.forward)
            y = _product(x, weight.t(), output, ctx.dtypes[0], fast=True)
        else:
            x, weight = formats.forward.cast(x), formats.forward.cast(weight).to(x.dtype)
            y = _simulated(x, weight.t(), output)
        ctx.save_for_backward(x, weight)
        return y if addend is None else torch.add(y, addend, alpha=beta)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        form, rows = ctx.formats.gradient, over_rows_of(grad)
        grad_x = grad_weight = grad_addend = None
        if ctx.needs_input_grad[2]:
            # What is added onto takes the gradient as it is: its weight β is put back where the branch split off.
            grad_addend = grad.sum(0) * rows if ctx.bias else grad
        grad_input_factor, grad_weight_factor = ctx.factors[0], ctx.factors[1] * rows
        low = to_fp8(grad, form) if ctx.real else grad if form is None else form.cast(grad)
        if ctx.needs_input_grad[0]:
            pair = low, weight, grad_input_factor
            grad_x = _product(*pair, ctx.dtypes[0]) if ctx.real else _simulated(*pair)
        if ctx.needs_input_grad[1]:
            pair = low.t(), x, grad_weight_factor
            grad_weight = _product(*pair, ctx.dtypes[1]) if ctx.real else _simulated(*pair).to(ctx.dtypes[1])
        return grad_x, grad_weight, grad_addend, *(None,) * 6


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    factors: Factors,
    formats: FP8Formats = E4M3,
    mode: str | None = None,
    onto: Tensor | None = None,
    keep: float = 1.0,
    share: float = 1.0,
) -> Tensor:
    """:func:`allometry.nn.functional.linear` with its three products in FP8: (…, fan_in) → (…, fan_out).

    ``factors``, ``onto``, ``keep`` and ``share`` are as there. x and weight, of any type, are cast to
    ``formats.forward``, the gradient to ``formats.gradient``, for both products; a bias and ``onto`` are not cast. The
    output has the type of ``x`` (or autocast's), the gradients have the types of ``x`` and ``weight``. The backward
    pass keeps the cast operands, one byte each if real. ``mode`` replaces ``formats.mode``.

    Raises:
        TypeError: an integer or complex tensor.
        ValueError: a dimension of size 0, shapes that do not match, or ``mode`` "real" without such a product.
    """
    check_float(x=x, weight=weight)
    fan_out, fan_in = weight.shape
    if x.shape[-1] != fan_in:
        raise ValueError(f"x: last dimension is {x.shape[-1]}, but the weight reads {fan_in} features")
    if mode is not None and mode != formats.mode:
        formats = FP8Formats(formats.forward, formats.gradient, formats.roles, mode)
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    flat = x.reshape(-1, fan_in)
    real = _is_real(flat, formats)
    if onto is not None:
        onto = onto.to(x.dtype).reshape(-1, fan_out)
        y = _FP8LinearFunction.apply(flat, weight, onto, keep, share * factors[0], *factors[1:], formats, real)
        if bias is not None:
            y = y + scale(bias.to(x.dtype), share, over_rows(flat.shape[0]))
    else:
        bias = None if bias is None else bias.to(x.dtype)
        y = _FP8LinearFunction.apply(flat, weight, bias, 1.0, *factors, formats, real)
    return y.view(*x.shape[:-1], fan_out)


class FP8Linear(layers.Linear):
    """:class:`allometry.nn.Linear` in FP8; ``formats`` is an :class:`FP8Formats` or the name of a forward format."""

    formats: FP8Formats = E4M3

    def __init__(self, *arguments, formats: FP8Formats | str = E4M3, **options):
        super().__init__(*arguments, **options)
        self.formats = _as_formats(formats)

    def forward(self, x: Tensor, onto: Tensor | None = None, keep: float = 1.0, share: float = 1.0) -> Tensor:
        factors, formats = self.factors(), self.formats
        return linear(x, self.weight, self.bias, factors=factors, formats=formats, onto=onto, keep=keep, share=share)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, forward={self.formats.forward}, gradient={self.formats.gradient}"


class FP8Readout(FP8Linear, layers.Readout):
    """:class:`allometry.nn.Readout` in FP8; :func:`convert` makes it only if the roles include "output"."""


_TWINS = {layers.Linear: FP8Linear, layers.Readout: FP8Readout, FP8Linear: FP8Linear, FP8Readout: FP8Readout}


def convert(model: nn.Module, formats: FP8Formats | str = "e4m3") -> nn.Module:
    """Let every linear layer of the given roles compute in FP8, in place; returns ``model``.

    The modules, parameters, names, roles and state dictionary remain the same objects: a layer only changes its class,
    so optimisers, hooks and checkpoints stay valid. A subclass of Linear with its own forward pass is not changed. By
    default the readout is not changed, as in all published FP8 training. Convert before sharding or compiling.

    Raises:
        ValueError: nothing was converted.
    """
    formats = _as_formats(formats)
    converted = 0
    for module in list(model.modules()):
        if isinstance(module, layers.Linear) and type(module) in _TWINS and module.roles["weight"] in formats.roles:
            module.__class__ = _TWINS[type(module)]
            module.__dict__["formats"] = formats
            converted += 1
    if not converted:
        others = sorted({type(m).__name__ for m in model.modules() if isinstance(m, nn.Linear | layers.Linear)})
        raise ValueError(
            f"model: no allometry.nn.Linear with a role in {formats.roles}"
            + (f", only {', '.join(others)}" if others else "")
            + "; build it from allometry.nn's layers, or convert a torch.nn model by scale_model"
        )
    return model


def _as_formats(formats: FP8Formats | str) -> FP8Formats:
    if isinstance(formats, FP8Formats):
        return formats
    if isinstance(formats, str):
        return FP8Formats(forward=by_name(formats))
    raise TypeError(f"formats: {type(formats).__name__}; give an FP8Formats or the name of a format such as 'e4m3'")


__all__ = ["E4M3", "FP8Formats", "FP8Linear", "FP8Readout", "convert", "linear", "supported", "to_fp8"]
