"""Which of many possible runs to make, batch by batch, so that a forecast of any inputs becomes best at a target.

>>> chosen = planning.choose_runs(candidates, measure, inputs=["N", "D"], cost=flops, at=targets, budget=1e20)
>>> chosen.forecast.predict(targets)

How a target depends on its inputs is learnt from runs of every price and place. So the first half of the budget is
spent evenly (``balanced_sample``): as dear as leaves enough runs, and no two alike. The second half goes, as in
``next_runs``, to the candidates that take most off the risk at the target (``belief``), by a process over the inputs
that has learnt from the first half (``input_process``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import UserError
from ...laws import Observations, forecast
from ...laws.tables.measurements import Measurements
from ...quantities import plural, require_positive
from .balanced_sample import spend_evenly
from .belief import spend
from .candidate_rows import CandidateRows, prices_of
from .chosen_forecast import ChosenForecast, chosen_forecast
from .input_process import InputProcess, InputUnits

Array = np.ndarray
Measure = Callable[[Array], Any]
TARGET = "measured"
ROW = "candidate row"  # stands for the target where candidates are checked
# What is spent evenly after each batch, as shares of the budget; nothing is known at the first.
STAGES = (0.25, 0.5)
# The rest goes to the candidates of the most gain for this power of their price: between most for its price, which
# takes many cheap runs, and most, which takes few dear ones.
PRICE_POWER = 0.5
MOST_RUNS, MOST_TARGETS = 300, 200
# Candidates that are weighed against each other at once; of more than the second some stand for all, and the cheapest.
MOST_AT_ONCE, MOST_CANDIDATES, CHEAPEST = 1000, 3000, 100
LEAST_RUNS = 3
# Runs for each input with which forms can be told apart.
ENOUGH_FOR_AN_INPUT = 12
# How far groups lie apart, in standard deviations of an input: so near that a point is taken in one group or another.
GROUPS_APART = 1.0
# A run that is expected to lie 10 % above the best of its price counts e^(−6·0.1), but no less than this.
NEARNESS, LEAST_WEIGHT = 6.0, 0.1


@dataclass(frozen=True, eq=False)
class ChosenRuns:
    """The runs that were made, and the forecast from them.

    Attributes:
        order: rows of the candidates, in the order in which they were measured.
        losses: what ``measure`` gave for each; NaN where a run gave none.
        spent: what they cost together, in units of ``cost``.
        budget: what they might cost.
        forecast: from the rows that have a loss.
        notes: what a reader must know.
    """

    order: Array
    losses: Array
    spent: float
    budget: float
    forecast: ChosenForecast
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """What was run and spent, and the forecast, for people."""
        lines = [f"{plural(len(self.order), 'run')} for {self.spent:.3g} of {self.budget:.3g}"]
        return "\n".join([*lines, self.forecast.summary(), *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        return {
            "kind": "chosen_runs",
            "order": self.order.tolist(),
            "losses": [loss if np.isfinite(loss) else None for loss in self.losses.tolist()],
            "spent": self.spent,
            "budget": self.budget,
            "forecast": self.forecast.to_json(),
            "notes": list(self.notes),
        }


def choose_runs(
    candidates: Any,
    measure: Measure,
    *,
    inputs: Sequence[str],
    cost: Sequence[float] | Array,
    at: Any,
    budget: float,
    group: str | Sequence[str] | None = None,
    seed: int = 0,
) -> ChosenRuns:
    """Choose, measure and fit: the runs of a budget that make the forecast best at the target rows.

    Args:
        candidates: the runs that could be made, as ``laws.Observations.read`` takes them: a frame, a path, a mapping of
            columns. Only ``inputs`` and ``group`` are read.
        measure: called with an array of row numbers of ``candidates``; gives the loss (or any other target) of each.
            NaN for a run that gave none: it is paid for, and left out.
        inputs: the columns from which to predict.
        cost: of each candidate, above zero, in any unit.
        at: the rows to predict, with the same columns; their targets need not be known.
        budget: what the runs may cost together, in the unit of ``cost``.
        group: a column, or several, whose different cells have constants of their own.
        seed: of the forecast's starting points, and of the choice among very many target rows.

    Raises:
        UserError: a column is missing, holds text or never varies, proportions do not add up, a cost that is not above
            zero, a budget that pays for fewer than three runs, a ``measure`` that fails or gives something else than a
            number for each row, too few losses. Faults of the candidates are found before any run is measured.
    """
    inputs = [inputs] if isinstance(inputs, str) else list(inputs)
    table, target = CandidateRows.of(candidates, inputs, group, "candidates"), CandidateRows.of(at, inputs, group, "at")
    price = prices_of(cost, len(table.points))
    require_positive(budget=budget)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise UserError(f"seed must be a whole number, 0 or more, not {seed!r}")
    if np.sort(price)[:LEAST_RUNS].sum() > budget:
        raise UserError(
            f"a budget of {budget:g} does not pay for {LEAST_RUNS} runs: the cheapest cost {price.min():g} "
            f"each; give more"
        )
    if len(target.points) > MOST_TARGETS:
        target = target.where(np.sort(np.random.default_rng(seed).permutation(len(target.points))[:MOST_TARGETS]))
    every = table.columns(np.arange(len(price))) | {ROW: [float(row) for row in range(len(price))]}
    Observations.read(every, target=ROW, inputs=inputs, group=group)  # refuses candidates before any is paid for
    problem = _Problem.of(table, target, price, ENOUGH_FOR_AN_INPUT * len(inputs))
    order, losses = problem.spend(budget, measure, np.random.default_rng(seed))
    rows, known = np.array(order, int), np.isfinite(losses)
    if not known.any():
        raise UserError(f"measure gave no finite value for any of {plural(len(rows), 'run')}: there is nothing to fit")
    columns = table.columns(rows[known]) | {TARGET: losses[known].tolist()}
    runs = Observations.read(columns, target=TARGET, inputs=inputs, group=group)
    assert isinstance(runs, Measurements)
    law, reason = None, ""
    try:
        law = forecast(runs, seed=seed)
    except UserError as error:
        reason = str(error)
    predicting = chosen_forecast(runs, law, reason, problem.units, problem.labels)
    lost = int((~known).sum())
    notes = (f"{plural(lost, 'run')} gave no finite value: paid for, and left out",) if lost else ()
    return ChosenRuns(rows, losses, float(price[rows].sum()), float(budget), predicting, notes)


@dataclass(frozen=True, eq=False)
class _Problem:
    """Candidates and targets in numbers: places, groups, prices.

    ``labels`` are those of the groups, in the order of their numbers; ``enough`` is how many runs a law takes.
    """

    points: Array
    group: Array
    goals: Array
    goal_group: Array
    price: Array
    enough: int
    units: InputUnits
    labels: list[str]

    @classmethod
    def of(cls, table: CandidateRows, target: CandidateRows, price: Array, enough: int) -> _Problem:
        units = InputUnits.of(np.concatenate([table.points, target.points]))
        points, goals = units.at(table.points), units.at(target.points)
        labels, group, goal_group = _codes(table.labels, target.labels)
        return cls(points, group, goals, goal_group, price, enough, units, labels)

    def spend(self, budget: float, measure: Measure, generator: np.random.Generator) -> tuple[list[int], Array]:
        """The rows measured, batch by batch, and what they gave."""
        order: list[int] = []
        losses, weight, pool = np.empty(0), np.ones(len(self.price)), self._pool(generator)
        places = np.concatenate([self.points, GROUPS_APART * np.eye(self.group.max() + 1)[self.group]], axis=1)
        for share in STAGES:
            rest, left = np.setdiff1d(pool, order), share * budget - float(self.price[order].sum())
            wanted = (round(share * number) - len(order) for number in (self.enough, MOST_RUNS))
            batch = rest[spend_evenly(self.price[rest], weight[rest], places[rest], left, *wanted, generator)]
            if len(batch):
                losses = np.concatenate([losses, _measured(measure, batch)])
                order += batch.tolist()
                weight = self._weights(order, losses)
        rest = np.setdiff1d(pool, order)
        batch = self._most_telling(rest, order, losses, budget - float(self.price[order].sum()), generator)
        if len(batch):
            losses = np.concatenate([losses, _measured(measure, batch)])
            order += batch.tolist()
        return order, losses

    def _pool(self, generator: np.random.Generator) -> Array:
        """The candidates to choose from: all of them, or a sample of very many and the cheapest."""
        if len(self.price) <= MOST_CANDIDATES:
            return np.arange(len(self.price))
        cheapest = np.argsort(self.price, kind="stable")[:CHEAPEST]
        return np.union1d(generator.permutation(len(self.price))[: MOST_CANDIDATES - CHEAPEST], cheapest)

    def _most_telling(
        self, rest: Array, order: list[int], losses: Array, budget: float, generator: np.random.Generator
    ) -> Array:
        """Of the candidates that are left, those on which the rest of the budget is spent; none where no run gave
        anything yet."""
        rest = rest[self.price[rest] <= budget * (1 + 1e-12)]
        if len(rest) > MOST_AT_ONCE:
            rest = np.sort(generator.permutation(rest)[:MOST_AT_ONCE])
        if not len(rest) or not np.isfinite(losses).any():
            return rest[:0]
        belief = self._process(order, losses)[0].belief(*self._at(rest), self.goals, self.goal_group)
        chosen = spend(belief, self.price[rest], budget, PRICE_POWER, most=MOST_RUNS - len(order))
        return rest[[one.place for one in chosen]]

    def _process(self, order: list[int], losses: Array) -> tuple[InputProcess, Array, bool]:
        """What the runs have taught, which of them have a loss, and whether it learnt their logarithms."""
        rows = np.array(order, int)[np.isfinite(losses)]
        values = losses[np.isfinite(losses)]
        logarithmic = bool(len(values)) and bool((values > 0).all())
        return InputProcess.of(*self._at(rows), np.log(values) if logarithmic else values), rows, logarithmic

    def _at(self, rows: Array) -> tuple[Array, Array]:
        return self.points[rows], self.group[rows]

    def _weights(self, order: list[int], losses: Array) -> Array:
        """How much each candidate is wanted after some were measured: by what it tells of the target, and its
        nearness to the best of its price."""
        if not np.isfinite(losses).any():
            return np.ones(len(self.price))
        process, rows, logarithmic = self._process(order, losses)
        taken_off = np.concatenate(
            [self._taken_off(process, place) for place in np.array_split(np.arange(len(self.price)), self._parts)]
        )
        weight = taken_off / max(taken_off.max(), 1e-300)
        values = np.log(losses[np.isfinite(losses)]) if logarithmic else losses
        if logarithmic and _falls(self.price[rows], values):
            expected, _ = process.predict(self.points, self.group)
            weight = weight * np.exp(-NEARNESS * _above(self.price[rows], values, self.price, expected))
        return np.maximum(weight, LEAST_WEIGHT)

    @property
    def _parts(self) -> int:
        return -(-len(self.price) // MOST_AT_ONCE)

    def _taken_off(self, process: InputProcess, rows: Array) -> Array:
        """What a run of each would take off the targets' variance, as a standard deviation."""
        belief = process.belief(*self._at(rows), self.goals, self.goal_group)
        return np.sqrt(np.maximum(belief.risk() - belief.risk_after(), 0.0))


def _codes(labels: Array, at_labels: Array) -> tuple[list[str], Array, Array]:
    """The groups' labels, and the numbers of the groups of candidates and of targets.

    Raises:
        UserError: a target's group has no candidate, so that no run can tell about it.
    """
    strange = sorted(set(at_labels.tolist()) - set(labels.tolist()))
    if strange:
        raise UserError(f"no candidate is of group {strange[0]!r}, which is to be predicted: add some, or leave it out")
    known = np.unique(labels)
    return known.tolist(), np.searchsorted(known, labels), np.searchsorted(known, at_labels)


def _falls(price: Array, logged: Array) -> bool:
    """Whether losses fall with the price, so that there is a best one for each price."""
    if len(price) < LEAST_RUNS or np.ptp(price) == 0 or np.ptp(logged) == 0:
        return False
    return bool(np.corrcoef(np.log(price), logged)[0, 1] < -0.2)


def _above(price: Array, logged: Array, at_price: Array, at_logged: Array) -> Array:
    """By how much logarithms of losses exceed the best measured at no more than their price."""
    order = np.argsort(price, kind="stable")
    best = np.minimum.accumulate(logged[order])
    place = np.searchsorted(price[order], at_price * (1 + 1e-9), side="right") - 1
    return np.maximum(at_logged - np.where(place >= 0, best[np.maximum(place, 0)], np.inf), 0.0)


def _measured(measure: Measure, rows: Array) -> Array:
    """What ``measure`` gives for rows, as floats; NaN for infinities.

    Raises:
        UserError: it fails, or gives something else than a number a row.
    """
    try:
        given = measure(rows.copy())
    except UserError:
        raise
    except Exception as error:  # whatever code of the user's own may raise
        raise UserError(
            f"measure failed for {plural(len(rows), 'row')} from row {rows[0]} on: {type(error).__name__}: {error}"
        ) from error
    try:
        values = np.asarray(given, float).ravel()
    except (TypeError, ValueError):
        raise UserError("measure must give one number for each row that it is asked for") from None
    if values.shape != rows.shape:
        raise UserError(f"measure gave {plural(values.size, 'value')} for {plural(len(rows), 'row')}")
    return np.where(np.isfinite(values), values, np.nan)
