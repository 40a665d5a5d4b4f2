"""The settings of a study."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from .base import Config
from .model import DecoderOptions


class StudyConfig(Config):
    """The settings of a ladder: the corpus, and either the ``minutes`` to fill or the ``widths`` and ``tokens``.

    Every width is trained to each of the lengths ``tokens``. With ``sweep``, cheap runs first measure batch and
    learning rate; without it, ``lr`` and ``batch_tokens`` (the values after a million tokens) are used as given. A
    rung that diverges is recorded as diverged, and tried again up to ``retries`` times, each time at half the
    learning rate. ``decoder`` has the options of the models. ``weight_decay`` (or
    ``weight_decay_timescale``), ``warmup_tokens`` and ``precision`` are those of every run, where they are given.

    With ``minutes``, the planned run takes ``target_ratio`` times the FLOPs of the largest rung, and reads the text
    about ``epochs`` times at most: a short text makes the ladder smaller. With widths and tokens, each width is trained
    with ``repeats`` seeds, which tells the noise of a run.
    ``unique_tokens`` trains on so many tokens of the text, from all parts of it, again and again; ``mix`` is another
    text, of which ``mix_share`` of the tokens is taken. The held-out text is that of ``data``.

    ``task`` names what is learned. ``family`` is the built-in decoder or a function of a file, "model.py:Net", which is
    called with the width and ``fields`` and trained as it is ("sp") or made unit-scaled ("umup").
    """

    data: str = "stdlib"
    seed: int = Field(default=0, ge=0, lt=2**63)
    context: int = Field(default=128, ge=16)
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    widths: tuple[int, ...] | None = None
    tokens: tuple[int, ...] | None = None
    sweep: bool = True
    lr: float = Field(default=0.35, gt=0, allow_inf_nan=False)
    batch_tokens: int = Field(default=512, ge=16)
    retries: int = Field(default=0, ge=0, le=10)
    target_ratio: float = Field(default=8.0, ge=1, le=10_000)
    epochs: float = Field(default=2.0, gt=0, le=8)
    repeats: int = Field(default=1, ge=1, le=100)
    unique_tokens: int | None = Field(default=None, ge=1000)
    mix: str | None = None
    mix_share: float = Field(default=0.5, gt=0, lt=1)
    task: str = "text"
    family: str = "decoder"
    parametrization: Literal["sp", "umup"] = "sp"
    fields: dict[str, JsonValue] = Field(default={})
    decoder: DecoderOptions = DecoderOptions()
    weight_decay: float | None = Field(default=None, ge=0, le=1)
    weight_decay_timescale: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    warmup_tokens: int | None = Field(default=None, ge=0)
    precision: Literal["fp32", "bf16"] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = (self.minutes is not None, self.widths is not None, self.tokens is not None)
        if given not in ((True, False, False), (False, True, True)):
            raise ValueError("give either minutes, or widths and tokens")
        if self.family != "decoder" and ".py:" not in self.family:
            raise ValueError(f"family: {self.family!r}; write the file and the function in it, as model.py:Net")
        if self.minutes is not None and not self.measures_text:
            raise ValueError("minutes: only for the built-in decoder on text or audio; give widths and tokens")
        if self.task != "text" and (self.unique_tokens is not None or self.mix is not None):
            raise ValueError("unique_tokens and mix: only for the task text")
        least = 8 if self.family == "decoder" else 1
        if self.widths is not None and (len(set(self.widths)) < 2 or min(self.widths) < least):
            raise ValueError(f"widths: give at least two different ones, each {least} or more")
        if self.tokens is not None and (not self.tokens or min(self.tokens) < 10_000):
            raise ValueError("tokens: give at least one length, each 10 000 or more")
        return self

    @property
    def training(self) -> dict[str, Any]:
        """What the study says about the training of every run, beside learning rate and batch."""
        names = ("weight_decay", "weight_decay_timescale", "warmup_tokens", "precision")
        given = {name: getattr(self, name) for name in names}
        given = {name: value for name, value in given.items() if value is not None}
        return {"weight_decay_timescale": None} | given if "weight_decay" in given else given

    @property
    def measures_text(self) -> bool:
        """Whether the built-in decoder learns next tokens, for which sizes and speed are known beforehand."""
        return self.family == "decoder" and self.task in ("text", "audio")
