"""Rolling origin over compute: fit the runs below a cut, predict those above, keep every error.

How well a law fits says little about how well it predicts; this is the evidence that a table itself holds about the
second, by the factor of compute that a prediction reached over its own largest run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import UserError
from .catalog import LAWS, law
from .fit import make_problem, optimum
from .law import Law
from .observations import Observations
from .uncertainty import covariance
from .weights import prediction_weights, relevance

Array = np.ndarray
MOST_CUTS = 10
LATE = 0.5
LEAST_ERROR = 1e-4


@dataclass(frozen=True)
class Row:
    """One prediction of one held-out run.

    Attributes:
        law: name.
        cut: index of the cut, from the smallest compute.
        runs: runs below the cut.
        label: the run predicted.
        factor: its C over the largest C of the runs fitted.
        error: ln(predicted/observed), so that +0.01 is 1 % too high.
        spread: standard deviation of the prediction that noise leaves in the constants, of ln L.
        sigma: noise of ln L of that fit, for a run on the frontier at the cut.
        weight: the run's ``relevance`` in the whole table, which is what its error counts.
    """

    law: str
    cut: int
    runs: int
    label: str
    factor: float
    error: float
    spread: float
    sigma: float
    weight: float


@dataclass(frozen=True)
class Backtest:
    """All rows, in the order of cut, law and run; empty if the table is too small for any cut.

    Attributes:
        rows: one held-out run predicted by one law from below one cut.
        runs: number of runs in the table.
    """

    rows: tuple[Row, ...]
    runs: int

    @property
    def laws(self) -> tuple[str, ...]:
        """The laws tested, in their order."""
        return tuple(dict.fromkeys(row.law for row in self.rows))

    def cuts(self, share: float = 0.0) -> list[dict[str, list[Row]]]:
        """For every cut that fitted at least ``share`` of the runs (the last cut if none did): law name → its rows."""
        grouped: dict[int, dict[str, list[Row]]] = {}
        for row in self.rows:
            grouped.setdefault(row.cut, {}).setdefault(row.law, []).append(row)
        every = list(grouped.values())
        late = [cut for cut in every if next(iter(cut.values()))[0].runs >= share * self.runs]
        return late or every[-1:]

    def score(self, name: str) -> float:
        """Typical |ln(predicted/observed)| of a law: root mean square above a cut, geometric mean over the late cuts.

        Late cuts fitted half of the runs or more. The geometric mean lets every cut have its own difficulty, so that
        one cut on a handful of runs does not decide. Errors below 0.01 % count as that.
        """
        squares = [
            np.average([row.error**2 for row in cut[name]], weights=[row.weight for row in cut[name]])
            for cut in self.cuts(LATE)
        ]
        return float(np.exp(np.mean(np.log(np.maximum(squares, LEAST_ERROR**2))) / 2))

    def ranking(self) -> list[tuple[str, float]]:
        """(law, score), the best first."""
        return sorted(((name, self.score(name)) for name in self.laws), key=lambda pair: pair[1])

    def table(self) -> str:
        """Score of each law, overall and by the factor of compute between fit and prediction."""
        if not self.rows:
            return "backtest: too few runs for any cut"
        edges = (1, 2, 4, 8, 16, np.inf)
        names = [f"{low:g}–{high:g}×" if high < np.inf else f"over {low:g}×" for low, high in pairwise(edges)]
        lines = [f"{'law':14}{'score':>8}" + "".join(f"{name:>11}" for name in names)]
        for name, score in self.ranking():
            cells = []
            for low, high in pairwise(edges):
                errors = [row.error for row in self.rows if row.law == name and low <= row.factor < high]
                cells.append(f"{np.sqrt(np.mean(np.square(errors))):11.2%}" if errors else f"{'–':>11}")
            lines.append(f"{name:14}{score:8.2%}" + "".join(cells))
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        ranking = [list(pair) for pair in self.ranking()]
        return {"runs": self.runs, "ranking": ranking, "rows": [asdict(row) for row in self.rows]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Backtest:
        """The backtest that ``to_json`` wrote."""
        return cls(tuple(Row(**row) for row in data["rows"]), int(data["runs"]))


def backtest(
    laws: Sequence[Law | str] | None,
    observations: Observations,
    most_cuts: int = MOST_CUTS,
) -> Backtest:
    """Predict the larger runs of a table from its smaller ones, at several cuts, with each law.

    Args:
        laws: laws or names; all known ones if None.
        observations: the runs.
        most_cuts: at most so many cuts, spread over the ranks of compute.

    Raises:
        UserError: an unknown law, or no laws.
    """
    forms = [law(one) for one in (("power", "power_floor", "chinchilla", "skaling") if laws is None else laws)]
    if not forms:
        raise UserError(f"no laws to test; known are {', '.join(LAWS)}")
    order = np.argsort(observations.flops, kind="stable")
    ordered = observations.where(order)
    weight = relevance(ordered)
    rows: list[Row] = []
    for index, size in enumerate(cuts(ordered, max(form.count for form in forms) + 2, most_cuts)):
        below, above = ordered.where(np.arange(size)), ordered.where(np.arange(size, len(ordered)))
        for form in forms:
            rows.extend(_test(form, below, above, index, weight[size:]))
    return Backtest(tuple(rows), len(observations))


def cuts(ordered: Observations, least: int, most: int) -> list[int]:
    """Numbers of runs to fit, for runs in the order of compute.

    A cut never splits runs of one compute, leaves at least ``least`` runs, three sizes and two token counts below,
    and sizes and tokens that are not tied to each other.
    """
    compute = ordered.flops
    possible = []
    for size in range(least, len(ordered)):
        if compute[size] > 1.02 * compute[size - 1] and _supports(ordered, size):
            possible.append(size)
    if len(possible) <= most:
        return possible
    picks = np.unique(np.linspace(0, len(possible) - 1, most).round().astype(int))
    return [possible[pick] for pick in picks]


def _supports(ordered: Observations, size: int) -> bool:
    log_n, log_d = np.log(ordered.num_params[:size]), np.log(ordered.tokens[:size])
    if _levels(log_n) < 3 or _levels(log_d) < 2:
        return False
    slope, offset = np.polyfit(log_n, log_d, 1)
    return bool(np.std(log_d - slope * log_n - offset) >= 0.1)


def _levels(logarithms: np.ndarray) -> int:
    """How many values there are that differ by more than 5 %."""
    return 1 + int((np.diff(np.sort(logarithms)) > 0.05).sum())


def _test(form: Law, below: Observations, above: Observations, index: int, weight: Array) -> list[Row]:
    """Fit one law below a cut and predict above it."""
    problem, centre = make_problem(form, below, "log_squares", 1.0)
    weights = prediction_weights(below)
    theta = optimum(problem, weights, steps=40, polish=100).theta
    n, d = np.log(above.num_params) - centre[0], np.log(above.tokens) - centre[1]
    predicted, jacobian = form.log_loss(theta[None], n, d)
    spread = np.sqrt(np.einsum("pr,pq,qr->r", jacobian[0], covariance(problem, theta, weights), jacobian[0]).clip(0))
    residuals = problem.log_loss - form.log_loss(theta[None], *problem.inputs)[0][0]
    sigma = np.sqrt((weights * residuals**2).sum() / max(len(below) - form.count, 1))
    factor = above.flops / below.flops.max()
    errors = predicted[0] - np.log(above.loss)
    return [
        Row(form.name, index, len(below), label, *map(float, (f, e, s)), sigma=float(sigma), weight=float(w))
        for label, f, e, s, w in zip(above.labels, factor, errors, spread, weight, strict=True)
    ]
