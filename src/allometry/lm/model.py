"""The decoder that every rung and every target is: unit-scaled layers in the u-μP parametrisation."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import nn
from ..config import ModelConfig


class LanguageModel(torch.nn.Module):
    """Token logits of a causal transformer: (batch, length) integers → (batch, length, vocab).

    Weights and logits are FP32. With ``precision`` "bf16" all between embedding and logits is computed in BF16, which
    holds unit-scaled tensors as they are.
    """

    def __init__(self, config: ModelConfig, precision: str = "fp32"):
        super().__init__()
        self.config = config
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.stack = nn.ResidualStack(config.layers, config.width, config.heads, config.hidden, config.context)
        self.norm = nn.RMSNorm()
        self.readout = nn.Readout(config.width, config.vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.norm(self.stack(self.embedding(tokens).to(self.dtype)))).float()

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats a token; its gradients at unit scale."""
        return nn.functional.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())


def build(config: ModelConfig, seed: int, precision: str = "fp32") -> LanguageModel:
    """A freshly initialised model, the same for the same seed whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LanguageModel(config, precision)
