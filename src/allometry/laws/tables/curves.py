"""Loss curves of one or several runs: step, loss and learning rate, read from files and thinned."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ...quantities import plural
from ..field_names import KNOWN, normalise, without_keeper
from ..run_files.find_runs import finished_runs, holds_runs
from ..run_files.from_study import study_curves
from ..run_files.run_table import curve_arrays, labels
from .columns import Match, convert
from .raw_table import Column, RawTable
from .readers import SUFFIXES, read_table, table_stem, table_suffix

Array = np.ndarray

# Normalised names, the likeliest first.
NAMES = {
    "run": ["run", "runid", "runname", "label", "name", "series", "curve", "schedule", "experiment", "id"],
    "step": [*KNOWN["steps"], "trainstep"],
    "loss": [
        "loss",
        "trainloss",
        "trainingloss",
        "trainlossstep",
        "trainlossepoch",
        "lmloss",
        "lmlosstrain",
        "celoss",
        *KNOWN["loss"],
    ],
    "lr": [*KNOWN["lr"], "lr0", "trainlr", "trainlearningrate", "currentlr"],
    "tokens": KNOWN["tokens"],
    "num_params": KNOWN["num_params"],
}
# A rate for each optimiser or group, as Lightning and torchtitan log it: lr-AdamW, lr/group0.
RATES = re.compile(r"(lr|learning_rate)[-/_.]\S+", re.IGNORECASE)
# A chart of W&B: one column a run and a metric, and its least and largest value within a stretch of steps.
CHART = re.compile(r"(.+) - (\S.*?)(__MIN|__MAX)?")


_VALUES = ("step", "loss", "lr", "tokens", "num_params")
MOST_RUNS = 10_000


@dataclass(frozen=True, eq=False)
class Curves:
    """The points of all runs one below the other, by run and then by step.

    Attributes:
        names: of the runs.
        run: of each point, as an index into ``names``; int64, does not fall.
        step: optimiser steps done, float64, rising within a run.
        loss: float64, positive.
        lr: learning rate at the step, nan where unknown.
        tokens: seen by then, nan where unknown.
        num_params: of each run, nan where unknown.
        notes: sentences: which columns were taken, which points were left out and why.
    """

    names: tuple[str, ...]
    run: Array
    step: Array
    loss: Array
    lr: Array
    tokens: Array
    num_params: Array
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        """The number of points, of all runs together."""
        return len(self.loss)

    @classmethod
    def read(cls, source: Any, columns: Mapping[str, str] | None = None) -> Curves:
        """Read one table with a column that names the run, or tables of one run each.

        Args:
            source: a file (CSV, TSV, JSONL, JSON, Parquet, gzip too), a list of files, a folder of them, a study, or
                a frame. A file without a column for the run is one run, called after the file: ``cosine_24000.csv``
                is ``cosine_24000``.
            columns: which column holds a field where the names do not say: run, step, loss, lr, tokens, num_params.

        Raises:
            UserError: nothing to read, columns missing or ambiguous, text among numbers, losses not above zero.
        """
        if isinstance(source, str | Path) and Path(source).is_dir():
            if (Path(source) / "study.json").is_file():
                return _of_study(Path(source))
            if (logged := _of_runs(Path(source), columns)) is not None:
                return logged
            source = _files(Path(source))
        elif _is_log(source) and (logged := _of_runs(Path(source), columns)) is not None:
            return logged
        if isinstance(source, str | Path):
            return _together([_read(source, table_stem(Path(source)), columns)])
        if isinstance(source, Sequence) and source and all(isinstance(one, str | Path) for one in source):
            paths = [Path(one) for one in source]
            return _together([_read(path, name, columns) for path, name in zip(paths, _stems(paths), strict=True)])
        return _together([_read(source, "run", columns)])

    def by_run(self) -> dict[str, tuple[Array, Array, Array]]:
        """Run → its (step, lr, loss)."""
        bounds = np.searchsorted(self.run, np.arange(len(self.names) + 1))
        cuts = [slice(low, high) for low, high in pairwise(bounds)]
        return {
            name: (self.step[cut], self.lr[cut], self.loss[cut]) for name, cut in zip(self.names, cuts, strict=True)
        }

    def where(self, mask: Array) -> Curves:
        """The points where ``mask`` (boolean or index array, one entry a point) holds; runs without any go."""
        index = np.sort(np.arange(len(self))[mask])
        kept, run = np.unique(self.run[index], return_inverse=True)
        points = {name: getattr(self, name)[index] for name in ("step", "loss", "lr", "tokens")}
        names = tuple(self.names[one] for one in kept)
        return replace(self, names=names, run=run, num_params=self.num_params[kept], **points)

    def thin(self, points: int = 300) -> Curves:
        """At most ``points`` points a run, each the mean of a stretch of the curve.

        Half of them are spread evenly over the logarithm of the step, half over the changes of the learning rate, so
        that a decay keeps its shape and a jump of the rate stays between two points.

        Raises:
            UserError: fewer than two points.
        """
        if points < 2:
            raise UserError(f"cannot thin a curve to {plural(points, 'point')}; give at least 2")
        bounds = np.searchsorted(self.run, np.arange(len(self.names) + 1))
        starts = [low + _stretches(self.step[low:high], self.lr[low:high], points) for low, high in pairwise(bounds)]
        starts = np.concatenate(starts)
        counts = np.diff([*starts, len(self)])
        means = {
            name: np.add.reduceat(getattr(self, name), starts) / counts for name in ("step", "loss", "lr", "tokens")
        }
        return replace(self, run=self.run[starts], **means)


def _stretches(step: Array, lr: Array, points: int) -> Array:
    """Where the stretches of one curve begin."""
    if len(step) <= points:
        return np.arange(len(step))
    positive = step[step > 0]
    logs = np.log(np.maximum(step, positive[0] if len(positive) else 1.0))
    along = (logs - logs[0]) / max(logs[-1] - logs[0], 1e-300)
    change = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(lr)))])
    if np.isfinite(change[-1]) and change[-1] > 0:
        along = (along + change / change[-1]) / 2
    stretch = np.minimum(np.floor(along * points), points - 1)
    return np.concatenate([[0], np.flatnonzero(np.diff(stretch) > 0) + 1])


def _of_study(path: Path) -> Curves:
    """The training curves of a study's ladder, with the learning rates of their schedules."""
    return _together(
        [
            Curves(
                (one.name,),
                np.zeros(len(one.loss), np.int64),
                one.step,
                one.loss,
                one.lr,
                one.tokens,
                np.array([one.num_params]),
            )
            for one in study_curves(path)
        ]
    )


def _is_log(source: Any) -> bool:
    """Whether a source is a file that is no table by its name."""
    return isinstance(source, str | Path) and Path(source).is_file() and table_suffix(Path(source)) not in SUFFIXES


def _of_runs(path: Path, columns: Mapping[str, str] | None) -> Curves | None:
    """The curves that tools logged in a folder or a file; None where there are none, or columns were named."""
    if columns or not holds_runs(path):
        return None
    runs = [run for run in finished_runs(path) if len(run.points.get("loss", ()))]
    names, points = curve_arrays(runs, labels(runs), [math.nan] * len(runs))
    return Curves(names=tuple(names), notes=(), **points) if names else None


def _files(folder: Path) -> list[Path]:
    """The tables in a folder and below it, in the order of their names."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and table_suffix(path) in SUFFIXES)
    if not paths:
        raise UserError(f"{folder}: neither a study nor a folder with CSV, JSONL or Parquet files of curves")
    return paths


def _stems(paths: list[Path]) -> list[str]:
    """Names of the runs: the files' names, with as many of their folders as make them different."""
    parts = [(*path.parts[:-1], table_stem(path)) for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _read(source: Any, name: str, columns: Mapping[str, str] | None) -> Curves:
    """The curves of one table."""
    where = str(source) if isinstance(source, str | Path) else "frame"
    table = read_table(source, lambda names: _needed(names, columns or {}, where))
    if not columns and (chart := _chart(list(table.columns))):
        return _of_chart(table, chart, where)
    table = table if columns else _widened(table)
    taken = _match(list(table.columns), columns or {}, where)
    codes, names = np.zeros(len(table), np.int64), [name]
    if "run" in taken:
        codes, names = table.columns[taken["run"]].codes
        if len(names) == len(table) > 1 and "run" not in (columns or {}):  # a number for each row
            codes, names = np.zeros(len(table), np.int64), [name]
            del taken["run"]
    apart_by, apart = ("", None) if "run" in taken else _told_apart(table, taken)
    if apart is not None:
        codes, names = apart
    values = {
        key: convert(table, key, Match(dict(taken))) if key in taken else np.full(len(table), np.nan) for key in _VALUES
    }
    notes = [f"{table.name}: columns taken: " + ", ".join(f"{key} = {column!r}" for key, column in taken.items())]
    if apart_by:
        notes.append(f"{table.name}: {plural(len(names), 'run')} told apart by {apart_by}")
    if "step" not in taken:
        values["step"] = values["tokens"]
        notes.append(f"{table.name}: no column of steps; tokens stand for them")
    return _clean(table, codes, names, values, notes)


def _needed(names: list[str], chosen: Mapping[str, str], source: str) -> list[str]:
    """The columns to read: those of a curve, and those of a few words that may tell runs apart."""
    if not chosen and (_chart(names) or _is_long(names)):
        return names
    taken = _match(names, chosen, source)
    return list(taken.values()) if "run" in taken else names


def _is_long(names: list[str]) -> str | None:
    """The column that names the metric of each row, in a table with one value a row; None in any other."""
    plain = {normalise(name): name for name in names}
    if not {"value", "step"} <= plain.keys() or "loss" in plain:
        return None
    return next((plain[word] for word in ("tag", "metric", "metricname", "key") if word in plain), None)


def _widened(table: RawTable) -> RawTable:
    """A table with one value a row, as TensorBoard and MLflow export them, with a column for its loss and its rate."""
    if (tag := _is_long(list(table.columns))) is None:
        return table
    codes, tags = table.columns[tag].codes
    value = next(name for name in table.columns if normalise(name) == "value")
    numbers, columns = table.columns[value].numbers[0], {**table.columns}
    for field_name, words in (("loss", NAMES["loss"]), ("lr", NAMES["lr"])):
        hits = [code for word in words for code, text in enumerate(tags) if normalise(without_keeper(text)) == word]
        if hits:
            columns[field_name] = Column(np.where(codes == hits[0], numbers, np.nan))
    return replace(table, columns={name: one for name, one in columns.items() if name not in (tag, value)})


def _chart(names: list[str]) -> dict[str, str]:
    """Run → its column of losses, in a chart that was exported from W&B; empty for any other table."""
    filled = [(one, match) for one in names if (match := CHART.fullmatch(one)) and not match.group(3)]
    metrics = list(dict.fromkeys(match.group(2) for _, match in filled if "loss" in normalise(match.group(2))))
    if not metrics or any(normalise(name) == "loss" for name in names):
        return {}
    metric = next((one for one in metrics if "train" in normalise(one)), metrics[0])
    return {match.group(1): name for name, match in filled if match.group(2) == metric}


def _of_chart(table: RawTable, chart: Mapping[str, str], source: str) -> Curves:
    """The curves of a chart with a column for each run."""
    names = [*NAMES["step"], *NAMES["tokens"]]
    step = next((name for word in names for name in table.columns if normalise(name) == word), None)
    if step is None:
        raise UserError(f"{source}: a chart needs a column Step, or one of tokens; found: {table.shown}")
    parts = []
    for run, column in chart.items():
        taken = Match({"step": step, "loss": column})
        unknown = np.full(len(table), np.nan)
        values = {key: convert(table, key, taken) if key in taken.taken else unknown for key in _VALUES}
        if np.isfinite(values["loss"]).any():
            note = f"{table.name}: a chart with a column for each run; step = {step!r}"
            parts.append(_clean(table, np.zeros(len(table), np.int64), [run], values, [note]))
    if not parts:
        raise UserError(f"{table.name}: no point has a finite loss; nothing to read")
    return _together(parts)


def _told_apart(table: RawTable, taken: Mapping[str, str]) -> tuple[str, tuple[Array, list[str]] | None]:
    """Runs that stand one below the other without a name: the columns of words and sizes that tell them apart.

    Returns:
        Names of those columns, and the run of each row with the names of the runs; "" and None for a single run.
    """
    if "step" not in taken:
        return "", None
    step = table.numbers(taken["step"])[0]
    if (np.diff(step[np.isfinite(step)]) >= 0).all():
        return "", None
    apart_by = [name for name, column in table.columns.items() if column.is_text and name not in taken.values()]
    apart_by += [taken[name] for name in ("num_params",) if name in taken]
    total, kept, parts = np.zeros(len(table), np.int64), [], []
    for name in apart_by:
        codes, words = table.columns[name].codes
        if 1 < len(words) <= MOST_RUNS:
            total = np.unique(total * len(words) + codes, return_inverse=True)[1]
            kept.append(name)
            parts.append([words[code] for code in codes])
    if not kept:
        return "", None
    _, first = np.unique(total, return_index=True)
    return ", ".join(kept), (total, [" ".join(part[row] for part in parts) for row in first])


def _match(names: list[str], chosen: Mapping[str, str], source: str) -> dict[str, str]:
    """Field → column."""
    shown = ", ".join(names[:40])
    for key, column in chosen.items():
        if key not in NAMES:
            raise UserError(f"columns: no field {key!r} of a curve; known are {', '.join(NAMES)}")
        if column not in names:
            raise UserError(f"{source}: no column {column!r} for {key}; found: {shown}")
    taken = {}
    for key, words in NAMES.items():
        matches = [name for word in words for name in names if normalise(name) == word]
        if key in chosen or matches:
            taken[key] = chosen.get(key) or matches[0]
    rates = [name for name in names if RATES.fullmatch(name)]
    if "lr" not in taken and rates:
        taken["lr"] = rates[0]
    values = {normalise(name): name for name in names}
    if "loss" not in taken and {"walltime", "value"} <= values.keys():  # a curve that TensorBoard exported
        taken["loss"] = values["value"]
    if "loss" not in taken:
        named = [name for name in names if "loss" in normalise(name)]
        if len(named) > 1:
            raise UserError(
                f"{source}: several columns could be the loss ({', '.join(named[:12])}); "
                f"say which, e.g. columns={{'loss': {named[0]!r}}}"
            )
        taken |= {"loss": named[0]} if named else {}
    if "loss" not in taken or not {"step", "tokens"} & set(taken):
        raise UserError(f"{source}: a curve needs columns step (or tokens) and loss; found: {shown}")
    return taken


def _clean(table: RawTable, run: Array, names: list[str], values: dict[str, Array], notes: list[str]) -> Curves:
    """Points in order, without those that have no loss; impossible values are refused."""
    _check_points(table, values)
    run, values = _merged(run, values)
    known = np.isfinite(values["loss"]) & np.isfinite(values["step"])
    for why, gone in (
        ("an infinite loss: the run diverged there", np.isinf(values["loss"])),
        ("no loss or no step", ~known & ~np.isinf(values["loss"])),
    ):
        if gone.any():
            notes.append(f"{table.name}: {gone.sum()} of {plural(len(known), 'point')} left out, {why}")
    if not known.any():
        raise UserError(f"{table.name}: no point has a finite loss; nothing to read")
    order = np.flatnonzero(known)
    if not _is_sorted(run[order], values["step"][order]):
        order = order[np.lexsort((values["step"][order], run[order]))]
    # A run that was resumed wrote some steps twice: the later point counts.
    last = np.append((np.diff(run[order]) != 0) | (np.diff(values["step"][order]) != 0), True)
    if not last.all():
        notes.append(f"{table.name}: {plural((~last).sum(), 'point')} left out, a later one has the same step")
    order = order[last]
    kept, codes = np.unique(run[order], return_inverse=True)
    first = np.searchsorted(codes, np.arange(len(kept)))
    points = {key: values[key][order] for key in ("step", "loss", "lr", "tokens")}
    points["lr"], filled = _filled(codes, points["step"], points["lr"])
    if filled:
        notes.append(f"{table.name}: lr filled between its neighbours at {plural(filled, 'point')}")
    kept_names = tuple(names[one] or "run" for one in kept)
    return Curves(kept_names, codes, **points, num_params=values["num_params"][order][first], notes=tuple(notes))


def _check_points(table: RawTable, values: dict[str, Array]) -> None:
    """Refuse the first point whose loss, step or rate cannot be."""
    known = np.isfinite(values["loss"]) & np.isfinite(values["step"])
    for key, least in (("loss", "above zero"), ("step", "zero or more"), ("lr", "zero or more")):
        wrong = known & ((values[key] <= 0) if key == "loss" else (values[key] < 0) | np.isinf(values[key]))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise UserError(f"{table.name}, {table.place(row)}: {key} is {values[key][row]:g}; it must be {least}")


def _merged(run: Array, values: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """The rows of one step of a run as one: loggers write rate, training and held-out loss into rows of their own.

    Each field is that of the last row which has it. Rows that each hold a loss stay: they are counted where the later
    one is taken.
    """
    step = values["step"]
    blank = np.isnan(values["loss"]) | np.isnan(step)
    if not blank.any():
        return run, values
    order = np.lexsort((step, run))
    new = np.append(True, (np.diff(run[order]) != 0) | (np.diff(step[order]) != 0) | np.isnan(step[order][1:]))
    starts = np.flatnonzero(new)
    group = np.cumsum(new) - 1
    merged = {}
    for key, column in values.items():
        place = np.where(np.isnan(column[order]), -1, np.arange(len(order)))
        last = np.maximum.reduceat(place, starts)[group]
        filled = np.where(last >= 0, column[order][np.maximum(last, 0)], np.nan)
        merged[key] = np.where(np.isnan(column[order]), filled, column[order]) if key != "loss" else column[order]
    # A row without a loss beside one that has it has given what it held.
    has_loss = np.maximum.reduceat((~np.isnan(values["loss"][order])).astype(int), starts)[group] > 0
    keep = ~(np.isnan(values["loss"][order]) & has_loss)
    return run[order][keep], {key: column[keep] for key, column in merged.items()}


def _is_sorted(run: Array, step: Array) -> bool:
    change = np.diff(run)
    return bool(np.all((change > 0) | ((change == 0) & (np.diff(step) >= 0))))


def _filled(run: Array, step: Array, lr: Array) -> tuple[Array, int]:
    """Rates that were not logged at every point, from the points before and after in the same run."""
    gaps = np.isnan(lr)
    if not gaps.any() or gaps.all():
        return lr, 0
    lr = lr.copy()
    for one in np.unique(run[gaps]):
        there = run == one
        known = there & ~gaps
        if known.any():
            lr[there & gaps] = np.interp(step[there & gaps], step[known], lr[known])
    return lr, int(gaps.sum() - np.isnan(lr).sum())


def _together(parts: list[Curves]) -> Curves:
    """Curves of several sources as one; runs of equal name in different sources are refused."""
    names = [name for part in parts for name in part.names]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the run {twice!r} comes from more than one source; rename one")
    offsets = np.cumsum([0, *(len(part.names) for part in parts)])
    run = np.concatenate([part.run + offset for part, offset in zip(parts, offsets[:-1], strict=True)])
    fields = ("step", "loss", "lr", "tokens", "num_params")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in fields}
    # Files of one kind have equal notes; one is enough.
    notes = tuple(
        dict.fromkeys(note.split(": ", 1)[1] if len(parts) > 1 else note for part in parts for note in part.notes)
    )
    return Curves(tuple(names), run, **joined, notes=notes)
