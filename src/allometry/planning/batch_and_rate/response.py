"""How the loss rises around its best learning rate and batch, and where that optimum lies at each size and token count.

The model: the rise has one shape everywhere; its place and its best loss differ at every (size, tokens):

    ln L − ln L* = Σ k · (e^(s·u) − 1 − s·u)/s²   over   u = x, y, x − y;   x = ln(η/η*), y = ln(B/B*)

Three convex walls are added: a learning rate that is too high, a batch that is too large (too few steps), and a step
that is too large for its noise (η/B). Each has a stiffness k and a skewness s (s → 0: a parabola). The optimum follows
power laws in N and D, off which each cell (size, tokens) lies by a small random distance, the cell scatter. Published
exponents enter as priors: they decide what the runs do not measure, and give way where the runs do.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from .sweeps import Sweeps

Array = np.ndarray

# u = x, y, x − y as rows over (x, y).
WALLS = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])

# Priors, all wide: ln k, s, the noise of ln L, how far an optimum lies off its power law (in ln η and ln B), how
# far it lies from the best runs (if the loss is flat, nothing else would hold it). A factor 2 in the learning rate
# costs about 0.25 % in published sweeps, and ten times that in very small models.
STIFFNESS, STIFFNESS_SD = np.log(0.01), 1.0
SKEW, SKEW_SD = 0.5, 0.5
NOISE, NOISE_FREEDOM = 0.002, 3
SCATTER, SCATTER_FREEDOM = 0.1, 4
PLACE_SD = 2.0

# The shape is wrong by about this share of the rise, so a run far above the optimum hardly helps to locate it. Errors
# are Student's t, so a run that diverged against expectation has next to no influence. No run is left out.
MISFIT = 0.3
TAILS = 4

_ROUNDS = 100
_STEPS = 4
_NOISES = np.geomspace(1e-5, 0.2, 200)


@dataclass(frozen=True)
class Response:
    """The fitted response.

    ``coefficients``: of (ln η*, ln B*) over (1, ln N, ln D from the middle), shape (2, 3); ``covariance`` of those six;
    ``stiffness`` and ``skew`` of the walls; ``noise`` of ln L near the optimum; ``cell_scatter``: how far optima lie
    off the power laws; ``degrees_of_freedom`` of intervals; ``optima``: (ln η*, ln B*) of each cell; ``best``: ln L* of
    each cell.
    """

    coefficients: Array
    covariance: Array
    stiffness: Array
    skew: Array
    noise: float
    cell_scatter: float
    degrees_of_freedom: float
    optima: Array
    best: Array


def rise(stiffness: Array, skew: Array, x: Array, y: Array) -> Array:
    """ln L − ln L* at ln(η/η*) = x and ln(B/B*) = y (broadcast)."""
    x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
    return _rise(stiffness, skew, x.ravel(), y.ravel())[0].reshape(x.shape)


def expected_rise(stiffness: Array, skew: Array, covariance: Array) -> Array:
    """The mean of ``rise`` where (x, y) is normal around 0 with ``covariance``, shape (..., 2, 2)."""
    variance = np.einsum("ui,...ij,uj->...u", WALLS, covariance, WALLS)
    half = np.minimum(skew**2 * variance / 2, 50.0)
    # (e^half − 1)/s², by its series for s near 0.
    return (stiffness * variance / 2 * np.where(half < 1e-8, 1.0, np.expm1(half) / np.maximum(half, 1e-8))).sum(-1)


def estimate(sweeps: Sweeps, exponents: Array, spread: Array) -> Response:
    """The most probable response, by rounds of least squares that also estimate the noise and the cell scatter.

    Args:
        sweeps: the runs.
        exponents: prior mean of the exponents of η* in N, of η* in D, of B* in N, of B* in D.
        spread: their standard deviations.
    """
    posterior = _start(sweeps, exponents, spread)
    for _ in range(_ROUNDS):
        last = posterior
        posterior = _learn(_solve(posterior))
        change = np.log([posterior.noise / last.noise, posterior.cell_scatter / last.cell_scatter])
        if np.all(np.abs(change) < 1e-3) and np.all(np.abs(posterior.theta - last.theta) < 1e-4):
            break
    return _response(posterior)


@dataclass(frozen=True)
class _Posterior:
    """The state of the rounds: θ = coefficients (6), offsets of the cells (2 each), ln k (3), s (3)."""

    sweeps: Sweeps
    theta: Array
    mean: Array
    spread: Array
    weights: Array
    noise: float = NOISE
    cell_scatter: float = SCATTER
    covariance: Array = field(default_factory=lambda: np.empty((0, 0)))
    leverage: float = 0.0

    @property
    def cells(self) -> int:
        return len(self.sweeps.log_n)

    @property
    def offsets(self) -> slice:
        return slice(6, 6 + 2 * self.cells)


def _start(sweeps: Sweeps, exponents: Array, spread: Array) -> _Posterior:
    """The place of the optimum from the cells' best runs, everything else from the priors."""
    cells = len(sweeps.log_n)
    lowest = np.array([_lowest(sweeps, cell) for cell in range(cells)])
    slopes = np.reshape(exponents, (2, 2))
    constants = (lowest - sweeps.regressors[:, 1:] @ slopes.T).mean(axis=0)
    coefficients = np.column_stack([constants, slopes]).ravel()
    mean = np.concatenate([coefficients, np.zeros(2 * cells), np.full(3, STIFFNESS), np.full(3, SKEW)])
    wide = np.concatenate([[PLACE_SD], spread[:2], [PLACE_SD], spread[2:]])
    spreads = np.concatenate([wide, np.full(2 * cells, SCATTER), np.full(3, STIFFNESS_SD), np.full(3, SKEW_SD)])
    least = np.minimum.reduceat(sweeps.log_loss, sweeps.starts)
    weights = _weights(sweeps.log_loss - least[sweeps.cell], 0.0, NOISE)
    return _Posterior(sweeps, mean.copy(), mean, spreads, weights)


def _lowest(sweeps: Sweeps, cell: int) -> tuple[float, float]:
    """(ln η, ln B) of the run with the lowest loss in a cell."""
    runs = np.flatnonzero(sweeps.cell == cell)
    run = runs[np.argmin(sweeps.log_loss[runs])]
    return float(sweeps.log_lr[run]), float(sweeps.log_batch[run])


def _solve(posterior: _Posterior) -> _Posterior:
    """θ for the present weights and spreads, by damped Gauss-Newton steps, with its covariance."""
    theta, damping = posterior.theta, 1e-3
    cost, slope, matrix, data = _squares(posterior, theta)
    for _ in range(_STEPS):
        step = -np.linalg.solve(matrix + damping * np.diag(np.diag(matrix)), slope)
        step /= max(np.abs(step).max(), 1.0)
        trial = _squares(posterior, theta + step)
        if trial[0] <= cost:
            theta, damping = theta + step, damping / 10
            cost, slope, matrix, data = trial
        else:
            damping *= 10
        if np.abs(step).max() < 1e-6:
            break
    covariance = np.linalg.inv(matrix)
    return replace(posterior, theta=theta, covariance=covariance, leverage=float((covariance * data).sum()))


def _squares(posterior: _Posterior, theta: Array) -> tuple[float, Array, Array, Array]:
    """Half the sum of squares including the prior's, its slope, its Gauss-Newton matrix, and the data's share of it."""
    left, slopes, _ = _evaluate(posterior, theta)
    weights = posterior.weights
    off, tight = theta - posterior.mean, posterior.spread**-2
    data = (slopes.T * weights) @ slopes
    cost = float(weights @ left**2 + tight @ off**2) / 2
    return cost, slopes.T @ (weights * left) + tight * off, data + np.diag(tight), data


def _learn(posterior: _Posterior) -> _Posterior:
    """Noise, cell scatter and weights from the residuals of the solution."""
    left, _, above = _evaluate(posterior, posterior.theta)
    freedom = max(len(left) - posterior.cells - posterior.leverage, 1.0)
    noise = _noise(left, above, freedom / len(left))
    offsets = posterior.theta[posterior.offsets]
    variance = np.diag(posterior.covariance)[posterior.offsets]
    total = SCATTER_FREEDOM * SCATTER**2 + float((offsets**2 + variance).sum())
    scatter = float(np.sqrt(total / (SCATTER_FREEDOM + len(offsets))))
    spread = posterior.spread.copy()
    spread[posterior.offsets] = scatter
    return replace(posterior, noise=noise, cell_scatter=scatter, spread=spread, weights=_weights(above, left, noise))


def _noise(left: Array, above: Array, share: float) -> float:
    """The most likely noise σ if a run's scale² is σ² + (misfit · rise)²; ``share`` of the runs is not fitted away."""
    variances = _NOISES[:, None] ** 2 + (MISFIT * above) ** 2
    tails = np.log1p(left**2 / share / (TAILS * variances))
    cost = share * (np.log(variances) + (TAILS + 1) * tails).sum(axis=1)
    cost += NOISE_FREEDOM * (np.log(_NOISES**2) + NOISE**2 / _NOISES**2)
    return float(_NOISES[np.argmin(cost)])


def _weights(above: Array, left: Array | float, noise: float) -> Array:
    """1/variance of each run, lower for one that lies far off."""
    variances = noise**2 + (MISFIT * above) ** 2
    return (TAILS + 1) / (TAILS + left**2 / variances) / variances


def _evaluate(posterior: _Posterior, theta: Array) -> tuple[Array, Array, Array]:
    """Residuals of ln L, less each cell's best loss; their derivatives by θ; and the rise."""
    sweeps, runs = posterior.sweeps, np.arange(len(posterior.sweeps.cell))
    x, y = _displacements(posterior, theta)
    above, place, walls, skews = _rise(np.exp(theta[-6:-3]), theta[-3:], x, y)
    slopes = np.empty((len(runs), len(theta)))
    slopes[:, posterior.offsets] = 0.0
    for axis in range(2):
        slopes[:, 3 * axis : 3 * axis + 3] = place[:, axis : axis + 1] * sweeps.regressors[sweeps.cell]
        slopes[runs, 6 + 2 * sweeps.cell + axis] = place[:, axis]
    slopes[:, -6:-3], slopes[:, -3:] = -walls, -skews
    return _off_centre(posterior, sweeps.log_loss - above), _off_centre(posterior, slopes), above


def _displacements(posterior: _Posterior, theta: Array) -> tuple[Array, Array]:
    """(x, y) of each run: how far it lies from its cell's optimum."""
    sweeps = posterior.sweeps
    lr, batch = _optima(posterior, theta)[sweeps.cell].T
    return sweeps.log_lr - lr, sweeps.log_batch - batch


def _optima(posterior: _Posterior, theta: Array) -> Array:
    """(ln η*, ln B*) of each cell."""
    return posterior.sweeps.regressors @ theta[:6].reshape(2, 3).T + theta[posterior.offsets].reshape(-1, 2)


def _off_centre(posterior: _Posterior, values: Array) -> Array:
    """``values`` minus their weighted mean over the cell of each run."""
    return values - _means(posterior, values)[posterior.sweeps.cell]


def _means(posterior: _Posterior, values: Array) -> Array:
    """Weighted means over each cell, along the first axis."""
    starts, weights = posterior.sweeps.starts, posterior.weights
    total = np.add.reduceat((weights * values.T).T, starts, axis=0)
    return (total.T / np.add.reduceat(weights, starts)).T


def _response(posterior: _Posterior) -> Response:
    theta = posterior.theta
    above = _evaluate(posterior, theta)[2]
    return Response(
        coefficients=theta[:6].reshape(2, 3),
        covariance=posterior.covariance[:6, :6],
        stiffness=np.exp(theta[-6:-3]),
        skew=theta[-3:],
        noise=posterior.noise,
        cell_scatter=posterior.cell_scatter,
        degrees_of_freedom=float(SCATTER_FREEDOM + max(2 * posterior.cells - 6, 0)),
        optima=_optima(posterior, theta),
        best=_means(posterior, posterior.sweeps.log_loss - above),
    )


def _rise(stiffness: Array, skew: Array, x: Array, y: Array) -> tuple[Array, Array, Array, Array]:
    """The rise at each run, and its derivatives: by (x, y), by ln k, by s."""
    u = np.stack([x, y], axis=1) @ WALLS.T
    # Runs with losses e^30 times the best diverged; they are treated alike.
    v = np.minimum(skew * u, 30.0)
    near = np.abs(v) < 0.01
    w = np.where(near, 1.0, v)
    e = np.expm1(w)
    # φ = (e^v − 1 − v)/v², its derivative φ', and χ = (e^v − 1)/v, by series for v near 0.
    phi = np.where(near, 1 / 2 + v / 6 + v**2 / 24, (e - w) / w**2)
    slope = np.where(near, 1 / 6 + v / 12 + v**2 / 40, ((w - 2) * e + 2 * w) / w**3)
    chi = np.where(near, 1 + v / 2 + v**2 / 6, e / w)
    walls = stiffness * u**2 * phi
    return walls.sum(axis=1), (stiffness * u * chi) @ WALLS, walls, stiffness * u**3 * slope
