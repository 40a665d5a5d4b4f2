"""The decoder that every rung and every target is: unit-scaled layers in the u-μP parametrisation."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import nn
from ..config.model import DecoderConfig
from .compiled import step as compiled

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class LanguageModel(nn.Decoder):
    """Token logits of a causal transformer: (batch, length) integers → (batch, length, vocab).

    Weights and logits are FP32. With ``precision`` "bf16" all between embedding and logits is computed in BF16, which
    holds unit-scaled tensors as they are. With ``compile`` losses come from compiled kernels, equal to rounding.
    """

    def __init__(self, config: DecoderConfig, precision: str = "fp32", compile: bool = False):
        shape = (config.vocab_size, config.layers, config.width, config.heads, config.hidden)
        super().__init__(*shape, compute=PRECISIONS[precision])
        self.config = config
        self.step = compiled.step(PRECISIONS[precision]) if compile else None

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens).float()

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats a token; its gradients at unit scale."""
        if self.step is not None and tokens.device.type == "cpu":
            return self.step.loss(self, tokens, targets)
        return nn.functional.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())

    def token_losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy of every token in nats, (batch, length), without gradients."""
        if self.step is not None and tokens.device.type == "cpu":
            return self.step.token_losses(self, tokens, targets)
        with torch.no_grad():
            logits = self(tokens).flatten(0, 1)
            return torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="none").view(targets.shape)


def build(config: DecoderConfig, seed: int, precision: str = "fp32", compile: bool = False) -> LanguageModel:
    """A freshly initialised model, the same for the same seed whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LanguageModel(config, precision, compile)
