"""Posterior of ln L at candidate runs and at the target: now, and if one candidate were run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...laws import LAWS, Law, Observations
from .gaussian_model import NOISE, after_runs, cost, log_points, prior, walk

Array = np.ndarray
# Runs whose ln N and ln D lie this close to one line cannot separate N from D; a further run must lie so far off it.
ONE_LINE, OFF_LINE = 0.03, 0.5
# Prior knowledge of the noise counts as so many residuals.
NOISE_RESIDUALS = 4.0
MOST_STEPS = 60


@dataclass(frozen=True)
class Posterior:
    """The distribution of ln L by each law at the candidates and, last, at the target.

    Attributes:
        runs: (ln N, ln D) of the known runs, (runs, 2).
        candidates: (ln N, ln D) of the candidates, (candidates, 2).
        weights: of the laws, (laws,).
        means: of ln L, (laws, points).
        covariances: of ln L, (laws, points, points).
        noise: standard deviation of ln L of a run.
    """

    runs: Array
    candidates: Array
    weights: Array
    means: Array
    covariances: Array
    noise: float

    @classmethod
    def from_runs(
        cls, observations: Observations, candidates: Array, target: Array, weights: dict[str, float], drift: float
    ) -> Posterior:
        """Given the runs that exist, with these weights of the laws."""
        runs = log_points(observations.num_params, observations.tokens)
        points, shares = np.concatenate([runs, candidates, target]), np.array(list(weights.values()))
        laws = [LinearizedLaw.through(name, observations, points) for name in weights]
        squares = shares @ [np.sum(law.residuals**2) for law in laws]
        freedom = max(len(runs) - shares @ [len(law.jacobian) for law in laws], 0.0)
        noise = float(np.sqrt((squares + NOISE_RESIDUALS * NOISE**2) / (freedom + NOISE_RESIDUALS)))
        rest = slice(len(runs), None)
        means = np.stack([law.means[rest] for law in laws])
        covariances = np.stack([law.covariance(drift, noise)[rest, rest] for law in laws])
        return cls(runs, candidates, shares, means, covariances, noise)

    @property
    def price(self) -> Array:
        """FLOPs of each candidate."""
        return cost(*np.exp(self.candidates).T)

    def useful(self) -> Array:
        """Candidates off the line on which all runs lie, if they lie on one: no law can be fitted to a line."""
        middle = self.runs.mean(axis=0)
        _, lengths, axes = np.linalg.svd(self.runs - middle)
        if lengths[0] < ONE_LINE or lengths[-1] / np.sqrt(len(self.runs)) > ONE_LINE:
            return np.ones(len(self.candidates), bool)
        off = np.abs((self.candidates - middle) @ axes[1]) > OFF_LINE
        return off if off.any() else ~off

    def spread(self) -> float:
        """Standard deviation of a new run's ln L at the target, over constants, drift, laws and noise."""
        return float(self._spread(self.means[:, -1:], self.covariances[:, -1, -1:])[0])

    def spread_after(self) -> Array:
        """The same after a run at each candidate, (candidates,)."""
        shared = self.covariances[:, -1, :-1]
        gains = shared / (np.diagonal(self.covariances, axis1=1, axis2=2)[:, :-1] + self.noise**2)
        means = self.means[:, -1:] + gains * (self.weights @ self.means - self.means)[:, :-1]
        return self._spread(means, self.covariances[:, -1, -1:] - gains * shared)

    def after(self, index: int) -> Posterior:
        """The posterior after a run at that candidate, whose loss is the one that the laws together expect."""
        gains, covariances = after_runs(self.covariances, slice(index, index + 1), self.noise)
        surprise = (self.weights @ self.means - self.means)[:, index, None]
        means = self.means + gains[..., 0] * surprise
        runs = np.concatenate([self.runs, self.candidates[index, None]])
        return replace(self, runs=runs, means=means, covariances=covariances)

    def _spread(self, means: Array, variances: Array) -> Array:
        return np.sqrt(self.weights @ (variances + (means - self.weights @ means) ** 2) + self.noise**2)


@dataclass(frozen=True)
class LinearizedLaw:
    """A law, linearised at its most probable constants.

    Attributes:
        points: (ln N, ln D) of the runs, of further points and, last, of the target, (points, 2).
        means: ln L there, (points,).
        jacobian: its derivatives, (constants, points).
        spread: covariance of the constants before any run.
        residuals: of the runs.
    """

    points: Array
    means: Array
    jacobian: Array
    spread: Array
    residuals: Array

    @classmethod
    def through(cls, name: str, observations: Observations, points: Array) -> LinearizedLaw:
        """Fitted to the runs as ``laws.fit`` does, whatever the drift, with the prior for what they leave open."""
        law, seen, largest = LAWS[name], len(observations), int(np.argmax(observations.flops))
        run = float(observations.num_params[largest]), float(observations.tokens[largest])
        centre = points[:seen].mean(axis=0)
        middle, spread = prior(name, run, float(observations.loss[largest]), centre)
        theta = _constants(law, points[:seen] - centre, observations.loss, middle, spread)
        means, jacobian = (each[0] for each in law.log_loss(theta[None], *(points - centre).T))
        return cls(points, means, jacobian, spread, np.log(observations.loss) - means[:seen])

    def prior_covariance(self, drift: float) -> Array:
        """The covariance of ln L at the points before any run."""
        return self.jacobian.T @ self.spread @ self.jacobian + walk(self.points, self.points[-1:], drift)

    def covariance(self, drift: float, noise: float) -> Array:
        """The covariance of ln L at the points, given the runs."""
        return after_runs(self.prior_covariance(drift), slice(len(self.residuals)), noise)[1]


def _constants(law: Law, points: Array, loss: Array, middle: Array, spread: Array) -> Array:
    """The most probable θ, by Gauss–Newton from the middle of the prior; a step that does not improve is halved."""
    low, high = law.bounds(loss)
    certainty = np.linalg.inv(spread) * NOISE**2

    def misfit(theta: Array) -> float:
        left = np.log(loss) - law.log_loss(theta[None], *points.T)[0][0]
        return float(left @ left + (theta - middle) @ certainty @ (theta - middle))

    theta = np.clip(middle, low, high)
    for _ in range(MOST_STEPS):
        fitted, jacobian = (each[0] for each in law.log_loss(theta[None], *points.T))
        slope = jacobian @ (np.log(loss) - fitted) - certainty @ (theta - middle)
        step = np.linalg.solve(jacobian @ jacobian.T + certainty, slope)
        trials = (np.clip(theta + 0.5**halved * step, low, high) for halved in range(20))
        better = next((each for each in trials if misfit(each) < misfit(theta)), None)
        if better is None:
            break
        theta = better
    return theta
