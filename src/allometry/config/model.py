"""The built-in decoder: its shape, and its parameters and FLOPs under every convention in use, without torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from .base import Config


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
