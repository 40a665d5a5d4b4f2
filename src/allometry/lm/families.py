"""The contract of a family of models, and the families by the name that a run's configuration gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from ..config.model import ModelConfig
from ..config.run import RunConfig
from ..config.training import TrainConfig
from ..plugins import load


@dataclass(frozen=True)
class Counts:
    """What scaling laws need of a model: parameters by every convention, and FLOPs for one unit of data."""

    num_params: int
    num_params_matmul: int
    num_params_total: int
    flops_per_unit: float


class Optimizer(Protocol):
    """An optimiser whose learning rates follow a schedule."""

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]: ...

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    def set_schedule(self, shape: float, weight_decay: float | None = None) -> None:
        """Put every rate at ``shape`` times its peak; ``weight_decay``: from now on, where given."""
        ...

    def step(self) -> Any: ...

    def zero_grad(self, set_to_none: bool = True) -> None: ...


class Family(Protocol):
    """From a configuration to a model, its counts, and what a trainer needs to know of both."""

    def build(self, model: ModelConfig, seed: int, precision: str = "fp32", compile: bool = False) -> nn.Module:
        """A freshly initialised model on the CPU, the same for the same seed whatever was drawn before."""
        ...

    def counts(self, model: ModelConfig) -> Counts:
        """Parameters and FLOPs of a model."""
        ...

    def optimizer(self, model: nn.Module, train: TrainConfig) -> Optimizer:
        """The optimiser of a model of this family, with the rates of a configuration."""
        ...

    def memory_bytes(self, config: RunConfig, most_rows: int | None = None) -> float:
        """Bytes of the largest step of a run; with ``most_rows``, of a step in pieces of at most so many rows."""
        ...

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        """The blocks of a model in the order in which they run: what processes shard. May be empty."""
        ...

    def recompute(self, model: nn.Module) -> None:
        """Let a model keep the inputs of its blocks only, and compute activations again in the backward pass."""
        ...


FAMILIES = {"decoder": "allometry.lm.decoder:DECODER", "module": "allometry.lm.modules.module_family:MODULES"}


def family_of(model: ModelConfig) -> Family:
    """The family of a model.

    Raises:
        UserError: there is none of that name.
    """
    return load("families", model.family, FAMILIES)
