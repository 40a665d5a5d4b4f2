"""The backtest of forms: each is fitted to what a split keeps and predicts what it holds out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..tables.measurements import Measurements
from .composing.form import LOG
from .fitted_form import FittedForm, fit_apart, fit_form
from .held_out import HeldOut
from .leftovers import Basis
from .padded import pad
from .projection import AnyForm

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Trial:
    """What one form predicted for the runs that a split held out.

    Attributes:
        split: the split.
        error: predicted − observed, on the common scale, (held out,).
        noise: standard deviation of a run's noise.
        unsure: standard deviation of everything else, (held out,).
    """

    split: HeldOut
    error: Array
    noise: float
    unsure: Array


@dataclass(frozen=True, eq=False)
class CommonScale:
    """The scale on which forms are mixed and judged: the target's own, or its logarithm.

    Attributes:
        logarithmic: whether it is the logarithm.
        least: the least value that a form may predict there, on the target's own scale.
    """

    logarithmic: bool
    least: float

    @classmethod
    def of(cls, values: Array) -> CommonScale:
        """The logarithm for a target above zero that varies by more than a factor of five."""
        positive = bool((values > 0).all())
        least = 0.05 * float(values.min()) if positive else -np.inf
        return cls(positive and float(values.max() / values.min()) > 5, least)

    def forward(self, values: Array) -> Array:
        """From the target's own scale to this one."""
        return np.log(np.maximum(values, self.least)) if self.logarithmic else values

    def back(self, values: Array) -> Array:
        """To the target's own scale."""
        return np.exp(values) if self.logarithmic else values

    def weights(self, form: AnyForm, values: Array) -> Array | None:
        """Weights of the runs so that a form's errors are those of this scale, as far as its link allows."""
        if self.logarithmic and form.link != LOG:
            return 1 / values**2 * np.median(values**2)
        if not self.logarithmic and form.link == LOG:
            return values**2 / np.median(values**2)
        return None

    def moments(self, fitted: FittedForm, points: Array, group: Array) -> tuple[Array, Array]:
        """Centre and standard deviation of a fitted form's prediction on this scale."""
        centre, spread = fitted.at(points, group)
        with np.errstate(over="ignore"):
            if fitted.form.link == LOG:
                value = np.exp(np.minimum(centre, 600.0))
                return (centre, spread) if self.logarithmic else (value, value * spread)
            if self.logarithmic:
                value = np.maximum(centre, self.least)
                return np.log(value), spread / value
        return centre, spread


def fit_to(
    form: AnyForm, runs: Measurements, middle: Array, scale: CommonScale, starts: Array, own: bool = False
) -> FittedForm:
    """A form fitted to runs so that its errors on the common scale are least; ``own``: with a θ for each group."""
    data = pad(runs, middle, scale.weights(form, runs.values))
    fitted = fit_form(form, data, middle, starts)
    return fit_apart(fitted, data) if own else fitted


def trial(
    fitted: FittedForm,
    kept: Measurements,
    held: Measurements,
    scale: CommonScale,
    basis: Basis,
    crossing: list[Array],
    split: HeldOut,
    drift: Array,
) -> Trial:
    """The errors of a form on what a split held out; ``drift``: what distance alone makes uncertain, (held out,)."""
    observed = scale.forward(held.values)
    centre, spread = scale.moments(fitted, held.points, held.group)
    left = scale.forward(kept.values) - scale.moments(fitted, kept.points, kept.group)[0]
    leftover = basis.estimate(left, fitted.num_constants, crossing)
    unsure = np.sqrt(spread**2 + leftover.spread**2 + drift**2)
    return Trial(split, centre + leftover.mean - observed, leftover.noise, unsure)
