"""How a run is trained: what acts on its outcome beside model and task, and who trains it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from .base import Config, OneOf

TRAINER_VERSION = 4  # of the built-in trainer; raise it whenever the same configuration would train to another result


class TrainConfig(Config):
    """How: everything that acts on the outcome beside model and text.

    ``lr`` (the u-μP base rate) and ``batch_tokens`` hold when ``reference_tokens`` have been seen; before and after,
    they follow power laws in the tokens seen, with exponents ``-lr_exponent`` and ``batch_exponent`` (0: constant).
    See :mod:`allometry.config.schedule`. Nothing before the final fall, over the last ``decay`` of the tokens, depends
    on ``tokens``, so runs that differ in ``tokens`` alone share their trunk to the bit. ``compile`` trains by compiled
    kernels, several times faster, whose results differ from PyTorch's by rounding; it needs a C++ compiler.
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
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)


class TrainerConfig(OneOf):
    """Who trains a run; ``name`` says which trainer, and a subclass has the fields that it needs.

    ``version`` is raised whenever the trainer would train the same configuration to another result.
    """

    key: ClassVar[str] = "name"
    default_kind: ClassVar[str] = "built_in"

    name: str
    version: int

    @property
    def current(self) -> bool:
        """Whether this is the version that trains now; runs of another do not compare."""
        return True


class BuiltInConfig(TrainerConfig, kind="built_in"):
    """The trainer of this package: unit-scaled, the same bits however often it is interrupted."""

    name: Literal["built_in"] = "built_in"
    version: int = TRAINER_VERSION

    @property
    def current(self) -> bool:
        return self.version == TRAINER_VERSION

    def identity(self) -> dict[str, object]:
        return super().identity() | {"version": self.version}
