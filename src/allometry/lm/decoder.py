"""The built-in family of models, a decoder of unit-scaled layers in the u-μP parametrisation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .. import nn
from ..config.model import DecoderConfig
from ..config.run import RunConfig
from ..config.task import DistilledTextConfig
from ..config.training import TrainConfig
from ..runs.cost import memory_bytes
from .compiled import step as compiled
from .compiled.adamw import CompiledAdamW
from .families import Counts
from .induction import wire_induction

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class LanguageModel(nn.Decoder):
    """Token logits of a causal transformer: (batch, length) integers → (batch, length, vocab).

    Weights and logits are FP32. With ``precision`` "bf16" all between embedding and logits is computed in BF16, which
    holds unit-scaled tensors as they are. With ``compile`` losses come from compiled kernels, equal to rounding, if the
    configuration is ``plain``: the options of a decoder are computed by its layers.
    """

    def __init__(self, config: DecoderConfig, precision: str = "fp32", compile: bool = False):
        shape = (config.vocab_size, config.layers, config.width, config.heads, config.hidden)
        options: dict[str, Any] = {"activation": config.activation, "qk_norm": config.qk_norm, "tied": config.tied}
        options |= {"kv_heads": config.kv_heads, "out_norm": config.norms == "pre+out"}
        super().__init__(*shape, compute=PRECISIONS[precision], **options)
        self.config = config
        self.step = compiled.step(PRECISIONS[precision], config.width) if compile and config.plain else None

    @property
    def whole_step(self) -> compiled.Step | None:
        """Its step by kernels, where that is one call for loss and gradients; None on another device than the CPU."""
        on_cpu = self.readout.weight.device.type == "cpu"
        return self.step if self.step is not None and self.step.whole and on_cpu else None

    def forward(self, tokens: Tensor, cache: nn.KVCache | None = None) -> Tensor:
        return super().forward(tokens, cache).float()

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


def without_kernels(config: RunConfig) -> str:
    """Why a run that asks for compiled kernels is trained without them; empty if it has them, or asks for none."""
    if not config.train.compile or not isinstance(config.model, DecoderConfig):
        return ""
    if isinstance(config.task, DistilledTextConfig):
        return "compile: the kernels compute the loss of the text alone; layers train a student, several times slower"
    if config.model.plain:
        return ""
    return (
        "compile: the kernels serve the decoder without options only; its layers train this one, several times slower"
    )


def build(config: DecoderConfig, seed: int, precision: str = "fp32", compile: bool = False) -> LanguageModel:
    """A freshly initialised model, the same for the same seed whatever was drawn before; it starts able to copy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LanguageModel(config, precision, compile)
        wire_induction(model)
        return model


class DecoderFamily:
    """The built-in family. See :class:`.families.Family`."""

    def build(self, model: DecoderConfig, seed: int, precision: str = "fp32", compile: bool = False) -> LanguageModel:
        return build(model, seed, precision, compile)

    def counts(self, model: DecoderConfig) -> Counts:
        return Counts(model.num_params, model.num_params_matmul, model.num_params_total, model.flops_per_token)

    def optimizer(self, model: LanguageModel, train: TrainConfig) -> nn.AdamW:
        on_cpu = model.readout.weight.device.type == "cpu"
        kind = CompiledAdamW if model.step is not None and on_cpu else nn.AdamW
        return kind(model, train.lr, betas=(train.beta1, train.beta2), weight_decay=train.starting_weight_decay)

    def memory_bytes(self, config: RunConfig, most_rows: int | None = None) -> float:
        return memory_bytes(config, most_rows)

    def blocks(self, model: LanguageModel) -> Sequence[nn.Module]:
        return [*model.stack.blocks]

    def recompute(self, model: LanguageModel) -> None:
        model.step = None  # compiled kernels keep all
        for block in model.stack.layers:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


DECODER = DecoderFamily()
