"""How a size is trained: its shape, and batch and learning rate along the run.

Batch and rate move the loss of a small model more than its size does, so a law fitted to runs whose settings are not
near their best predicts nothing but those settings. A :class:`Recipe` lets both follow a power law in the tokens seen
(:mod:`allometry.config.schedule`). Its exponents are the theory's: the batch grows as √tokens, within the range of
published measurements (D^0.38 to D^0.57: 2505.13738, 2503.04715), and as Adam's best rate goes as √batch at a fixed
length but falls with the length at a fixed batch, the two cancel and the rate stays. Its constants are measured on
this text by a *sweep* of the cheapest runs. Under u-μP one base rate serves every width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..config.model import DecoderConfig
from ..config.run import RunConfig
from ..config.task import TextConfig
from ..config.training import TrainConfig

REFERENCE_TOKENS = 1_000_000


@dataclass(frozen=True)
class Recipe:
    """Batch (tokens) and u-μP base rate at a million tokens seen, how they go on from there, and how it is computed.

    ``measured`` says from how many runs, or that these are the defaults.
    """

    lr: float = 0.5
    batch_tokens: int = 512
    batch_exponent: float = 0.5
    lr_exponent: float = 0.0
    reference_tokens: int = REFERENCE_TOKENS
    precision: str = "fp32"
    compile: bool = False
    measured: str = "defaults, not measured on this text"

    def at(self, tokens: float) -> tuple[float, float]:
        """Batch in tokens and base rate when so many tokens have been seen."""
        ratio = tokens / self.reference_tokens
        return self.batch_tokens * ratio**self.batch_exponent, self.lr * ratio**-self.lr_exponent

    def run(self, model: DecoderConfig, task: TextConfig, tokens: int, seed: int) -> RunConfig:
        """The configuration of a run of ``tokens`` tokens by this recipe."""
        names = ("lr", "batch_tokens", "batch_exponent", "lr_exponent", "reference_tokens", "precision", "compile")
        values = {name: getattr(self, name) for name in names}
        train = TrainConfig.parse(values | {"tokens": tokens, "seed": seed}, "recipe")
        return RunConfig(model=model, task=task, train=train)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
