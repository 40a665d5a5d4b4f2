"""The loss along a learning-rate schedule: one law for every step of all runs of one size (the multi-power law).

L(t) = L0 + A·S(t)^(−α) − B·Σ_k (η_{k−1} − η_k)·G(η_k^(−γ)·S_k(t)),  G(x) = 1 − (C·x + 1)^(−β)

S(t) is the sum of the learning rates η up to step t, and S_k(t) the sum from step k on. Progress grows with the area
under the schedule, and each drop of the learning rate reduces the loss, by more the longer the lower rate lasts.

The sum runs over all steps from η_0 = 0. So S includes the area of the warm-up, S_W in the paper, and the rise to
the peak adds about B·η_peak to the loss. The constants that the authors print belong to this form; with a sum that
begins after the warm-up, as the paper's text has it, only L0 differs, by that much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ...errors import UserError
from ..base import Array, coefficient_bounds, floor_bound, grid, safe_log
from ..variable_projection import nonnegative_least_squares

# Neighbouring changes are merged up to this share of the peak, or of the whole area. A rise is merged more coarsely
# than a drop: it is the warm-up, long before the rows.
DROP, RISE, STRETCH = 1 / 32, 1 / 8, 1 / 24
# η^(−γ) has no limit at zero, so a learning rate of zero is taken as this share of the peak.
LEAST_RATE = 1e-3
MOST_STEPS = 10_000_000
# Where 1 − β is smaller, the kernel's integral is a logarithm to rounding.
LEAST_POWER = 1e-5


@dataclass(frozen=True, eq=False)
class Track:
    """What the law needs of a schedule at some of its steps, the rows.

    Neighbouring changes of one sign are merged: spread evenly between two areas, they act by the mean of G, which has a
    closed form.

    Attributes:
        area: S at each row.
        begins, ends: area at which each change begins and ends; equal for a jump.
        drop: how far the learning rate falls in each change (negative: rises).
        rate: the learning rate in each change.
    """

    area: Array
    begins: Array
    ends: Array
    drop: Array
    rate: Array

    @classmethod
    def of(cls, rates: Array, steps: Array) -> Track:
        """From the learning rate of every step, the first at index 0, and the rows' numbers of steps done."""
        area = np.concatenate([[0.0], np.cumsum(rates)])
        drop = -np.diff(rates, prepend=0.0)
        change = np.flatnonzero(drop)
        progress = (
            np.cumsum(np.where(drop > 0, drop / DROP, -drop / RISE)) / rates.max() + area[1:] / area[-1] / STRETCH
        )
        kind = np.stack([change - np.arange(len(change)), np.sign(drop[change]), np.floor(progress[change] - 1e-9)])
        first = np.flatnonzero(np.any(np.diff(kind, axis=1, prepend=np.nan) != 0, axis=0))
        last = np.append(first[1:], len(change)) - 1
        rate = np.add.reduceat(rates[change], first) / (last - first + 1)
        return cls(
            area=area[np.asarray(steps, dtype=int)],
            begins=area[change[first]],
            ends=area[change[last]],
            drop=np.add.reduceat(drop[change], first),
            rate=np.maximum(rate, LEAST_RATE * rates.max()),
        )

    def take(self, rows: Array) -> Track:
        """The same schedule from these of its rows."""
        return replace(self, area=self.area[rows])

    def scaled(self, units: tuple[float, float]) -> Track:
        """In units of area and learning rate."""
        area, rate = units
        return Track(self.area / area, self.begins / area, self.ends / area, self.drop / rate, self.rate / rate)


def units_of(tracks: Sequence[Track]) -> tuple[float, float]:
    """The middle of the rows' areas and of the learning rates after drops: in these units C and γ hardly correlate."""
    area = np.concatenate([track.area for track in tracks])
    drop, rate = (np.concatenate([getattr(track, name) for track in tracks]) for name in ("drop", "rate"))
    drops = np.maximum(drop, 1e-9 * np.abs(drop).max())
    return float(np.exp(np.log(area).mean())), float(np.exp(np.average(np.log(rate), weights=drops)))


@dataclass(frozen=True)
class MultiPower:
    """The multi-power law. θ = (L0, ln A, α, ln B, ln C, β, γ), in given units of area and learning rate."""

    name: ClassVar[str] = "multi_power"
    formula: ClassVar[str] = "L = L0 + A·S^(−α) − B·Σ_k (η_{k−1} − η_k)·(1 − (C·η_k^(−γ)·S_k + 1)^(−β))"
    symbols: ClassVar[tuple[str, ...]] = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
    source: ClassVar[str] = "arXiv 2503.12811, equations 1 and 2"

    def loss(self, values: Mapping[str, float], rates: Array, steps: Array | None = None) -> Array:
        """L after so many steps (all of them, if not given) of a schedule, for constants as papers print them.

        Args:
            values: constant → value; KeyError if one is missing.
            rates: the learning rate of every step from the first on, shape (steps,).
            steps: numbers of steps done, each from 1 to len(rates).
        """
        rates = check_rates(rates, "the schedule")
        track = Track.of(rates, check_steps(steps, len(rates)))
        theta = self.theta(np.array([[values[symbol] for symbol in self.symbols]]), (1.0, 1.0))
        return np.exp(self.log_loss(theta, track)[0][0])

    def log_loss(self, theta: Array, *tracks: Track) -> tuple[Array, Array]:
        """ln L, shape (batch, rows of all tracks), and its derivatives by θ, shape (batch, constants, rows)."""
        floor, log_a, alpha, log_b, log_c, beta, gamma = theta.T[:, :, None]
        pieces = []
        for track in tracks:
            log_area = np.log(track.area)
            term = np.exp(log_a - alpha * log_area)
            sums = np.exp(log_b) * np.stack(annealing(log_c, beta, gamma, track))
            loss = floor + term - sums[0]
            # A trial step of the solver may leave the positive numbers; its objective is then nan, and it is undone.
            with np.errstate(invalid="ignore", divide="ignore"):
                log_loss = np.log(loss)
            slopes = np.stack([np.ones_like(term), term, -term * log_area, -sums[0], *-sums[1:]], axis=1)
            pieces.append((log_loss, slopes / loss[:, None]))
        return np.concatenate([p[0] for p in pieces], axis=1), np.concatenate([p[1] for p in pieces], axis=2)

    def values(self, theta: Array, units: tuple[float, float]) -> Array:
        """θ (..., constants) in these units → the constants of the formula, in the order of symbols."""
        area, rate = np.log(units)
        floor, log_a, alpha, log_b, log_c, beta, gamma = np.moveaxis(theta, -1, 0)
        a, b, c = np.exp(log_a + alpha * area), np.exp(log_b - rate), np.exp(log_c + gamma * rate - area)
        return np.stack([floor, a, alpha, b, c, beta, gamma], axis=-1)

    def theta(self, values: Array, units: tuple[float, float]) -> Array:
        """The inverse of ``values``."""
        area, rate = np.log(units)
        floor, a, alpha, b, c, beta, gamma = np.moveaxis(values, -1, 0)
        logs = safe_log(a) - alpha * area, safe_log(b) + rate, safe_log(c) - gamma * rate + area
        return np.stack([floor, logs[0], alpha, *logs[1:], beta, gamma], axis=-1)

    def bounds(self, loss: Array) -> tuple[Array, Array]:
        """Lower and upper bounds of θ for curves with these losses, in the units of ``units_of``."""
        low, high = coefficient_bounds(loss)
        return np.array([0.0, low, 1e-3, low, -5.0, 0.02, 0.0]), np.array([floor_bound(loss), high, 3, high, 25, 4, 3])

    def starts(self, tracks: Sequence[Track], loss: Array, weights: Array) -> tuple[Array, Array]:
        """The best start for each (C, β, γ) of a grid, and its sum of squares; L0, A and B are solved for.

        ``tracks`` are in the units of ``units_of``.
        """
        kernels = grid(np.log(np.geomspace(10, 1e6, 6)), [0.1, 0.3, 0.7, 1.5], [0.0, 0.4, 0.8, 1.2])
        log_c, beta, gamma = kernels.T[:, :, None]
        sums = np.concatenate([annealing(log_c, beta, gamma, track)[0] for track in tracks], axis=1)
        area = np.concatenate([track.area for track in tracks])
        starts = []
        for alpha in np.geomspace(0.08, 1.3, 8):
            fixed = np.broadcast_to(np.stack([np.ones_like(area), area**-alpha]), (len(kernels), 2, len(area)))
            columns = np.concatenate([fixed, -sums[:, None]], axis=1)
            coefficients, squares = nonnegative_least_squares(columns, loss, weights / loss**2)
            logs = safe_log(coefficients[:, 1:])
            rows = [coefficients[:, 0], logs[:, 0], np.full(len(logs), alpha), logs[:, 1], *kernels.T]
            starts.append((np.stack(rows, axis=-1), squares))
        theta, squares = (np.stack(parts) for parts in zip(*starts, strict=True))
        best = squares.argmin(axis=0), np.arange(len(kernels))
        return theta[best], squares[best]


def annealing(log_c: Array, beta: Array, gamma: Array, track: Track) -> tuple[Array, Array, Array, Array]:
    """Σ drop·G at each row, and its derivatives by ln C, β and γ; each of shape (batch, rows).

    The constants have shape (batch, 1).
    """
    log_rate = np.log(track.rate)
    speed = np.exp(log_c - gamma * log_rate)[:, None]
    sums = np.zeros((4, len(speed), len(track.area)))
    jump = track.ends == track.begins
    for kernel, chosen in ((_jump, jump), (_spread, ~jump)):
        since = [track.area[:, None] - edge[chosen] for edge in (track.begins, track.ends)]
        parts = kernel(speed[..., chosen], beta[..., None], *since)
        sums[:3] += parts @ track.drop[chosen]
        sums[3] -= parts[1] @ (track.drop * log_rate)[chosen]
    return sums[0], sums[1], sums[2], sums[3]


def _jump(speed: Array, beta: Array, since: Array, _: Array) -> Array:
    """G of a change at one area, and its derivatives by ln C and β: (3, batch, rows, changes)."""
    z = speed * np.maximum(since, 0.0)
    log = np.log1p(z)
    left = np.exp(-beta * log)
    return np.stack([1 - left, beta * left * z / (1 + z), left * log])


def _spread(speed: Array, beta: Array, since_begin: Array, since_end: Array) -> Array:
    """The mean of G over a change that is spread evenly between two areas, and its derivatives by ln C and β.

    With z = C·η^(−γ)·S it is 1 − [F(z_begin) − F(z_end)]/(z_begin − z_end), F(z) = ((1 + z)^(1 − β) − 1)/(1 − β).
    """
    power = np.where(np.abs(1 - beta) < LEAST_POWER, LEAST_POWER, 1 - beta)

    def integral(since: Array) -> Array:
        z = speed * np.maximum(since, 0.0)
        log = np.log1p(z)
        grown = np.exp(power * log)
        whole = (grown - 1) / power
        return np.stack([z - whole, whole - z * grown / (1 + z), (log * grown - whole) / power])

    return (integral(since_begin) - integral(since_end)) / (speed * (since_begin - since_end))


def wsd(steps: int, peak: float, warmup: int = 0, decay: float = 0.2, final: float = 0.0) -> Array:
    """The learning rate of every step of a warmup–stable–decay schedule, shape (steps,).

    Args:
        steps: of the whole run.
        peak: the learning rate between warm-up and decay.
        warmup: steps of linear rise.
        decay: share of the steps over which the learning rate decays linearly at the end.
        final: the last step's learning rate as a share of the peak.

    Raises:
        UserError: warm-up and decay do not fit into the steps.
    """
    decay_steps = round(decay * steps)
    if not (
        steps >= 1
        and peak > 0
        and warmup >= 0
        and 0 <= decay <= 1
        and 0 <= final <= 1
        and warmup + decay_steps <= steps
    ):
        raise UserError(
            f"no schedule of {steps} steps with {warmup} of warm-up and a decay over {decay:g} of them; "
            "shares lie between 0 and 1, and warm-up and decay must fit into the steps"
        )
    done = np.arange(1, steps + 1)
    rise = np.minimum(1.0, done / warmup) if warmup else np.ones(steps)
    return peak * rise * (1 - (1 - final) * np.clip((done - steps + decay_steps) / max(decay_steps, 1), 0, 1))


def check_rates(rates: Array, name: str) -> Array:
    """A schedule as floats of shape (steps,); UserError unless they are finite, not negative and not all zero."""
    rates = np.asarray(rates, dtype=float)
    if rates.ndim != 1 or not 1 <= rates.size <= MOST_STEPS:
        raise UserError(f"{name}: give the learning rate of every step, 1 to {MOST_STEPS:,} numbers in a row")
    if not (np.all(np.isfinite(rates) & (rates >= 0)) and rates[0] > 0):
        raise UserError(f"{name}: learning rates must be finite and not negative, the first above zero")
    return rates


def check_steps(steps: Array | None, length: int) -> Array:
    """Numbers of steps done as integers, all of the schedule if None; UserError if one lies outside it."""
    if steps is None:
        return np.arange(1, length + 1)
    numbers = np.atleast_1d(np.asarray(steps, dtype=float))
    if numbers.size == 0 or not np.all((numbers >= 1) & (numbers <= length) & (numbers == np.round(numbers))):
        raise UserError(f"steps must be whole numbers from 1 to {length}, the length of the schedule")
    return numbers.astype(int)
