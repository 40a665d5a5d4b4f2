"""Unit scaling: weights, activations and gradients at unit scale, learning rates that carry over to any width.

    from allometry import nn

    layer = nn.Linear(512, 2048)             # unit-scaled, nothing to configure
    optimizer = nn.AdamW(model, lr=0.1)      # one base rate, rates by role (u-μP)

Needs torch and nothing else of this package.
"""

from . import functional
from .layers import MLP, Attention, Embedding, Linear, Readout, ResidualStack, RMSNorm, TransformerBlock
from .optim import AdamW, param_groups
from .parametrization import Role, learning_rate_factors, roles
from .scale import Scale, exact_scale, residual_taus, scale

__all__ = [
    "MLP",
    "AdamW",
    "Attention",
    "Embedding",
    "Linear",
    "RMSNorm",
    "Readout",
    "ResidualStack",
    "Role",
    "Scale",
    "TransformerBlock",
    "exact_scale",
    "functional",
    "learning_rate_factors",
    "param_groups",
    "residual_taus",
    "roles",
    "scale",
]
