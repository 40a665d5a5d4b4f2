"""The task of a run: what it learns, and on what it is scored."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from .base import OneOf

HELD_OUT_WINDOWS = 512  # of a text, of one context each, that a run is scored on
EVALUATED_TOKENS = 4096  # that an evaluation takes at a time, or one window if that is longer


class TaskConfig(OneOf):
    """What is learned; ``name`` names the task, and a subclass has its fields.

    ``fingerprint`` identifies the data. ``source`` is where they came from, ``train_tokens`` the number of units to
    train on (None: not recorded); neither belongs to the identity. :attr:`unit` is what D counts.
    """

    key: ClassVar[str] = "name"
    plural: ClassVar[str] = "tasks"
    default_kind: ClassVar[str] = "text"
    unit: ClassVar[str]
    stackable: ClassVar[bool] = False  # whether runs on it can be trained as one batched model

    name: str
    source: str
    fingerprint: str
    train_tokens: int | None = Field(default=None, ge=1)

    def identity(self) -> dict[str, Any]:
        informative = {"source", "train_tokens"}
        return {key: value for key, value in super().identity().items() if key not in informative}

    def of_module(self, context: int) -> tuple[dict[str, Any], tuple[int, ...], int, int]:
        """What a module of the user's is told, and reads: keyword arguments, input shape, integers' bound, units a row.

        Raises:
            ValueError: a module cannot learn this task.
        """
        raise ValueError(f"task {self.name}: a module cannot learn it")

    def columns(self) -> dict[str, Any]:
        """What a table of runs should say of the task besides its data, by column."""
        return {}

    def bits_per_byte(self, loss: float) -> float | None:
        """The loss in bits per byte of text; None for a task without text."""
        return None

    @property
    def loss_unit(self) -> str:
        """The unit of the loss, in words."""
        return f"nats per {self.unit}"


class TextConfig(TaskConfig, kind="text"):
    """Predict the next token of a corpus, which a tokenizer has cut into tokens.

    The identity consists of the fingerprint, which covers all tokens and the tokenizer, and the tokenizer's name. The
    rest follows from them. ``bytes_per_token`` is measured on the held-out text.
    """

    unit: ClassVar[str] = "token"
    stackable: ClassVar[bool] = True

    name: Literal["text"] = "text"
    tokenizer: str = "bytes"
    vocab_size: int = Field(default=256, ge=2)
    bytes_per_token: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        follows = {"vocab_size", "bytes_per_token"}
        return {key: value for key, value in super().identity().items() if key not in follows}

    def of_module(self, context: int) -> tuple[dict[str, Any], tuple[int, ...], int, int]:
        return {"vocab_size": self.vocab_size, "context": context}, (context,), self.vocab_size, context

    def bits_per_byte(self, loss: float) -> float | None:
        """A loss in nats per token as bits per byte of text, which can be compared between tokenizers."""
        return loss / (math.log(2) * self.bytes_per_token)

    @property
    def loss_unit(self) -> str:
        return "nats per byte" if self.tokenizer == "bytes" else "nats per token"


class DistilledTextConfig(TextConfig, kind="distilled_text"):
    """Predict the next token of a corpus, taught by the probabilities of a larger model.

    The loss that is learned is (1 − ``share``) of the text's own and ``share`` of that against the teacher's
    probabilities at ``temperature``; the held-out loss is the text's, as of a run without a teacher. ``teacher``
    identifies its weights, which stand in the study; its size and its own held-out loss follow from them.
    """

    stackable: ClassVar[bool] = False

    name: Literal["distilled_text"] = "distilled_text"
    teacher: str
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    share: float = Field(default=1.0, gt=0, le=1)
    teacher_params: int | None = Field(default=None, ge=1)
    teacher_loss: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        follows = {"teacher_params", "teacher_loss"}
        return {key: value for key, value in super().identity().items() if key not in follows}

    def columns(self) -> dict[str, Any]:
        return {"teacher_loss": self.teacher_loss, "teacher_params": self.teacher_params}


class ImagesConfig(TaskConfig, kind="images"):
    """Name the class of an image. ``shape`` is channels, height, width; it and ``classes`` follow from the data."""

    unit: ClassVar[str] = "image"

    name: Literal["images"] = "images"
    shape: tuple[int, ...] = (1, 28, 28)
    classes: int = Field(default=10, ge=2)

    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in super().identity().items() if key not in {"shape", "classes"}}

    def of_module(self, context: int) -> tuple[dict[str, Any], tuple[int, ...], int, int]:
        return {"shape": self.shape, "classes": self.classes}, self.shape, 0, 1


class AudioConfig(TextConfig, kind="audio"):
    """Predict the next sample of speech, one of 256 levels of μ-law."""

    unit: ClassVar[str] = "sample"

    name: Literal["audio"] = "audio"

    def bits_per_byte(self, loss: float) -> None:
        return None

    @property
    def loss_unit(self) -> str:
        return "nats per sample"


class Pairs:
    """What the tasks on pairs of texts have in common.

    Write what answers a given text, byte by byte: the loss is that of the answer alone, in nats a byte of it.

    A row is one pair, filled up to the context; D counts all its positions.
    """

    unit: ClassVar[str] = "token"
    vocab_size: ClassVar[int] = 256
    loss_unit: ClassVar[str] = "nats per byte of the answer"

    def of_module(self, context: int) -> tuple[dict[str, Any], tuple[int, ...], int, int]:
        return {"vocab_size": self.vocab_size, "context": context}, (context,), self.vocab_size, context


class TranslationConfig(Pairs, TaskConfig, kind="translation"):
    """Pairs of a message and its translation."""

    name: Literal["translation"] = "translation"


class SummariesConfig(Pairs, TaskConfig, kind="summaries"):
    """Pairs of a description and its synopsis."""

    name: Literal["summaries"] = "summaries"


class QuestionsConfig(Pairs, TaskConfig, kind="questions"):
    """Pairs of a question and its answer; also scored by choosing among four."""

    name: Literal["questions"] = "questions"
