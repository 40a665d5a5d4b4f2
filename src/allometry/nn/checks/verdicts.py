"""From a measured tensor to a verdict, and from a verdict to one line of advice."""

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
_FIRST_NON_FINITE = "the first that is not finite: look at what is divided, exponentiated or put into a logarithm here"


# The factor on the upper limit, by format: the ratio of the largest numbers.
HEADROOM = {"E4M3": 1.0, "E5M2": E5M2.max / E4M3FN.max}


class Limits(NamedTuple):
    """The limits of a healthy tensor: an interval of the root mean square, and the share that may underflow."""

    low: float
    high: float
    underflow: float


@dataclass
class Measured:
    """A tensor's statistics, name, kind and module. ``final``: the model's result or a readout's weight."""

    name: str
    kind: str
    module: nn.Module
    stats: Statistics
    final: bool = False

    @property
    def format(self) -> str:
        """The 8-bit format that has to hold it: E4M3 forward, E5M2 backward (arXiv 2209.05433)."""
        return "E4M3" if self.kind in (ACTIVATION, PARAMETER) else "E5M2"


def judge(tensor: Measured, limits: Limits) -> str:
    """The verdict: ``ok``, or the first fault.

    Single numbers must only be finite. So must vectors of parameters (biases and gains), which no GEMM reads in 8 bits;
    a missing gradient is a fault of them too. The gradient of a parameter leaves its GEMM in a wide format: its root
    mean square is free. A readout's weight and the final output stay in a wide format as well: the output may be small,
    as u-μP's logits are, the weight may have any scale, and many entries of the output's gradient may be tiny, as those
    of a trained model are.
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
    has_scale = kind != PARAMETER_GRADIENT and stats.nonzero > 0
    if tensor.final and kind == PARAMETER:
        return OK
    if has_scale and stats.rms > limits.high * HEADROOM[tensor.format]:
        return LARGE
    if tensor.final and kind == ACTIVATION:
        return OK
    if has_scale and stats.rms < limits.low:
        return SMALL
    if tensor.final and kind == ACTIVATION_GRADIENT:
        return OK  # once a model is sure of most classes, most of this gradient is tiny; it stays in a wide format
    return UNDERFLOW if stats.shares(stats.under)[tensor.format] > limits.underflow else OK


def advise(tensors: Iterable[Measured], limits: Limits) -> list[tuple[Measured, str, str]]:
    """Each tensor with its verdict and its advice (empty if ok).

    ``tensors`` are in the order in which they were computed. If the fault began in an earlier tensor, the advice names
    that tensor.
    """
    judged: list[tuple[Measured, str, str]] = []
    last: dict[str, str] = {}  # the previous verdict, by kind
    origins: dict[tuple[str, str], list[Measured]] = {}  # the tensors where a fault began, by kind and verdict
    first_non_finite = ""
    for tensor in tensors:
        verdict = judge(tensor, limits)
        origin = _origin(tensor, verdict, last.get(tensor.kind), origins, limits)
        if verdict == OK:
            advice = ""
        elif verdict == NON_FINITE:
            first = f"caused by {first_non_finite}, the first that is not finite"
            advice = first if first_non_finite else _FIRST_NON_FINITE
            first_non_finite = first_non_finite or f"{tensor.kind} {tensor.name}"
        elif origin is not None:
            advice = f"caused by {origin.name}; fix that first"
        else:
            advice = _advice(tensor, verdict)
            origins.setdefault((tensor.kind, verdict), []).append(tensor)
        last[tensor.kind] = verdict
        judged.append((tensor, verdict, advice))
    return judged


def _origin(tensor: Measured, verdict: str, before: str | None, origins: dict, limits: Limits) -> Measured | None:
    """The earlier tensor that causes the fault: if it were at unit scale, this tensor would be healthy."""
    if tensor.kind == PARAMETER_GRADIENT and verdict == UNDERFLOW:  # all gradients scale with the loss
        return next(iter(origins.get((ACTIVATION_GRADIENT, SMALL), [])), None)
    if tensor.kind == PARAMETER or (tensor.kind == ACTIVATION and before != verdict):
        return None
    for origin in origins.get((tensor.kind, verdict), []):
        size = origin.stats.rms
        healthy_relative_to_it = limits.low * size <= tensor.stats.rms <= limits.high * size
        if verdict == ZERO or (verdict in (SMALL, LARGE) and healthy_relative_to_it):
            return origin
    return None


def _advice(tensor: Measured, verdict: str) -> str:
    if verdict == MISSING:
        return "not used in this pass, or cut off by detach() or no_grad(); requires_grad_(False) if that is intended"
    if verdict == ZERO:
        cause = "no gradient arrives" if "gradient" in tensor.kind else "nothing but zeros"
        return f"{cause}: dead units, or a weight that starts at zero (that one wakes up: measure with steps=1)"
    if verdict == OVERFLOW:
        return f"its largest entry is {short(tensor.stats.largest)}, beyond {tensor.format}: {_smaller(tensor)}"
    if "gradient" in tensor.kind:
        return _gradient(tensor, verdict)
    if tensor.kind == PARAMETER:
        return _parameter(tensor, verdict)
    return _activation(tensor, verdict)


def _gradient(tensor: Measured, verdict: str) -> str:
    power = round(-math.log2(tensor.stats.rms))
    if verdict == UNDERFLOW and tensor.kind == ACTIVATION_GRADIENT:
        return _at_risk(tensor, "what these entries would teach the layers before is lost there")
    if verdict == LARGE:
        return f"divide the loss by 2^{max(1, -power)}, or clip; unit-scaled layers and losses need neither"
    if tensor.final:
        return f"a mean loss divides by its rows: take nn.CrossEntropyLoss, or scale the loss by 2^{max(1, power)}"
    if is_plain(tensor):
        return f"scale the loss by 2^{max(1, power)} (FP16 style), or use unit-scaled layers: nn.scale_model"
    return f"scale the loss by 2^{max(1, power)}, or fix the gradient that comes in"


def _at_risk(tensor: Measured, why: str) -> str:
    """Of a tensor at the right scale, in which format it loses its small entries, and why that matters."""
    share = 100 * tensor.stats.shares(tensor.stats.under)[tensor.format]
    return (
        f"the scale is right, but {share:.0f} % of its entries are too small for {tensor.format}: {why}; nothing is "
        "lost in FP32 or BF16, and in 8 bits keep this tensor in BF16"
    )


def _parameter(tensor: Measured, verdict: str) -> str:
    if is_plain(tensor):
        layer = counterpart(tensor.module)
        take = f"take allometry's nn.{layer}" if layer else "start from a unit normal, the factor in the forward pass"
        return f"{take}, or convert: nn.scale_model(model, batch)"
    if verdict == LARGE:
        return "it grew in training: lower its learning rate, or add weight decay"
    return "start from a unit normal: reset_parameters()"


def _activation(tensor: Measured, verdict: str) -> str:
    kind = type(tensor.module).__name__
    if tensor.name.startswith(INPUT):
        return f"standardise the inputs: multiply by {short(1 / tensor.stats.rms)}"
    if tensor.name.endswith(INPUT) and verdict != UNDERFLOW:
        factor = short(1 / tensor.stats.rms)
        return f"computed between modules: multiply by {factor} (nn.scale) or norm it before it is read"
    if verdict == LARGE:
        return _smaller(tensor)
    if _is_attention(tensor):
        return "averages of values shrink: put nn.RMSNorm after it, before the out-projection (nn.Attention does)"
    if kind == "Softmax":
        return "probabilities shrink as 1/n: take allometry's nn.Softmax, or keep them out of 8 bits"
    if is_plain(tensor) and counterpart(tensor.module):
        return f"take allometry's nn.{kind} in place of torch's, or nn.scale_model(model, batch)"
    if verdict == UNDERFLOW:
        return _at_risk(tensor, "the next product would read zeros in their place")
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
    """Whether the module that returned it is not one of this package."""
    return not has_ours(tensor.module)


def counterpart(module: nn.Module) -> str:
    """The name of our layer that replaces a module of torch.nn, or an empty string."""
    name = type(module).__name__
    return name if name in _COUNTERPARTS and type(module).__module__.startswith("torch.nn.") else ""


def _is_attention(tensor: Measured) -> bool:
    words = f"{type(tensor.module).__name__} {tensor.name.rsplit('.', 1)[-1]}".lower()
    return "attention" in words or "attn" in words
