"""From a measured tensor to a verdict, and from a verdict to one line of what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from ..own_modules import has_ours
from ..precision.formats import E4M3FN, E5M2
from .check_table import short
from .probe import INPUT, Statistics

ACTIVATION, ACTIVATION_GRADIENT = "activation", "activation gradient"
PARAMETER, PARAMETER_GRADIENT = "parameter", "parameter gradient"
KINDS = (ACTIVATION, ACTIVATION_GRADIENT, PARAMETER, PARAMETER_GRADIENT)

OK, NON_FINITE, OVERFLOW, UNDERFLOW = "ok", "non-finite", "overflow", "underflow"
SMALL, LARGE, ZERO, MISSING = "too small", "too large", "all zero", "no gradient"

# Modules of torch.nn that have a unit-scaled counterpart of the same name here.
_COUNTERPARTS = {
    "Linear",
    "Conv1d",
    "Conv2d",
    "Embedding",
    "LayerNorm",
    "RMSNorm",
    "ReLU",
    "GELU",
    "SiLU",
    "Tanh",
    "Sigmoid",
    "Softplus",
    "Softmax",
}
_FIRST = "the first that is not finite: look at what is divided, exponentiated or put into a logarithm here"


# How far the upper limit moves with the format: by the ratio of the greatest numbers.
HEADROOM = {"E4M3": 1.0, "E5M2": E5M2.max / E4M3FN.max}


class Limits(NamedTuple):
    """What counts as healthy: an interval of the root mean square, and the share that may be flushed to zero."""

    low: float
    high: float
    underflow: float


@dataclass
class Measured:
    """A tensor's statistics with what they belong to. ``final``: the model's result or a readout's weight."""

    name: str
    kind: str
    module: nn.Module
    stats: Statistics
    final: bool = False

    @property
    def format(self) -> str:
        """The 8-bit format that has to hold it: E4M3 forward, E5M2 backward (arXiv 2209.05433)."""
        return "E4M3" if self.kind in (ACTIVATION, PARAMETER) else "E5M2"


def verdict(tensor: Measured, limits: Limits) -> str:
    """``ok``, or what is wrong first.

    Only finiteness is asked of single numbers and, but for a missing gradient, of vectors of parameters (biases and
    gains), which no GEMM reads in 8 bits. A gradient of a parameter leaves its GEMM in a wide format, so its root
    mean square is free. A readout's weight and the final output stay in a wide format too, where neither need be
    large, as u-μP's logits are not, and the weight may grow.
    """
    stats, kind = tensor.stats, tensor.kind
    if stats.calls == 0:
        return MISSING
    if stats.finite < stats.count:
        return NON_FINITE
    if stats.count == 1:
        return OK
    if stats.nonzero == 0 and kind != PARAMETER:
        return ZERO
    if kind in (PARAMETER, PARAMETER_GRADIENT) and len(stats.shape) < 2:
        return OK
    if stats.over[tensor.format] > 0:
        return OVERFLOW
    judged = kind != PARAMETER_GRADIENT and stats.nonzero > 0
    if tensor.final and kind == PARAMETER:
        return OK
    if judged and stats.rms > limits.high * HEADROOM[tensor.format]:
        return LARGE
    if tensor.final and kind == ACTIVATION:
        return OK
    if judged and stats.rms < limits.low:
        return SMALL
    return UNDERFLOW if stats.shares(stats.under)[tensor.format] > limits.underflow else OK


def advise(tensors: Iterable[Measured], limits: Limits) -> list[tuple[Measured, str, str]]:
    """Each tensor with its verdict and its advice (empty when ok).

    ``tensors`` stand in the order in which they came to be, so that a tensor whose trouble began in an earlier one is
    told where.
    """
    judged: list[tuple[Measured, str, str]] = []
    last: dict[str, str] = {}  # by kind, the verdict before
    origins: dict[tuple[str, str], list[Measured]] = {}  # by kind and verdict, where trouble began
    first_non_finite = ""
    for tensor in tensors:
        found = verdict(tensor, limits)
        origin = _origin(tensor, found, last.get(tensor.kind), origins, limits)
        if found == OK:
            advice = ""
        elif found == NON_FINITE:
            advice = f"caused by {first_non_finite}, the first that is not finite" if first_non_finite else _FIRST
            first_non_finite = first_non_finite or f"{tensor.kind} {tensor.name}"
        elif origin is not None:
            advice = f"caused by {origin.name}; mend that first"
        else:
            advice = _line(tensor, found)
            origins.setdefault((tensor.kind, found), []).append(tensor)
        last[tensor.kind] = found
        judged.append((tensor, found, advice))
    return judged


def _origin(tensor: Measured, found: str, before: str | None, origins: dict, limits: Limits) -> Measured | None:
    """The tensor whose trouble this is: were that one at unit scale, this one would be healthy."""
    if tensor.kind == PARAMETER_GRADIENT and found == UNDERFLOW:  # all gradients scale with the loss
        return next(iter(origins.get((ACTIVATION_GRADIENT, SMALL), [])), None)
    if tensor.kind == PARAMETER or (tensor.kind == ACTIVATION and before != found):
        return None
    for origin in origins.get((tensor.kind, found), []):
        size = origin.stats.rms
        if found == ZERO or (found in (SMALL, LARGE) and limits.low * size <= tensor.stats.rms <= limits.high * size):
            return origin
    return None


def _line(tensor: Measured, found: str) -> str:
    if found == MISSING:
        return "not used in this pass, or cut off by detach() or no_grad(); requires_grad_(False) if that is meant"
    if found == ZERO:
        cause = "no gradient arrives" if "gradient" in tensor.kind else "nothing but zeros"
        return f"{cause}: dead units, or a weight that starts at zero (that one wakes up: measure with steps=1)"
    if found == OVERFLOW:
        return f"its largest entry is {short(tensor.stats.largest)}, beyond {tensor.format}: {_smaller(tensor)}"
    if "gradient" in tensor.kind:
        return _gradient(tensor, found)
    if tensor.kind == PARAMETER:
        return _parameter(tensor, found)
    return _activation(tensor, found)


def _gradient(tensor: Measured, found: str) -> str:
    power = round(-math.log2(tensor.stats.rms))
    if found == LARGE:
        return f"divide the loss by 2^{max(1, -power)}, or clip; unit-scaled layers and losses need neither"
    if tensor.final:
        return f"a mean loss divides by its rows: take nn.CrossEntropyLoss, or scale the loss by 2^{max(1, power)}"
    if is_plain(tensor):
        return f"scale the loss by 2^{max(1, power)} (FP16 style), or use unit-scaled layers: nn.scale_model"
    return f"scale the loss by 2^{max(1, power)}, or mend the gradient that comes in"


def _parameter(tensor: Measured, found: str) -> str:
    if is_plain(tensor):
        layer = counterpart(tensor.module)
        take = f"take allometry's nn.{layer}" if layer else "start from a unit normal, the factor in the forward pass"
        return f"{take}, or convert: nn.scale_model(model, batch)"
    if found == LARGE:
        return "it grew in training: lower its learning rate, or add weight decay"
    return "start from a unit normal: reset_parameters()"


def _activation(tensor: Measured, found: str) -> str:
    kind = type(tensor.module).__name__
    if tensor.name.startswith(INPUT):
        return f"standardise the inputs: multiply by {short(1 / tensor.stats.rms)}"
    if tensor.name.endswith(INPUT) and found != UNDERFLOW:
        factor = short(1 / tensor.stats.rms)
        return f"computed between modules: multiply by {factor} (nn.scale) or norm it before it is read"
    if found == LARGE:
        return _smaller(tensor)
    if _is_attention(tensor):
        return "averages of values shrink: put nn.RMSNorm after it, before the out-projection (nn.Attention does)"
    if kind == "Softmax":
        return "probabilities shrink as 1/n: take allometry's nn.Softmax, or keep them out of 8 bits"
    if is_plain(tensor) and counterpart(tensor.module):
        return f"take allometry's nn.{kind} in place of torch's, or nn.scale_model(model, batch)"
    if found == UNDERFLOW:
        return "many entries are tiny though the scale is right: keep this tensor in BF16"
    return f"multiply by {short(1 / tensor.stats.rms)} here (nn.scale), or put a norm before what reads it"


def _smaller(tensor: Measured) -> str:
    if "gradient" in tensor.kind:
        return "divide the loss, or clip"
    if _is_attention(tensor):
        return "put nn.RMSNorm after the attention, before what reads it"
    if tensor.kind == ACTIVATION and is_plain(tensor) and counterpart(tensor.module):
        return f"take allometry's nn.{type(tensor.module).__name__}, or put a norm before what reads it"
    return "put a norm before what reads it, or weigh its branch down (nn.ResidualStack does)"


def is_plain(tensor: Measured) -> bool:
    """Whether the module that made it is not one of this package."""
    return not has_ours(tensor.module)


def counterpart(module: nn.Module) -> str:
    """The name of our layer that replaces a module of torch.nn; empty where there is none."""
    name = type(module).__name__
    return name if name in _COUNTERPARTS and type(module).__module__.startswith("torch.nn.") else ""


def _is_attention(tensor: Measured) -> bool:
    words = f"{type(tensor.module).__name__} {tensor.name.rsplit('.', 1)[-1]}".lower()
    return "attention" in words or "attn" in words
