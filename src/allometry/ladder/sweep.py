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
from .parabolas import Parabolas, VariedSetting, most_probable
from .recipe import Recipe

BATCH_TOLERANCE = 0.003  # of the loss: what a batch may cost that lets the machine work in larger pieces
EDGE = 1.0  # octaves to each side that are swept; neither leaves them
# What earlier sweeps showed (docs/log.md): the rise of ln L with the square of the octaves from the best setting, with
# its standard deviation in ln; and where the best lies, in octaves. One run is as noisy as a small model is.
LR_BEND, BATCH_BEND = (0.027, 0.7), (0.015, 0.8)
BEST_SD = 0.6  # of rate and batch, around the default
# Decoders on text are better known: nineteen sweeps of ten texts scatter by as much around this rate, noise included;
# thirty-five since decoders start wired to copy lie at 0.28 to 0.44.
TEXT_LR, TEXT_LR_SD = 0.39, 0.28
NOISE, NOISE_RUNS = 0.01, 4.0


def sweep_runs(
    recipe: Recipe, model: ModelConfig, task: TaskConfig, tokens: Sequence[int], seed: int
) -> list[RunConfig]:
    """A star around ``recipe``: the learning rate halved and doubled, the batch halved and doubled, at each length."""
    steps = [(1, 1), (0.5, 1), (2, 1), (1, 0.5), (1, 2)]
    variants = [replace(recipe, lr=recipe.lr * a, batch_tokens=round(recipe.batch_tokens * b)) for a, b in steps]
    return [variant.run(model, task, count, seed) for variant in variants for count in tokens]


def measure_recipe(recipe: Recipe, records: Sequence[RunRecord]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe's constants from the runs of a sweep and what earlier sweeps showed, and the evidence for them.

    For every (size, tokens) the logarithm of the loss is a parabola in the logarithm of the learning rate, and another
    in that of the batch, with bends common to all. Single runs are noisy, so the parabolas are the most probable ones
    given the runs and what earlier sweeps showed (a maximum a posteriori). The learning rate is the minimum, the batch
    the largest that costs at most ``BATCH_TOLERANCE``, within the octaves that were swept.

    Raises:
        UserError: runs of fewer than three learning rates or three batches finished.
    """
    kept = [record for record in records if record.status == "finished"]
    train = [record.config.train for record in kept]
    groups = sorted({(record.config.num_params, record.config.train.tokens) for record in kept})
    for name, values in (("learning rates", {t.lr for t in train}), ("batches", {t.batch_tokens for t in train})):
        if len(values) < 3:
            raise UserError(
                f"fewer than three {name} of the sweep trained without diverging; give the study another lr or "
                "batch_tokens, or another corpus"
            )
    x = np.log2([t.lr / recipe.lr for t in train])
    z = np.log2([t.batch_tokens / recipe.batch_tokens for t in train])
    member = np.array(
        [[(r.config.num_params, r.config.train.tokens) == group for group in groups] for r in kept], float
    )
    y = np.log(np.array([record.loss for record in kept], float))
    rate = (0.0, BEST_SD)
    if all(record.config.plain_text for record in kept):
        rate = (math.log2(TEXT_LR / recipe.lr), TEXT_LR_SD)
    parabolas = _probable(member, x, z, y, rate)
    best_x, best_z = np.clip(parabolas.minima, -EDGE, EDGE)
    bend_x, bend_z = parabolas.bends
    # The batch's parabola rises by the tolerance at this distance above its minimum.
    largest_z = min(best_z + math.sqrt(BATCH_TOLERANCE / bend_z), EDGE)
    measured = replace(
        recipe,
        lr=float(f"{recipe.lr * 2**best_x:.3g}"),
        batch_tokens=round(recipe.batch_tokens * 2**largest_z),
        measured=f"{plural(len(kept), 'run')} of {len(groups)} (size, tokens)",
    )
    evidence = {
        "lr_curvature": float(bend_x),
        "batch_curvature": float(bend_z),
        "lr_octaves_error": float(parabolas.errors[0]),
        "batch_octaves_error": float(parabolas.errors[1]),
        "cost_of_half_lr": _rise(bend_x, best_x - parabolas.minima[0], -1),
        "cost_of_double_lr": _rise(bend_x, best_x - parabolas.minima[0], 1),
        "residual": parabolas.residual,
        "at_edge": bool(abs(best_x) > 0.95),
        "batch_at_edge": bool(abs(best_z) > 0.95 or largest_z >= EDGE),
    }
    return measured, evidence


def _probable(member: np.ndarray, x: np.ndarray, z: np.ndarray, y: np.ndarray, rate: tuple[float, float]) -> Parabolas:
    """The parabolas of rate and batch; ``rate``: the best one's mean and standard deviation before, in octaves.

    The noise is that of the residuals, ``NOISE`` counting as ``NOISE_RUNS`` of them.
    """
    regressors = np.column_stack([member, x, x**2, z, z**2])
    free, *_ = np.linalg.lstsq(regressors, y, rcond=None)
    squares = float(np.sum((regressors @ free - y) ** 2))
    freedom = max(len(y) - regressors.shape[1], 0)
    noise = math.sqrt((squares + NOISE_RUNS * NOISE**2) / (freedom + NOISE_RUNS))
    best = np.array([rate, (0.0, BEST_SD)])
    bends = np.array([LR_BEND, BATCH_BEND])

    def known(minima: np.ndarray, log_bends: np.ndarray) -> np.ndarray:
        of_bends = (log_bends - np.log(bends[:, 0])) / bends[:, 1]
        return np.concatenate([(minima - best[:, 0]) / best[:, 1], of_bends])

    one = np.ones((len(y), 1))
    return most_probable(
        y, member, [VariedSetting(x, one), VariedSetting(z, one)], noise, known, (best[:, 0], bends[:, 0])
    )


def _rise(bend: float, distance: float, step: float) -> float:
    """The relative loss that a step costs, away from a setting at some distance from the best."""
    return float(np.expm1(bend * ((distance + step) ** 2 - distance**2)))
