"""Rolling origin over compute: fit the runs below a cut, predict those above, keep every error.

How well a law fits hardly shows how well it predicts. A backtest measures the second on the table itself, by the
factor of compute that a prediction reached beyond its own largest run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Any

import numpy as np

from ..base import Law
from ..tables.measurements import check_no_inputs
from ..tables.observations import Observations
from .cuts import MOST_CUTS, Origin, by_compute, origins, predictive

Array = np.ndarray
LATE = 0.5
LEAST_ERROR = 1e-4
EDGES = (1.0, 2.0, 4.0, 8.0, 16.0, np.inf)


@dataclass(frozen=True)
class BacktestRow:
    """One prediction of one held-out run.

    Attributes:
        law: name, or "forecast" for the laws together.
        cut: index of the cut, from the smallest compute.
        runs: runs below the cut.
        label: the run predicted.
        factor: its C over the largest C of the runs fitted.
        error: ln(predicted/observed), so that +0.01 is 1 % too high.
        spread: standard deviation of the prediction that noise leaves in the constants, of ln L; of a forecast, with
            the distance between the laws and the noise of the run's trunk, which other runs share.
        sigma: noise of ln L of that fit, for a run on the frontier at the cut, relative to its trunk.
        weight: the weight of its error, the run's ``relevance`` in the whole table.
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

    rows: tuple[BacktestRow, ...]
    runs: int

    @property
    def laws(self) -> tuple[str, ...]:
        """The laws tested, in their order."""
        return tuple(dict.fromkeys(row.law for row in self.rows))

    def cuts(self, share: float = 0.0) -> list[dict[str, list[BacktestRow]]]:
        """For every cut that fitted at least ``share`` of the runs (the last cut if none did): law name → its rows."""
        grouped: dict[int, dict[str, list[BacktestRow]]] = {}
        for row in self.rows:
            grouped.setdefault(row.cut, {}).setdefault(row.law, []).append(row)
        every = list(grouped.values())
        late = [cut for cut in every if next(iter(cut.values()))[0].runs >= share * self.runs]
        return late or every[-1:]

    @property
    def predicted(self) -> int:
        """How many different runs were held out and predicted; above one cut they are, whatever they are called."""
        above: dict[tuple[str, int], Counter[str]] = {}
        for row in self.rows:
            above.setdefault((row.law, row.cut), Counter())[row.label] += 1
        return sum(reduce(or_, above.values(), Counter()).values())

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

    def errors(self, name: str, low: float, high: float) -> Array:
        """ln(predicted/observed) of a law where the factor of compute was in [low, high)."""
        return np.array([row.error for row in self.rows if row.law == name and low <= row.factor < high])

    def table(self) -> str:
        """Score of each law, overall and by the factor of compute between fit and prediction."""
        if not self.rows:
            return "backtest: too few runs for any cut"
        bins = list(pairwise(EDGES))
        lines = [f"{'law':14}{'score':>8}" + "".join(f"{factors(*each):>11}" for each in bins)]
        for name, score in self.ranking():
            by_factor = [self.errors(name, *each) for each in bins]
            cells = [f"{np.sqrt(np.mean(errors**2)):11.2%}" if len(errors) else f"{'–':>11}" for errors in by_factor]
            lines.append(f"{name:14}{score:8.2%}" + "".join(cells))
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        ranking = [list(pair) for pair in self.ranking()]
        return {"runs": self.runs, "ranking": ranking, "rows": [asdict(row) for row in self.rows]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Backtest:
        """The backtest that ``to_json`` wrote."""
        return cls(tuple(BacktestRow(**row) for row in data["rows"]), int(data["runs"]))


def backtest(
    laws: Sequence[Law | str] | None,
    observations: Observations,
    most_cuts: int = MOST_CUTS,
) -> Backtest:
    """Predict the larger runs of a table from its smaller ones, at several cuts, with each law.

    Args:
        laws: laws or names, of N and D alone; those of a forecast if None.
        observations: the runs.
        most_cuts: at most so many cuts, spread over the ranks of compute.

    Raises:
        UserError: an unknown law, a law that reads more than N and D, or no laws.
    """
    check_no_inputs(observations, "backtest")
    forms = predictive(laws)
    return Backtest(tuple(law_rows(origins(forms, by_compute(observations), most_cuts))), len(observations))


def law_rows(origins: Iterable[Origin]) -> list[BacktestRow]:
    """The rows of every law at every cut."""
    table = []
    for each in origins:
        for name, log_loss in each.log_loss.items():
            noise = np.full(len(each.above), each.sigma[name])
            table += rows(each, name, log_loss[len(each.below) :], each.spread[name], noise)
    return table


def rows(origin: Origin, name: str, log_loss: Array, spread: Array, sigma: Array) -> list[BacktestRow]:
    """A row for each run above the cut: predicted ln L, its spread and noise, (runs above,) each."""
    factor = origin.above.flops / origin.below.flops.max()
    error = log_loss - np.log(origin.above.loss)
    columns = zip(factor, error, spread, sigma, origin.relevance, strict=True)
    return [
        BacktestRow(name, origin.index, len(origin.below), label, *map(float, numbers))
        for label, numbers in zip(origin.above.labels, columns, strict=True)
    ]


def factors(low: float, high: float) -> str:
    """A range of factors of compute, for people."""
    return f"{low:g}–{high:g}×" if high < np.inf else f"over {low:g}×"
