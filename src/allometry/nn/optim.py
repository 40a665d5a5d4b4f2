"""Optimisers that read their learning rates from roles."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

from .parametrization import learning_rate_factors


def param_groups(model: nn.Module, lr: float, weight_decay: float = 0.0) -> list[dict]:
    """Parameter groups for a ``torch.optim`` optimiser, one for each distinct learning rate.

    ``lr`` is the base rate; each group's own is its factor times that. ``weight_decay`` is independent of the rate:
    a weight shrinks by ``weight_decay`` a step at the height of the schedule and follows only the schedule's shape.
    (PyTorch's AdamW multiplies the decay by the rate; it is divided out here.)
    """
    factors = learning_rate_factors(model)
    groups: dict[float, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        groups[factors[name]].append(parameter)
    return [
        {"params": parameters, "lr": lr * factor, "peak_lr": lr * factor, "weight_decay": weight_decay / (lr * factor)}
        for factor, parameters in groups.items()
    ]


class AdamW(torch.optim.AdamW):
    """AdamW at a base learning rate, with rates by role and independent weight decay; fused where PyTorch has it."""

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-12,
        weight_decay: float = 0.0,
    ):
        super().__init__(param_groups(model, lr, weight_decay), lr=lr, betas=betas, eps=eps, fused=True)

    def set_schedule(self, shape: float) -> None:
        """Put every group's rate at ``shape`` times its peak (0 to 1)."""
        for group in self.param_groups:
            group["lr"] = group["peak_lr"] * shape
