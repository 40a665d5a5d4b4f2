"""One training run: everything that decides its outcome, hashed into its identity."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from pydantic import SerializeAsAny

from .base import Config
from .model import ModelConfig
from .schedule import Schedule
from .task import TaskConfig
from .training import BuiltInConfig, TrainConfig, TrainerConfig


class RunConfig(Config):
    """One training of one model, a member of a family, on a task, by a trainer."""

    model: SerializeAsAny[ModelConfig]
    task: SerializeAsAny[TaskConfig]
    train: TrainConfig
    trainer: SerializeAsAny[TrainerConfig] = BuiltInConfig()

    @property
    def id(self) -> str:
        """The run's identity: a hash of what determines its outcome, never of a path, a host or a clock."""
        return self._digest()

    @property
    def trunk(self) -> str:
        """The identity of what runs of different length share before their decay."""
        return self._digest("tokens", "decay")

    def _digest(self, *apart_from: str) -> str:
        train = self.train.identity()
        what = {
            "model": self.model.identity(),
            "task": self.task.identity(),
            "train": {key: value for key, value in train.items() if key not in apart_from},
            "trainer": self.trainer.identity(),
        }
        text = json.dumps(what, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def schedule(self) -> Schedule:
        """Steps, batches and rates of the run."""
        return Schedule(self.train, self.model.row_tokens)

    @property
    def num_params(self) -> int:
        return self.model.num_params

    @property
    def tokens(self) -> int:
        """Tokens really trained on: whole steps of whole batches."""
        return self.schedule.tokens

    @property
    def epochs(self) -> float | None:
        """How many times the run reads its training data; None where their length is not recorded."""
        return self.tokens / self.task.train_tokens if self.task.train_tokens else None

    @property
    def flops(self) -> float:
        """Exact FLOPs of the run, from the shapes."""
        return self.model.flops_per_token * self.tokens

    def with_train(self, **changes: Any) -> RunConfig:
        """The same run with other values in its training."""
        return self.model_copy(update={"train": self.train.model_copy(update=changes)})
