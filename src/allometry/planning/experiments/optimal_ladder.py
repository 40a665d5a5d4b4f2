"""A ladder before any run exists: the sizes and tokens that predict a target best for a budget of FLOPs.

>>> print(planning.optimal_ladder(1e19, target=(2.9e9, 58e9)).summary())

The search is over fans: sizes in equal steps, each trained at the same few numbers of tokens per parameter, without the
most expensive corner. The criterion is the variance of the prediction at the target, over laws as plausible as those of
public tables, half of them exact and half drifting (``gaussian_model``). The best fan's interval is within a tenth of
the width that an exchange of single runs reaches, and fans can be backtested: every size is trained short and long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from statistics import NormalDist
from typing import Any

import numpy as np

from ...errors import UserError
from ...laws import LAWS
from ...laws.prediction import check_level
from ...quantities import format_count, format_flops, plural, require_positive
from ..resources.budget import Budget
from .gaussian_model import (
    DRIFT,
    NOISE,
    OPTIMAL_RATIO,
    after_runs,
    check_flops,
    check_target,
    cost,
    log_points,
    plausible,
    prior,
    walk,
)

Array = np.ndarray
LAW_NAMES = ("chinchilla", "skaling")
DRAWS = 12
# The laws do not hold for smaller models than this, or for fewer tokens a parameter.
LEAST_PARAMS = 1e4
LOWEST_RATIOS = (5.0, 10.0, 20.0)
MOST_RATIO = 320.0
SIZES, SIZE_SPANS = (4, 5, 6, 7, 8), (4.0, 8.0, 16.0, 32.0, 64.0)
COUNTS, TOKEN_SPANS = (3, 4, 5), (4.0, 9.0, 16.0, 36.0, 64.0)
LEFT_OUT = (0, 1, 2, 3)
LEAST_RUNS, MOST_RUNS = 10, 16


@dataclass(frozen=True)
class LadderRun:
    """One run of a ladder; ``flops`` is 6·N·D."""

    num_params: float
    tokens: float
    flops: float


@dataclass(frozen=True)
class OptimalLadder:
    """Runs to train, the cheapest first, and the interval at the target that they are expected to give.

    Attributes:
        runs: sizes and tokens.
        target: (N, D) at which the loss is to be predicted.
        budget: FLOPs that the runs may cost together.
        level: probability of the interval.
        expected_half_width: half the width of the interval of ln L at the target, so that 0.03 is ±3 % of the loss;
            over plausible laws (root mean square), all with drift.
        half_width_without_drift: the same if the laws hold exactly.
        noise, drift: standard deviation of ln L of a run, and of the laws' drift over an e-fold of N or D.
        takes: time and money of the runs, and of the target, on the budget's machine, in words; empty without one.
    """

    runs: tuple[LadderRun, ...]
    target: tuple[float, float]
    budget: float
    level: float
    expected_half_width: float
    half_width_without_drift: float
    noise: float
    drift: float
    takes: str = ""

    @property
    def flops(self) -> float:
        """What all runs cost together."""
        return sum(run.flops for run in self.runs)

    @property
    def factor(self) -> float:
        """The target's compute over that of the largest run."""
        return cost(*self.target) / self.runs[-1].flops

    def summary(self) -> str:
        """The runs as a table of sizes × tokens, cost and expected width, for people."""
        sizes = sorted({run.num_params for run in self.runs})
        share = max(run.flops for run in self.runs) / self.flops
        lines = [f"{plural(len(self.runs), 'run')} for {format_flops(self.flops)} of {format_flops(self.budget)} FLOPs"]
        for size in sizes:
            tokens = [format_count(run.tokens) for run in self.runs if run.num_params == size]
            lines.append(f"  {format_count(size):>6} parameters on {', '.join(tokens)} tokens")
        lines.append(
            f"target {format_count(self.target[0])} parameters, {format_count(self.target[1])} tokens: "
            f"{self.factor:.3g}× the compute of the largest run, which takes {share:.0%} of the budget"
        )
        lines += [self.takes] if self.takes else []
        lines.append(
            f"expected {self.level:.0%} interval there: ±{self.expected_half_width:.1%} of the loss "
            f"(±{self.half_width_without_drift:.1%} if a law of the forecast holds exactly)"
        )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back."""
        return {"kind": "optimal_ladder"} | asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> OptimalLadder:
        """The ladder that ``to_json`` wrote.

        Raises:
            UserError: not such a record.
        """
        try:
            rest = {name: value for name, value in data.items() if name not in ("kind", "runs", "target")}
            return cls(runs=tuple(LadderRun(**run) for run in data["runs"]), target=tuple(data["target"]), **rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"not an optimal ladder: {type(error).__name__} {error}; compute it again") from None


def optimal_ladder(
    budget: Budget | float,
    target: float | tuple[float, float],
    *,
    most_runs: int = MOST_RUNS,
    least_params: float = LEAST_PARAMS,
    noise: float = NOISE,
    drift: float = DRIFT,
    level: float = 0.9,
) -> OptimalLadder:
    """The ladder that is expected to narrow the prediction at a target most, for a budget.

    Every ladder has at least four sizes and three token counts, and at least five tokens a parameter, so that its runs
    separate the effect of N from that of D, and a backtest has runs to hold out.

    Args:
        budget: FLOPs (6·N·D) of all runs together, or a ``Budget``.
        target: (num_params, tokens) to predict, or its FLOPs at 20 tokens a parameter.
        most_runs: the most runs, 12 or more.
        least_params: the smallest model; give the size from which yours follow a law.
        noise: standard deviation of ln L of a run; 0.003 is usual on carefully run ladders.
        drift: standard deviation of the laws' error over an e-fold of N or of D.
        level: of the interval whose width is expected.

    Raises:
        UserError: the budget is too small for any ladder, or pays for the target itself; a number not above zero.
    """
    flops, goal = check_flops(budget), check_target(target)
    require_positive(least_params=least_params, noise=noise, drift=drift)
    check_level(level)
    if most_runs < 12:
        raise UserError(f"most_runs is {most_runs}; a ladder that can be backtested takes 12 or more")
    if cost(*goal) <= flops:
        raise UserError(
            f"the budget of {format_flops(flops)} FLOPs pays for the target itself ({format_flops(cost(*goal))}): "
            "train it, or give a smaller budget"
        )
    criterion = _Criterion(flops, goal, noise, drift)
    fans = [(n, d) for n, d in _fans(flops, max(MOST_RATIO, goal[1] / goal[0]), most_runs) if n.min() >= least_params]
    if not fans:
        raise UserError(
            f"a budget of {format_flops(flops)} FLOPs is too small for a ladder of models from "
            f"{format_count(least_params)} parameters on: give {format_flops(_least_budget(least_params))} or more"
        )
    n, d = min(fans, key=lambda fan: criterion.score(*fan))
    order = np.argsort(cost(n, d), kind="stable")
    runs = tuple(
        LadderRun(*pair, cost(*pair)) for pair in zip(_three_digits(n[order]), _three_digits(d[order]), strict=True)
    )
    exact, drifting = criterion.half_widths(n, d, level)
    return OptimalLadder(runs, goal, flops, level, drifting, exact, noise, drift, _takes(budget, runs, goal))


def _takes(budget: Budget | float, runs: tuple[LadderRun, ...], goal: tuple[float, float]) -> str:
    """Time and money of ladder and target."""
    if not isinstance(budget, Budget):
        return ""
    ladder, target = (budget.time_and_money(flops) for flops in (sum(run.flops for run in runs), cost(*goal)))
    return f"the ladder takes {ladder}; the target {target}" if ladder else ""


class _Criterion:
    """How precisely a ladder predicts the target, over plausible laws."""

    def __init__(self, flops: float, target: tuple[float, float], noise: float, drift: float) -> None:
        self.noise, self.drift, self.target = noise, drift, log_points(*target)
        # The laws go through a compute-optimal run of the whole budget; the unit of its loss does not matter.
        size = (flops / (6 * OPTIMAL_RATIO)) ** 0.5
        run = size, OPTIMAL_RATIO * size
        self.centre = log_points(*run)[0]
        self.laws = []
        for name in LAW_NAMES:
            theta = LAWS[name].theta(plausible(name, run, 1.0, DRAWS), tuple(self.centre))
            self.laws.append((LAWS[name], theta, prior(name, run, 1.0, self.centre)[1]))

    def variances(self, n: Array, d: Array) -> Array:
        """Variance of ln L at the target, shape (without drift or with, laws)."""
        points = np.concatenate([log_points(n, d), self.target])
        drifts = np.stack([walk(points, self.target, drift) for drift in (0.0, self.drift)])[:, None]
        variances = []
        for law, theta, spread in self.laws:
            _, jacobian = law.log_loss(theta, *(points - self.centre).T)
            covariance = jacobian.swapaxes(1, 2) @ spread @ jacobian + drifts
            variances.append(after_runs(covariance, slice(-1), self.noise**2 * np.eye(len(n)))[1][..., -1, -1])
        return np.concatenate(variances, axis=1)

    def score(self, n: Array, d: Array) -> float:
        """Mean logarithm of the variance: a ladder must predict well whether or not the laws drift."""
        return float(np.log(self.variances(n, d)).mean())

    def half_widths(self, n: Array, d: Array, level: float) -> tuple[float, float]:
        """Half widths of the interval of a new run's ln L at the target, without drift and with."""
        scale = np.sqrt(self.variances(n, d).mean(axis=1) + self.noise**2)
        exact, drifting = NormalDist().inv_cdf((1 + level) / 2) * scale
        return float(exact), float(drifting)


def _fans(flops: float, most_ratio: float, most_runs: int) -> Iterator[tuple[Array, Array]]:
    """N and D of every fan that costs ``flops``."""
    for sizes, span, counts, token_span, lowest, left_out in product(
        SIZES, SIZE_SPANS, COUNTS, TOKEN_SPANS, LOWEST_RATIOS, LEFT_OUT
    ):
        if not LEAST_RUNS <= sizes * counts - left_out <= most_runs or lowest * token_span > most_ratio:
            continue
        n, ratio = (x.ravel() for x in np.meshgrid(*_axes(sizes, span, counts, token_span, lowest), indexing="ij"))
        kept = np.argsort(cost(n, n * ratio), kind="stable")[: n.size - left_out]
        n, ratio = n[kept], ratio[kept]
        if len(np.unique(n)) >= 4:
            n = n * (flops / cost(n, n * ratio).sum()) ** 0.5
            yield n, n * ratio


def _axes(sizes: int, span: float, counts: int, token_span: float, lowest: float) -> tuple[Array, Array]:
    return np.geomspace(1.0, span, sizes), lowest * np.geomspace(1.0, token_span, counts)


def _least_budget(least_params: float) -> float:
    """The cost of the cheapest fan whose smallest model has that size."""
    return min(1.0 / n.min() ** 2 for n, _ in _fans(1.0, MOST_RATIO, MOST_RUNS)) * least_params**2


def _three_digits(values: Array) -> list[float]:
    """Values rounded down to three digits, so that the runs stay within the budget."""
    unit = 10.0 ** (np.floor(np.log10(values)) - 2)
    return [float(value) for value in np.floor(values / unit * (1 + 1e-12)) * unit]
