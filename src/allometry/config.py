"""What determines a run: model, data, training. Frozen, strict, and hashed into the run's identity.

The counts that scaling laws need (parameters and FLOPs, under every convention in use) are properties of the model's
configuration, computed from its shapes alone, without torch.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import tomllib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import UserError
from .schedule import Schedule

TRAINER_VERSION = 3  # raise it whenever the same configuration would train to another result


class Config(BaseModel):
    """A frozen record; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    @classmethod
    def parse(cls, values: dict[str, Any], where: str = "configuration") -> Self:
        """Build from a dictionary.

        Raises:
            UserError: a key is unknown, missing or has a bad value; names the first.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            # A misspelt key is also a missing one; the misspelling is the better news.
            first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
            key = ".".join(str(part) for part in first["loc"]) or "value"
            if first["type"] == "extra_forbidden":
                owner = cls
                for part in first["loc"][:-1]:
                    owner = owner.model_fields[part].annotation
                raise UserError(f"{where}: unknown key {_nearest(key, owner.model_fields)}") from None
            raise UserError(f"{where}: {key}: {first['msg']}") from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML or JSON file.

        Raises:
            UserError: there is no such file, or it does not parse.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            values = json.loads(text) if Path(path).suffix == ".json" else tomllib.loads(text)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from None
        except ValueError as error:
            raise UserError(f"{path}: not readable as {Path(path).suffix or 'TOML'}: {error}") from None
        return cls.parse(values, str(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and TOML have them."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        return tomli_w.dumps(self.to_dict())


def _nearest(key: str, known: Iterable[str]) -> str:
    """An unknown key, what was meant by it as far as one can tell, and what there is."""
    near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
    return f"{key!r}" + (f" (did you mean {near[0]!r}?)" if near else "") + f"; known: {', '.join(known)}"


class ModelConfig(Config):
    """A decoder-only transformer: RMSNorm, RoPE, SwiGLU, causal attention, an untied head."""

    width: int = Field(ge=8)
    layers: int = Field(ge=1)
    head_dim: int = Field(default=16, ge=2, multiple_of=2)
    hidden: int = Field(ge=8)
    vocab_size: int = Field(default=256, ge=2)
    context: int = Field(default=128, ge=2)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.head_dim:
            raise ValueError(f"width {self.width} is not a multiple of head_dim {self.head_dim}")
        return self

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    @property
    def num_params(self) -> int:
        """Non-embedding parameters: the weights of the blocks, without embedding and head."""
        return self.layers * (4 * self.width**2 + 3 * self.width * self.hidden)

    @property
    def num_params_matmul(self) -> int:
        """Parameters that a token is multiplied with: the blocks and the head."""
        return self.num_params + self.vocab_size * self.width

    @property
    def num_params_total(self) -> int:
        """All parameters: blocks, embedding and head."""
        return self.num_params + 2 * self.vocab_size * self.width

    @property
    def flops_per_token(self) -> float:
        """Forward and backward FLOPs a token: 6 for each matmul parameter, and causal attention as it is needed.

        A position attends to (context + 1)/2 others on average: 12·width FLOPs a layer for each of them.
        """
        attention = 12 * self.layers * self.width * (self.context + 1) / 2
        return 6 * self.num_params_matmul + attention


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
    See :mod:`allometry.schedule`. Nothing before the final fall, over the last ``decay`` of the tokens, depends on
    ``tokens``, so runs that differ in ``tokens`` alone share their trunk to the bit. ``compile`` trains by compiled
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


class RunConfig(Config):
    """One training run."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig

    @property
    def id(self) -> str:
        """The run's identity: a hash of what determines its outcome, never of a path, a host or a clock."""
        return self._digest(self.train.model_dump())

    @property
    def trunk(self) -> str:
        """The identity of what runs of different length share before their decay."""
        return self._digest(self.train.model_dump(exclude={"tokens", "decay"}))

    def _digest(self, train: dict[str, Any]) -> str:
        what = {
            "model": self.model.model_dump(),
            "data": {"fingerprint": self.data.fingerprint, "tokenizer": self.data.tokenizer},
            "train": train,
            "trainer": TRAINER_VERSION,
        }
        text = json.dumps(what, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def schedule(self) -> Schedule:
        """Steps, batches and rates of the run."""
        return Schedule(self)

    @property
    def num_params(self) -> int:
        return self.model.num_params

    @property
    def tokens(self) -> int:
        """Tokens really trained on: whole steps of whole batches."""
        return self.schedule.tokens

    @property
    def epochs(self) -> float | None:
        """How many times the run reads its training text; None where its length is not recorded."""
        return self.tokens / self.data.train_tokens if self.data.train_tokens else None

    @property
    def flops(self) -> float:
        """Exact FLOPs of the run, from the shapes."""
        return self.model.flops_per_token * self.tokens


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
