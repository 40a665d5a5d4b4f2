"""What the laws of a forecast, each around its constants, say of ln L at further runs of parameters and tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...laws import LAWS, Law, Observations
from .gaussian_model import NOISE, after_runs, log_points, prior, walk

Array = np.ndarray
# Runs whose ln N and ln D lie this close to one line cannot separate N from D; a further run must lie so far off it.
ONE_LINE, OFF_LINE = 0.03, 0.5
# Prior knowledge of the noise counts as so many residuals.
NOISE_RESIDUALS = 4.0
MOST_STEPS = 60


def off_the_line(runs: Array, candidates: Array) -> Array:
    """Candidates (ln N, ln D) off the line on which all runs lie, if they do: no law can be fitted to a line."""
    middle = runs.mean(axis=0)
    _, lengths, axes = np.linalg.svd(runs - middle)
    if lengths[0] < ONE_LINE or lengths[-1] / np.sqrt(len(runs)) > ONE_LINE:
        return np.ones(len(candidates), bool)
    off = np.abs((candidates - middle) @ axes[1]) > OFF_LINE
    return off if off.any() else ~off


def linearized(observations: Observations, points: Array, weights: dict[str, float]) -> list[LinearizedLaw]:
    """Those laws through the runs, at further points (ln N, ln D), of which the last is where the drift starts."""
    points = np.concatenate([log_points(observations.num_params, observations.tokens), points])
    return [LinearizedLaw.through(name, observations, points) for name in weights]


def noise_of(laws: list[LinearizedLaw], weights: Array) -> float:
    """Standard deviation of ln L of a run, by the residuals of the laws and by what is usual."""
    squares = weights @ [np.sum(law.residuals**2) for law in laws]
    freedom = max(len(laws[0].residuals) - weights @ [len(law.jacobian) for law in laws], 0.0)
    return float(np.sqrt((squares + NOISE_RESIDUALS * NOISE**2) / (freedom + NOISE_RESIDUALS)))


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

    def covariance(self, drift: float, noise: Array) -> Array:
        """The covariance of ln L at the further points, given runs whose errors have the covariance ``noise``."""
        seen = len(self.residuals)
        return after_runs(self.prior_covariance(drift), slice(seen), noise)[1][seen:, seen:]


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
