"""The decoder that every rung and every target is: unit-scaled layers in the u-μP parametrisation."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import nn
from ..config import ModelConfig


class LanguageModel(torch.nn.Module):
    """Token logits of a causal transformer: (batch, length) integers → (batch, length, vocab)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.stack = nn.ResidualStack(config.layers, config.width, config.heads, config.hidden, config.context)
        self.norm = nn.RMSNorm()
        self.readout = nn.Readout(config.width, config.vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.norm(self.stack(self.embedding(tokens))))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats a token; its gradients at unit scale."""
        return nn.functional.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())


def build(config: ModelConfig, seed: int) -> LanguageModel:
    """A freshly initialised model, the same for the same seed whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LanguageModel(config)
