"""Read loss curves: tables, folders of them, charts, studies, and what training tools logged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import UserError
from ....quantities import plural
from ...field_names import normalise, without_keeper
from ...run_files.find_runs import finished_runs, holds_runs
from ...run_files.from_study import study_curves
from ...run_files.run_table import curve_arrays, labels
from ..columns import Match, convert
from ..raw_table import Column, RawTable
from ..readers import SUFFIXES, read_table, table_stem, table_suffix
from .curve_columns import NAMES, chart_columns, match_curve, metric_column, needed_of_curve
from .curve_points import CurvePoints, clean_points, together

Array = np.ndarray

VALUES = ("step", "loss", "lr", "tokens", "num_params")
MOST_RUNS = 10_000


def read_curves(source: Any, columns: Mapping[str, str] | None = None) -> CurvePoints:
    """The points of all curves of a source; arguments and refusals as of ``Curves.read``."""
    if isinstance(source, str | Path) and Path(source).is_dir():
        if (Path(source) / "study.json").is_file():
            return _of_study(Path(source))
        if (logged := _of_runs(Path(source), columns)) is not None:
            return logged
        source = _files(Path(source))
    elif _is_log(source) and (logged := _of_runs(Path(source), columns)) is not None:
        return logged
    if isinstance(source, str | Path):
        return together([_read(source, table_stem(Path(source)), columns)])
    if isinstance(source, Sequence) and source and all(isinstance(one, str | Path) for one in source):
        paths = [Path(one) for one in source]
        return together([_read(path, name, columns) for path, name in zip(paths, _stems(paths), strict=True)])
    return together([_read(source, "run", columns)])


def _of_study(path: Path) -> CurvePoints:
    """The training curves of a study's ladder, with the learning rates of their schedules."""
    return together(
        [
            CurvePoints(
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


def _of_runs(path: Path, columns: Mapping[str, str] | None) -> CurvePoints | None:
    """The curves that tools logged in a folder or a file; None where there are none, or columns were named."""
    if columns or not holds_runs(path):
        return None
    runs = [run for run in finished_runs(path) if len(run.points.get("loss", ()))]
    names, points = curve_arrays(runs, labels(runs), [math.nan] * len(runs))
    return CurvePoints(names=tuple(names), notes=(), **points) if names else None


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


def _read(source: Any, name: str, columns: Mapping[str, str] | None) -> CurvePoints:
    """The curves of one table."""
    where = str(source) if isinstance(source, str | Path) else "frame"
    table = read_table(source, lambda names: needed_of_curve(names, columns or {}, where))
    if not columns and (chart := chart_columns(list(table.columns))):
        return _of_chart(table, chart, where)
    table = table if columns else _widened(table)
    taken = match_curve(list(table.columns), columns or {}, where)
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
        key: convert(table, key, Match(dict(taken))) if key in taken else np.full(len(table), np.nan) for key in VALUES
    }
    notes = [f"{table.name}: columns taken: " + ", ".join(f"{key} = {column!r}" for key, column in taken.items())]
    if apart_by:
        notes.append(f"{table.name}: {plural(len(names), 'run')} told apart by {apart_by}")
    if "step" not in taken:
        values["step"] = values["tokens"]
        notes.append(f"{table.name}: no column of steps; tokens stand for them")
    return clean_points(table, codes, names, values, notes)


def _of_chart(table: RawTable, chart: Mapping[str, str], source: str) -> CurvePoints:
    """The curves of a chart with a column for each run."""
    names = [*NAMES["step"], *NAMES["tokens"]]
    step = next((name for word in names for name in table.columns if normalise(name) == word), None)
    if step is None:
        raise UserError(f"{source}: a chart needs a column Step, or one of tokens; found: {table.shown}")
    parts = []
    for run, column in chart.items():
        taken = Match({"step": step, "loss": column})
        unknown = np.full(len(table), np.nan)
        values = {key: convert(table, key, taken) if key in taken.taken else unknown for key in VALUES}
        if np.isfinite(values["loss"]).any():
            note = f"{table.name}: a chart with a column for each run; step = {step!r}"
            parts.append(clean_points(table, np.zeros(len(table), np.int64), [run], values, [note]))
    if not parts:
        raise UserError(f"{table.name}: no point has a finite loss; nothing to read")
    return together(parts)


def _widened(table: RawTable) -> RawTable:
    """A table with one value a row, as TensorBoard and MLflow export them, with a column for its loss and its rate."""
    if (tag := metric_column(list(table.columns))) is None:
        return table
    codes, tags = table.columns[tag].codes
    value = next(name for name in table.columns if normalise(name) == "value")
    numbers, columns = table.columns[value].numbers[0], {**table.columns}
    for field_name, words in (("loss", NAMES["loss"]), ("lr", NAMES["lr"])):
        hits = [code for word in words for code, text in enumerate(tags) if normalise(without_keeper(text)) == word]
        if hits:
            columns[field_name] = Column(np.where(codes == hits[0], numbers, np.nan))
    return replace(table, columns={name: one for name, one in columns.items() if name not in (tag, value)})


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
