"""Where the loss is least along a setting, from few and noisy runs: parabolas of ln L, the most probable ones.

What is known before says where a minimum lies, not how steep a parabola is: that holds back the minimum of a flat and
noisy one. Bends are positive, as no loss is best far from its best setting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class VariedSetting:
    """``octaves`` of each run along a setting, (runs,), and which ``minimum`` the run tells of, (runs, minima)."""

    octaves: Array
    minimum: Array


@dataclass(frozen=True, eq=False)
class Parabolas:
    """The minima of all axes in octaves and the bend of each axis; standard deviations of minima; rms of residuals."""

    minima: Array
    bends: Array
    errors: Array
    residual: float


def most_probable(
    logged: Array,
    level: Array,
    axes: Sequence[VariedSetting],
    noise: float,
    known: Callable[[Array, Array], Sequence[float] | Array],
    start: tuple[Sequence[float] | Array, Sequence[float] | Array],
) -> Parabolas:
    """ln L = level + Σ over axes of bend·(octaves − minimum)²: a maximum a posteriori.

    Args:
        logged: ln L of each run, (runs,).
        level: which level each run has, (runs, levels).
        noise: standard deviation of ln L of a run.
        known: of all minima and of ln of the bends: how far each is from what was known, in standard deviations.
        start: minima and bends to begin at.
    """
    from scipy.optimize import least_squares

    levels, count = level.shape[1], sum(axis.minimum.shape[1] for axis in axes)
    ends = np.cumsum([axis.minimum.shape[1] for axis in axes])[:-1]

    def misfit(values: Array) -> Array:
        minima, bends = np.split(values[levels : levels + count], ends), np.exp(values[levels + count :])
        rises = [
            bend * (axis.octaves - axis.minimum @ own) ** 2 for axis, own, bend in zip(axes, minima, bends, strict=True)
        ]
        return logged - level @ values[:levels] - sum(rises)

    def deviations(values: Array) -> Array:
        return np.concatenate([misfit(values) / noise, known(*np.split(values[levels:], [count]))])

    lowest = [logged[own > 0].min() for own in level.T]
    solution = least_squares(deviations, np.concatenate([lowest, start[0], np.log(start[1])]), method="lm")
    errors = np.sqrt(np.diag(np.linalg.inv(solution.jac.T @ solution.jac)))
    minima, log_bends = np.split(solution.x[levels:], [count])
    residual = float(np.sqrt(np.mean(misfit(solution.x) ** 2)))
    return Parabolas(minima, np.exp(log_bends), errors[levels : levels + count], residual)
