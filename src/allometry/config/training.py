"""How a run is trained, and which trainer trains it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from .base import Config, OneOf

TRAINER_VERSION = 7  # of the built-in trainer; raise it whenever the same configuration would give another result


class TrainConfig(Config):
    """Everything that determines the outcome apart from model and task.

    ``lr`` (the u-μP base learning rate) and ``batch_tokens`` are the values after ``reference_tokens`` tokens; before
    and after that, both follow power laws in the number of tokens seen, with exponents ``-lr_exponent`` and
    ``batch_exponent`` (0: constant). See :mod:`allometry.config.schedule`. The learning rate decays over the last
    fraction ``decay`` of the tokens. Nothing before this decay depends on ``tokens``, so runs that differ only in
    ``tokens`` share their trunk bit for bit. ``compile`` trains by compiled kernels: several times faster, with
    results that differ from PyTorch's by rounding; they need a C++ compiler.

    ``weight_decay`` is the share of a weight that each step takes off while the rate is at its peak. With
    ``weight_decay_timescale`` T there is one more, which falls along the run: what a weight learned after t tokens
    fades as (t / tokens seen)^(1/T). So the memory of a weight grows with the tokens seen, as the best one does with
    the length of a run (arXiv 2405.13698, 2505.13738).
    """

    tokens: int = Field(ge=1)
    batch_tokens: int = Field(ge=1)
    lr: float = Field(gt=0, allow_inf_nan=False)
    reference_tokens: int = Field(default=1_000_000, ge=1)
    batch_exponent: float = Field(default=0.5, ge=0, le=1)
    lr_exponent: float = Field(default=0.0, ge=-1, le=1)
    warmup_tokens: int = Field(default=20_000, ge=0)
    decay: float = Field(default=0.2, gt=0, le=1)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    weight_decay_timescale: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)

    @property
    def starting_weight_decay(self) -> float:
        """What an optimiser is made with: above zero if weights will decay, as it tells which of them do."""
        return self.weight_decay if self.weight_decay_timescale is None else max(self.weight_decay, 1e-6)


class TrainerConfig(OneOf):
    """The trainer of a run; ``name`` names it, and a subclass has the fields that it needs.

    ``version`` is raised whenever the trainer would give another result for the same configuration.
    """

    key: ClassVar[str] = "name"
    plural: ClassVar[str] = "trainers"
    default_kind: ClassVar[str] = "built_in"

    name: str
    version: int

    # Whether batch and rate follow config.schedule along a run, so that runs of different length share a trunk.
    schedules: ClassVar[bool] = True

    @property
    def current(self) -> bool:
        """Whether this is the trainer's present version; runs of different versions cannot be compared."""
        return True


class BuiltInConfig(TrainerConfig, kind="built_in"):
    """The trainer of this package: unit-scaled; interruptions do not change a bit of the result."""

    name: Literal["built_in"] = "built_in"
    version: int = TRAINER_VERSION

    @property
    def current(self) -> bool:
        return self.version == TRAINER_VERSION

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"version": self.version}
