"""Which run to train next: the one that narrows the prediction at a target most per FLOP.

>>> print(planning.next_runs(observations, target=(7e9, 140e9), budget=1e20).summary())

Each law of the forecast, with its weight, is approximated by a Gaussian around its constants, given the runs that exist
(``law_belief``). A candidate narrows the interval because it determines the constants better, brings the laws together,
and lies nearer to the target, where less drift is left.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from ...errors import UserError
from ...laws import Forecast, Observations, forecast
from ...laws.prediction import check_level
from ...laws.tables.measurements import check_no_inputs
from ...quantities import format_count, format_flops, plural, require_positive
from ..resources.budget import Budget
from .belief import Belief, Spent, spend
from .gaussian_model import DRIFT, MODELLED, check_flops, check_target, cost, log_points
from .law_belief import linearized, noise_of, off_the_line

Array = np.ndarray
# Candidates are a factor of about two apart, within these tokens a parameter (or those of the median run and of the
# target), and cost at least this share of the budget: otherwise the smallest run would win per FLOP, and hardly help.
STEP = 2.0
RATIOS = (5.0, 320.0)
LEAST_SHARE = 1 / 64
# Each further run must narrow what can be narrowed of the interval by this share.
LEAST_GAIN = 0.01
# Greedy by gain per cost, or by gain alone: either can be far from the best choice; the better of the two cannot.
PRICE_POWERS = (1.0, 0.0)
MOST_KNOWN = 300


@dataclass(frozen=True)
class NextRun:
    """A run that could be trained next.

    ``before`` and ``after`` are half widths of the interval of ln L at the target (0.03: ±3 % of the loss), without
    and with this run; ``flops`` is 6·N·D.
    """

    num_params: float
    tokens: float
    flops: float
    before: float
    after: float

    @property
    def gain_per_flop(self) -> float:
        """How much one FLOP narrows the interval."""
        return (self.before - self.after) / self.flops


@dataclass(frozen=True)
class NextRuns:
    """What to train next, and what else could be.

    Attributes:
        runs: to be trained together, in this order; ``before`` of each is ``after`` of the one above it.
        ranking: every candidate as a single run, the most gain per FLOP first.
        target: (N, D) at which the loss is to be predicted.
        budget: FLOPs.
        level: probability of the interval.
        notes: the basis of the figures.
    """

    runs: tuple[NextRun, ...]
    ranking: tuple[NextRun, ...]
    target: tuple[float, float]
    budget: float
    level: float
    notes: tuple[str, ...] = ()

    @property
    def flops(self) -> float:
        """What ``runs`` cost together."""
        return sum(run.flops for run in self.runs)

    def summary(self, most: int = 8) -> str:
        """The runs chosen, and the best ``most`` single ones, for people."""
        now = self.ranking[0].before
        lines = [
            f"target {format_count(self.target[0])} parameters, {format_count(self.target[1])} tokens: "
            f"{self.level:.0%} interval ±{now:.2%} of the loss now",
            f"together, {format_flops(self.flops)} of {format_flops(self.budget)} FLOPs:",
            *map(_line, self.runs),
            f"each alone, the most gain per FLOP first ({len(self.ranking)} candidates):",
            *map(_line, self.ranking[:most]),
        ]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        return {"kind": "next_runs"} | asdict(self)


def next_runs(
    observations: Observations,
    target: float | tuple[float, float],
    budget: Budget | float,
    *,
    num_runs: int = 4,
    forecasted: Forecast | None = None,
    drift: float = DRIFT,
    level: float = 0.9,
) -> NextRuns:
    """The runs that narrow the prediction at a target most per FLOP, given those that exist.

    One run is enough. If ``laws.forecast`` refuses the runs (one size, one ratio, too few runs), the widths rest on the
    priors of ``gaussian_model``, and all runs proposed lie off the line on which no law can be fitted.

    Args:
        observations: the runs that exist.
        target: (num_params, tokens) to predict, or its FLOPs at 20 tokens a parameter.
        budget: FLOPs (6·N·D) for further runs, or a ``Budget``.
        num_runs: the most runs to propose together.
        forecasted: the forecast of these observations, if it already exists.
        drift: standard deviation of the laws' error over an e-fold of N or of D.
        level: of the interval.

    Raises:
        UserError: a number that is not above zero, a number of runs that is not whole, or a budget that pays for no run
            worth training.
    """
    check_no_inputs(observations, "next_runs")
    flops, goal = check_flops(budget), check_target(target)
    check_level(level)
    require_positive(num_runs=num_runs, drift=drift)
    if num_runs != int(num_runs):
        raise UserError(f"num_runs must be a whole number, not {num_runs!r}")
    candidates = _candidates(observations, goal, flops)
    weights, half_width, notes = _evidence(observations, forecasted, goal, level)
    nearest = _nearest(observations, goal)
    if len(nearest) < len(observations):
        notes.append(f"the {plural(len(nearest), 'run')} nearest to the target stand for all {len(observations)}")
    belief, noise = _belief(nearest, candidates, goal, weights, drift)
    price, known = cost(*np.exp(candidates).T), log_points(nearest.num_params, nearest.tokens)
    allowed = lambda places: off_the_line(np.concatenate([known, candidates[places]]), candidates)
    # If there is a forecast, its interval is the one to narrow, by the factor computed here.
    spread = lambda risk: float(np.sqrt(risk + noise**2))
    scale = NormalDist().inv_cdf((1 + level) / 2) if half_width is None else half_width / spread(belief.risk())

    def run(one: Spent) -> NextRun:
        n, d = map(float, np.exp(candidates[one.place]))
        return NextRun(n, d, cost(n, d), scale * spread(one.before), scale * spread(one.after))

    now, after = belief.risk(), belief.risk_after()
    alone = [run(Spent(int(place), now, float(after[place]))) for place in np.flatnonzero(allowed([]))]
    alone.sort(key=lambda each: -each.gain_per_flop)
    choices = [
        spend(belief, price, flops, power, allowed=allowed, most=int(num_runs), least_gain=LEAST_GAIN)
        for power in PRICE_POWERS
    ]
    best = min((choice for choice in choices if choice), key=lambda choice: choice[-1].after, default=[])
    return NextRuns(tuple(map(run, best)), tuple(alone), goal, flops, level, tuple(notes))


def _belief(
    observations: Observations, candidates: Array, goal: tuple[float, float], weights: dict[str, float], drift: float
) -> tuple[Belief, float]:
    """What the laws say of ln L at the candidates and at the goal, and the noise of a run."""
    laws = linearized(observations, np.concatenate([candidates, log_points(*goal)]), weights)
    shares = np.array(list(weights.values()))
    noise = noise_of(laws, shares)
    errors = noise**2 * np.eye(len(observations))
    means = np.stack([law.means[len(observations) :] for law in laws])
    covariances = np.stack([law.covariance(drift, errors) for law in laws])
    return Belief.of_single_runs(shares, means, covariances, noise), noise


def _evidence(
    observations: Observations, forecasted: Forecast | None, goal: tuple[float, float], level: float
) -> tuple[dict[str, float], float | None, list[str]]:
    """Weights of the laws, the forecast's half width of ln L at the target, and notes.

    Without a forecast: equal weights, and None for the half width.
    """
    try:
        known = forecasted or forecast(observations)
    except UserError as error:
        equal: dict[str, float] = dict.fromkeys(MODELLED, 1 / len(MODELLED))
        return equal, None, [f"no forecast from these runs yet, widths rest on priors: {error}"]
    weights = {name: known.weights[name] for name in MODELLED if known.weights.get(name, 0) > 0}
    total = sum(weights.values())
    if not total:
        raise UserError(f"the forecast contains none of the laws that next_runs models: {', '.join(MODELLED)}")
    interval = known.predict(*goal, level=level)
    notes = []
    if total < 0.995:
        notes.append(f"laws with {1 - total:.0%} of the forecast's weight are left out: no prior for their constants")
    half_width = float(np.log(interval.high / interval.low)) / 2
    return {name: weight / total for name, weight in weights.items()}, half_width, notes


def _nearest(observations: Observations, goal: tuple[float, float]) -> Observations:
    """The ``MOST_KNOWN`` runs nearest to the target in ln N and ln D: the computation grows with their cube."""
    away = np.abs(log_points(observations.num_params, observations.tokens) - log_points(*goal)).sum(axis=1)
    return observations.where(np.sort(np.argsort(away, kind="stable")[:MOST_KNOWN]))


def _candidates(observations: Observations, goal: tuple[float, float], budget: float) -> Array:
    """(ln N, ln D) of the candidates: a grid from the smallest run to the target or the largest run."""
    sizes, tokens = (
        _levels(values, most) for values, most in zip((observations.num_params, observations.tokens), goal, strict=True)
    )
    n, d = (axis.ravel() for axis in np.meshgrid(sizes, tokens, indexing="ij"))
    ratios = [*RATIOS, float(np.median(observations.tokens / observations.num_params)), goal[1] / goal[0]]
    most = min(budget, cost(*goal))
    least = max(LEAST_SHARE * most, cost(observations.num_params, observations.tokens).min())
    price, ratio = cost(n, d), d / n
    kept = (least <= price) & (price <= most) & (min(ratios) <= ratio) & (ratio <= max(ratios))
    if not kept.any():
        raise UserError(
            f"a budget of {format_flops(budget)} FLOPs pays for no run as large as the smallest one here: "
            f"give {format_flops(STEP**2 * least)} or more"
        )
    return log_points(n[kept], d[kept])


def _levels(values: Array, most: float) -> Array:
    """Values a factor of about two apart, of three digits, up to the largest of the runs' and of ``most``."""
    low, high = values.min(), max(values.max(), most)
    levels = np.geomspace(low, high, 1 + max(int(np.ceil(np.log(high / low) / np.log(STEP))), 1))
    unit = 10.0 ** (np.floor(np.log10(levels)) - 2)
    return np.unique(np.round(levels / unit) * unit)


def _line(run: NextRun) -> str:
    return (
        f"  {format_count(run.num_params):>6} parameters on {format_count(run.tokens):>6} tokens   "
        f"{format_flops(run.flops)} FLOPs   ±{run.before:.2%} → ±{run.after:.2%}"
    )
