"""What a study is asked for."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from .base import Config


class StudyConfig(Config):
    """What a ladder is asked for: the text, and either ``minutes`` to fill or ``widths`` and ``tokens`` to train.

    ``tokens`` are the lengths that every width is trained to. With ``sweep`` the cheapest runs measure batch and rate
    first; without it ``lr`` and ``batch_tokens`` (at a million tokens seen) are taken as given. A rung that diverges
    is kept as such, and tried again up to ``retries`` times, at half the rate each time.
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

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = (self.minutes is not None, self.widths is not None, self.tokens is not None)
        if given not in ((True, False, False), (False, True, True)):
            raise ValueError("give either minutes, or widths and tokens")
        if self.widths is not None and (len(set(self.widths)) < 2 or min(self.widths) < 8):
            raise ValueError("widths: at least two different ones, of 8 or more")
        if self.tokens is not None and (not self.tokens or min(self.tokens) < 10_000):
            raise ValueError("tokens: at least one length, of 10 000 or more")
        return self
