"""The settings of a study."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from .base import Config
from .model import DecoderOptions


class StudyConfig(Config):
    """The settings of a ladder: the corpus, and either the ``minutes`` to fill or the ``widths`` and ``tokens``.

    Every width is trained to each of the lengths ``tokens``. With ``sweep``, cheap runs first measure batch and
    learning rate; without it, ``lr`` and ``batch_tokens`` (the values after a million tokens) are used as given. A
    rung that diverges is recorded as diverged, and tried again up to ``retries`` times, each time at half the
    learning rate. ``decoder`` has the options of the models.
    """

    data: str = "stdlib"
    seed: int = Field(default=0, ge=0, lt=2**63)
    context: int = Field(default=128, ge=16)
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    widths: tuple[int, ...] | None = None
    tokens: tuple[int, ...] | None = None
    sweep: bool = True
    lr: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    batch_tokens: int = Field(default=512, ge=16)
    retries: int = Field(default=0, ge=0, le=10)
    decoder: DecoderOptions = DecoderOptions()

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = (self.minutes is not None, self.widths is not None, self.tokens is not None)
        if given not in ((True, False, False), (False, True, True)):
            raise ValueError("give either minutes, or widths and tokens")
        if self.widths is not None and (len(set(self.widths)) < 2 or min(self.widths) < 8):
            raise ValueError("widths: give at least two different ones, each 8 or more")
        if self.tokens is not None and (not self.tokens or min(self.tokens) < 10_000):
            raise ValueError("tokens: give at least one length, each 10 000 or more")
        return self
