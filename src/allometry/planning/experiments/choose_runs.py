"""Which of many possible runs to make, one batch after another, so that a forecast of any inputs becomes best at a
target.

>>> chosen = planning.choose_runs(candidates, measure, inputs=["N", "D"], cost=flops, at=targets, budget=1e20)
>>> chosen.forecast.predict(targets)

Nothing is known at first, and cheap runs are many: the first batch is the cheapest, which show the form and the noise.
Then what was measured says how much each input matters, and the next batch goes where it tells most about the target.
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
from .greedy_choice import best_choice
from .input_process import InputProcess, ProcessScales, standardised

Array = np.ndarray
Measure = Callable[[Array], Any]
TARGET = "measured"
# The share of the budget for the cheapest runs, and how many of them at most; then the shares of the budget after which
# the process is learnt again.
CHEAP_SHARE, MOST_CHEAP = 0.25, 150
STAGES = (0.5, 1.0)
MOST_RUNS, MOST_TARGETS = 300, 200
LEAST_RUNS = 3
# With fewer, the forecast cannot tell one form from another, whatever the process believes to know.
ENOUGH_RUNS = 80


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
    order = _cheapest(price, CHEAP_SHARE * budget)
    losses = _measured(measure, np.array(order, int)) if order else np.empty(0)
    scales, spent = ProcessScales(), float(price[order].sum())
    for share in STAGES:
        scales = _learnt(scales, points, groups, np.array(order, int), losses)
        process = InputProcess.of(scales, points, groups, goals, at_groups, price, order)
        left, enough = share * budget - spent, round(share * ENOUGH_RUNS) - len(order)
        batch = [each.index for each in best_choice(process, left, MOST_RUNS - len(order), enough=max(enough, 1))]
        if not batch:
            continue
        losses = np.concatenate([losses, _measured(measure, np.array(batch))])
        order += batch
        spent += float(price[batch].sum())
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


def _cheapest(price: Array, budget: float) -> list[int]:
    """The cheapest candidates that a budget pays for together; of very many some, evenly over their prices."""
    order = np.argsort(price, kind="stable")
    paid = order[: int(np.searchsorted(np.cumsum(price[order]), budget, side="right"))]
    if len(paid) > MOST_CHEAP:
        paid = paid[np.linspace(0, len(paid) - 1, MOST_CHEAP).round().astype(int)]
    return paid.tolist()


def _learnt(scales: ProcessScales, points: Array, groups: Array, rows: Array, losses: Array) -> ProcessScales:
    """The scales by what was measured so far."""
    known = np.isfinite(losses)
    values = losses[known]
    if len(values) and (values > 0).all():
        values = np.log(values)
    return scales.learnt(points[rows[known]], groups[rows[known]], values)


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
