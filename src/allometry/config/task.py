"""What a run learns and is scored on."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from .base import OneOf


class TaskConfig(OneOf):
    """What is learned; ``name`` says which task, and a subclass has its fields.

    The data are identified by their ``fingerprint``. ``source`` says where they came from, ``train_tokens`` how many
    units there are to train on (None: not recorded); neither decides identity. :attr:`unit` is what D counts.
    """

    key: ClassVar[str] = "name"
    default_kind: ClassVar[str] = "text"
    unit: ClassVar[str]

    name: str
    source: str
    fingerprint: str
    train_tokens: int | None = Field(default=None, ge=1)

    def identity(self) -> dict[str, Any]:
        informative = {"source", "train_tokens"}
        return {key: value for key, value in super().identity().items() if key not in informative}

    def bits_per_byte(self, loss: float) -> float | None:
        """The loss as bits a byte of text; None for a task without text."""
        return None


class TextConfig(TaskConfig, kind="text"):
    """Predict the next token of a text, cut by a tokenizer.

    The fingerprint, of all tokens and of the tokenizer itself, and the tokenizer's name decide identity. The rest
    follows from them: ``bytes_per_token`` is that of the held-out text.
    """

    unit: ClassVar[str] = "token"

    name: Literal["text"] = "text"
    tokenizer: str = "bytes"
    vocab_size: int = Field(default=256, ge=2)
    bytes_per_token: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        follows = {"vocab_size", "bytes_per_token"}
        return {key: value for key, value in super().identity().items() if key not in follows}

    def bits_per_byte(self, loss: float) -> float:
        """A loss in nats a token as bits a byte of text, which compares across tokenizers."""
        return loss / (math.log(2) * self.bytes_per_token)
