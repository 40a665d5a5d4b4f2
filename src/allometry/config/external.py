"""A run that something outside this package trained: what is stated of it, by a recorder or by an import."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Literal

from pydantic import Field

from .base import Config

Scalar = str | int | float | bool


class ExternalRun(Config):
    """What a finished run was, as far as it is known; a fact that is not known is None, never a guess.

    Attributes:
        trained_by: who stated this: "recorder", or the kind of source that was imported ("hf_trainer", "wandb", …).
        name: what tells apart runs whose other facts are equal.
        num_params: parameters as ``counted`` says: "non_embedding", "total", "matmul", "active" (of experts) or
            "unknown". The other counts stand beside it where they are known.
        tokens: units of data that the run trained on; ``unit`` names the unit.
        flops: forward and backward FLOPs of the whole run; None: 6·N·D.
        batch_tokens: units of data of one step, over all processes and accumulated pieces.
        lr: the peak of the learning rate.
        loss_unit: the unit of the loss, in words.
        data: the name of what it learned from; ``train_tokens`` is how much of that there is.
        bytes_per_token: bytes of text in one token, for bits per byte.
        shape: fields of the model (width, layers, …); ``settings``: anything else that tells runs apart.
        notes: how a fact was derived, one sentence each.
        source: where the run was read from.
        open_ended: its length was not decided when it began, so length and FLOPs do not belong to its identity.

    Notes, source and the size of the data belong to no identity: the same run read again is found.
    """

    trained_by: str = Field(min_length=1)
    name: str = ""
    num_params: int = Field(ge=1)
    counted: Literal["non_embedding", "total", "matmul", "active", "unknown"] = "unknown"
    num_params_total: int | None = Field(default=None, ge=1)
    num_params_matmul: int | None = Field(default=None, ge=1)
    tokens: int = Field(ge=1)
    flops: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    batch_tokens: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    seed: int | None = None
    unit: str = "token"
    loss_unit: str = "nats per token"
    data: str = ""
    train_tokens: int | None = Field(default=None, ge=1)
    bytes_per_token: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    shape: dict[str, Scalar] = Field(default_factory=dict)
    settings: dict[str, Scalar] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: str = ""
    open_ended: bool = False

    def identity(self) -> dict[str, Any]:
        informative = {"notes", "source", "train_tokens", "bytes_per_token"}
        informative |= {"tokens", "flops"} if self.open_ended else set()
        return {key: value for key, value in super().identity().items() if key not in informative}

    @property
    def id(self) -> str:
        """The run's identity: a hash of what is stated of it, and of no path, host or clock."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def total_flops(self) -> float:
        """FLOPs as stated, or 6·N·D."""
        return self.flops or 6.0 * self.num_params * self.tokens

    @property
    def steps(self) -> int | None:
        """Steps of the whole run; None if its batch is not known."""
        return math.ceil(self.tokens / self.batch_tokens) if self.batch_tokens else None

    @property
    def epochs(self) -> float | None:
        """How many times the run reads its training data; None if their length is not known."""
        return self.tokens / self.train_tokens if self.train_tokens else None

    def bits_per_byte(self, loss: float) -> float | None:
        """A loss in nats per token as bits per byte of text; None where it is not known how long a token is."""
        return None if self.bytes_per_token is None else loss / (math.log(2) * self.bytes_per_token)
