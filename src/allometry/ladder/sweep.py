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
EDGE = 1.0  # octaves to each side that are swept; neither leaves them
# What earlier sweeps of this family showed (docs/log.md), by octaves around the default recipe: the rise of ln L with
# the square of the distance from the best, and where the best lies. One run is as noisy as a small model is.
LR_BEND, BATCH_BEND = (0.027, 0.02), (0.015, 0.015)
BEST = (0.0, 0.6)
LEAST_BEND = 1 / 3  # of these rises: no text's were less
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
    in that of the batch, with curvatures common to all. Single runs are noisy, so the parabolas are those most probable
    after the runs and before them (a ridge regression). The learning rate is the minimum, the batch the largest that
    costs at most ``BATCH_TOLERANCE``, within the octaves that were swept.

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
    regressors = np.column_stack([member, x, x**2, z, z**2])
    coefficients, covariance, residual = _most_probable(regressors, y)
    slope_x, bend_x, slope_z, bend_z = coefficients[-4:]
    best_x, best_z = _minimum(slope_x, bend_x), _minimum(slope_z, bend_z)
    # The batch's parabola rises by the tolerance at this distance above its minimum.
    reach = math.sqrt(BATCH_TOLERANCE / bend_z) if bend_z > 0 else 0.0
    largest_z = min(best_z + reach, EDGE)
    measured = replace(
        recipe,
        lr=float(f"{recipe.lr * 2**best_x:.3g}"),
        batch_tokens=round(recipe.batch_tokens * 2**largest_z),
        measured=f"{plural(len(kept), 'run')} of {len(groups)} (size, tokens)",
    )
    evidence = {
        "lr_curvature": float(bend_x),
        "batch_curvature": float(bend_z),
        "lr_octaves_error": _error_of_minimum(covariance[-4:-2, -4:-2], slope_x, bend_x),
        "batch_octaves_error": _error_of_minimum(covariance[-2:, -2:], slope_z, bend_z),
        "cost_of_half_lr": _rise(slope_x, bend_x, best_x, -1),
        "cost_of_double_lr": _rise(slope_x, bend_x, best_x, 1),
        "residual": residual,
        "at_edge": bool(abs(best_x) > 0.95),
        "batch_at_edge": bool(abs(best_z) > 0.95 or largest_z >= EDGE),
    }
    return measured, evidence


def _most_probable(regressors: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients with what is known of the last four before, their covariance, and the rms of the residuals.

    The noise is that of the residuals, ``NOISE`` counting as so many of them. Noise can bend a parabola downwards, as
    no loss does near its best setting: what earlier sweeps showed bounds the curvatures from below.
    """
    bends = np.array([LR_BEND, BATCH_BEND])
    slopes = 2 * bends[:, 0] * BEST[1]  # of the parabola at the default recipe, if its minimum is that far away
    mean = np.array([0.0, bends[0, 0], 0.0, bends[1, 0]])
    known = np.zeros((4, regressors.shape[1]))
    known[:, -4:] = np.diag(1 / np.array([slopes[0], bends[0, 1], slopes[1], bends[1, 1]]))
    least_squares, *_ = np.linalg.lstsq(regressors, y, rcond=None)
    squares = float(np.sum((regressors @ least_squares - y) ** 2))
    freedom = max(len(y) - regressors.shape[1], 0)
    noise = math.sqrt((squares + NOISE_RUNS * NOISE**2) / (freedom + NOISE_RUNS))
    rows = np.vstack([regressors / noise, known])
    values = np.concatenate([y / noise, known[:, -4:] @ mean])
    coefficients = _solve(rows, values, {place: LEAST_BEND * bends[i, 0] for i, place in enumerate((-3, -1))})
    residual = float(np.sqrt(np.mean((regressors @ coefficients - y) ** 2)))
    return coefficients, np.linalg.inv(rows.T @ rows), residual


def _solve(rows: np.ndarray, values: np.ndarray, least: dict[int, float]) -> np.ndarray:
    """The least squares of ``rows @ coefficients = values``, coefficients at ``least`` where they would fall below."""
    held: dict[int, float] = {}
    while True:
        free = np.ones(rows.shape[1], bool)
        free[list(held)] = False
        coefficients = np.zeros(rows.shape[1])
        coefficients[list(held)] = list(held.values())
        coefficients[free], *_ = np.linalg.lstsq(rows[:, free], values - rows @ coefficients, rcond=None)
        below = {place: bound for place, bound in least.items() if coefficients[place] < bound and place not in held}
        if not below:
            return coefficients
        held |= below


def _error_of_minimum(covariance: np.ndarray, slope: float, bend: float) -> float | None:
    """Standard deviation of a parabola's minimum, in octaves; None where it has no minimum."""
    if bend <= 0:
        return None
    gradient = np.array([-1 / (2 * bend), slope / (2 * bend**2)])
    return float(np.sqrt(gradient @ covariance @ gradient))


def _minimum(slope: float, bend: float) -> float:
    """Where a parabola is lowest within the swept range, or the end of the range towards which it decreases."""
    if bend <= 0:
        return float(-EDGE * np.sign(slope))
    return float(np.clip(-slope / (2 * bend), -EDGE, EDGE))


def _rise(slope: float, bend: float, at: float, step: float) -> float:
    """The relative loss that a step away from ``at`` costs."""
    return float(np.expm1(slope * step + bend * ((at + step) ** 2 - at**2)))
