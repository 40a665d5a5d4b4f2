"""Unit-scaled layers, under the names and in the argument order of ``torch.nn``.

A layer that owns parameters names their **role** (input, hidden, output, bias, gain) in ``roles``. The
role and the place in the module tree determine multiplier, init and learning rate
(:mod:`allometry.nn.parametrization`). Roles belong to names, never to tensors: they survive all that replaces the
tensors (sharding, loading, copying).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from .. import functional as F
from ..ops.arguments import check_constraint
from ..ops.autograd import Constants
from ..ops.products import Factors, conv_factors
from ..ops.scale import Scale
from ..schemes import Base, Role, scheme

UNIT = Scale(1.0, 1.0)


class Parametrized(nn.Module):
    """A layer whose parameters have roles; its scheme is u-μP until :func:`~allometry.nn.parametrize` changes it.

    A layer of your own derives from this, names its ``roles`` and, if its weights are not of shape (fan_out, fan_in,
    taps…), overrides :meth:`fans`.
    """

    roles: ClassVar[dict[str, str]] = {}
    scheme: str = "umup"
    base: Base = Base()
    depth: int = 1

    def fans(self, name: str) -> tuple[int, int]:
        """(fan_in, fan_out) of the parameter ``name``."""
        shape = getattr(self, name).shape
        if len(shape) < 2:
            return 1, shape[0] if shape else 1
        taps = math.prod(shape[2:])
        return shape[1] * taps, shape[0] * taps

    def role(self, name: str, branches: int | None = None) -> Role:
        """The role of the parameter ``name`` on a stream of ``branches`` residual branches (default: as adopted)."""
        return Role(self.roles[name], *self.fans(name), self.depth if branches is None else branches)

    def multiplier(self, name: str = "weight") -> float:
        """The scheme's multiplier of the parameter ``name``."""
        role = self.role(name)
        return scheme(self.scheme).multiplier[role.kind](role, self.base)

    def init_std(self, name: str = "weight") -> float:
        """The scheme's standard deviation of the parameter ``name`` at the start."""
        role = self.role(name)
        return scheme(self.scheme).init[role.kind](role, self.base)

    def adopt(self, name: str, base: Base, branches: int) -> None:
        """Set the scheme, from which the constants of the forward and backward pass follow."""
        self.scheme, self.base, self.depth = name, base, branches
        self.refactor()

    def refactor(self) -> None:
        """Compute the factors again, after a change of scheme."""

    def reset_parameters(self) -> None:
        """Weights normal with the scheme's deviation, from torch's global generator; biases 0, gains 1."""
        for name, parameter in self.named_parameters(recurse=False):
            if self.roles[name] == "bias":
                nn.init.zeros_(parameter)
            elif self.roles[name] == "gain":
                nn.init.ones_(parameter)
            else:
                nn.init.normal_(parameter, std=self.init_std(name))


class Linear(Parametrized):
    """``x @ weight.T + bias`` at unit scale: (…, in_features) → (…, out_features).

    ``constraint`` as in :func:`~allometry.nn.functional.linear`. ``gain`` is the scale of the operation
    before, if that operation omits it: here it costs nothing. Its forward factor joins the output's, its backward
    factor the input gradient's.
    """

    roles: ClassVar[dict[str, str]] = {"weight": "hidden", "bias": "bias"}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        device=None,
        dtype=None,
        *,
        constraint: str | None = None,
        gain: Scale = UNIT,
    ):
        super().__init__()
        check_constraint(constraint)
        _check_sizes(in_features=in_features, out_features=out_features)
        self.in_features, self.out_features, self.constraint, self.gain = in_features, out_features, constraint, gain
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        self.refactor()
        self.reset_parameters()

    def fans(self, name: str) -> tuple[int, int]:
        # Not from the tensor: a sharded or flattened parameter still belongs to the whole matrix.
        return self.in_features, self.out_features

    def refactor(self) -> None:
        output = self.gain.forward * self.multiplier()
        unit = self.gain.backward / (self.init_std() * math.sqrt(self.out_features))
        self._factors = Constants(output, output if self.constraint else unit, self.gain.forward)

    def factors(self) -> Factors:
        """The factors of the three products."""
        return Factors(*self._factors())

    @property
    def backward_ratio(self) -> float:
        """The gradient that this layer passes on, over the true one (the factor of ``gain`` included)."""
        factors = self.factors()
        return factors.grad_input / factors.output

    def forward(self, x: Tensor, onto: Tensor | None = None, keep: float = 1.0, share: float = 1.0) -> Tensor:
        return F.linear(x, self.weight, self.bias, factors=self.factors(), onto=onto, keep=keep, share=share)

    def extra_repr(self) -> str:
        extra = f", constraint={self.constraint!r}" if self.constraint else ""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}{extra}"


class Readout(Linear):
    """The last map, to logits: fan_in^-1 forward under u-μP, so that logits start small at any width.

    The gradient carries fan_out^-½ as in any linear map, and reaches the body at unit scale. The two directions differ
    on a cut edge: all below sees its gradient times the same constant. (Sources disagree on the backward factor,
    1/√fan_in or 1/√fan_out; this one gives unit scale.) Source: u-μP (arXiv 2407.17465), table 2.
    """

    roles: ClassVar[dict[str, str]] = {"weight": "output", "bias": "bias"}


class _Conv(Parametrized):
    roles: ClassVar[dict[str, str]] = {"weight": "hidden", "bias": "bias"}
    axes: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple,
        stride: int | tuple = 1,
        padding: int | tuple = 0,
        dilation: int | tuple = 1,
        groups: int = 1,
        bias: bool = False,
        device=None,
        dtype=None,
        *,
        constraint: str | None = None,
    ):
        super().__init__()
        check_constraint(constraint)
        _check_sizes(in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups: {groups} divides not both {in_channels} and {out_channels} channels")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.groups, self.constraint = groups, constraint
        self.kernel_size, self.stride, self.padding, self.dilation = (
            _per_axis(name, value, self.axes, least)
            for name, value, least in (
                ("kernel_size", kernel_size, 1),
                ("stride", stride, 1),
                ("padding", padding, 0),
                ("dilation", dilation, 1),
            )
        )
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.refactor()
        self.reset_parameters()

    def fans(self, name: str) -> tuple[int, int]:
        taps = math.prod(self.kernel_size)
        return self.in_channels // self.groups * taps, self.out_channels // self.groups * taps

    def refactor(self) -> None:
        taps, stride = math.prod(self.kernel_size), math.prod(self.stride)
        unit = conv_factors(self.in_channels, self.out_channels, taps, self.groups, stride)
        output = self.multiplier()
        grad_input = output if self.constraint else unit.grad_input / self.init_std()
        self._factors = Constants(output, grad_input, 1.0)

    def factors(self) -> Factors:
        """The factors of the three convolutions."""
        return Factors(*self._factors())

    def forward(self, x: Tensor) -> Tensor:
        convolve = (F.conv1d, F.conv2d)[self.axes - 1]
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        return convolve(x, self.weight, self.bias, *geometry, factors=self.factors())

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, groups={self.groups}, bias={self.bias is not None}"
        )


class Conv1d(_Conv):
    """A convolution at unit scale: (batch, in_channels, length) → (batch, out_channels, length')."""

    axes: ClassVar[int] = 1


class Conv2d(_Conv):
    """A convolution at unit scale: (batch, in_channels, height, width) → (batch, out_channels, height', width')."""

    axes: ClassVar[int] = 2


class Embedding(Parametrized):
    """A table of unit-normal rows: (…) integer tokens → (…, embedding_dim)."""

    roles: ClassVar[dict[str, str]] = {"weight": "input"}

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, device=None, dtype=None
    ):
        super().__init__()
        _check_sizes(num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.weight = nn.Parameter(torch.empty(num_embeddings, embedding_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def fans(self, name: str) -> tuple[int, int]:
        return self.num_embeddings, self.embedding_dim

    def reset_parameters(self) -> None:
        """Rows normal with the scheme's deviation; that of ``padding_idx`` zero."""
        super().reset_parameters()
        if self.padding_idx is not None:
            with torch.no_grad():
                self.weight[self.padding_idx].zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class RMSNorm(Parametrized):
    """Each row over its root mean square: (…, width) → (…, width).

    Without a trained gain unless ``elementwise_affine``: u-μP has none, and a gain would change the scale.
    """

    roles: ClassVar[dict[str, str]] = {"weight": "gain"}

    def __init__(
        self, normalized_shape: int, eps: float | None = 1e-6, elementwise_affine: bool = False, device=None, dtype=None
    ):
        super().__init__()
        normalized_shape = _one_axis(normalized_shape)
        self.normalized_shape, self.eps = normalized_shape, Constants(1e-6 if eps is None else eps)
        self.weight = (
            nn.Parameter(torch.empty(normalized_shape, device=device, dtype=dtype)) if elementwise_affine else None
        )
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        _check_width(x, self.normalized_shape)
        return F.rms_norm(x, x.shape[-1:], self.weight, *self.eps())

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps.values[0]:g}, elementwise_affine={self.weight is not None}"


class LayerNorm(Parametrized):
    """Each row less its mean, over its deviation: (…, width) → (…, width); gain and bias if ``elementwise_affine``."""

    roles: ClassVar[dict[str, str]] = {"weight": "gain", "bias": "bias"}

    def __init__(
        self,
        normalized_shape: int,
        eps: float = 1e-5,
        elementwise_affine: bool = False,
        bias: bool = True,
        device=None,
        dtype=None,
    ):
        super().__init__()
        normalized_shape = _one_axis(normalized_shape)
        self.normalized_shape, self.eps = normalized_shape, Constants(eps)
        new = lambda: nn.Parameter(torch.empty(normalized_shape, device=device, dtype=dtype))
        self.weight = new() if elementwise_affine else None
        self.bias = new() if elementwise_affine and bias else None
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        _check_width(x, self.normalized_shape)
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, *self.eps())

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps.values[0]:g}, elementwise_affine={self.weight is not None}"


def _one_axis(shape: int | tuple[int]) -> int:
    """The size of the last dimension, the only one that our norms run over."""
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
    if len(sizes) != 1:
        raise ValueError(f"normalized_shape: {shape}; our norms run over the last dimension only, give its size")
    _check_sizes(normalized_shape=sizes[0])
    return sizes[0]


def _check_width(x: Tensor, width: int) -> None:
    if x.shape[-1] != width:
        raise ValueError(f"x: shape {tuple(x.shape)}, but the norm was made for {width} features last")


def _per_axis(name: str, value: int | tuple, axes: int, least: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * axes
    if len(values) != axes or not all(isinstance(v, int) and v >= least for v in values):
        raise ValueError(f"{name}: {value!r}; give a whole number from {least} up, or one for each of {axes} axes")
    return values


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}: {size} is not a size; it must be a whole number, at least 1")
