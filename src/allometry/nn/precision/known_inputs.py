"""How large the inputs of our own linear layers are, before and after training, without an example.

What a norm passes on has root mean square 1 whatever training does to the weights, and so the outputs of the next
linear map have the root mean square of that map's rows, which are at hand. Both together say it of every linear layer
of a transformer block. Where nothing is known, a tensor is taken to be at unit scale, as it is at the start.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.transformer import MLP, Attention, TransformerBlock
from ..layers.with_parameters import Linear
from ..ops.activations import ACTIVATIONS, GATES

LONG_TAILS = 4.0  # of products of two tensors, and of what is not known
SHORT_TAILS = 2.0  # of rows that a norm has divided by their root mean square


class InputSize(NamedTuple):
    """The root mean square of a layer's inputs, and how much longer their tails are than a normal tensor's."""

    rms: float = 1.0
    tails: float = LONG_TAILS


UNKNOWN = InputSize()


def known_inputs(model: nn.Module) -> dict[str, InputSize]:
    """Path of a linear layer → the size of its inputs, for the layers of blocks, attentions and MLPs of ours."""
    sizes: dict[str, InputSize] = {}
    for path, module in model.named_modules():
        inside = f"{path}." if path else ""
        if isinstance(module, TransformerBlock) and module.norm == "pre":
            sizes[f"{inside}attention.qkv"] = sizes[f"{inside}mlp.up"] = InputSize(tails=SHORT_TAILS)
        elif isinstance(module, Attention) and _ours(module.qkv, module.out):
            values = _output_sizes(module.qkv)[0][-module.kv_heads * module.head_dim :]
            rms = 1.0 if module.norm is not None else _rms(values)  # averages of values are no larger than these
            sizes[f"{inside}out"] = InputSize(rms, SHORT_TAILS)
        elif isinstance(module, MLP) and _ours(module.up, module.down):
            sizes[f"{inside}down"] = InputSize(_rms(_hidden_sizes(module)), LONG_TAILS)
    return sizes


def _ours(*layers: nn.Module) -> bool:
    """Whether these are still the layers that were made with the module."""
    return all(isinstance(layer, Linear) for layer in layers)


def _output_sizes(layer: Linear) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of each output, for inputs of root mean square 1 that are not correlated."""
    weight = layer.weight.detach().float()
    means = torch.zeros_like(weight[:, 0]) if layer.bias is None else layer.bias.detach().float()
    return weight.square().sum(1).sqrt() * layer.factors().output, means


def _hidden_sizes(mlp: MLP) -> Tensor:
    """The root mean square of each hidden unit, gate and up taken to be independent and normal."""
    deviations, means = _output_sizes(mlp.up)
    if not mlp.gated:
        return _after(mlp.activation, deviations, means)
    (gate, up), (gate_mean, up_mean) = deviations.chunk(2), means.chunk(2)
    (factor,) = mlp.factor()
    return factor * _after(mlp.activation, gate, gate_mean) * (up.square() + up_mean.square()).sqrt()


def _after(activation: str, deviations: Tensor, means: Tensor) -> Tensor:
    """√E[f(z)²] for each z ~ N(mean, deviation²)."""
    z = torch.linspace(-6, 6, 241, device=deviations.device)
    density = F.softmax(-z.square() / 2, 0)
    values = (ACTIVATIONS | GATES)[activation](means[:, None] + deviations[:, None] * z)
    return (values.square() @ density).sqrt()


def _rms(values: Tensor) -> float:
    size = math.sqrt(float(values.square().mean()))
    return size if math.isfinite(size) and size > 0 else 1.0
