"""Quantised linear layers for inference: weights stored in a narrow format, activations cast to it, scales fixed.

A format needs to know how large a tensor is. Where that comes from is what ``scales`` says:

- "unit": nowhere. At unit scale a weight or an activation has root mean square 1 by construction, so no example is
  needed. Training moves weights away from it, and with them what they give to the next layer, but not what a norm
  gives; so the rows of int8 weights are measured, and :func:`.known_inputs` says the rest of our own blocks.
- "rms": the root mean square of each tensor, measured; of activations on examples.
- "absmax": the largest entry of each tensor, measured; of activations on examples. What calibration usually means.
- "dynamic": the largest entry of each row: of a weight's rows once, of an activation's whenever it comes. It needs no
  example, and is what a pretrained model wants, whose tensors have a few entries far larger than the rest.

``int8`` is uniform: entries beyond its range are clipped, so the range is a choice. Under "rms" it is for weights the
one with the least mean square error for a normal tensor (:func:`normal_range`); for activations it is that times the
length of their tails, 4 where nothing is known. Floating-point formats (``fp8``) have range to spare; "absmax" then
puts the largest entry at the format's largest value. Block formats (``mxfp4``, ``nvfp4``) carry scales of
their own, and ``scales`` changes little there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import with_parameters as layers
from ..ops.products import Factors
from .formats import E4M3FN, MX, Format, NVFP4Format, by_name
from .known_inputs import UNKNOWN, InputSize, known_inputs

SCALES = ("unit", "rms", "absmax", "dynamic")
LEVELS = 127  # of int8, on either side of zero


class Int8:
    """Eight-bit integers times one scale; ``range`` is what the largest code stands for."""

    name, bits = "int8", 8

    def __repr__(self) -> str:
        return self.name


INT8 = Int8()
AnyFormat = Int8 | Format | MX | NVFP4Format


def quantize(
    model: nn.Module,
    format: str | AnyFormat = "int8",
    *,
    scales: str = "unit",
    example: Any = None,
    activations: bool = True,
    roles: Collection[str] = ("hidden",),
    inplace: bool = False,
) -> nn.Module:
    """A model for inference whose linear layers are quantised; a copy unless ``inplace``. It cannot be trained.

    Args:
        model: of our layers, or of ``torch.nn``'s; all its ``Linear`` are quantised.
        format: "int8", "fp8" (E4M3), "mxfp8", "mxfp6", "mxfp4", "nvfp4", or any other of :mod:`.formats`. Products of
            int8 run in int8 where PyTorch has that; those of other formats are computed in the model's type.
        scales: "unit", "rms", "absmax" or "dynamic"; the second and third measure activations on ``example``.
        example: a batch or a list of them. A tensor, ``model(x)``; a tuple, ``model(*x)``; a dictionary,
            ``model(**x)``.
        activations: whether the inputs are cast too, or weights alone.
        roles: of our layers; the output layer ("output") is left out unless named.

    Raises:
        ValueError: an unknown format or rule, no example where one is needed, or no layer to quantise.
    """
    form = _format(format)
    if scales not in SCALES:
        raise ValueError(f"scales: {scales!r} is unknown; give {', '.join(map(repr, SCALES))}")
    model = model if inplace else copy.deepcopy(model)
    linear: dict[str, Any] = {path: layer for path, layer in model.named_modules() if _is_linear(layer, roles)}
    if not linear:
        raise ValueError(f"model: {type(model).__name__} holds no Linear of the roles {', '.join(roles)}")
    sizes: dict[str, float] = {}
    if activations and scales in ("rms", "absmax") and not isinstance(form, MX | NVFP4Format):
        if example is None:
            raise ValueError(
                f"example: none given, but scales={scales!r} measures activations; 'unit' and 'dynamic' do not"
            )
        sizes = _activation_sizes(model, linear, example, scales)
    known = known_inputs(model) if scales == "unit" and isinstance(form, Int8) else {}
    for path, layer in linear.items():
        size = _size(layer.weight.detach(), scales) if scales in ("rms", "absmax") else 1.0
        inputs = known.get(path, UNKNOWN._replace(rms=sizes.get(path, 1.0)))
        quantised = QuantizedLinear(layer, form, scales, size, inputs, activations)
        if not path:
            return quantised
        model.set_submodule(path, quantised)
    return model.eval().requires_grad_(False)


class QuantizedLinear(nn.Module):
    """A linear layer with a quantised weight, in the place of ours or of ``torch.nn``'s."""

    codes: Tensor
    bias: Tensor | None
    row_steps: Tensor | None  # what a code of 1 stands for in each row of the weight, where rows have their own

    def __init__(
        self,
        layer: nn.Linear | layers.Linear,
        form: AnyFormat,
        scales: str,
        weight: float,
        inputs: InputSize,
        cast: bool,
    ):
        super().__init__()
        self.form, self.cast = form, cast
        self.in_features, self.out_features = layer.in_features, layer.out_features
        ours = isinstance(layer, layers.Linear)
        self._factors = layer.factors() if ours else Factors(1.0, 1.0)
        self.backward_ratio = layer.backward_ratio if ours else 1.0
        dynamic = scales == "dynamic" and not isinstance(form, MX | NVFP4Format)
        by_row = dynamic or (scales == "unit" and isinstance(form, Int8))
        steps = _row_steps(layer.weight.detach(), form) if by_row else None
        self.register_buffer("row_steps", None if steps is None else steps.flatten())
        self.weight_step = _step(form, scales, weight, 1.0)
        self.input_step = None if dynamic else _step(form, scales, *inputs)  # None: of each row when it comes
        self.register_buffer(
            "codes", _stored(layer.weight.detach() / (self.weight_step if steps is None else steps), form)
        )
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def factors(self) -> Factors:
        """The factors of the layer that this one replaces."""
        return self._factors

    @property
    def nbytes(self) -> float:
        """The weight's size on the disk, block scales included."""
        return self.codes.numel() * bits_per_weight(self.form) / 8

    def forward(self, x: Tensor, onto: Tensor | None = None, keep: float = 1.0, share: float = 1.0) -> Tensor:
        flat = x.reshape(-1, self.in_features)
        step = self.weight_step if self.row_steps is None else self.row_steps.to(x.dtype)
        y = (self._product(flat) * (step * self._factors.output)).view(*x.shape[:-1], self.out_features)
        if self.bias is not None:
            y = y + self.bias
        return y if onto is None else keep * onto + share * y

    def _product(self, x: Tensor) -> Tensor:
        """x·codesᵀ, with x in the format if inputs are cast."""
        if not self.cast:
            return x @ self.codes.to(x.dtype).t()
        step = _row_steps(x, self.form) if self.input_step is None else self.input_step
        if not isinstance(self.form, Int8):
            return self.form.cast(x / step) @ self.codes.to(x.dtype).t() * step
        codes = (x / step).round_().clamp_(-LEVELS, LEVELS)
        if x.device.type != "cpu":
            return codes @ self.codes.to(x.dtype).t() * step
        product = torch._int_mm  # pyright: ignore[reportPrivateImportUsage]  # PyTorch's only product of integers
        return product(codes.to(torch.int8), self.codes.t()).to(x.dtype) * step

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.form!r}, inputs={self.cast}"


def bits_per_weight(form: AnyFormat) -> float:
    """The bits that a weight takes in a format, its share of block scales included."""
    if isinstance(form, MX | NVFP4Format):
        return form.element.bits + 8 / form.block
    return float(form.bits)


def quantized_bytes(model: nn.Module) -> float:
    """The size of a model on the disk: quantised weights in their format, all else as it is, shared tensors once."""
    tensors = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    modules = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    stored = sum(module.nbytes for module in modules)
    for module in modules:
        tensors.pop(id(module.codes), None)
    return stored + sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@lru_cache(maxsize=1)
def normal_range(levels: int = LEVELS) -> float:
    """The range, in standard deviations, with the least mean square error of a uniform grid on a normal tensor."""

    def error(limit: float) -> float:
        tail = math.erfc(limit / math.sqrt(2))
        density = math.exp(-(limit**2) / 2) / math.sqrt(2 * math.pi)
        clipped = (1 + limit**2) * tail - 2 * limit * density
        return clipped + (limit / levels) ** 2 / 12 * (1 - tail)

    return min((1 + 0.01 * i for i in range(700)), key=error)


def _format(format: str | AnyFormat) -> AnyFormat:
    if not isinstance(format, str):
        return format
    if format.lower() == "int8":
        return INT8
    try:
        return by_name(format)
    except ValueError:
        raise ValueError(
            f"format: {format!r} is unknown; give 'int8', 'fp8', 'mxfp8', 'mxfp6', 'mxfp4' or 'nvfp4'"
        ) from None


def _is_linear(module: nn.Module, roles: Collection[str]) -> bool:
    if isinstance(module, layers.Linear):
        return type(module) in (layers.Linear, layers.Readout) and module.roles["weight"] in roles
    return type(module) is nn.Linear


def _step(form: AnyFormat, scales: str, size: float, tails: float) -> float:
    """What a code of 1 stands for, in a tensor of this root mean square (of this largest entry, for "absmax")."""
    if isinstance(form, MX | NVFP4Format):
        return 1.0
    if scales == "absmax":
        return size / (LEVELS if isinstance(form, Int8) else form.max)
    return size * normal_range() * tails / LEVELS if isinstance(form, Int8) else size


def _row_steps(rows: Tensor, form: AnyFormat) -> Tensor:
    """What a code of 1 stands for in each row, (rows, 1): the largest entry gets the largest code."""
    assert not isinstance(form, MX | NVFP4Format)  # which have scales of their own
    largest = rows.abs().amax(-1, keepdim=True) / (LEVELS if isinstance(form, Int8) else form.max)
    return largest.clamp_(min=torch.finfo(largest.dtype).tiny)  # a row of zeros


def _stored(weight: Tensor, form: AnyFormat) -> Tensor:
    """The codes of a weight over its step, in the narrowest type of PyTorch that holds them exactly."""
    if isinstance(form, Int8):
        return weight.round().clamp(-LEVELS, LEVELS).to(torch.int8)
    values = form.cast(weight)
    if form == E4M3FN:
        return values.to(torch.float8_e4m3fn)
    return values if isinstance(form, NVFP4Format) else values.to(torch.bfloat16)


def _size(tensor: Tensor, scales: str) -> float:
    size = tensor.abs().max() if scales == "absmax" else tensor.float().square().mean().sqrt()
    return float(size) or 1.0


def _activation_sizes(model: nn.Module, linear: dict[str, Any], example: Any, scales: str) -> dict[str, float]:
    """The size of what each layer reads, over all batches of the example."""
    seen: dict[str, list[tuple[float, int]]] = {path: [] for path in linear}

    def watch(path: str):
        return lambda module, args, kwargs: seen[path].append(
            (_size(args[0] if args else kwargs["input"], scales), (args[0] if args else kwargs["input"]).numel())
        )

    hooks = [layer.register_forward_pre_hook(watch(path), with_kwargs=True) for path, layer in linear.items()]
    batches = example if isinstance(example, list) else [example]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()
            for batch in batches:
                _call(model, batch)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return {path: _over_batches(sizes, scales) for path, sizes in seen.items()}


def _over_batches(sizes: list[tuple[float, int]], scales: str) -> float:
    if not sizes:
        return 1.0
    if scales == "absmax":
        return max(size for size, _ in sizes)
    return math.sqrt(sum(size**2 * count for size, count in sizes) / sum(count for _, count in sizes))


def _call(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, dict):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)
