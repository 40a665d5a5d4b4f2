"""The default predictor: several laws, weighted by how well each predicted, with an interval that says how sure.

Which law holds beyond the data cannot be seen from how well it fits: on a small ladder the laws with a floor fit best
and predict worst. So the evidence is a backtest inside the table, and it is used three times.

- Weights: score⁻⁴ of the backtest, and 1/σ of the fit.
- Correction: if the errors above the cuts drift one way with the logarithm of the factor of compute, half of what
  stands clear of their scatter is taken off the prediction.
- Interval: the noise of a run, the spread of the constants, the distance between the laws, the correction itself, and
  a drift, the size with which the backtest's errors went beyond all that, which grows with the logarithm of the factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UserError
from .backtest import LATE, LEAST_ERROR, Backtest, Row, backtest
from .catalog import LAWS, law
from .fit import fit
from .law import Law
from .observations import Observations, check_design
from .prediction import Prediction, around, check_points, points
from .result import Fit
from .weights import prediction_weights

Array = np.ndarray
DRAWS = 300
# A cut's errors share their fit, so a cut counts as one observation; this many at most are believed in the weights.
MOST_EVIDENCE = 4.0
FIT_EVIDENCE = 1.0
# The correction rests on the cuts that fitted two thirds of the runs or more: the nearest to the fit that is used.
CORRECTION_SHARE = 2 / 3
CORRECTION_GAIN = 0.5
POINTS_AT_ONCE = 2000
# Drift before any backtest: what is left of a good fit on public tables, as ln L for each e-fold of compute; it counts
# as this many cuts.
PRIOR_DRIFT = 0.004
PRIOR_CUTS = 2.0


@dataclass(frozen=True, eq=False)
class Forecast:
    """Several fits that predict together.

    Attributes:
        fits: law name → its ``Fit`` with ``prediction_weights``.
        weights: law name → weight; they sum to one.
        backtest: the evidence for weights and drift.
        drift: standard deviation of ln L that a prediction gains for each e-fold of compute beyond the largest run.
        correction: taken off ln L for each e-fold of compute beyond the largest run.
        freedom: degrees of freedom of the interval (Student's t).
        reach: 6·N·D of the largest run.
        notes: what was left out, and what would help.
    """

    fits: dict[str, Fit]
    weights: dict[str, float]
    backtest: Backtest
    drift: float
    correction: float
    freedom: float
    reach: float
    notes: tuple[str, ...] = ()
    kind: str = field(default="forecast", init=False)

    @property
    def range(self) -> dict[str, tuple[float, float]]:
        """ "num_params", "tokens", "flops" → (least, most) of the data."""
        return next(iter(self.fits.values())).range

    @property
    def n(self) -> int:
        """Number of runs fitted."""
        return next(iter(self.fits.values())).n

    def factor(self, num_params: float | Array, tokens: float | Array) -> float | Array:
        """How many times the largest run's compute a run takes, both counted as 6·N·D."""
        return 6 * np.asarray(num_params, float) * np.asarray(tokens, float) / self.reach

    def _distance(self, n: Array, d: Array) -> Array:
        """How far beyond the data, as a logarithm: of compute, or of N or D alone where that is more; 0 inside."""
        beyond_n, beyond_d = n / self.range["num_params"][1], d / self.range["tokens"][1]
        return np.log(np.maximum.reduce([self.factor(n, d), beyond_n, beyond_d, np.ones_like(n)]))

    def predict(self, num_params: float | Array, tokens: float | Array, level: float = 0.9) -> Prediction:
        """The loss at N parameters and D tokens (broadcast), with the interval that holds a new run's loss.

        Raises:
            UserError: counts that are not finite and above zero, or a level outside (0, 1).
        """
        from scipy.stats import t as student

        check_points(num_params, tokens, level)
        n, d, shape = points(num_params, tokens)
        chunks = [slice(start, start + POINTS_AT_ONCE) for start in range(0, len(n), POINTS_AT_ONCE)]
        centre, scale = np.concatenate([self._moments(n[chunk], d[chunk]) for chunk in chunks], axis=1)
        half = float(student.ppf((1 + level) / 2, self.freedom)) * scale
        return around(np.exp(centre), np.exp(centre - half), np.exp(centre + half), level, shape)

    def _moments(self, n: Array, d: Array) -> tuple[Array, Array]:
        """Centre and scale of ln L at the points."""
        fits = [self.fits[name] for name in self.weights]
        weights = np.array(list(self.weights.values()))
        values = np.stack([np.log(one.law.loss(one.values, n, d)) for one in fits])
        spreads = np.stack([_spread(one.log_samples(n, d)) for one in fits])
        sigmas = np.array([one.sigma for one in fits])[:, None]
        distance = self._distance(n, d)
        centre = weights @ values
        variance = weights @ ((values - centre) ** 2 + spreads**2 + sigmas**2)
        variance += (self.drift**2 + self.correction**2) * distance**2
        return centre - self.correction * distance, np.sqrt(variance)

    def summary(self) -> str:
        """Weights, backtest and drift, for people."""
        lines = [f"forecast from {self.n} runs, laws weighted by their backtest"]
        scores = dict(self.backtest.ranking())
        for name in sorted(self.weights, key=self.weights.get, reverse=True):
            score = f"{scores[name]:.2%}" if name in scores else "–"
            lines.append(
                f"  {name:12} weight {self.weights[name]:.2f}   backtest error {score:>7}   rms of fit "
                f"{self.fits[name].rms:.2%}   {self.fits[name].law.formula}"
            )
        lines.append(f"drift {self.drift:.2%} of the loss for each e-fold of compute beyond the largest run")
        if self.correction:
            sign, verb = ("high", "taken off") if self.correction > 0 else ("low", "added")
            lines.append(f"the backtest came out too {sign} with distance: {abs(self.correction):.2%} an e-fold {verb}")
        lines += [f"note: {text}" for text in self.notes]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        return {
            "kind": self.kind,
            "weights": dict(self.weights),
            "drift": self.drift,
            "correction": self.correction,
            "freedom": self.freedom,
            "reach": self.reach,
            "notes": list(self.notes),
            "backtest": self.backtest.to_json(),
            "fits": {name: one.to_json() for name, one in self.fits.items()},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Forecast:
        """The forecast that ``to_json`` wrote.

        Raises:
            UserError: not such a record.
        """
        try:
            return cls(
                fits={name: Fit.from_json(one) for name, one in data["fits"].items()},
                weights={name: float(weight) for name, weight in data["weights"].items()},
                backtest=Backtest.from_json(data["backtest"]),
                drift=float(data["drift"]),
                correction=float(data["correction"]),
                freedom=float(data["freedom"]),
                reach=float(data["reach"]),
                notes=tuple(data["notes"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"not a forecast: {type(error).__name__} {error}; write it anew with allometry fit"
            ) from None


def forecast(observations: Observations, laws: Sequence[Law | str] | None = None, seed: int = 0) -> Forecast:
    """Fit several laws, test each on the table itself, and weigh them for prediction.

    Args:
        observations: the runs.
        laws: laws or names; all known ones that the number of runs allows, if None.
        seed: of the refits behind the intervals.

    Raises:
        UserError: a design that supports no law (one size, one ratio, too few runs), an unknown law.
    """
    forms = [law(one) for one in (("power", "power_floor", "chinchilla", "skaling") if laws is None else laws)]
    if not forms:
        raise UserError(f"no laws to forecast with; known are {', '.join(LAWS)}")
    smallest = min(forms, key=lambda form: form.count)
    check_design(observations, smallest.name, smallest.count)
    usable = [form for form in forms if len(observations) >= form.count + 2] or [smallest]
    notes = list(observations.notes)
    if len(usable) < len(forms):
        left = ", ".join(form.name for form in forms if form not in usable)
        notes.append(f"{len(observations)} runs are too few for {left}: left out")
    weights = prediction_weights(observations)
    fits = {form.name: fit(form, observations, weights=weights, bootstrap=DRAWS, seed=seed) for form in usable}
    tested = backtest(usable, observations)
    if not tested.rows:
        notes.append("too few runs for a backtest: the laws weigh the same and the interval rests on a prior drift")
    shares = law_weights(tested, {name: one.sigma for name, one in fits.items()})
    drift, freedom = calibrate(tested, shares)
    reach = float((6 * observations.num_params * observations.tokens).max())
    return Forecast(fits, shares, tested, drift, correct(tested, shares), freedom, reach, tuple(notes))


def law_weights(tested: Backtest, sigmas: dict[str, float]) -> dict[str, float]:
    """Weights of the laws from the backtest's scores and the noise that each fit left (``sigmas``, by law name).

    score^(−k) is the likelihood of k independent errors of unknown size: k cuts, at most four. What a fit left counts
    too, but little: 1/σ.
    """
    evidence = min(MOST_EVIDENCE, len(tested.cuts(LATE)))
    logs = []
    for name, sigma in sigmas.items():
        predicted = -evidence * np.log(tested.score(name)) if tested.rows else 0.0
        logs.append(predicted - FIT_EVIDENCE * np.log(max(sigma, LEAST_ERROR)))
    weights = np.exp(np.array(logs) - max(logs))
    return {name: float(weight) for name, weight in zip(sigmas, weights / weights.sum(), strict=True)}


def correct(tested: Backtest, weights: dict[str, float]) -> float:
    """The systematic slope of the combined errors over ln(factor) in the late cuts: half of it, after shrinkage.

    Each cut gives one slope. Their mean m with standard error s is shrunk by 1 − (2s/m)², to nothing unless it stands
    two standard errors clear of zero. Half, because cuts share runs and so agree more than they should.
    """
    slopes = []
    for cut in tested.cuts(CORRECTION_SHARE):
        errors, _, distance, share = combined(cut, weights)
        slopes.append(float((share * errors * distance).sum() / (share * distance**2).sum()))
    if len(slopes) < 2:
        return 0.0
    mean, error = float(np.mean(slopes)), float(np.std(slopes, ddof=1) / np.sqrt(len(slopes)))
    if abs(mean) <= 2 * error:
        return 0.0
    return CORRECTION_GAIN * mean * (1 - (2 * error / mean) ** 2)


def calibrate(tested: Backtest, weights: dict[str, float]) -> tuple[float, float]:
    """The drift with which the backtest's errors are as large as their scales say, and the degrees of freedom.

    The combined error e of each held-out run (without any correction) is compared with the variance V that noise,
    constants and laws gave it: the drift τ solves mean over cuts, real and prior, of e²/(V + τ²·ln²f) = 1. A single
    run counts 25 at most.
    """
    cuts = [combined(cut, weights) for cut in tested.cuts()]
    freedom = PRIOR_CUTS + len(cuts)
    if not cuts:
        return PRIOR_DRIFT, freedom

    def excess(drift: float) -> float:
        ratios = [share @ np.minimum(e**2 / (v + (drift * f) ** 2), 25.0) for e, v, f, share in cuts]
        return (PRIOR_CUTS * (PRIOR_DRIFT / drift) ** 2 + sum(ratios)) / freedom - 1

    from scipy.optimize import brentq

    low, high = PRIOR_DRIFT * np.sqrt(PRIOR_CUTS / freedom) / 2, 10.0
    return (float(brentq(excess, low, high)) if excess(high) < 0 else high), freedom


def combined(cut: dict[str, list[Row]], weights: dict[str, float]) -> tuple[Array, Array, Array, Array]:
    """Of one cut, one entry a held-out run: the weighted laws' error, its variance, ln(factor), and its share."""
    share = np.array([weights[name] for name in cut])
    errors = np.array([[row.error for row in rows] for rows in cut.values()])
    variances = np.array([[row.sigma**2 + row.spread**2 for row in rows] for rows in cut.values()])
    error = share @ errors
    one = next(iter(cut.values()))
    relevance = np.array([row.weight for row in one])
    variance = share @ (variances + (errors - error) ** 2)
    return error, variance, np.log([row.factor for row in one]), relevance / relevance.sum()


def _spread(samples: Array) -> Array:
    """Standard deviation over draws (axis 0) by the 5 and 95 % quantiles, which a few runaway refits do not move."""
    low, high = np.quantile(samples, [0.05, 0.95], axis=0)
    return (high - low) / (2 * 1.6449)
