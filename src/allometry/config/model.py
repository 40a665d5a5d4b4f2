"""The model that a run trains: one member of a family, with its parameters and FLOPs under every convention in use.

The counts are computed from the configuration alone, without torch.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from .base import OneOf


class ModelConfig(OneOf):
    """One member of a family; ``family`` names the family, and a subclass has the fields that determine the shape.

    Scaling laws need the counts. ``num_params`` is non-embedding: it excludes tables that are only looked up, and the
    head. ``num_params_matmul`` counts the parameters by which one unit of data is multiplied, including the head.
    """

    key: ClassVar[str] = "family"
    plural: ClassVar[str] = "families"
    default_kind: ClassVar[str] = "decoder"

    family: str
    width: int = Field(ge=8)

    @property
    def num_params(self) -> int:
        """Non-embedding parameters."""
        raise NotImplementedError

    @property
    def num_params_matmul(self) -> int:
        """Parameters by which one unit of data is multiplied, including the head."""
        raise NotImplementedError

    @property
    def num_params_total(self) -> int:
        """All parameters."""
        raise NotImplementedError

    @property
    def flops_per_token(self) -> float:
        """Forward and backward FLOPs for one unit of data, computed from the shapes."""
        raise NotImplementedError

    @property
    def row_tokens(self) -> int:
        """Units of data in one row of a batch: the context of a language model, 1 of a classifier."""
        return 1


class DecoderConfig(ModelConfig, kind="decoder"):
    """The built-in language model, a decoder-only transformer: RMSNorm, RoPE, SwiGLU, causal attention, untied head."""

    family: Literal["decoder"] = "decoder"
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
        """Parameters by which a token is multiplied: the blocks and the head."""
        return self.num_params + self.vocab_size * self.width

    @property
    def num_params_total(self) -> int:
        """All parameters: blocks, embedding and head."""
        return self.num_params + 2 * self.vocab_size * self.width

    @property
    def flops_per_token(self) -> float:
        """Forward and backward FLOPs for one token: 6 for each matmul parameter, plus causal attention.

        A position attends to (context + 1)/2 positions on average, each for 12·width FLOPs in each layer.
        """
        attention = 12 * self.layers * self.width * (self.context + 1) / 2
        return 6 * self.num_params_matmul + attention

    @property
    def row_tokens(self) -> int:
        return self.context
