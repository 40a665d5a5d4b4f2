"""What determines a run: model, data, training. Frozen, strict, and hashed into the run's identity.

The counts that scaling laws need (parameters and FLOPs, under every convention in use) are properties of the model's
configuration, computed from its shapes alone, without torch.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from .base import Config
from .model import ModelConfig
from .schedule import Schedule
from .training import DataConfig, TrainConfig

TRAINER_VERSION = 3  # raise it whenever the same configuration would train to another result


class RunConfig(Config):
    """One training run."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig

    @property
    def id(self) -> str:
        """The run's identity: a hash of what determines its outcome, never of a path, a host or a clock."""
        return self._digest(self.train.model_dump())

    @property
    def trunk(self) -> str:
        """The identity of what runs of different length share before their decay."""
        return self._digest(self.train.model_dump(exclude={"tokens", "decay"}))

    def _digest(self, train: dict[str, Any]) -> str:
        what = {
            "model": self.model.model_dump(),
            "data": {"fingerprint": self.data.fingerprint, "tokenizer": self.data.tokenizer},
            "train": train,
            "trainer": TRAINER_VERSION,
        }
        text = json.dumps(what, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def schedule(self) -> Schedule:
        """Steps, batches and rates of the run."""
        return Schedule(self)

    @property
    def num_params(self) -> int:
        return self.model.num_params

    @property
    def tokens(self) -> int:
        """Tokens really trained on: whole steps of whole batches."""
        return self.schedule.tokens

    @property
    def epochs(self) -> float | None:
        """How many times the run reads its training text; None where its length is not recorded."""
        return self.tokens / self.data.train_tokens if self.data.train_tokens else None

    @property
    def flops(self) -> float:
        """Exact FLOPs of the run, from the shapes."""
        return self.model.flops_per_token * self.tokens
