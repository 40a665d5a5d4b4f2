"""How a size is trained: its shape, and batch and learning rate along the run.

Batch and rate move the loss of a small model more than its size does, so a law fitted to runs whose settings are not
near their best predicts nothing but those settings. A :class:`Recipe` lets both follow a power law in the tokens seen
(:mod:`allometry.schedule`). Its exponents are the theory's: the batch grows as √tokens, within the range of published
measurements (D^0.38 to D^0.57: 2505.13738, 2503.04715), and as Adam's best rate goes as √batch at a fixed length but
falls with the length at a fixed batch, the two cancel and the rate stays. Its constants are measured on this text by
a *sweep* of the cheapest runs. Under u-μP one base rate serves every width.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..config import DataConfig, ModelConfig, RunConfig, TrainConfig
from ..errors import UserError
from .record import RunRecord

BATCH_TOLERANCE = 0.003  # of the loss: what a batch may cost that lets the machine work in larger pieces
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

    def run(self, model: ModelConfig, data: DataConfig, tokens: int, seed: int) -> RunConfig:
        """The configuration of a run of ``tokens`` tokens by this recipe."""
        names = ("lr", "batch_tokens", "batch_exponent", "lr_exponent", "reference_tokens", "precision", "compile")
        values = {name: getattr(self, name) for name in names}
        train = TrainConfig.parse(values | {"tokens": tokens, "seed": seed}, "recipe")
        return RunConfig(model=model, data=data, train=train)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def shape(width: int, context: int = 128, vocab_size: int = 256) -> ModelConfig:
    """The model of a width: heads of about 16 dimensions, an MLP of 8/3 the width, depth that grows with the width.

    Four layers up to width 128, then 4·(width/128)^0.6: 12 at width 768, 32 at 4096, as in common practice.
    """
    if width < 8 or width % 2:
        raise UserError(f"width {width}: a model's width is an even number from 8 up")
    heads = max(1, round(width / 16))
    while width % (2 * heads):
        heads -= 1
    layers = max(4, round(4 * (width / 128) ** 0.6))
    hidden = max(8, 8 * round(width / 3))
    return ModelConfig(
        width=width, layers=layers, head_dim=width // heads, hidden=hidden, vocab_size=vocab_size, context=context
    )


def shape_near(num_params: float, context: int = 128, vocab_size: int = 256) -> ModelConfig:
    """The shape whose count of non-embedding parameters is nearest, in the logarithm, to the one asked for."""
    if num_params > 1e13:
        raise UserError(f"a model of {num_params:.3g} parameters is beyond what this recipe shapes (1e13)")
    count = lambda width: shape(width, context, vocab_size).num_params
    # At least four layers of 12·width²; the count grows with the width, so the answer is next to where it passes N.
    widths = range(16, 8 * int(math.sqrt(num_params / 48) / 8 + 8), 8)
    place = bisect_left(widths, num_params, key=count)
    near = widths[max(0, place - 1) : place + 1]
    return shape(min(near, key=lambda width: abs(math.log(count(width) / num_params))), context, vocab_size)


def sweep(recipe: Recipe, model: ModelConfig, data: DataConfig, tokens: Sequence[int], seed: int) -> list[RunConfig]:
    """A star around ``recipe``: the rate halved and doubled, the batch halved and doubled, at each token count."""
    steps = [(1, 1), (0.5, 1), (2, 1), (1, 0.5), (1, 2)]
    variants = [replace(recipe, lr=recipe.lr * a, batch_tokens=round(recipe.batch_tokens * b)) for a, b in steps]
    return [variant.run(model, data, count, seed) for variant in variants for count in tokens]


def measure(recipe: Recipe, records: Sequence[RunRecord]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe's constants from the runs of a sweep, and how they came about.

    For every (size, tokens) the logarithm of the loss is a parabola in the logarithm of the rate, and another in that
    of the batch, with curvatures common to all. The rate is the minimum, the batch the largest that costs at most
    ``BATCH_TOLERANCE``. Neither leaves the swept range by more than a factor √2.

    Raises:
        UserError: fewer than three rates survived.
    """
    kept = [record for record in records if record.status == "finished"]
    train = [record.config.train for record in kept]
    groups = sorted({(record.config.num_params, record.config.train.tokens) for record in kept})
    if len({t.lr for t in train}) < 3:
        raise UserError(
            "the sweep of learning rates left fewer than three that trained; give the ladder another lr, or other text"
        )
    x = np.log2([t.lr / recipe.lr for t in train])
    z = np.log2([t.batch_tokens / recipe.batch_tokens for t in train])
    member = np.array(
        [[(r.config.num_params, r.config.train.tokens) == group for group in groups] for r in kept], float
    )
    y = np.log([record.loss for record in kept])
    design = np.column_stack([member, x, x**2, z, z**2])
    coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
    residual = float(np.sqrt(np.mean((design @ coefficients - y) ** 2)))
    slope_x, bend_x, slope_z, bend_z = coefficients[-4:]
    best_x = _minimum(slope_x, bend_x)
    best_z = _minimum(slope_z, bend_z)
    # The batch's parabola rises by the tolerance at this distance above its minimum.
    reach = math.sqrt(BATCH_TOLERANCE / bend_z) if bend_z > 0 else 0.0
    best_z = float(np.clip(best_z + reach, -1.5, 1.5))
    found = replace(
        recipe,
        lr=float(f"{recipe.lr * 2**best_x:.3g}"),
        batch_tokens=round(recipe.batch_tokens * 2**best_z),
        measured=f"{len(kept)} runs of {len(groups)} (size, tokens)",
    )
    evidence = {
        "lr_curvature": float(bend_x),
        "batch_curvature": float(bend_z),
        "cost_of_half_lr": _rise(slope_x, bend_x, best_x, -1),
        "cost_of_double_lr": _rise(slope_x, bend_x, best_x, 1),
        "residual": residual,
        "at_edge": bool(abs(best_x) > 1.25),
    }
    return found, evidence


def _minimum(slope: float, bend: float) -> float:
    """Where a parabola is lowest within the swept range, or the end towards which it falls."""
    if bend <= 0:
        return float(-1.5 * np.sign(slope))
    return float(np.clip(-slope / (2 * bend), -1.5, 1.5))


def _rise(slope: float, bend: float, at: float, step: float) -> float:
    """The relative loss that a step away from ``at`` costs."""
    return float(np.expm1(slope * step + bend * ((at + step) ** 2 - at**2)))
