"""A program of the user's that the ladder starts: its command, its result, its model and task; a study of it.

widths = [32, 64, 128]
tokens = [100_000, 200_000]
lr = 3e-3
batch_tokens = 2048

[trainer]
command = "python train.py --width {width} --steps {steps} --lr {lr} --seed {seed} --out {out}"
result = "{out}/metrics.json"
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from ..arithmetic import evaluate, is_arithmetic, names_in
from ..errors import UserError
from .base import Config
from .model import ModelConfig
from .task import TaskConfig
from .training import TrainConfig, TrainerConfig

SCRIPT_VERSION = 1
STDOUT = "stdout"  # as ``result``: all values are found in what the program prints
PLACEHOLDERS = ("width", "tokens", "steps", "batch_tokens", "lr", "seed", "out", "resume")
NUMBERS = PLACEHOLDERS[:6]  # those that are numbers
_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")
_READS = ("tokens", "batch_tokens", "lr", "seed")  # of the training, what a program is told


class ScriptConfig(TrainerConfig, kind="script"):
    """A program that trains one run: it is given its values as arguments, and leaves a result.

    Attributes:
        command: the program and its arguments; never passed to a shell. ``{width}``, ``{tokens}``, ``{steps}`` (tokens
            over batch), ``{batch_tokens}``, ``{lr}``, ``{seed}`` and ``{out}`` (a folder of the run) are replaced, and
            the names in ``values``; ``{resume}`` is nothing, or ``resume`` when an earlier attempt left its folder.
        result: the file with the result, JSON, JSONL or CSV by its ending; or "stdout".
        loss, loss_se, num_params, flops, result_tokens: where a value stands in the result: its key ("eval.loss" for
            one that is nested; in JSONL and CSV the last row that has it), or, with a group in parentheses, a pattern
            on what the program prints; the last match counts. Only the loss must be there, and the size, unless
            ``count`` gives it.
        scores: further held-out scores: their keys.
        count: arithmetic that gives num_params from ``width`` and ``values``.
        counted: which parameters that counts.
        values: further values: numbers, texts, or arithmetic on the others, as ``heads = "width // 16"``;
            a text is arithmetic if it can be read as that and names one of the others.
        minutes: how long one run may take.
        retries: how often a program that failed is started again.
        environment: variables for it.
        folder: where it runs; by default that of the study's file.
    """

    name: Literal["script"] = "script"
    version: int = SCRIPT_VERSION
    command: str
    result: str
    loss: str = "loss"
    loss_se: str = "loss_se"
    num_params: str = "num_params"
    flops: str = "flops"
    result_tokens: str = "tokens"
    scores: tuple[str, ...] = ()
    count: str | None = None
    counted: Literal["non_embedding", "total", "matmul", "unknown"] = "unknown"
    values: dict[str, str | int | float] = Field(default_factory=dict)
    resume: str = ""
    minutes: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    retries: int = Field(default=0, ge=0, le=20)
    environment: dict[str, str] = Field(default_factory=dict)
    folder: str = ""

    schedules: ClassVar[bool] = False

    @property
    def current(self) -> bool:
        return self.version == SCRIPT_VERSION

    def identity(self) -> dict[str, Any]:
        beside = {"resume", "minutes", "retries", "folder", "result", "counted", "result_tokens"}
        return {key: value for key, value in super().identity().items() if key not in beside}

    @field_validator("command")
    @classmethod
    def _words(cls, command: str) -> str:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"cannot be split into arguments: {error}") from None
        if not words:
            raise ValueError("is empty")
        return command

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for name in self.values:
            if not name.isidentifier() or name in PLACEHOLDERS:
                raise ValueError(f"values: {name!r} cannot be the name of a value")
        known = {*PLACEHOLDERS, *self.values}
        for text in (self.command, self.result, self.resume, *self.environment.values()):
            unknown = [name for name in _PLACE.findall(text) if name not in known]
            if unknown:
                raise ValueError(
                    f"{{{unknown[0]}}} is not known; known: {', '.join(sorted(known))}, or give it in values"
                )
        for name in [] if self.count is None else names_in(self.count, "count"):
            if name not in {*NUMBERS, *self.values}:
                raise ValueError(f"count: {name} is not known; known: {', '.join(sorted({*NUMBERS, *self.values}))}")
        if "{resume}" in self.command and not self.resume:
            raise ValueError('resume: say what {resume} becomes when a run goes on, as resume = "--resume"')
        if self.result == STDOUT:
            if "(" not in self.loss:
                raise ValueError(
                    'result = "stdout": give loss as a pattern with a group, as \'loss = "val loss ([0-9.]+)"\''
                )
        elif not self.result.startswith("{out}"):
            raise ValueError("result: begin it with {out}, the folder of the run; elsewhere runs would write one file")
        elif "{out}" not in self.command:
            raise ValueError("command: give {out} to the program; without it, it cannot write its result there")
        return self

    def uses(self) -> set[str]:
        """The names that the command depends on, directly or by a value."""
        return {name for text in self._texts() for name in re.findall(r"[A-Za-z_]\w*", text)}

    def _texts(self) -> list[str]:
        places = [f" {name} " for text in (self.command, *self.environment.values()) for name in _PLACE.findall(text)]
        return places + [value for value in self.values.values() if isinstance(value, str)]

    def calculate(self, numbers: Mapping[str, float]) -> dict[str, str | int | float]:
        """``values`` for a run: arithmetic is calculated; a text that is none stays.

        Raises:
            UserError: arithmetic on a name that is not known, or without a finite value.
        """
        known: dict[str, Any] = dict(numbers)
        for name, value in self.values.items():
            if isinstance(value, str) and is_arithmetic(value, known):
                numeric = {key: number for key, number in known.items() if isinstance(number, int | float)}
                calculated = evaluate(value, numeric, f"trainer: values: {name}")
                value = int(calculated) if float(calculated).is_integer() else calculated
            known[name] = value
        return known

    def arguments(self, places: Mapping[str, str | int | float], goes_on: bool = False) -> list[str]:
        """The program and its arguments, with every placeholder replaced."""
        words = []
        for word in shlex.split(self.command):
            if word == "{resume}":
                words += [self.fill(part, places) for part in shlex.split(self.resume)] if goes_on else []
            else:
                words.append(self.fill(word.replace("{resume}", self.resume if goes_on else ""), places))
        return words

    def fill(self, text: str, places: Mapping[str, str | int | float]) -> str:
        """A text with every placeholder replaced; other braces stay."""
        return _PLACE.sub(lambda match: str(places[match[1]]) if match[1] in places else match[0], text)


class ScriptCounts(Config):
    """What a program said about a run: its parameters, the FLOPs of the run, the units it saw; None: not said."""

    num_params: int = Field(ge=1)
    flops: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    tokens: int | None = Field(default=None, ge=1)


class ScriptModelConfig(ModelConfig, kind="script"):
    """A model that a program builds from its width. ``counts`` is what the program said; None: not measured yet."""

    family: Literal["script"] = "script"
    width: int = Field(ge=1)
    counts: ScriptCounts | None = None

    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in super().identity().items() if key != "counts"}

    @property
    def num_params(self) -> int:
        if self.counts is None:
            raise UserError(f"the size of width {self.width} is not known before its program has run")
        return self.counts.num_params

    @property
    def num_params_matmul(self) -> int:
        return self.num_params

    @property
    def num_params_total(self) -> int:
        return self.num_params

    @property
    def flops_per_token(self) -> float:
        counts = self.counts
        return counts.flops / counts.tokens if counts and counts.flops and counts.tokens else 6.0 * self.num_params


class ScriptTaskConfig(TaskConfig, kind="script"):
    """What a program learns: known by its name only. ``fingerprint`` is that name."""

    name: Literal["script"] = "script"
    unit_name: str = "token"
    loss_name: str = ""

    @property
    def unit(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.unit_name

    @property
    def loss_unit(self) -> str:
        return self.loss_name or f"nats per {self.unit_name}"


class ScriptStudyConfig(Config):
    """The settings of a ladder of a program: every one of ``widths`` is trained to each of the lengths ``tokens``.

    ``lr`` is the rate of the smallest width; wider models get ``(width / smallest)^-lr_exponent`` of it. With
    ``sweep``, short runs of two widths measure rate and exponent first. ``target`` is the plan's compute over that of
    the largest rung; ``probe_tokens`` the length of the short run by which each width's size and speed are measured.
    ``data`` names what is learned, ``unit`` is what ``tokens`` count, ``loss_unit`` the unit of the loss.
    ``unique_tokens``: how many different units the program has; longer runs read them again, which a plan then knows.
    """

    trainer: ScriptConfig
    widths: tuple[int, ...]
    tokens: tuple[int, ...]
    lr: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    lr_exponent: float = Field(default=0.0, ge=-2, le=2)
    batch_tokens: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    sweep: bool = False
    target: float = Field(default=8.0, gt=1, allow_inf_nan=False)
    probe_tokens: int | None = Field(default=None, ge=1)
    data: str = ""
    unique_tokens: int | None = Field(default=None, ge=1)
    unit: str = "token"
    loss_unit: str = ""

    @model_validator(mode="after")
    def _is_a_ladder(self) -> Self:
        if len(set(self.widths)) < 2 or min(self.widths) < 1:
            raise ValueError("widths: give at least two different ones")
        if not self.tokens or min(self.tokens) < 1:
            raise ValueError("tokens: give at least one length")
        used = self.trainer.uses()
        if "width" not in used:
            raise ValueError("trainer: command: give {width} to the program, or a value calculated from it")
        if not {"tokens", "steps"} & used:
            raise ValueError("trainer: command: give {tokens} or {steps} to the program, or a value calculated from it")
        if self.sweep and "lr" not in used:
            raise ValueError("sweep: the program is not given {lr}, so there is no rate to measure")
        return self

    @property
    def short(self) -> int:
        """The units of the short run that measures a width."""
        return self.probe_tokens or max(self.batch_tokens, min(self.tokens) // 4)

    def task(self) -> ScriptTaskConfig:
        return ScriptTaskConfig(
            source=self.data or "the program's own data",
            fingerprint=self.data,
            train_tokens=self.unique_tokens,
            unit_name=self.unit,
            loss_name=self.loss_unit,
        )

    def train(self, width: int, tokens: int, lr: float, lr_exponent: float) -> TrainConfig:
        """How a width is trained for a length: a rate that follows the width, a constant batch."""
        rate = lr * (width / min(self.widths)) ** -lr_exponent
        rate = float(f"{rate:.4g}")
        return TrainConfig(tokens=tokens, batch_tokens=self.batch_tokens, lr=rate, seed=self.seed)


def told_to_program(train: TrainConfig) -> dict[str, Any]:
    """The part of a training that a program is told, as plain values."""
    return {name: getattr(train, name) for name in _READS}


def steps_of(train: TrainConfig) -> int:
    """Steps of a run of a program: whole batches, at least the tokens."""
    return max(1, math.ceil(train.tokens / train.batch_tokens))
