"""The sweep: which runs measure batch and learning rate, and the recipe that follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..config.model import ModelConfig
from ..config.run import RunConfig
from ..config.task import TaskConfig
from ..errors import UserError
from ..quantities import plural
from ..runs.record import RunRecord
from .recipe import Recipe

BATCH_TOLERANCE = 0.003  # of the loss: what a batch may cost that lets the machine work in larger pieces


def sweep_runs(
    recipe: Recipe, model: ModelConfig, task: TaskConfig, tokens: Sequence[int], seed: int
) -> list[RunConfig]:
    """A star around ``recipe``: the learning rate halved and doubled, the batch halved and doubled, at each length."""
    steps = [(1, 1), (0.5, 1), (2, 1), (1, 0.5), (1, 2)]
    variants = [replace(recipe, lr=recipe.lr * a, batch_tokens=round(recipe.batch_tokens * b)) for a, b in steps]
    return [variant.run(model, task, count, seed) for variant in variants for count in tokens]


def measure_recipe(recipe: Recipe, records: Sequence[RunRecord]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe's constants from the runs of a sweep, and the evidence for them.

    For every (size, tokens) the logarithm of the loss is a parabola in the logarithm of the learning rate, and another
    in that of the batch, with curvatures common to all. The learning rate is the minimum, the batch the largest that
    costs at most ``BATCH_TOLERANCE``. Neither leaves the swept range by more than a factor √2.

    Raises:
        UserError: runs of fewer than three learning rates finished.
    """
    kept = [record for record in records if record.status == "finished"]
    train = [record.config.train for record in kept]
    groups = sorted({(record.config.num_params, record.config.train.tokens) for record in kept})
    if len({t.lr for t in train}) < 3:
        raise UserError(
            "fewer than three learning rates of the sweep trained without diverging; give the study another lr or "
            "another corpus"
        )
    x = np.log2([t.lr / recipe.lr for t in train])
    z = np.log2([t.batch_tokens / recipe.batch_tokens for t in train])
    member = np.array(
        [[(r.config.num_params, r.config.train.tokens) == group for group in groups] for r in kept], float
    )
    y = np.log(np.array([record.loss for record in kept], float))
    regressors = np.column_stack([member, x, x**2, z, z**2])
    coefficients, *_ = np.linalg.lstsq(regressors, y, rcond=None)
    residual = float(np.sqrt(np.mean((regressors @ coefficients - y) ** 2)))
    slope_x, bend_x, slope_z, bend_z = coefficients[-4:]
    best_x = _minimum(slope_x, bend_x)
    best_z = _minimum(slope_z, bend_z)
    # The batch's parabola rises by the tolerance at this distance above its minimum.
    reach = math.sqrt(BATCH_TOLERANCE / bend_z) if bend_z > 0 else 0.0
    best_z = float(np.clip(best_z + reach, -1.5, 1.5))
    measured = replace(
        recipe,
        lr=float(f"{recipe.lr * 2**best_x:.3g}"),
        batch_tokens=round(recipe.batch_tokens * 2**best_z),
        measured=f"{plural(len(kept), 'run')} of {len(groups)} (size, tokens)",
    )
    evidence = {
        "lr_curvature": float(bend_x),
        "batch_curvature": float(bend_z),
        "cost_of_half_lr": _rise(slope_x, bend_x, best_x, -1),
        "cost_of_double_lr": _rise(slope_x, bend_x, best_x, 1),
        "residual": residual,
        "at_edge": bool(abs(best_x) > 1.25),
    }
    return measured, evidence


def _minimum(slope: float, bend: float) -> float:
    """Where a parabola is lowest within the swept range, or the end of the range towards which it decreases."""
    if bend <= 0:
        return float(-1.5 * np.sign(slope))
    return float(np.clip(-slope / (2 * bend), -1.5, 1.5))


def _rise(slope: float, bend: float, at: float, step: float) -> float:
    """The relative loss that a step away from ``at`` costs."""
    return float(np.expm1(slope * step + bend * ((at + step) ** 2 - at**2)))
