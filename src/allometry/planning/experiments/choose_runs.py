"""Which of many possible runs to make, batch by batch, so that a forecast of any inputs becomes best at a target.

>>> chosen = planning.choose_runs(candidates, measure, inputs=["N", "D"], cost=flops, at=targets, budget=1e20)
>>> chosen.forecast.predict(targets)

A law is found by comparing forms, which takes runs of every price. So the budget is spent evenly
(``balanced_sample``): as dear as leaves enough runs, and no two alike. After each batch a process over the inputs
(``input_process``) says of each candidate how much it would tell about the target, and how far above the best loss of
its price it will lie; the next batch takes those the rather that tell much and lie near.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import UserError
from ...laws import Observations, forecast
from ...laws.any_inputs.input_forecast import InputForecast
from ...laws.tables.measurements import Measurements
from ...laws.tables.raw_table import RawTable
from ...laws.tables.readers import read_table
from ...quantities import plural, require_positive
from .balanced_sample import spend_evenly
from .input_process import ProcessScales, standardised, telling

Array = np.ndarray
Measure = Callable[[Array], Any]
TARGET = "measured"
# What is spent after each batch, as shares of the budget; nothing is known at the first.
STAGES = (0.25, 0.6, 1.0)
MOST_RUNS, MOST_TARGETS = 300, 200
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
    forecast: InputForecast
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
        UserError: a column is missing or holds text, a cost that is not above zero, a budget that pays for fewer than
            three runs, a ``measure`` that fails or gives something else than a number for each row, too few losses.
    """
    inputs = [inputs] if isinstance(inputs, str) else list(inputs)
    table, target = _Rows.of(candidates, inputs, group, "candidates"), _Rows.of(at, inputs, group, "at")
    price = _prices(cost, len(table.points))
    require_positive(budget=budget)
    if np.sort(price)[:LEAST_RUNS].sum() > budget:
        raise UserError(
            f"a budget of {budget:g} does not pay for {LEAST_RUNS} runs: the cheapest cost {price.min():g} "
            f"each; give more"
        )
    points, goals = standardised(table.points, target.points)
    if len(goals) > MOST_TARGETS:
        picked = np.sort(np.random.default_rng(seed).permutation(len(goals))[:MOST_TARGETS])
        goals, target = goals[picked], target.where(picked)
    groups, at_groups = _codes(table.labels, target.labels)
    wanted = lambda rows, losses: _weights(points, groups, goals, at_groups, price, rows, losses)
    places = np.concatenate([points, GROUPS_APART * np.eye(groups.max() + 1)[groups]], axis=1)
    order, losses = _spent(price, places, budget, ENOUGH_FOR_AN_INPUT * len(inputs), measure, wanted, seed)
    spent = float(price[order].sum())
    rows = np.array(order, int)
    known = np.isfinite(losses)
    notes = (
        [f"{plural(int((~known).sum()), 'run')} gave no finite value: paid for, and left out"]
        if not known.all()
        else []
    )
    runs = Observations.read(
        table.columns(rows[known]) | {TARGET: losses[known].tolist()}, target=TARGET, inputs=inputs, group=group
    )
    assert isinstance(runs, Measurements)
    return ChosenRuns(rows, losses, spent, float(budget), forecast(runs, seed=seed), tuple(notes))


def _spent(
    price: Array,
    places: Array,
    budget: float,
    enough: int,
    measure: Measure,
    wanted: Callable[[list[int], Array], Array],
    seed: int,
) -> tuple[list[int], Array]:
    """The rows measured, batch by batch, and their losses; ``wanted`` says how much each candidate is."""
    generator = np.random.default_rng(seed)
    order, losses, weight = [], np.empty(0), np.ones(len(price))
    for share in STAGES:
        rest = np.setdiff1d(np.arange(len(price)), order)
        left = share * budget - float(price[order].sum())
        wanted_runs = (round(share * number) - len(order) for number in (enough, MOST_RUNS))
        batch = rest[spend_evenly(price[rest], weight[rest], places[rest], left, *wanted_runs, generator)]
        if len(batch):
            losses = np.concatenate([losses, _measured(measure, batch)])
            order += batch.tolist()
            weight = wanted(order, losses)
    return order, losses


@dataclass(frozen=True, eq=False)
class _Rows:
    """Inputs (rows, inputs), and the label of each row's group, with the cells of both by column."""

    points: Array
    labels: Array
    cells: dict[str, list[Any]]

    @classmethod
    def of(cls, source: Any, inputs: Sequence[str], group: str | Sequence[str] | None, word: str) -> _Rows:
        groups = [group] if isinstance(group, str) else list(group or ())
        if not inputs:
            raise UserError("name the columns to predict from: inputs=[…]")
        table = read_table(source)
        missing = [name for name in (*inputs, *groups) if name not in table.columns]
        if missing:
            raise UserError(f"{word} has no column {', '.join(missing)}; found: {table.shown}")
        points = np.stack([_numbers(table, name, word) for name in inputs], axis=1)
        cells = {name: points[:, number].tolist() for number, name in enumerate(inputs)}
        cells |= {name: list(table.texts(name)) for name in groups}
        labels = np.array([" / ".join(row) for row in zip(*(cells[name] for name in groups), strict=True)])
        return cls(points, labels if groups else np.full(len(points), ""), cells)

    def where(self, rows: Array) -> _Rows:
        return _Rows(self.points[rows], self.labels[rows], self.columns(rows))

    def columns(self, rows: Array) -> dict[str, list[Any]]:
        """Some rows as a mapping of columns."""
        return {name: [column[row] for row in rows] for name, column in self.cells.items()}


def _numbers(table: RawTable, name: str, word: str) -> Array:
    values, _ = table.numbers(name)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise UserError(f"{word}: {name} is missing, or no finite number, in row {wrong[0] + 1}")
    return values


def _prices(cost: Sequence[float] | Array, rows: int) -> Array:
    try:
        price = np.asarray(cost, float)
    except (TypeError, ValueError):
        raise UserError(f"cost is no row of numbers: give one for each of the {plural(rows, 'candidate')}") from None
    if price.shape != (rows,):
        raise UserError(
            f"cost has the shape {price.shape}; give one number for each of the {plural(rows, 'candidate')}"
        )
    wrong = np.flatnonzero(~(np.isfinite(price) & (price > 0)))
    if len(wrong):
        raise UserError(f"cost must be finite and above zero: in row {wrong[0] + 1} it is {price[wrong[0]]:g}")
    return price


def _codes(labels: Array, at_labels: Array) -> tuple[Array, Array]:
    """Numbers of the groups of candidates and of targets.

    Raises:
        UserError: a target's group has no candidate, so that no run can tell about it.
    """
    strange = sorted(set(at_labels.tolist()) - set(labels.tolist()))
    if strange:
        raise UserError(f"no candidate is of group {strange[0]!r}, which is to be predicted: add some, or leave it out")
    _, codes = np.unique(np.concatenate([labels, at_labels]), return_inverse=True)
    return codes[: len(labels)], codes[len(labels) :]


def _weights(
    points: Array, groups: Array, goals: Array, at_groups: Array, price: Array, order: list[int], losses: Array
) -> Array:
    """How much each candidate is wanted after some were measured: by what it tells of the target, and its nearness."""
    known = np.isfinite(losses)
    rows, values = np.array(order, int)[known], losses[known]
    if not len(rows):
        return np.ones(len(price))
    logarithmic = bool((values > 0).all())
    values = np.log(values) if logarithmic else values
    scales = ProcessScales().learnt(points[rows], groups[rows], values)
    tells = telling(scales, points, groups, goals, at_groups, rows.tolist())
    weight = tells / tells.max()
    if logarithmic and _falls(price[rows], values):
        expected = scales.expected(points[rows], groups[rows], values, points, groups)
        weight = weight * np.exp(-NEARNESS * _above(price[rows], values, price, expected))
    return np.maximum(weight, LEAST_WEIGHT)


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
