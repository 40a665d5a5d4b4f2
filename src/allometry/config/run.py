"""One training run: everything that determines its outcome, hashed into its identity."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from pydantic import SerializeAsAny

from ..errors import UserError
from .base import Config
from .model import DecoderConfig, ModelConfig
from .schedule import Schedule
from .script import ScriptModelConfig, steps_of, told_to_program
from .task import TaskConfig, TextConfig
from .training import BuiltInConfig, TrainConfig, TrainerConfig


class RunConfig(Config):
    """One training: a model (a member of a family), a task, the training itself, and the trainer that does it."""

    model: SerializeAsAny[ModelConfig]
    task: SerializeAsAny[TaskConfig]
    train: TrainConfig
    trainer: SerializeAsAny[TrainerConfig] = BuiltInConfig()

    @property
    def id(self) -> str:
        """The run's identity: a hash of what determines its outcome, and of no path, host or clock."""
        return self._digest()

    @property
    def trunk(self) -> str:
        """The identity of the trunk: runs that differ only in their length share it until their decay begins."""
        return self._digest("tokens", "decay") if self.trainer.schedules else self.id

    def _digest(self, *without: str) -> str:
        train = self.train.identity()
        what = {
            "model": self.model.identity(),
            "task": self.task.identity(),
            "train": {key: value for key, value in train.items() if key not in without},
            "trainer": self.trainer.identity(),
        }
        text = json.dumps(what, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def schedule(self) -> Schedule:
        """Steps, batches and learning rates of the run."""
        return Schedule(self.train, self.model.row_tokens)

    @property
    def decoder(self) -> DecoderConfig:
        """The model, where only the built-in decoder will do.

        Raises:
            UserError: the model is of another family.
        """
        if not isinstance(self.model, DecoderConfig):
            raise UserError(f"run {self.id} trains a model of family {self.model.family}, not the built-in decoder")
        return self.model

    @property
    def text(self) -> TextConfig:
        """The task, where only text will do.

        Raises:
            UserError: the run learns another task.
        """
        if not isinstance(self.task, TextConfig):
            raise UserError(f"run {self.id} learns the task {self.task.name}, not text")
        return self.task

    @property
    def plain_text(self) -> bool:
        """Whether a plain decoder learns text here: what earlier studies of the project showed holds for such runs."""
        return self.task.name == "text" and isinstance(self.model, DecoderConfig) and self.model.plain

    @property
    def stackable(self) -> bool:
        """Whether runs like it can be trained as one batched model."""
        return self.model.stackable and self.task.stackable

    @property
    def num_params(self) -> int:
        return self.model.num_params

    @property
    def tokens(self) -> int:
        """The number of tokens that the run trains on: whole steps of whole batches, or what its program said."""
        if isinstance(self.model, ScriptModelConfig) and self.model.counts and self.model.counts.tokens:
            return self.model.counts.tokens
        return self.schedule.tokens if self.trainer.schedules else self.train.tokens

    @property
    def steps(self) -> int:
        """The number of steps of the run."""
        return self.schedule.steps if self.trainer.schedules else steps_of(self.train)

    @property
    def last_batch_tokens(self) -> int:
        """The batch of the last step, in tokens."""
        last = self.schedule.stages[-1].batch * self.model.row_tokens
        return last if self.trainer.schedules else self.train.batch_tokens

    @property
    def epochs(self) -> float | None:
        """How many times the run reads its training data; None if their length is not recorded."""
        return self.tokens / self.task.train_tokens if self.task.train_tokens else None

    @property
    def flops(self) -> float:
        """Exact FLOPs of the run, from the shapes."""
        return self.model.flops_per_token * self.tokens

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        if not self.trainer.schedules:  # what the trainer does not read was no part of the run
            values["train"] = told_to_program(self.train)
        return values

    def with_train(self, **changes: Any) -> RunConfig:
        """The same run with these values of its training changed."""
        train = self.train.model_copy(update=changes)  # a copy of the run itself would keep the schedule of the old
        return RunConfig(model=self.model, task=self.task, train=train, trainer=self.trainer)
