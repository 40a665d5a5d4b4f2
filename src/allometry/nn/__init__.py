"""Unit scaling: weights, activations and gradients at unit scale, learning rates that carry over to any width.

    from allometry import nn

    model = nn.Decoder(vocab_size=256, layers=4, width=256, heads=4)
    optimizer = nn.AdamW(model, lr=0.7)      # one base rate; each weight's own by its role (u-μP)
    loss = nn.CrossEntropyLoss()(model(tokens).flatten(0, 1), targets.flatten())

The layers have the names and the argument order of ``torch.nn``. The package needs torch and nothing else of allometry.

- ``functional``: the operations, whose code is in ``ops/``; ``layers/``: the modules;
- ``schemes``, ``parametrization``, ``optim``: multiplier, initial deviation and learning rate of each weight, by role;
- ``precision/``: number formats, FP8, quantised layers; ``checks/``: audit and coordinate check;
- ``conversion/``: existing models;
- ``own_modules``: which modules belong to this package.
"""

try:
    from torch.nn import Flatten, Identity, Module, ModuleDict, ModuleList, Parameter, Sequential, Unflatten, init
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("allometry.nn needs torch: pip install 'allometry[nn]'", name="torch") from None

from . import functional, schemes
from .checks.audit import Audit, AuditRow, audit
from .checks.coord_check import CoordCheck, Coordinate, coord_check
from .conversion.measured.measured_factors import ActivationFactor, GradientFactor, WeightFactor
from .conversion.measured.measured_modules import (
    MeasuredConv1d,
    MeasuredConv2d,
    MeasuredConv3d,
    MeasuredEmbedding,
    MeasuredLinear,
    finetune_groups,
    unscale,
)
from .conversion.measured.operand_ranges import OperandRange, RangeReport, exponent_bits, range_report
from .conversion.scale_model import scale_model
from .layers.kv_cache import KVCache
from .layers.stateless import (
    GEGLU,
    GELU,
    CrossEntropyLoss,
    Dropout,
    MSELoss,
    ReLU,
    ReLU2,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    SwiGLU,
    Tanh,
)
from .layers.transformer import MLP, Attention, Decoder, ResidualStack, TransformerBlock
from .layers.with_parameters import Conv1d, Conv2d, Embedding, LayerNorm, Linear, Parametrized, Readout, RMSNorm
from .ops.products import Factors, accumulation
from .ops.scale import Scale, exact_scale, scale
from .optim import SGD, Adam, AdamW, Lion, Muon, param_groups
from .parametrization import learning_rate_factors, parametrize, roles
from .precision import formats, fp8
from .precision.quantized import QuantizedLinear, quantize, quantized_bytes
from .schemes import Base, Role, Scheme, residual_taus

__all__ = [
    "GEGLU",
    "GELU",
    "MLP",
    "SGD",
    "ActivationFactor",
    "Adam",
    "AdamW",
    "Attention",
    "Audit",
    "AuditRow",
    "Base",
    "Conv1d",
    "Conv2d",
    "CoordCheck",
    "Coordinate",
    "CrossEntropyLoss",
    "Decoder",
    "Dropout",
    "Embedding",
    "Factors",
    "Flatten",
    "GradientFactor",
    "Identity",
    "KVCache",
    "LayerNorm",
    "Linear",
    "Lion",
    "MSELoss",
    "MeasuredConv1d",
    "MeasuredConv2d",
    "MeasuredConv3d",
    "MeasuredEmbedding",
    "MeasuredLinear",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Muon",
    "OperandRange",
    "Parameter",
    "Parametrized",
    "QuantizedLinear",
    "RMSNorm",
    "RangeReport",
    "ReLU",
    "ReLU2",
    "Readout",
    "ResidualStack",
    "Role",
    "Scale",
    "Scheme",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "SwiGLU",
    "Tanh",
    "TransformerBlock",
    "Unflatten",
    "WeightFactor",
    "accumulation",
    "audit",
    "coord_check",
    "exact_scale",
    "exponent_bits",
    "finetune_groups",
    "formats",
    "fp8",
    "functional",
    "init",
    "learning_rate_factors",
    "param_groups",
    "parametrize",
    "quantize",
    "quantized_bytes",
    "range_report",
    "residual_taus",
    "roles",
    "scale",
    "scale_model",
    "schemes",
    "unscale",
]


def __getattr__(name: str):
    """Raise an error that says what to do, for names of torch.nn without a unit-scaled counterpart."""
    import torch

    if hasattr(torch.nn, name):
        raise AttributeError(
            f"allometry.nn has no unit-scaled {name}; take torch.nn.{name}, or nn.scale_model on a model of it"
        )
    raise AttributeError(f"module 'allometry.nn' has no attribute {name!r}")
