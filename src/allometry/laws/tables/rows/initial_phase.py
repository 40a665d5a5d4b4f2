"""Runs so short that they ended before the loss began to fall as a law says: no law of their table holds for them.

At first a model learns little, then fast, then ever more slowly. A law describes the last part: along the lengths of
one size the local exponent −d ln L / d ln D does not grow. Where it grows at most sizes, the shortest length lies
before.
"""

from __future__ import annotations

import numpy as np

LEAST_GROWTH = 0.04  # of the local exponent, in the mean over the sizes: above what noise of 1 % makes of five sizes
LEAST_SIZES, MOST_SIZES = 3, 0.75  # so many sizes, and such a part of them, must agree
LEAST_LEFT = 6  # runs, of at least two lengths


def in_initial_phase(num_params: np.ndarray, tokens: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Which runs are of a length at which the loss had not begun to fall as a law says.

    Args:
        num_params, tokens, loss: of each run, above zero.

    Returns:
        One truth value a run.
    """
    short = np.zeros(len(loss), bool)
    for length in np.unique(tokens)[:-2]:
        left = ~short
        if left.sum() - (left & (tokens == length)).sum() < LEAST_LEFT or not _grows(
            num_params[left], tokens[left], loss[left]
        ):
            break
        short |= tokens <= length
    return short


def _grows(num_params: np.ndarray, tokens: np.ndarray, loss: np.ndarray) -> bool:
    """Whether the local exponent grows from the first interval of lengths to the second, at most sizes."""
    first, second, third = np.unique(tokens)[:3]
    growth = []
    for size in np.unique(num_params):
        at = [(num_params == size) & (tokens == length) for length in (first, second, third)]
        if all(one.any() for one in at):
            logs = [float(np.log(loss[one]).mean()) for one in at]
            early = (logs[0] - logs[1]) / np.log(second / first)
            growth.append((logs[1] - logs[2]) / np.log(third / second) - early)
    grown = np.array(growth)
    return len(grown) >= LEAST_SIZES and bool((grown > 0).mean() >= MOST_SIZES and grown.mean() > LEAST_GROWTH)
