"""Farseer: the floor, the size of the token term and its exponent each vary with N; nine constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..base import Array, Law, grid
from ..solver import Problem, solve

CURVATURE = 1.5  # most |q|, |b|, |a|
STRAIGHT = 1e-6


@dataclass(frozen=True)
class Farseer(Law):
    """L = e^u + e^v·D^(−e^w), where u, v and w are each x₀ + x₁·(e^(q·n) − 1)/q, n = ln N from the centre.

    θ holds (value, slope, curvature) of u, v and w: s·N^q + S is the same family with constants that run away where
    a curve is straight.
    """

    name: ClassVar[str] = "farseer"
    formula: ClassVar[str] = "L = exp(s·N^q + S) + exp(B·N^b + Q)·D^(−exp(A·N^a + E))"
    symbols: ClassVar[tuple[str, ...]] = ("s", "q", "S", "B", "b", "Q", "A", "a", "E")
    source: ClassVar[str] = "arXiv 2506.10972"

    def centre(self, inputs):
        # Only N has a centre: in other units of D the second term would leave the family.
        return float(inputs[0].mean()), 0.0

    def log_loss(self, theta, n, d):
        curves, rows = zip(*(_curve(theta[:, i : i + 3], n) for i in (0, 3, 6)), strict=True)
        with np.errstate(over="ignore", invalid="ignore"):
            exponent = np.exp(curves[2])
            first, second = np.exp(curves[0]), np.exp(curves[1] - exponent * d)
            loss = first + second
            parts = (first / loss, second / loss, -second / loss * exponent * d)
            jacobian = [part[:, None] * row for part, row in zip(parts, rows, strict=True)]
        return np.log(loss), np.concatenate(jacobian, axis=1)

    def values(self, theta, centre):
        letters = []
        for i in (0, 3, 6):
            value, slope, bend = np.moveaxis(theta[..., i : i + 3], -1, 0)
            bend = np.where(np.abs(bend) < STRAIGHT, STRAIGHT, bend)
            letters += [slope / bend * np.exp(-bend * centre[0]), bend, value - slope / bend]
        return np.stack(letters, axis=-1)

    def theta(self, values, centre):
        coordinates = []
        for i in (0, 3, 6):
            factor, bend, offset = np.moveaxis(values[..., i : i + 3], -1, 0)
            there = factor * np.exp(bend * centre[0])
            coordinates += [offset + there, there * bend, bend]
        return np.stack(coordinates, axis=-1)

    def bounds(self, loss):
        least, most = np.log(loss.min()), np.log(loss.max())
        lower = [least - 30, -3, -CURVATURE, least - 40, -10, -CURVATURE, np.log(0.003), -1, -CURVATURE]
        upper = [most, 3, CURVATURE, most + 60, 10, CURVATURE, np.log(3), 1, CURVATURE]
        return np.array(lower), np.array(upper)

    def starts(self, inputs, loss, weights):
        """The first term is a power of N, what it leaves a power of D whose size is one of N: linear in logarithms."""
        n, d = inputs
        cells = grid(
            np.array([0.3, 0.5, 0.65, 0.8, 0.9, 0.97]), np.array([0, 0.02, 0.05, 0.1]), np.geomspace(0.05, 1.2, 10)
        )
        design = np.stack([np.ones_like(n), n], axis=1)
        starts = []
        for share, slope, exponent in cells:
            first = np.exp(-slope * n)
            first *= share * (loss / first).min()
            rest = loss - first
            root = np.sqrt(weights) * rest / loss
            (value, tilt), *_ = np.linalg.lstsq(
                design * root[:, None], root * (np.log(rest) + exponent * d), rcond=None
            )
            # Not quite straight, so that the first step knows which way a curve bends.
            middle = np.log(first).mean() + slope * n.mean()
            starts.append([middle, -slope, -0.1, value, tilt, -0.1, np.log(exponent), 0.0, 0.1])
        # The value of a cell hardly shows the optimum below it; sixty steps from every cell do.
        problem = Problem(self, (n, d), np.log(loss), "log_squares", 1.0, *self.bounds(loss))
        theta, reached = solve(problem, np.array(starts), np.tile(weights, (len(starts), 1)), steps=60)
        return theta, 2 * reached


def _curve(theta: Array, n: Array) -> tuple[Array, Array]:
    """x₀ + x₁·(e^(q·n) − 1)/q, shape (batch, runs), and its derivatives, (batch, 3, runs); a straight line at q = 0."""
    value, slope, bend = theta.T[:, :, None]
    bend = np.where(np.abs(bend) < STRAIGHT, STRAIGHT, bend)
    shape = np.expm1(bend * n) / bend
    by_bend = slope * (n * np.exp(bend * n) - shape) / bend
    # Near zero that difference is rounding; its limit is not.
    by_bend = np.where(np.abs(bend * n) < 1e-4, slope * n**2 / 2, by_bend)
    return value + slope * shape, np.stack([np.ones_like(shape), shape, by_bend], axis=1)
