"""Text and training: what acts on the outcome of a run beside its model."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from .base import Config


class DataConfig(Config):
    """Which text, by which tokenizer.

    The fingerprint, of all tokens and of the tokenizer itself, and the tokenizer's name decide identity. The rest
    follows from them, or informs: ``source`` says where the text came from, ``train_tokens`` how many there are to
    train on (None: not recorded), ``bytes_per_token`` is that of the held-out text.
    """

    source: str
    fingerprint: str
    tokenizer: str = "bytes"
    vocab_size: int = Field(default=256, ge=2)
    train_tokens: int | None = Field(default=None, ge=1)
    bytes_per_token: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    def bits_per_byte(self, loss: float) -> float:
        """A loss in nats a token as bits a byte of text, which compares across tokenizers."""
        return loss / (math.log(2) * self.bytes_per_token)


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
