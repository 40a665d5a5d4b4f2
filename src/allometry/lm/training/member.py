"""One model in training: its weights, its optimiser, its task, and what it measures of itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...config.run import RunConfig
from ...tasks.contract import Task
from .. import checkpoint
from ..families import family_of
from .meter import Meter


class Member:
    """A model in training. Everything its next step depends on can be captured and put back.

    So a trunk can be left for a run's decay and gone on with. ``config`` is the longest run that it is to train.
    """

    def __init__(self, config: RunConfig, task: Task, model: torch.nn.Module):
        self.config, self.task, self.model = config, task, model
        self.device = next(model.parameters()).device
        self.optimizer = family_of(config.model).optimizer(model, config.train)
        self.meter = Meter(config.schedule)

    @classmethod
    def fresh(cls, config: RunConfig, task: Task, device: torch.device) -> Member:
        """At the beginning of its training."""
        train = config.train
        model = family_of(config.model).build(config.model, train.seed, train.precision, train.compile)
        return cls(config, task, model.to(device))

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """A copy of all that the next step depends on: tensors by name, and a JSON value."""
        return checkpoint.capture(self.model, self.optimizer), self.meter.capture()

    def restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Go back to a captured state."""
        checkpoint.restore(self.model, self.optimizer, tensors)
        self.meter.restore(meta)
