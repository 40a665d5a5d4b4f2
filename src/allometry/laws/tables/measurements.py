"""Finished runs by any inputs: what was set, what was measured, in groups or in one.

``Observations.read`` gives these when it is told ``target`` and ``inputs``; a target may be negative or rise, an input
may be a count, a rate or a proportion, and a group (a model, a data set) has constants of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...arithmetic import evaluate_rows, names_in
from ...errors import UserError
from ...quantities import plural
from .columns import match_columns
from .frames import as_columns, numbers
from .raw_table import RawTable
from .readers import read_table

Array = np.ndarray
JOINED = " / "  # between the cells of a group's name
LEAST_RUNS = 3
# Proportions add up to one within this.
SHARE_TOLERANCE = 0.02
WHOLES = {1.0: "one", 100.0: "100"}
# Correlation from which inputs move together.
TOGETHER = 0.9999


@dataclass(frozen=True, eq=False)
class Measurements:
    """Finished runs as parallel arrays, one entry a run.

    Attributes:
        target: the name of what was measured.
        inputs: the names of what was set.
        values: the target, (runs,), finite.
        points: the inputs, (runs, inputs), finite.
        group: index into ``group_names``, (runs,).
        group_names: one label a group, its cells joined by " / "; one "" where there are no groups.
        group_columns: the columns that name a group.
        cost: of each run, (runs,), above zero; None where it was not given.
        notes: which rows were left out, and why.
    """

    target: str
    inputs: tuple[str, ...]
    values: Array
    points: Array
    group: Array
    group_names: tuple[str, ...] = ("",)
    group_columns: tuple[str, ...] = ()
    cost: Array | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def where(self, mask: Array) -> Measurements:
        """The runs where ``mask`` (boolean array or index array) holds; groups keep their numbers."""
        index = np.arange(len(self))[mask]
        cost = None if self.cost is None else self.cost[index]
        return replace(self, values=self.values[index], points=self.points[index], group=self.group[index], cost=cost)

    @classmethod
    def read(
        cls,
        source: Any,
        target: str | None,
        inputs: Sequence[str] | None,
        group: str | Sequence[str] | None = None,
        cost: str | Sequence[float] | Array | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> Measurements:
        """Read a file or a frame.

        Args:
            source: a path, a pandas or polars frame, an Arrow table, a mapping of columns, a list of dicts.
            target: the column to predict; the loss by its usual names if None.
            inputs: the columns to predict it from; parameters and tokens by their usual names if None.
            group: a column, or several, whose different cells have constants of their own.
            cost: what a run took: a column, an expression such as "6*N*D", or one number a run.
            where: the rows to take, column → value or list of values.

        Raises:
            UserError: a column is missing or holds text, nothing varies, too few runs, costs not above zero.
        """
        table = read_table(source).select(where or {})
        target, names = _chosen(table, target, inputs)
        groups = _names_of(group, "group")
        _check_names(table, target, names, groups)
        columns = {name: numbers(table, name) for name in (target, *names)}
        costs = _cost(table, cost)
        kept, notes = _complete(table, columns, groups)
        points = np.stack([columns[name][kept] for name in names], axis=1)
        codes, labels = _grouped(table.where(kept), groups)
        runs = cls(
            target,
            names,
            columns[target][kept],
            points,
            codes,
            labels,
            groups,
            None if costs is None else costs[kept],
            (*table.notes, *notes),
        )
        _check(runs)
        return replace(runs, notes=(*runs.notes, *_findings(runs)))

    def at(self, frame: Any) -> tuple[Array, Array, tuple[int, ...]]:
        """Points (rows, inputs) and groups (rows,) of a frame to predict for, and the shape of the answer.

        Raises:
            UserError: a column is missing, holds text or something that is not finite, or a group is not known.
        """
        frame, shape = as_columns(frame)
        table = read_table(frame)
        missing = [name for name in (*self.inputs, *self.group_columns) if name not in table.columns]
        if missing and not (set(missing) <= set(self.group_columns) and len(self.group_names) == 1):
            raise UserError(f"to predict {self.target}, give {', '.join(missing)} too; found: {table.shown}")
        points = np.stack([numbers(table, name) for name in self.inputs], axis=1)
        wrong = ~np.isfinite(points)
        if wrong.any():
            row, place = np.argwhere(wrong)[0]
            raise UserError(f"{table.place(int(row))}: {self.inputs[place]} is missing or not finite")
        codes = np.zeros(len(table), int)
        if self.group_columns and not missing:
            known = {name: number for number, name in enumerate(self.group_names)}
            labels = _labels(table, self.group_columns)
            strange = next((label for label in labels if label not in known), None)
            if strange is not None:
                shown = ", ".join(self.group_names[:8]) + (" …" if len(self.group_names) > 8 else "")
                raise UserError(f"no run of group {strange!r} was fitted, so it has no law; there are {shown}")
            codes = np.array([known[label] for label in labels])
        return points, codes, (len(table),) if shape is None else shape

    def cells_of(self, group: int) -> dict[str, str]:
        """Column → cell of a group; joined they are its name, also where a cell holds what joins them."""
        cells = self.group_names[group].split(JOINED, max(len(self.group_columns) - 1, 0))
        return dict(zip(self.group_columns, cells, strict=False))

    def to_json(self) -> dict[str, Any]:
        """Plain data that ``from_json`` takes back without loss."""
        return {
            "target": self.target,
            "inputs": list(self.inputs),
            "values": self.values.tolist(),
            "points": self.points.tolist(),
            "group": self.group.tolist(),
            "group_names": list(self.group_names),
            "group_columns": list(self.group_columns),
            "cost": None if self.cost is None else self.cost.tolist(),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurements:
        """The runs that ``to_json`` wrote."""
        return cls(
            data["target"],
            tuple(data["inputs"]),
            np.array(data["values"], float),
            np.array(data["points"], float).reshape(-1, len(data["inputs"])),
            np.array(data["group"], int),
            tuple(data["group_names"]),
            tuple(data["group_columns"]),
            None if data["cost"] is None else np.array(data["cost"], float),
            tuple(data["notes"]),
        )

    @property
    def by_logarithm(self) -> Array:
        """Which inputs are worked with by their logarithm: above zero in every run, and no proportions; (inputs,)."""
        return np.all(self.points > 0, axis=0) & (not self.are_shares)

    @property
    def are_shares(self) -> bool:
        """Whether the inputs are proportions of one whole: none below 0, and every row adds up to one."""
        inside = self.points.shape[1] > 1 and bool(((self.points >= 0) & (self.points <= 1)).all())
        return inside and bool((np.abs(self.points.sum(axis=1) - 1) <= SHARE_TOLERANCE).all())


def check_no_inputs(runs: Any, what: str) -> None:
    """Refuse runs of named inputs where ``what`` reads sizes and tokens.

    Raises:
        UserError: ``runs`` were read with ``inputs``.
    """
    if isinstance(runs, Measurements):
        raise UserError(
            f"{what} reads sizes and tokens, and this table was read with inputs={list(runs.inputs)}; give it to "
            "laws.forecast, or read the table without inputs"
        )


def cells_of(source: Any, column: str, where: Mapping[str, Any] | None = None) -> list[str]:
    """The different cells of a column of a table, as text, in the order in which they come first.

    Raises:
        UserError: no such table or column, or a cell is blank.
    """
    table = read_table(source).select(where or {})
    if column not in table.columns:
        raise UserError(f"{table.name}: no column {column!r}; found: {table.shown}")
    cells = list(dict.fromkeys(table.texts(column)))
    if "" in cells:
        raise UserError(f"{table.name}: {column} is blank in some rows; fill them in or leave them out by --where")
    return cells


def _names_of(given: str | Sequence[str] | None, what: str) -> tuple[str, ...]:
    """One name or several, as a tuple; a blank one is refused."""
    names = () if given is None else (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f"{what} wants the names of columns, not {given!r}")
    return tuple(name.strip() for name in names)


def _chosen(table: RawTable, target: str | None, inputs: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    """Target and inputs; what was not said is found by its usual names."""
    names = _names_of(inputs, "inputs")
    if target is not None and names:
        return _names_of(target, "target")[0], names
    match = match_columns(table, None if target is None else {"loss": target})
    taken = [match.taken.get(name) for name in ("num_params", "tokens")]
    if not names and not all(isinstance(column, str) for column in taken):
        raise UserError(f"{table.name}: give the inputs of the law; found: {table.shown}")
    chosen = names or tuple(str(column) for column in taken)
    return target or str(match.taken["loss"]), chosen


def _check_names(table: RawTable, target: str, inputs: tuple[str, ...], groups: tuple[str, ...]) -> None:
    wanted = (target, *inputs, *groups)
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise UserError(f"{table.name}: no column {', '.join(map(repr, missing))}; found: {table.shown}")
    twice = [name for name in dict.fromkeys(wanted) if wanted.count(name) > 1]
    if twice:
        raise UserError(f"{', '.join(twice)}: named more than once among target, inputs and groups; name each once")


def _cost(table: RawTable, cost: str | Sequence[float] | Array | None) -> Array | None:
    """What each run took, as it was given.

    Raises:
        UserError: no such column, another length, or a cost that is not above zero.
    """
    if cost is None:
        return None
    if not isinstance(cost, str):
        try:
            values = np.asarray(cost, dtype=float).ravel()
        except (TypeError, ValueError):
            raise UserError("cost is no row of numbers: give one for each run, a column or its arithmetic") from None
        if len(values) != len(table):
            raise UserError(f"cost has {plural(len(values), 'entry', 'entries')} for {plural(len(table), 'run')}")
    elif cost in table.columns:
        values = numbers(table, cost)
    else:
        names = names_in(cost, "cost")
        missing = [name for name in names if name not in table.columns]
        if missing:
            raise UserError(f"cost {cost!r}: no column {', '.join(map(repr, missing))}; found: {table.shown}")
        columns = {name: numbers(table, name) for name in names}
        with np.errstate(all="ignore"):
            values = np.broadcast_to(evaluate_rows(cost, columns, "cost"), len(table)).astype(float)
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(
            f"{table.name}, {table.place(row)}: the cost is {values[row]:g}; every run must cost more than zero"
        )
    return values


def _complete(table: RawTable, columns: Mapping[str, Array], groups: tuple[str, ...]) -> tuple[Array, list[str]]:
    """The rows with every number and group, and notes on the others."""
    kept, notes = np.ones(len(table), bool), []
    blanks = {name: ~np.isfinite(values) for name, values in columns.items()}
    blanks |= {name: np.array([not text for text in table.texts(name)], bool) for name in groups}
    for name, wrong in blanks.items():
        if (wrong & kept).any():
            rows = np.flatnonzero(wrong & kept)
            shown = ", ".join(table.place(int(row)) for row in rows[:8]) + (" …" if len(rows) > 8 else "")
            notes.append(f"left out {len(rows)} of {plural(len(table), 'run')}, {name} missing or not finite: {shown}")
        kept &= ~wrong
    if not kept.any():
        raise UserError(f"{table.name}: no run has all of {', '.join(blanks)} ({'; '.join(notes)})")
    return np.flatnonzero(kept), notes


def _labels(table: RawTable, groups: tuple[str, ...]) -> list[str]:
    return [JOINED.join(cells) for cells in zip(*(table.texts(name) for name in groups), strict=True)]


def _grouped(table: RawTable, groups: tuple[str, ...]) -> tuple[Array, tuple[str, ...]]:
    """The group of each row, and the groups' labels in the order in which they come first."""
    if not groups:
        return np.zeros(len(table), int), ("",)
    known: dict[str, int] = {}
    codes = [known.setdefault(label, len(known)) for label in _labels(table, groups)]
    return np.array(codes, int), tuple(known)


def _check(runs: Measurements) -> None:
    """Refuse runs from which nothing can be learnt."""
    if len(runs) < LEAST_RUNS:
        raise UserError(f"{plural(len(runs), 'run')} cannot show a law of {', '.join(runs.inputs)}: give more runs")
    if np.ptp(runs.values) == 0:
        raise UserError(f"{runs.target} is {runs.values[0]:g} in every run: there is nothing to predict")
    if (np.ptp(runs.points, axis=0) == 0).all():
        raise UserError(f"{', '.join(runs.inputs)}: the same in every run; give runs that differ in them")
    for whole in (1.0, 100.0):
        inside = runs.points.shape[1] > 2 and bool(((runs.points >= 0) & (runs.points <= whole)).all())
        off = np.abs(runs.points.sum(axis=1) / whole - 1) > SHARE_TOLERANCE
        if inside and off.any() and off.mean() < 0.5:
            row = int(np.argmax(off))
            raise UserError(
                f"the proportions {', '.join(runs.inputs)} add up to {WHOLES[whole]} in most runs, but to "
                f"{runs.points[row].sum():.3g} in {plural(int(off.sum()), 'run')}, first with {runs.target} = "
                f"{runs.values[row]:g}: correct or remove {'it' if off.sum() == 1 else 'them'}"
            )


def _findings(runs: Measurements) -> list[str]:
    """What stands in the way of a law, and which run would help."""
    notes = []
    percents = runs.points.shape[1] > 2 and bool((runs.points >= 0).all())
    if percents and bool((np.abs(runs.points.sum(axis=1) / 100 - 1) <= SHARE_TOLERANCE).all()):
        notes.append(
            f"{', '.join(runs.inputs)} add up to 100 in every run: divided by 100 they are taken for proportions"
        )
    for name, values in zip(runs.inputs, runs.points.T, strict=True):
        if np.ptp(values) == 0:
            notes.append(f"{name} is {values[0]:g} in every run: its effect is unknown; add a run with another value")
    times = np.bincount(runs.group, minlength=len(runs.group_names))
    single = [runs.group_names[number] for number in np.flatnonzero(times == 1)]
    if single and len(times) > 1:
        notes.append(
            f"{plural(len(single), 'group')} of one run ({', '.join(single[:5])}{' …' if len(single) > 5 else ''}): "
            "what differs from the other groups cannot be told from noise; add a run to each"
        )
    return notes + _collinear(runs)


def _collinear(runs: Measurements) -> list[str]:
    """Inputs that move together, two or more, with a run that would part them."""
    if runs.are_shares:
        return []
    logs = np.log(np.maximum(runs.points, 1e-300)) if (runs.points > 0).all() else runs.points
    varying = np.flatnonzero(np.ptp(logs, axis=0) > 0)
    scaled = (logs[:, varying] - logs[:, varying].mean(axis=0)) / logs[:, varying].std(axis=0)
    notes, paired = [], set()
    for first in range(len(varying)):
        for second in range(first + 1, len(varying)):
            if abs(agree := float((scaled[:, first] * scaled[:, second]).mean())) > TOGETHER:
                paired |= {first, second}
                a, b = (runs.inputs[int(varying[place])] for place in (first, second))
                own, other = (runs.points[:, varying[place]] for place in (first, second))
                value = other.max() if agree > 0 else other.min()
                notes.append(
                    f"{a} and {b} move together in all runs, so their effects cannot be told apart: a run with "
                    f"{a} = {own.min():g} and {b} = {value:g} would part them"
                )
    alone = [place for place in range(len(varying)) if place not in paired]
    return notes + _dependent(runs, varying[alone], scaled[:, alone])


def _dependent(runs: Measurements, places: Array, scaled: Array) -> list[str]:
    """Whether one of three or more inputs follows from the others, and a run that would part them.

    Args:
        runs: the runs.
        places: of the inputs among the runs' inputs.
        scaled: those inputs, standardised, (runs, inputs).
    """
    if len(places) < 3 or len(scaled) <= len(places):
        return []
    _, lengths, directions = np.linalg.svd(scaled, full_matrices=False)
    if lengths[-1] / np.sqrt(len(scaled)) > np.sqrt(1 - TOGETHER):
        return []
    mine = np.flatnonzero(np.abs(directions[-1]) > 0.1 * np.abs(directions[-1]).max())
    names = [runs.inputs[int(place)] for place in places[mine]]
    moved = int(places[mine[np.argmax(np.abs(directions[-1][mine]))]])
    start = runs.points[int(np.argmin(runs.points[:, moved]))]
    cells = ", ".join(
        f"{name} = {runs.points[:, moved].max() if place == moved else start[place]:g}"
        for name, place in zip(names, places[mine].tolist(), strict=True)
    )
    return [
        f"of {', '.join(names)} each follows from the others in all runs, so their effects cannot be told apart: a run "
        f"with {cells} would part them"
    ]
