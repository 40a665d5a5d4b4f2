"""Variable projection: for fixed exponents a law is linear in its coefficients, so a whole grid is solved at once."""

from __future__ import annotations

from itertools import combinations

import numpy as np


def nonnegative_least_squares(columns: np.ndarray, target: np.ndarray, weights: np.ndarray):
    """Solve min Σ w·(Σ c_j·column_j − target)² with c ≥ 0 for many sets of columns.

    With two or three columns the optimum is the best of the unconstrained solutions on the subsets of columns that
    come out non-negative, so all subsets are solved in closed form for the whole grid.

    Args:
        columns: (grid, columns, runs).
        target: (runs,).
        weights: (runs,).

    Returns:
        coefficients (grid, columns) and weighted sums of squares (grid,).
    """
    grid, count, _ = columns.shape
    root = np.sqrt(weights)
    scaled = columns * root
    gram = scaled @ scaled.swapaxes(1, 2)
    right = scaled @ (target * root)
    best = np.zeros((grid, count))
    best_gain = np.zeros(grid)
    for size in range(1, count + 1):
        for subset in combinations(range(count), size):
            index = np.array(subset)
            solution = _solve(gram[:, index[:, None], index], right[:, index])
            gain = np.einsum("gi,gi->g", solution, right[:, index])
            better = np.all(solution >= 0, axis=1) & (gain > best_gain)
            best_gain[better] = gain[better]
            best[better] = 0
            best[np.ix_(better, index)] = solution[better]
    return best, np.maximum(float((weights * target**2).sum()) - best_gain, 0.0)


def _solve(gram: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Batched solve after scaling to unit diagonal, with a ridge that keeps equal columns from being singular."""
    scale = np.sqrt(np.maximum(np.einsum("gii->gi", gram), 1e-300))
    normal = gram / scale[:, :, None] / scale[:, None, :] + 1e-13 * np.eye(gram.shape[1])
    return np.linalg.solve(normal, (right / scale)[..., None])[..., 0] / scale
