"""Curves through IsoFLOP slices that share a shape: L = E + A/N^α + B/D^β, with E, A and B free in every budget.

A parabola is the limit α = β → 0. What it lacks is that the two sides of a valley rise differently, which moves its
vertex where a sweep is wide or off centre. One budget shows that asymmetry badly, so the exponents are shared by all.
Fitted by variable projection: for given exponents the rest is linear, budget by budget.

Real valleys keep such a shape only near their floor, so runs far above their budget's best count less: the noise of a
run is taken as σ·√(1 + (e/reach)²) with e the excess of its loss, and restricted likelihood chooses the reach.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..tables.observations import Observations

Array = np.ndarray
EXPONENTS = (0.02, 3.0)
REACHES = (np.inf, 1 / 3, 0.1, 1 / 30, 0.01, 1 / 300)
# A shorter reach must gain this in log likelihood: half of the 95 % point of χ² with one degree of freedom.
EVIDENCE = 1.92
STARTS = 5
LEAST_SIGMA = 1e-6
# Runs this far above their budget's best count half in what a parameter and token cost at the floor.
NEAR = 0.02


@dataclass(frozen=True)
class RunsByBudget:
    """Runs in budgets, padded to (budgets, runs) where ``mask`` is False; N and D as logarithms from the centres.

    Attributes:
        log_flops: ln C of each budget, the mean over its runs, (budgets,).
        n, d: ln N and ln D from the centres.
        loss, noise: L, and its relative standard error (nan where unknown).
        mask: which entries are runs.
        centre_n, centre_d: the mean of ln N, and ln D on the budget there, (budgets,).
        slope: −d ln D/d ln N on the budget, 1 where C is proportional to N·D, (budgets,).
    """

    log_flops: Array
    n: Array
    d: Array
    loss: Array
    noise: Array
    mask: Array
    centre_n: Array
    centre_d: Array
    slope: Array

    @classmethod
    def of(cls, observations: Observations, groups: list[Array]) -> RunsByBudget:
        """The runs of each group of indices, a budget each, ordered by size."""
        shape = (len(groups), max(map(len, groups)))
        index, mask = np.zeros(shape, dtype=int), np.zeros(shape, dtype=bool)
        for row, group in enumerate(groups):
            index[row, : len(group)] = group[np.argsort(observations.num_params[group], kind="stable")]
            mask[row, : len(group)] = True
        log_n, log_d, log_c = (np.log(getattr(observations, name)[index]) for name in ("num_params", "tokens", "flops"))
        runs = mask.sum(axis=1)
        centre_n, log_flops = (np.where(mask, array, 0).sum(axis=1) / runs for array in (log_n, log_c))
        n, loss = np.where(mask, log_n - centre_n[:, None], 0.0), np.where(mask, observations.loss[index], np.inf)
        near = 1 / (1 + ((loss / loss.min(axis=1, keepdims=True) - 1) / NEAR) ** 2)
        # FLOPs a parameter and token near the floor, a line in ln N: level where 6·N·D is the count.
        level, tilt = _line(n, log_c - log_n - log_d, near)
        centre_d = log_flops - centre_n - level
        return cls(
            log_flops=log_flops,
            n=n,
            d=np.where(mask, log_d - centre_d[:, None], 0.0),
            loss=np.where(mask, loss, 1.0),
            noise=np.where(mask, (observations.loss_se / observations.loss)[index], 0.0),
            mask=mask,
            centre_n=centre_n,
            centre_d=centre_d,
            slope=np.maximum(1 + tilt, 0.1),
        )

    @property
    def span(self) -> tuple[Array, Array]:
        """The least and most n of each budget, (budgets,) each."""
        return self.n.min(axis=1), self.n.max(axis=1)

    @property
    def lowest(self) -> Array:
        """The lowest loss of each budget, (budgets,)."""
        return np.where(self.mask, self.loss, np.inf).min(axis=1)

    @property
    def excess(self) -> Array:
        """How far each run's loss lies above its budget's lowest, relative; 0 where there is no run."""
        return np.where(self.mask, self.loss / self.lowest[:, None] - 1, 0.0)

    def grid(self, points: int = 61) -> Array:
        """n from the smallest to the largest size of each budget, (budgets, points)."""
        low, high = self.span
        return low[:, None] + (high - low)[:, None] * np.linspace(0, 1, points)

    def weights(self, reach: float) -> Array:
        """1 for a run at its budget's best, ½ at an excess of ``reach``, 0 where there is no run."""
        return self.mask / (1 + (self.excess / reach) ** 2)

    def freedom(self, shared: int) -> int:
        """Runs minus constants: three a budget, and what the budgets share."""
        return int(self.mask.sum()) - 3 * len(self.n) - shared


@dataclass(frozen=True)
class Projection:
    """Least squares in the coefficients for given exponents; a batch in front of everything.

    Attributes:
        shape: α and β, (batch, 2); zeros for parabolas.
        coefficients: of the columns of ``basis``, (batch, budgets, 3).
        residual: relative and times the root of the weights, (batch, budgets, runs).
        jacobian: of the residual by ln α and ln β, (batch, budgets · runs, 2).
        gram: of the weighted columns, (batch, budgets, 3, 3).
    """

    shape: Array
    coefficients: Array
    residual: Array
    jacobian: Array
    gram: Array

    @property
    def squares(self) -> Array:
        """Sum of squares, (batch,)."""
        return (self.residual**2).sum(axis=(1, 2))

    def take(self, rows: Array) -> Projection:
        """Some of the batch, copied."""
        return Projection(**{name: array[rows] for name, array in vars(self).items()})

    def put(self, rows: Array, other: Projection) -> None:
        """Overwrite some of the batch."""
        for name, array in vars(self).items():
            array[rows] = vars(other)[name]

    def sides(self) -> tuple[Array, Array]:
        """α·A/N^α and β·B/D^β at the centres, (batch, budgets) each; below zero where that side does not rise."""
        alpha, beta = self.shape.T[:, :, None]
        return _sides(alpha, beta, self.coefficients)

    def curve(self, runs: RunsByBudget, n: Array, d: Array | None = None) -> Array:
        """L at n and d, (batch or nothing, budgets, points); on the budgets if d is None."""
        columns = basis(self.shape, n, -runs.slope[:, None] * n if d is None else d)
        return (columns * self.coefficients[:, :, None]).sum(axis=-1)


@dataclass(frozen=True)
class SharedShape:
    """The exponents that fit best, and what they leave.

    Attributes:
        reach: the excess of the loss at which a run counts half; inf if all count the same.
        weights: of relative residuals, (budgets, runs).
        projection: the fit, a batch of one.
        sigma: relative noise of a run at the floor of a valley.
        likelihood: the restricted log likelihood.
    """

    reach: float
    weights: Array
    projection: Projection
    sigma: float
    likelihood: float

    def refit(self, runs: RunsByBudget, target: Array) -> Projection:
        """Fits to other losses, (batch, budgets, runs), with the same reach, from these exponents."""
        start = np.repeat(self.projection.shape, len(target), axis=0)
        return _solve(start, runs, self.weights, target, steps=20, tolerance=1e-6)


def fit_shape(runs: RunsByBudget) -> SharedShape:
    """Fit the exponents with the longest reach that the most likely one does not beat clearly."""
    fits = [_fit(runs, reach) for reach in REACHES]
    highest = max(fit.likelihood for fit in fits)
    return next(fit for fit in fits if fit.likelihood > highest - EVIDENCE)


def _line(x: Array, y: Array, weights: Array) -> tuple[Array, Array]:
    """The value at 0 and the slope of weighted lines through the rows of y."""
    total = weights.sum(axis=1)
    middle, height = (weights * x).sum(axis=1) / total, (weights * y).sum(axis=1) / total
    apart = x - middle[:, None]
    slope = (weights * apart * y).sum(axis=1) / np.maximum((weights * apart**2).sum(axis=1), 1e-300)
    return height - slope * middle, slope


def basis(shape: Array, n: Array, d: Array) -> Array:
    """Columns that span 1, N^−α and D^−β: they go to 1, n and n²/2 as α and β go to 0, and are those at 0 itself.

    ``shape`` is (batch, 2), n and d are (batch or nothing, budgets, runs); the result is (batch, budgets, runs, 3).
    """
    if not shape.any():
        n = np.broadcast_to(n, (len(shape), *n.shape[-2:]))
        return np.stack([np.ones_like(n), n, n**2 / 2], axis=-1)
    alpha, beta = shape.T[:, :, None, None]
    by_n, by_d = np.expm1(-alpha * n), np.expm1(-beta * d)
    tilt = (by_d - by_n) / (alpha + beta)
    return np.stack([np.ones_like(by_n), tilt, (by_n / alpha + by_d / beta) / (alpha + beta)], axis=-1)


def project(shape: Array, runs: RunsByBudget, weights: Array, target: Array) -> Projection:
    """The best coefficients for each row of ``shape`` (batch, 2).

    Args:
        weights: (budgets, runs), of relative residuals.
        target: losses, (batch or 1, budgets, runs).
    """
    root = np.sqrt(weights) * runs.mask / runs.loss
    columns = basis(shape, runs.n, runs.d) * root[..., None]
    gram = columns.swapaxes(-1, -2) @ columns
    scale = np.sqrt(np.maximum(np.einsum("...ii->...i", gram), 1e-300))
    scale = scale[..., :, None] * scale[..., None, :]
    inverse = np.linalg.inv(gram / scale + 1e-13 * np.eye(3)) / scale
    # (..., runs, right-hand sides) → the coefficients that fit them best.
    best = lambda right: inverse @ (columns.swapaxes(-1, -2) @ right)
    coefficients = best((target * root)[..., None])
    residual = (columns @ coefficients)[..., 0] - target * root
    jacobian = np.zeros((*residual.shape, 2))
    if shape.any():
        alpha, beta = shape.T[:, :, None, None]
        side_n, side_d = _sides(alpha, beta, coefficients.swapaxes(-1, -2))
        moves = (-side_n * runs.n * np.exp(-alpha * runs.n), -side_d * runs.d * np.exp(-beta * runs.d))
        moves = np.stack(moves, axis=-1) * root[..., None]
        jacobian = moves - columns @ best(moves)
    return Projection(shape, coefficients[..., 0], residual, jacobian.reshape(len(shape), -1, 2), gram)


def _sides(alpha: Array, beta: Array, coefficients: Array) -> tuple[Array, Array]:
    """α·A/N^α and β·B/D^β at the centres from the coefficients of ``basis``."""
    tilt, bend = coefficients[..., 1], coefficients[..., 2]
    return (bend - alpha * tilt) / (alpha + beta), (bend + beta * tilt) / (alpha + beta)


def _solve(shape: Array, runs: RunsByBudget, weights: Array, target: Array, steps: int, tolerance: float) -> Projection:
    """Levenberg–Marquardt in (ln α, ln β) from every row of ``shape``, within ``EXPONENTS``."""
    low, high = np.log(EXPONENTS)
    every = project(shape, runs, weights, target)
    damping, active = np.full(len(shape), 1e-3), np.arange(len(shape))
    for _ in range(steps):
        now = every.take(active)
        here, slope = np.log(now.shape), now.jacobian
        gradient = (slope.swapaxes(1, 2) @ now.residual.reshape(len(active), -1, 1))[..., 0]
        free = ~((here <= low) & (gradient > 0) | (here >= high) & (gradient < 0))
        gradient = gradient * free
        matrix = (slope.swapaxes(1, 2) @ slope) * (free[:, :, None] & free[:, None, :])
        diagonal = np.einsum("bii->bi", matrix)
        ridge = damping[active, None] * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + ~free + 1e-300
        step = -np.linalg.solve(matrix + ridge[:, None] * np.eye(2), gradient[..., None])[..., 0].clip(-1, 1)
        there = np.exp(np.clip(here + step, low, high))
        trial = project(there, runs, weights, target[active] if len(target) > 1 else target)
        better = trial.squares < now.squares
        every.put(active[better], trial.take(better))
        damping[active] = np.clip(damping[active] * np.where(better, 0.2, 6.0), 1e-12, 1e12)
        promised = -(step * gradient).sum(axis=1)
        active = active[(promised > tolerance * now.squares + 1e-300) & (damping[active] < 1e9)]
        if not len(active):
            break
    return every


def _fit(runs: RunsByBudget, reach: float) -> SharedShape:
    """The best exponents for this reach."""
    weights, target = runs.weights(reach), runs.loss[None]
    grid = np.stack(np.meshgrid(*[np.geomspace(0.03, 2, 7)] * 2), axis=-1).reshape(-1, 2)
    order = np.argsort(project(grid, runs, weights, target).squares, kind="stable")
    solved = _solve(grid[order[:STARTS]], runs, weights, target, steps=40, tolerance=1e-12)
    best = solved.take(np.array([solved.squares.argmin()]))
    freedom = max(runs.freedom(shared=2), 1)
    sigma = max(float(np.sqrt(best.squares[0] / freedom)), LEAST_SIGMA)
    # The volumes of the linear coefficients and of the noise.
    volume = np.linalg.slogdet(best.gram[0])[1].sum() - np.log(weights[runs.mask]).sum()
    return SharedShape(reach, weights, best, sigma, float(-freedom * np.log(sigma) - volume / 2))
