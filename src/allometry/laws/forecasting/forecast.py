"""The default predictor: several laws, weighted by how well each predicted, with a calibrated interval.

How well a law fits does not show whether it holds beyond the data: on a small ladder the laws with a floor fit best
and predict worst. So the laws are judged by a backtest inside the table, and a prediction has four parts:

- Laws: each is fitted with the weights of ``run_weights``; they are mixed by the backtest's score⁻⁴ and the fit's 1/σ.
- Residuals: what the laws leave unexplained near the point (``residuals``) is added; it fades with distance.
- Correction: if the backtest's errors drift in one direction with the logarithm of the factor of compute, most of the
  statistically significant bias is subtracted, no further than the backtest reached.
- Interval: it combines the noise of a run with the spread of the constants, the distance between the laws, the
  uncertainty of the residuals, and a drift that grows with the logarithm of the factor; all but the noise are scaled
  towards the backtest's errors (``calibration``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, overload

import numpy as np

from ...errors import UserError
from ...quantities import format_count, plural
from ..base import Law
from ..fitting.fit import fit
from ..fitting.result import Fit
from ..fitting.trunk_noise import TrunkNoise, mean_noise
from ..from_record import reads_record
from ..prediction import Prediction, around, check_points, check_repeats, points
from ..tables.findings.best_by_compute import excess
from ..tables.findings.undetermined import check_design
from ..tables.frames import sizes_and_tokens
from ..tables.observations import Observations
from .backtest import EDGES, Backtest, factors, law_rows
from .calibration import (
    ENOUGH_PREDICTED,
    FORECAST,
    Correction,
    calibrate,
    combined,
    correct,
    ignorance,
    law_weights,
    mix,
)
from .cuts import by_compute, origins, predictive
from .drift import PUBLIC_TABLES, DriftPrior
from .early_end import EarlyEnd
from .residuals import ResidualProcess
from .run_weights import prediction_weights
from .smoothing import smoothed

Array = np.ndarray
DRAWS = 300
POINTS_AT_ONCE = 2000


@dataclass(frozen=True, eq=False)
class Forecast:
    """Several fits that predict together.

    Attributes:
        fits: law name → its ``Fit`` with ``prediction_weights``.
        weights: law name → weight; they sum to one.
        backtest: the evidence: of each law, and of the forecast itself under the name "forecast".
        runs: the runs fitted, in the order of compute.
        scale: the size of the backtest's errors over that on public tables.
        correction: subtracted from ln L for each e-fold of compute beyond the largest run.
        tested: e-folds up to which the correction grows.
        freedom: degrees of freedom of the interval (Student's t).
        drift_prior: what is known of drift before.
        early_end: what is known beyond runs that end before their power law begins; None where they do not.
        notes: what was left out, and what would help.
    """

    fits: dict[str, Fit]
    weights: dict[str, float]
    backtest: Backtest
    runs: Observations
    scale: float
    correction: float
    tested: float
    freedom: float
    drift_prior: DriftPrior = PUBLIC_TABLES
    early_end: EarlyEnd | None = None
    notes: tuple[str, ...] = ()
    kind: str = field(default="forecast", init=False)

    @property
    def range(self) -> dict[str, tuple[float, float]]:
        """ "num_params", "tokens", "flops" → (least, most) of the data."""
        return next(iter(self.fits.values())).range

    @property
    def num_runs(self) -> int:
        """Number of runs fitted."""
        return len(self.runs)

    @cached_property
    def trunk_noise(self) -> TrunkNoise | None:
        """The noise that runs of one trunk share, and a run's own, of all fits; None where no run names a trunk."""
        return mean_noise((weight, self.fits[name].trunk_noise) for name, weight in self.weights.items())

    @property
    def counted(self) -> str:
        """Which parameters N counts; predictions count them likewise."""
        return next(iter(self.fits.values())).counted

    @property
    def drift(self) -> float:
        """Standard deviation of ln L that a prediction gains for each e-fold of compute beyond the largest run."""
        return self.scale * self.drift_prior.sd

    @property
    def reach(self) -> float:
        """6·N·D of the largest run."""
        return float((6 * self.runs.num_params * self.runs.tokens).max())

    def factor(self, num_params: float | Array, tokens: float | Array) -> float | Array:
        """How many times the largest run's compute a run takes, both counted as 6·N·D."""
        return 6 * np.asarray(num_params, float) * np.asarray(tokens, float) / self.reach

    @overload
    def predict(
        self, num_params: float | Array, tokens: float | Array, level: float = 0.9, repeats: float = 1
    ) -> Prediction: ...

    @overload
    def predict(self, num_params: Any, *, level: float = 0.9, repeats: float = 1) -> Prediction: ...

    def predict(self, num_params: Any, tokens: Any = None, level: float = 0.9, repeats: float = 1) -> Prediction:
        """The loss at N parameters and D tokens (broadcast), with the interval that holds a new run's loss.

        With ``repeats`` it holds the mean of so many runs of other seeds, with infinity the expected loss.

        Args:
            num_params: N; or a frame with sizes and tokens in the columns that the runs were read from (or under
                their usual names), for a prediction a row.
            tokens: D; none beside a frame.
            level: of the interval.
            repeats: how many runs.

        Raises:
            UserError: counts that are not finite and above zero, a frame without them, or a level outside (0, 1).
        """
        if tokens is None:
            sizes, lengths, shape = sizes_and_tokens(num_params, self.runs.columns, self.counted)
            num_params, tokens = sizes.reshape(shape), lengths.reshape(shape)
        check_points(num_params, tokens, level)
        check_repeats(repeats)
        n, d, shape = points(num_params, tokens)
        centre, scale = self._moments(n, d, repeats)
        half = self.quantile(level) * scale
        low, high = centre - half, centre + half
        if (early := self.early_end) is not None:
            last, last_scale = self._moments(n, np.minimum(d, early.tokens), repeats)
            share = self.quantile(level) / self.quantile(0.9)
            low, high = early.ends(d, centre, half, last, self.quantile(level) * last_scale, share)
        with np.errstate(over="ignore"):  # very far from the runs the upper end exceeds the largest float
            return around(np.exp(centre), np.exp(low), np.exp(high), level, shape)

    def quantile(self, level: float) -> float:
        """Half an interval of this level, in standard deviations (Student's t)."""
        from scipy.special import stdtrit

        return float(stdtrit(self.freedom, (1 + level) / 2))

    def weighted_samples(self, num_params: Array, tokens: Array) -> list[tuple[float, Array]]:
        """ln L of every refit at points, (draws, points), one pair of weight and samples for each law."""
        pairs = [(weight, self.fits[name]) for name, weight in self.weights.items() if weight > 0]
        moved = self.drift_prior.repeat_slope * self.drift_prior.repeated(tokens) - self._early(tokens)[0]
        return [
            (weight * share, one + moved)
            for weight, fit in pairs
            for share, one in fit.weighted_samples(num_params, tokens)
        ]

    def _moments(self, n: Array, d: Array, repeats: float) -> Array:
        """Centre and scale of ln L at points, (2, points), of the mean of so many runs."""
        chunks = [slice(start, start + POINTS_AT_ONCE) for start in range(0, len(n), POINTS_AT_ONCE)]
        return np.concatenate([self._moments_of_some(n[chunk], d[chunk], repeats) for chunk in chunks], axis=1)

    def _moments_of_some(self, n: Array, d: Array, repeats: float) -> tuple[Array, Array]:
        fits = [self.fits[name] for name in self.weights]
        values = np.stack([np.log(one.law.loss(one.values, n, d)) for one in fits])
        spreads = np.stack([_spread(one.log_samples(n, d)) for one in fits])
        centre, variance = mix(np.array(list(self.weights.values())), values, spreads)
        left = self.residual_process.at(n, d, excess(self.smooth_runs, 6 * n * d * self.flops_ratio, centre))
        distance, prior = self._distance(n, d), self.drift_prior
        again = prior.repeated(d)
        unsure = ignorance(variance, left.spread**2, self.residual_process.noise_share)
        unsure = unsure + (prior.sd * distance) ** 2 + (prior.repeat_sd * again) ** 2
        bias = Correction(self.correction, self.tested).at(distance)
        lower, lower_sd = self._early(d)
        bias = bias - prior.slope * distance - prior.repeat_slope * again + lower
        shared = 0.0 if self.trunk_noise is None else self.trunk_noise.at(n)
        noise = (left.noise**2 + shared**2) / repeats
        return centre + left.mean - bias, np.sqrt(noise + lower_sd**2 + self.scale**2 * unsure)

    def _early(self, d: Array) -> tuple[Array, Array]:
        """How far ln L lies below its laws beyond runs that end early, and the standard deviation of that."""
        if self.early_end is None:
            return np.zeros_like(d), np.zeros_like(d)
        beyond = self.early_end.beyond(d)
        return self.early_end.lower * beyond, self.early_end.lower_sd * beyond

    def _distance(self, n: Array, d: Array) -> Array:
        """How far beyond the data, as a logarithm: of compute, or of N or D alone where that is more; 0 inside."""
        beyond_n, beyond_d = n / self.range["num_params"][1], d / self.range["tokens"][1]
        return np.log(np.maximum.reduce([np.asarray(self.factor(n, d)), beyond_n, beyond_d, np.ones_like(n)]))

    @cached_property
    def flops_ratio(self) -> float:
        """The table's own FLOPs over 6·N·D."""
        return float(np.median(self.runs.flops / (6 * self.runs.num_params * self.runs.tokens)))

    @cached_property
    def smooth_runs(self) -> Observations:
        """The runs without their noise, for the frontier above which a point lies."""
        return smoothed(self.runs)

    @cached_property
    def residual_process(self) -> ResidualProcess:
        """What the weighted laws leave unexplained."""
        runs, observed = self.runs, np.log(self.runs.loss)
        fits = [self.fits[name] for name in self.weights]
        fitted = np.stack([np.log(one.law.loss(one.values, runs.num_params, runs.tokens)) for one in fits])
        left = observed - np.array(list(self.weights.values())) @ fitted
        trunks = None if self.trunk_noise is None else self.trunk_noise.trunks_of(runs)
        share = constants(self.fits, self.weights)
        return ResidualProcess(runs.num_params, runs.tokens, left, excess(self.smooth_runs), share, trunks)

    def evidence(self, num_params: float, tokens: float) -> str:
        """How far a prediction goes beyond the data, and the backtest's error at that distance; one or two lines."""
        beyond = {
            "compute": float(self.factor(num_params, tokens)),
            "size": float(num_params / self.range["num_params"][1]),
            "token count": float(tokens / self.range["tokens"][1]),
        }
        farthest = max(beyond, key=lambda name: beyond[name])
        factor = beyond[farthest]
        where = f"{factor:.3g}× the largest {farthest} of the runs" if factor > 1 else "inside the data"
        bins = [(pair, self.backtest.errors(FORECAST, *pair)) for pair in pairwise(EDGES)]
        bins = [(pair, errors) for pair, errors in bins if len(errors)]
        if not bins:
            return f"{where}; too few runs for a backtest, so the interval rests on what public tables show"
        nearest = [(pair, errors) for pair, errors in bins if pair[0] <= factor] or bins[:1]
        (low, high), errors = nearest[-1]
        untested = f"; nothing larger than {factors(low, high)} could be tested" if factor >= high else ""
        return (
            f"{where}\nbacktest at {factors(low, high)} beyond its fits: {np.sqrt(np.mean(errors**2)):.2%} off (rms), "
            f"{np.mean(errors):+.2%} on average, {plural(len(errors), 'prediction')}{untested}"
        )

    def __repr__(self) -> str:
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in self.weights.items() if weight >= 0.005)
        return f"<Forecast from {plural(self.num_runs, 'run')}: {weights}>"

    def _repr_html_(self) -> str:
        from ..result_cards import forecast_card

        return forecast_card(self).html()

    def summary(self) -> str:
        """Weights, backtest and drift, for people."""
        lines = [f"forecast from {plural(self.num_runs, 'run')}, laws weighted by their backtest"]
        scores = dict(self.backtest.ranking())
        for name in sorted(self.weights, key=lambda law: self.weights[law], reverse=True):
            score = f"{scores[name]:.2%}" if name in scores else "–"
            lines.append(
                f"  {name:12} weight {self.weights[name]:.2f}   backtest error {score:>7}   rms of fit "
                f"{self.fits[name].rms:.2%}   {self.fits[name].law.formula}"
            )
        lines += ["backtest: error by the factor of compute beyond the runs fitted", self.backtest.table()]
        if self.trunk_noise is not None:
            lines.append(self.trunk_noise.sentence())
        lines.append(f"uncertainty grows {self.drift:.2%} (1 s.d.) per factor e of compute beyond the largest run")
        if abs(self.correction) >= 5e-5:
            sign, verb = ("high", "subtracted") if self.correction > 0 else ("low", "added")
            lines.append(
                f"the backtest's predictions drift too {sign} with distance: {abs(self.correction):.2%} per factor e "
                f"of compute is {verb}, up to {np.exp(self.tested):.3g}×"
            )
        prior = self.drift_prior
        if prior.unique_tokens is not None and prior.repeat_sd > 0:
            lines.append(
                f"the text has {format_count(prior.unique_tokens)} tokens; beyond them a loss is higher by "
                f"{prior.repeat_slope:.2%} ± {prior.repeat_sd:.2%} (1 s.d.) per factor e of tokens, as earlier studies "
                "showed"
            )
        if self.early_end is not None:
            lines.append(self.early_end.sentence())
        lines += [f"note: {text}" for text in self.notes]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        kept = [name for name in ("trunk", "trunk_noise", "run_noise") if name in self.runs.extra]
        numbers = {name: self.runs.column(name).tolist() for name in ("num_params", "tokens", "flops", "loss", *kept)}
        return {
            "kind": self.kind,
            "weights": dict(self.weights),
            "drift": self.drift,
            "scale": self.scale,
            "correction": self.correction,
            "tested": self.tested,
            "freedom": self.freedom,
            "drift_prior": self.drift_prior.to_json(),
            "early_end": None if self.early_end is None else self.early_end.to_json(),
            "reach": self.reach,
            "notes": list(self.notes),
            "backtest": self.backtest.to_json(),
            "runs": {"label": list(self.runs.labels), **numbers},
            "columns": dict(self.runs.columns),
            "fits": {name: one.to_json() for name, one in self.fits.items()},
        }

    @classmethod
    @reads_record("a forecast", "write it anew with allometry fit")
    def from_json(cls, data: dict[str, Any]) -> Forecast:
        """The forecast that ``to_json`` wrote.

        Raises:
            UserError: not such a record.
        """
        columns = data["runs"]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return cls(
            fits={name: Fit.from_json(one) for name, one in data["fits"].items()},
            weights={name: float(weight) for name, weight in data["weights"].items()},
            backtest=Backtest.from_json(data["backtest"]),
            runs=replace(Observations.from_records(rows), columns=data["columns"]),
            notes=tuple(data["notes"]),
            drift_prior=DriftPrior(**data["drift_prior"]),
            early_end=None if data["early_end"] is None else EarlyEnd(**data["early_end"]),
            **{key: float(data[key]) for key in ("scale", "correction", "tested", "freedom")},
        )


def forecast(
    observations: Observations,
    laws: Sequence[Law | str] | None = None,
    seed: int = 0,
    drift: DriftPrior | None = None,
    priors: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    draws: int = DRAWS,
) -> Forecast:
    """Fit several laws, test each on the table itself, and weight them for prediction.

    Runs that name a ``trunk`` share its noise: see ``laws.fit``.

    Args:
        observations: the runs.
        laws: laws or names, of N and D alone; ``DEFAULT_LAWS``, as far as the number of runs allows, if None.
        seed: of the refits behind the intervals.
        drift: how far predictions drift with distance: by default what public tables show, and ladders that end early
            where these do; or earlier studies of like models.
        priors: law → constant → (mean, standard deviation), from earlier studies of like models.
        draws: refits behind the intervals; the centre does not depend on them.

    Raises:
        UserError: a design that supports no law (one size, one ratio, too few runs), an unknown law, a law that reads
            more than N and D, priors of a law or a constant that is not there.
    """
    forms = predictive(laws)
    for name in priors or {}:
        if name not in {form.name for form in forms}:
            raise UserError(f"priors: {name} is none of the laws of this forecast ({', '.join(f.name for f in forms)})")
    smallest = min(forms, key=lambda form: form.num_constants)
    check_design(observations, smallest.name, smallest.num_constants)
    usable = [form for form in forms if len(observations) >= form.num_constants + 2] or [smallest]
    notes = list(observations.notes)
    if len(usable) < len(forms):
        left = ", ".join(form.name for form in forms if form not in usable)
        notes.append(f"{plural(len(observations), 'run is', 'runs are')} too few for {left}: left out")
    early = EarlyEnd.of(observations) if drift is None else None
    drift = drift or PUBLIC_TABLES
    ordered = by_compute(observations)
    weights = prediction_weights(observations)
    # Squares are the efficient objective once the runs have weights; the forecast's residuals take care of odd runs.
    options = {"objective": "log_squares", "weights": weights, "bootstrap": draws, "seed": seed}
    fits = {form.name: fit(form, observations, **options, priors=(priors or {}).get(form.name)) for form in usable}
    rolled = origins(usable, ordered, fits=fits)
    rows = law_rows(rolled)
    shares = law_weights(Backtest(tuple(rows), len(ordered)), {name: one.sigma for name, one in fits.items()})
    rows += combined(
        rolled,
        shares,
        constants(fits, shares),
        mean_noise((share, fits[name].trunk_noise) for name, share in shares.items()),
    )
    tested = Backtest(tuple(rows), len(ordered))
    if 0 < tested.predicted < ENOUGH_PREDICTED:
        notes.append(
            f"the backtest could predict only {plural(tested.predicted, 'run')}: the weights of the laws and the "
            "backtest error rest on little, so the weights are drawn together; larger runs would tell the laws apart"
        )
    if not rows:
        notes.append("too few runs for a backtest: the interval rests on what public tables show")
    scale, freedom = calibrate(tested, drift)
    correction = correct(tested, drift)
    return Forecast(fits, shares, tested, ordered, scale, *correction, freedom, drift, early, tuple(notes))


def constants(fits: dict[str, Fit], weights: dict[str, float]) -> float:
    """How many constants the weighted laws take from the runs."""
    return sum(weight * fits[name].law.num_constants for name, weight in weights.items())


def _spread(samples: Array) -> Array:
    """Standard deviation over draws (axis 0) by the 5 and 95 % quantiles, which a few runaway refits do not move."""
    low, high = np.quantile(samples, [0.05, 0.95], axis=0)
    return (high - low) / (2 * 1.6449)
