"""Runs so short that they ended before the loss began to fall as a law says: no law of their table holds for them.

At first a model learns little, then fast, then ever more slowly. A law describes the last part: along the lengths of
one size the local exponent −d ln L / d ln D does not grow. Where it grows at most sizes, the shortest length lies
before. Whether it grows up to the longest runs is another question (:mod:`.late_slopes`).
"""

from __future__ import annotations

import numpy as np

LEAST_GROWTH = 0.04  # of the local exponent, in the mean over the sizes: above what noise of 1 % makes of five sizes
LEAST_SIZES, MOST_SIZES = 3, 0.75  # so many sizes, and such a part of them, must agree
LEAST_LEFT = 6  # runs, of at least three lengths: with two, nobody sees whether the exponent still grows


def in_initial_phase(num_params: np.ndarray, tokens: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Which runs are of a length at which the loss had not begun to fall as a law says.

    Args:
        num_params, tokens, loss: of each run, above zero.

    Returns:
        One truth value a run.
    """
    short = np.zeros(len(loss), bool)
    for length in np.unique(tokens)[:-3]:
        left = ~short
        runs = num_params[left], tokens[left], loss[left]
        first, second, third = np.unique(runs[1])[:3]
        few = left.sum() - (left & (tokens == length)).sum() < LEAST_LEFT
        if few or not _grows(*runs, (first, second), (second, third)):
            break
        short |= tokens <= length
    return short


def _grows(
    num_params: np.ndarray,
    tokens: np.ndarray,
    loss: np.ndarray,
    early: tuple[float, float],
    late: tuple[float, float],
) -> bool:
    """Whether the local exponent grows from one interval of lengths to a later one, at most sizes."""
    growth = []
    for size in np.unique(num_params):
        at = {length: (num_params == size) & (tokens == length) for length in (*early, *late)}
        if all(one.any() for one in at.values()):
            logs = {length: float(np.log(loss[one]).mean()) for length, one in at.items()}
            falls = [(logs[low] - logs[high]) / np.log(high / low) for low, high in (early, late)]
            growth.append(falls[1] - falls[0])
    grown = np.array(growth)
    return len(grown) >= LEAST_SIZES and bool((grown > 0).mean() >= MOST_SIZES and grown.mean() > LEAST_GROWTH)
