"""The family of the user's modules, as the built-in trainer sees it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ... import nn as unit
from ...config.model import ModuleConfig
from ...config.run import RunConfig
from ...config.training import TrainConfig
from ...errors import UserError
from ...runs.cost import memory_bytes
from ..families import Counts
from .count_member import inputs_of, plain_module
from .module_code import user_code

EXAMPLE_ROWS = 8


class PlainAdamW(torch.optim.AdamW):
    """PyTorch's AdamW with one rate for all, and a weight decay that is independent of the rate."""

    def __init__(self, model: nn.Module, train: TrainConfig):
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        decay = train.starting_weight_decay / train.lr
        super().__init__(trained, lr=train.lr, betas=(train.beta1, train.beta2), weight_decay=decay, fused=True)
        self.peak = train.lr

    def set_schedule(self, shape: float, weight_decay: float | None = None) -> None:
        """Put the rate at ``shape`` times its peak; ``weight_decay``: from now on, where given."""
        for group in self.param_groups:
            group["lr"] = shape * self.peak
            if weight_decay is not None:
                group["weight_decay"] = weight_decay / self.peak


class ModuleFamily:
    """See :class:`..families.Family`."""

    def build(self, model: ModuleConfig, seed: int, precision: str = "fp32", compile: bool = False) -> nn.Module:
        if precision != "fp32":
            raise UserError(f"precision {precision}: a module of a file is trained in fp32")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            built = plain_module(model)
            return unit_scaled(built, model) if model.parametrization == "umup" else built

    def counts(self, model: ModuleConfig) -> Counts:
        return Counts(model.num_params, model.num_params_matmul, model.num_params_total, model.flops_per_token)

    def optimizer(self, model: nn.Module, train: TrainConfig) -> Any:
        if any(isinstance(module, unit.Parametrized) for module in model.modules()):
            return unit.AdamW(
                model, train.lr, betas=(train.beta1, train.beta2), weight_decay=train.starting_weight_decay
            )
        return PlainAdamW(model, train)

    def memory_bytes(self, config: RunConfig, most_rows: int | None = None) -> float:
        return memory_bytes(config, most_rows)

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        return []

    def recompute(self, model: nn.Module) -> None:
        """Nothing: which parts could be computed again is not known of a module."""


def unit_scaled(built: nn.Module, model: ModuleConfig) -> nn.Module:
    """The unit-scaled counterpart of a module.

    Raises:
        UserError: it cannot be made so.
    """
    example: Tensor = inputs_of(model, EXAMPLE_ROWS)
    try:
        with user_code(model.source), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return unit.scale_model(built, example, rule="unit")
    except UserError as error:
        raise UserError(f'{error}; parametrization = "sp" trains the module as it is') from None


MODULES = ModuleFamily()
