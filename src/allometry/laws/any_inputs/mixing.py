"""How forms are weighed: by their backtest, the more the more a split resembles the point to predict for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..tables.measurements import Measurements
from .backtest_forms import Trial
from .fitted_form import FittedForm
from .frontier import ALL
from .held_out import INSIDE, LEAST_LIKENESS, likeness

Array = np.ndarray
# Weights fall with this power of the errors.
SHARPNESS = 5.0
# A form with one constant more must predict better by this share to weigh as much.
PRICE = 0.01
# What is to be predicted ends somewhere: a form that goes on for ever along an input must predict better by this share.
UNBOUNDED = 0.14
# What is to be predicted is good: a form fitted to all runs alike must predict better by this share, where there are
# forms fitted most closely to good ones.
EVEN = 0.15
# Errors below this part of a run's noise are taken for equal.
NOISE_PART = 0.3
LEAST_WEIGHT = 0.05
# A form whose own spread at a point exceeds the middle one of the forms so many times has no weight there.
CLUELESS = 10.0
# How far the inflation of all lines may be from one, and that of one line from theirs, as logarithms; and for how many
# independent errors a split stands: runs beyond an end are off together, runs between others each by itself.
WIDE, NARROW = 0.6, 0.7
ERRORS_BEYOND, ERRORS_INSIDE = 2, 12
MOST_OF_A_KIND = 3


@dataclass(frozen=True, eq=False)
class Record:
    """What the backtest showed.

    Attributes:
        names: of the splits.
        along: what each lies along: the place of an input, COST or INSIDE.
        logged: logarithm of each form's error on each split, its price added, (forms, splits).
    """

    names: tuple[str, ...]
    along: Array
    logged: Array

    @classmethod
    def of(cls, trials: Sequence[Sequence[Trial]], fits: Sequence[FittedForm]) -> Record:
        """From the trials of each fitted form, its number of constants, and whether it goes on for ever."""
        if not trials or not trials[0]:
            return cls((), np.zeros(0, int), np.zeros((len(trials), 0)))
        floor = NOISE_PART * min(float(one.noise.min()) for rows in trials for one in rows) + 1e-12
        logged = np.array([[np.log(np.hypot(one.rms, floor)) for one in rows] for rows in trials])
        taken = np.array([one.theta.shape[1] + one.form.num_linear for one in fits])
        logged += (PRICE * taken + UNBOUNDED * np.array([one.form.is_unbounded for one in fits]))[:, None]
        even = np.array([one.emphasis == ALL for one in fits])
        logged += EVEN * (even & ~even.all())[:, None]
        return cls(tuple(one.split.name for one in trials[0]), np.array([one.split.along for one in trials[0]]), logged)

    def weights(self, kinds: Array) -> Array:
        """Weights of the forms (…, forms) for likenesses to the splits (…, splits)."""
        forms = len(self.logged)
        if not self.logged.shape[1]:
            return np.full((*kinds.shape[:-1], forms), 1 / forms)
        scores = kinds @ self.logged.T / kinds.sum(axis=-1, keepdims=True)
        raw = np.exp(-SHARPNESS * (scores - scores.min(axis=-1, keepdims=True)))
        raw /= raw.sum(axis=-1, keepdims=True)
        raw = np.where(raw < np.minimum(LEAST_WEIGHT, raw.max(axis=-1, keepdims=True)), 0, raw)
        return raw / raw.sum(axis=-1, keepdims=True)

    def at(self, runs: Measurements, points: Array) -> Array:
        """Weights of the forms at points, (points, forms)."""
        return self.weights(self.likeness(runs, points))

    def likeness(self, runs: Measurements, points: Array) -> Array:
        """How much each point resembles each split, (points, splits)."""
        return likeness(runs, points, self.along)

    @property
    def kinds(self) -> Array:
        """The likenesses of a point wholly of one kind, for each kind, and of one of all kinds, (kinds, splits)."""
        each = [np.where(self.along == one, 1.0, LEAST_LIKENESS) for one in np.unique(self.along)]
        return np.stack([*each, np.ones(len(self.along))])

    def best(self) -> list[int]:
        """The forms that weigh most in any kind of prediction, the overall best first."""
        by_kind = self.weights(self.kinds)
        chosen = {int(form) for row in by_kind for form in np.argsort(-row)[:MOST_OF_A_KIND] if row[form] > 0}
        return sorted(chosen, key=lambda form: -by_kind[-1][form])

    def where(self, forms: Sequence[int]) -> Record:
        """The record of some of the forms."""
        return Record(self.names, self.along, self.logged[list(forms)])

    def mixed(self, trials: Sequence[Sequence[Trial]]) -> list[Trial]:
        """The trials of the mixture, each split weighed as a point of its kind."""
        rows = []
        for parts in zip(*trials, strict=True):
            kind = np.where(self.along == parts[0].split.along, 1.0, LEAST_LIKENESS)
            shares = self.weights(kind)
            errors = np.stack([part.error for part in parts])
            centre = shares @ errors
            unsure = shares @ (np.stack([part.unsure**2 for part in parts]) + (errors - centre) ** 2)
            noise = np.sqrt(shares @ np.stack([part.noise**2 for part in parts]))
            rows.append(Trial(parts[0].split, centre, noise, np.sqrt(unsure), parts[0].counts))
        return rows

    def to_json(self) -> dict[str, list]:
        """Plain data that ``from_json`` takes back."""
        return {"names": list(self.names), "along": self.along.tolist(), "logged": self.logged.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, list]) -> Record:
        """The record that ``to_json`` wrote."""
        forms = np.array(data["logged"], float).reshape(len(data["logged"]), len(data["names"]))
        return cls(tuple(data["names"]), np.array(data["along"], int), forms)


def of_those_that_know(shares: Array, variances: Array, noise: Array) -> Array:
    """Weights of forms without those that say themselves that they know nothing of a point, (forms, points).

    Their standard deviation there is ten times the middle one of the forms, or that of a run's noise if that is larger:
    what they predict is no opinion.

    Args:
        shares: weights of the forms, (forms, points).
        variances: what each states for each point, (forms, points).
        noise: variance of a run's noise, (points,).
    """
    ordered = np.sort(np.where(shares > 0, variances, np.inf), axis=0)
    place = ((shares > 0).sum(axis=0) - 1) // 2
    middle = np.maximum(np.take_along_axis(ordered, place[None], axis=0)[0], noise)
    kept = np.where(variances > CLUELESS**2 * middle, 0.0, shares)
    return kept / kept.sum(axis=0)


def inflations(along: Array, trials: Sequence[Trial]) -> Array:
    """For each split, what the uncertain part is multiplied by so that errors along its line are as large as was said.

    What all trials say together is what is expected of each line.

    Args:
        along: what each split lies along, (splits,).
        trials: of the mixture, on these splits and on deeper ones.
    """
    if not trials:
        return np.empty(0)
    factors = np.geomspace(0.25, 10, 60)
    each = {line: sum(_evidence(one, factors) for one in trials if one.split.along == line) for line in along.tolist()}
    together = -0.5 * (np.log(factors) / WIDE) ** 2 + sum(each.values())
    common = _mean(together, np.log(factors))
    own = -0.5 * ((np.log(factors) - common) / NARROW) ** 2
    return np.exp([_mean(own + each[line], np.log(factors)) for line in along.tolist()])


def shown_errors(along: Array, trials: Sequence[Trial]) -> Array:
    """For each split the geometric mean of the errors (rms) of all trials along its line, (splits,).

    A deep split may leave too little for a form, whose error is then beyond all measure.
    """
    logged = {line: [np.log(one.rms + 1e-300) for one in trials if one.split.along == line] for line in along.tolist()}
    return np.array([np.exp(np.mean(logged[line])) for line in along.tolist()])


def _evidence(one: Trial, factors: Array) -> Array:
    """The likelihood of each factor, counted for a few independent errors."""
    variance = one.noise**2 + factors[:, None] ** 2 * one.unsure**2
    independent = ERRORS_INSIDE if one.split.along == INSIDE else ERRORS_BEYOND
    counts = one.counts / one.counts.sum() * min(len(one.error), independent)
    return (-0.5 * np.log(variance) - 2.5 * np.log1p(one.error**2 / variance / 4)) @ counts


def _mean(logged: Array, values: Array) -> float:
    shares = np.exp(logged - logged.max())
    return float((values * shares).sum() / shares.sum())
