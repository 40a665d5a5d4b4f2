"""Laws with known constants, as predictors: only ``predict``, as planning asks."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Prediction:
    value: object
    low: object
    high: object


@dataclass(frozen=True)
class Chinchilla:
    """E + A/N^α + B/D^β; the defaults are the refit of arXiv 2404.10102."""

    E: float = 1.8172
    A: float = 482.01
    B: float = 2085.43
    alpha: float = 0.3478
    beta: float = 0.3658

    def predict(self, num_params, tokens, level=0.9):
        value = self.E + self.A * num_params**-self.alpha + self.B * tokens**-self.beta
        return Prediction(value, value * (1 - 0.02 * level), value * (1 + 0.02 * level))

    def closed_form(self, flops):
        """N* = G·(C/6)^(β/(α+β)) with G = (αA/βB)^(1/(α+β)) (arXiv 2203.15556, equation 4)."""
        total = self.alpha + self.beta
        return (self.alpha * self.A / (self.beta * self.B)) ** (1 / total) * (flops / 6) ** (self.beta / total)


@dataclass(frozen=True)
class Power:
    """k·N^a·D^b, without an interior optimum unless a = b."""

    k: float = 50.0
    a: float = -0.1
    b: float = -0.08

    def predict(self, num_params, tokens, level=0.9):
        value = self.k * num_params**self.a * tokens**self.b
        return Prediction(value, 0.98 * value, 1.02 * value)


@dataclass(frozen=True)
class Mixture:
    """Weighted mean of predictors, intervals from the extremes."""

    parts: tuple
    weights: tuple

    def predict(self, num_params, tokens, level=0.9):
        each = [part.predict(num_params, tokens, level) for part in self.parts]
        value = sum(weight * one.value for weight, one in zip(self.weights, each, strict=True))
        low = np.minimum.reduce([one.low for one in each])
        return Prediction(value, low, np.maximum.reduce([one.high for one in each]))
