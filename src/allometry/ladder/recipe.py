"""How a model size is trained: batch and learning rate along the run.

Batch and learning rate move the loss of a small model more than its size does, so a law fitted to runs whose settings
are not near their best predicts only those settings. A :class:`Recipe` lets both follow a power law in the tokens seen
(:mod:`allometry.config.schedule`). The exponents come from theory: the batch grows as √tokens, within the range of
published measurements (D^0.38 to D^0.57: 2505.13738, 2503.04715). Adam's best learning rate grows as √batch at a fixed
length and decreases with the length at a fixed batch; the two cancel, and the learning rate stays. What weights have
learned fades with the tokens seen. ``benchmarks/recipe_exponents.py`` asks at 1 and 8 M tokens whether they hold. The
constants are measured on this corpus by a *sweep* of the cheapest runs. Under u-μP one base learning rate serves every
width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..config.model import ModelConfig
from ..config.run import RunConfig
from ..config.task import TaskConfig
from ..config.training import TrainConfig

REFERENCE_TOKENS = 1_000_000
# Of decoders on text: it takes 1.0 to 1.7 % off the loss at 8 M tokens, and none to 1.3 % at 1 M (docs/log.md).
TEXT_TIMESCALE = 6.0


@dataclass(frozen=True)
class Recipe:
    """Batch (tokens) and u-μP base learning rate at a million tokens seen, their exponents, weight decay, arithmetic.

    ``measured`` is a sentence part: how many runs they were measured from, or that they are the defaults.
    """

    lr: float = 0.35
    batch_tokens: int = 512
    batch_exponent: float = 0.5
    lr_exponent: float = 0.0
    reference_tokens: int = REFERENCE_TOKENS
    precision: str = "fp32"
    compile: bool = False
    warmup_tokens: int = 20_000
    weight_decay: float = 0.0
    weight_decay_timescale: float | None = None
    measured: str = "defaults, not measured on this text"

    def at(self, tokens: float) -> tuple[float, float]:
        """Batch in tokens and base learning rate after ``tokens`` tokens."""
        ratio = tokens / self.reference_tokens
        return self.batch_tokens * ratio**self.batch_exponent, self.lr * ratio**-self.lr_exponent

    def run(self, model: ModelConfig, task: TaskConfig, tokens: int, seed: int) -> RunConfig:
        """The configuration of a run of ``tokens`` tokens by this recipe."""
        values = {name: value for name, value in asdict(self).items() if name != "measured"}
        train = TrainConfig.parse(values | {"tokens": tokens, "seed": seed}, "recipe")
        return RunConfig(model=model, task=task, train=train)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
