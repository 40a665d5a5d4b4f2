"""The unit-scaled counterpart of each module of ``torch.nn``, by exact type."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import stateless
from ...layers import with_parameters as layers
from ...layers.with_parameters import Parametrized
from ...ops.activations import activation_scale
from ...ops.products import over_rows
from ...ops.scale import Scale, exact_scale, scale


class Elementwise(nn.Module):
    """An elementwise module times its exact constants (:func:`~allometry.nn.exact_scale`)."""

    def __init__(self, function: nn.Module, constraint: str | None = None):
        super().__init__()
        self.function = function
        forward, backward = exact_scale(function)
        self.factors = Scale(forward, forward if constraint else backward)

    def forward(self, x: Tensor) -> Tensor:
        return scale(self.function(x), *self.factors)


class MeasuredScale(nn.Module):
    """A factor forward and a factor backward, measured once at the start and saved with the model.

    It follows operations whose scale depends on how similar their inputs are, so that no constant fits: pooling, means,
    attention. With ``free`` the backward factor may differ from the forward one.
    """

    factors: Tensor

    def __init__(self, free: bool = False):
        super().__init__()
        self.free = free
        self.register_buffer("factors", torch.ones(2))
        self._numbers = Scale(1.0, 1.0)

    def set(self, forward: float, backward: float) -> None:
        """Set the factors; a factor that is not finite and positive becomes 1."""
        factors = [value if 0 < value < math.inf else 1.0 for value in (forward, backward)]
        self.factors.copy_(torch.tensor(factors))
        self._numbers = Scale(*self.factors.tolist())

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if not self.factors.is_meta:
            self._numbers = Scale(*self.factors.tolist())

    def forward(self, x: Tensor) -> Tensor:
        return scale(x, *self._numbers)

    def extra_repr(self) -> str:
        return "forward={:.4g}, backward={:.4g}".format(*self._numbers)


class DotProductAttention(nn.Module):
    """``F.scaled_dot_product_attention`` with dropout in training only."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options) -> Tensor:
        p = self.p if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask, p, **options)


class Normed(Parametrized):
    """A batch, group or instance norm without parameters, then gain and bias by channel; their gradients over √rows."""

    roles: ClassVar[dict[str, str]] = {"weight": "gain", "bias": "bias"}

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, plain: Any):
        super().__init__()
        self.weight, self.bias = (
            None if p is None else nn.Parameter(p.detach().clone()) for p in (plain.weight, plain.bias)
        )
        self.norm = copy.deepcopy(plain)
        self.norm.affine, self.norm.weight, self.norm.bias = False, None, None
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if self.weight is not None:
            back = over_rows(y.numel() // y.shape[1])
            shape = -1, *(1,) * (y.dim() - 2)
            y = y * scale(self.weight, 1.0, back).view(shape)
            if self.bias is not None:
                y = y + scale(self.bias, 1.0, back).view(shape)
        return y


# Called with a module of the type that it is listed under, and the constraint ("output" or None).
Maker = Callable[[Any, str | None], nn.Module]


def _like(plain: Any) -> dict:
    weight = plain.weight
    return {} if weight is None else {"device": weight.device, "dtype": weight.dtype}


def _linear(plain: nn.Linear, constraint: str | None) -> nn.Module:
    bias = plain.bias is not None
    return layers.Linear(plain.in_features, plain.out_features, bias, **_like(plain), constraint=constraint)


def _conv(make: type) -> Maker:
    def maker(plain: Any, constraint: str | None) -> nn.Module:
        if plain.padding_mode != "zeros":
            raise ValueError(f"padding_mode {plain.padding_mode!r} is not supported")
        padding = plain.padding
        if isinstance(padding, str):
            padding = tuple(plain._reversed_padding_repeated_twice[::-2])
            if padding != tuple(plain._reversed_padding_repeated_twice[-2::-2]):
                raise ValueError("padding 'same' with an even number of taps is not supported")
        return make(
            plain.in_channels,
            plain.out_channels,
            plain.kernel_size,
            plain.stride,
            padding,
            plain.dilation,
            plain.groups,
            plain.bias is not None,
            **_like(plain),
            constraint=constraint,
        )

    return maker


def _embedding(plain: nn.Embedding, constraint: str | None) -> nn.Module:
    if plain.max_norm is not None:
        raise ValueError("max_norm is not supported")
    return layers.Embedding(plain.num_embeddings, plain.embedding_dim, plain.padding_idx, **_like(plain))


def _norm(make: type) -> Maker:
    def maker(plain: Any, constraint: str | None) -> nn.Module:
        if len(plain.normalized_shape) != 1:
            raise ValueError(f"normalized_shape {tuple(plain.normalized_shape)}: only the last dimension is supported")
        options = {"eps": 1e-6 if plain.eps is None else plain.eps, "elementwise_affine": plain.weight is not None}
        if make is layers.LayerNorm:
            options["bias"] = plain.bias is not None
        return make(plain.normalized_shape[0], **options, **_like(plain))

    return maker


def _activation(make: type, default: Callable[[Any], bool] = lambda plain: True) -> Maker:
    return lambda plain, constraint: make(constraint=constraint) if default(plain) else _elementwise(plain, constraint)


def _elementwise(plain: Any, constraint: str | None) -> nn.Module:
    plain = copy.deepcopy(plain)
    if hasattr(plain, "inplace"):
        plain.inplace = False
    return Elementwise(plain, constraint)


def _dropout(plain: nn.Dropout, constraint: str | None) -> nn.Module:
    return stateless.Dropout(plain.p)


def _cross_entropy(plain: nn.CrossEntropyLoss, constraint: str | None) -> nn.Module:
    if plain.weight is not None:
        raise ValueError("class weights are not supported")
    return stateless.CrossEntropyLoss(
        ignore_index=plain.ignore_index, reduction=plain.reduction, label_smoothing=plain.label_smoothing
    )


ELEMENTWISE = (
    nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Mish, nn.Softsign,
    nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink,
)  # fmt: skip
COUNTERPARTS: dict[type[nn.Module], Maker] = {
    nn.Linear: _linear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: _linear,
    nn.Conv1d: _conv(layers.Conv1d),
    nn.Conv2d: _conv(layers.Conv2d),
    nn.Embedding: _embedding,
    nn.LayerNorm: _norm(layers.LayerNorm),
    nn.RMSNorm: _norm(layers.RMSNorm),
    nn.ReLU: _activation(stateless.ReLU),
    nn.GELU: _activation(stateless.GELU, lambda plain: plain.approximate == "none"),
    nn.SiLU: _activation(stateless.SiLU),
    nn.Tanh: _activation(stateless.Tanh),
    nn.Sigmoid: _activation(stateless.Sigmoid),
    nn.Softplus: _activation(stateless.Softplus, lambda plain: (plain.beta, plain.threshold) == (1, 20)),
    nn.Dropout: _dropout,
    nn.CrossEntropyLoss: _cross_entropy,
    nn.MSELoss: lambda plain, constraint: stateless.MSELoss(reduction=plain.reduction),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(
        (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d),
        lambda plain, constraint: Normed(plain),
    ),
}
# These modules move entries and leave the scale unchanged.
PASSING: tuple[type[nn.Module], ...] = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Upsample,
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.CircularPad1d,
    nn.CircularPad2d, nn.ZeroPad1d, nn.ZeroPad2d,
)  # fmt: skip
# The scale of these modules depends on how similar neighbours are.
MEASURED: tuple[type[nn.Module], ...] = (
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.Softmax,
)  # fmt: skip


def ratio_of(module: nn.Module) -> float:
    """The gradient that a counterpart passes on, divided by the true one."""
    if isinstance(module, layers.Linear | layers.Conv1d | layers.Conv2d):
        factors = module.factors()
        return factors.grad_input / factors.output
    if isinstance(module, Elementwise):
        return module.factors.backward / module.factors.forward
    if isinstance(module, stateless.Activation):
        factors = activation_scale(module.function, module.constraint)
        return factors.backward / factors.forward
    return 1.0
