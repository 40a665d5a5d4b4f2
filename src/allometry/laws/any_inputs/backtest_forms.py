"""The backtest of forms: each is fitted to what a split keeps and predicts what it holds out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..tables.measurements import Measurements
from .composing.form import LOG
from .fitted_form import FittedForm, fit_apart, fit_form
from .frontier import ALL, BEST, BOTH, FRONTIER, Levels, cost_weights, emphasis_weights, excess_at, growth, level_growth
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
        noise: standard deviation of a run's noise, (held out,).
        unsure: standard deviation of everything else, (held out,).
        counts: how much each error counts, (held out,).
    """

    split: HeldOut
    error: Array
    noise: Array
    unsure: Array
    counts: Array

    @property
    def rms(self) -> float:
        """Root mean square of the errors, as they count."""
        return float(np.sqrt(np.average(self.error**2, weights=self.counts)))


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

    def weights(self, form: AnyForm, values: Array) -> Array:
        """Weights of the runs so that a form's errors are those of this scale, as far as its link allows."""
        if self.logarithmic and form.link != LOG:
            return 1 / values**2 * np.median(values**2)
        if not self.logarithmic and form.link == LOG:
            return values**2 / np.median(values**2)
        return np.ones(len(values))

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
    form: AnyForm,
    runs: Measurements,
    middle: Array,
    scale: CommonScale,
    starts: Array,
    own: bool = False,
    emphasis: str = ALL,
) -> FittedForm:
    """A form fitted to runs so that its errors on the common scale are least.

    Dear runs count more. ``own``: with a θ for each group; ``emphasis``: which runs count more besides.
    """
    weights = scale.weights(form, runs.values) * cost_weights(runs)
    weights = weights * emphasis_weights(runs, scale.forward(runs.values), emphasis)
    data = pad(runs, middle, weights)
    fitted = fit_form(form, data, middle, starts)
    fitted = fit_apart(fitted, data) if own else fitted
    return replace(fitted, emphasis=emphasis)


def left_of(fitted: FittedForm, runs: Measurements, scale: CommonScale) -> Array:
    """What a form leaves of runs, in units of what it is expected to leave there, (runs,)."""
    values = scale.forward(runs.values)
    left = values - scale.moments(fitted, runs.points, runs.group)[0]
    return left / grown_at(fitted.emphasis, runs, scale, runs.points, runs.group, values)


def grown_at(
    emphasis: str, runs: Measurements, scale: CommonScale, points: Array, group: Array, values: Array
) -> Array:
    """How much more a form is expected to leave at points with these targets (on the common scale) than near the runs
    that count most, (points,)."""
    grown = np.ones(len(points))
    if emphasis in (FRONTIER, BOTH):
        logged = np.log(np.maximum(scale.back(values), 1e-300))
        grown = growth(excess_at(runs, points, logged, group))
    if emphasis in (BEST, BOTH):
        grown = grown * level_growth(Levels.of(runs, scale.forward(runs.values)).at(values, group))
    return grown


def with_leftovers(
    fitted: FittedForm,
    runs: Measurements,
    left: Array,
    scale: CommonScale,
    basis: Basis,
    crossing: list[Array],
    points: Array,
    group: Array,
) -> tuple[Array, Array, Array]:
    """Centre, variance and variance of a run's noise at points (points,), from what was left of the runs."""
    centre, spread = scale.moments(fitted, points, group)
    leftover = basis.estimate(left, fitted.num_constants, crossing)
    grown = grown_at(fitted.emphasis, runs, scale, points, group, centre)
    variance = spread**2 + (grown * leftover.spread) ** 2
    return centre + grown * leftover.mean, variance, (grown * leftover.noise) ** 2


def trial(
    fitted: FittedForm,
    kept: Measurements,
    held: Measurements,
    scale: CommonScale,
    basis: Basis,
    crossing: list[Array],
    split: HeldOut,
    drift: Array,
    counts: Array,
) -> Trial:
    """The errors of a form on what a split held out.

    ``drift``: what distance alone makes uncertain; ``counts``: how much each error counts; both (held out,).
    """
    left = left_of(fitted, kept, scale)
    centre, variance, noise = with_leftovers(fitted, kept, left, scale, basis, crossing, held.points, held.group)
    return Trial(split, centre - scale.forward(held.values), np.sqrt(noise), np.sqrt(variance + drift**2), counts)
