"""SQLite stores of MLflow and Optuna: one run a run or a trial. They are opened for reading only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ...errors import UserError
from .logged_run import LoggedRun, number

MLFLOW = {"runs", "params", "metrics"}
OPTUNA = {"trials", "trial_params", "trial_values", "trial_user_attributes"}


def read_store(path: Path) -> Iterator[LoggedRun]:
    """The runs in a store of either tool; nothing if it is a database of something else.

    Raises:
        UserError: the database cannot be read, or has other columns than those that are known.
    """
    # Immutable: neither a lock nor a journal is written beside it.
    address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as store:
            store.execute("PRAGMA trusted_schema = OFF")
            tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables >= MLFLOW:
                yield from _mlflow(store, path)
            elif tables >= OPTUNA:
                yield from _optuna(store, path)
    except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path} cannot be read as a store of MLflow or Optuna ({error}); export the runs as CSV"
        ) from None


def _mlflow(store: sqlite3.Connection, path: Path) -> Iterator[LoggedRun]:
    for identity, name, status in store.execute(
        "SELECT run_uuid, name, status FROM runs WHERE lifecycle_stage = 'active' ORDER BY start_time, run_uuid"
    ).fetchall():
        run = LoggedRun("mlflow", name or identity, path, status=str(status).lower())
        run.settings = dict(store.execute("SELECT key, value FROM params WHERE run_uuid = ?", (identity,)))
        for key, value, step in store.execute(
            "SELECT key, value, step FROM metrics WHERE run_uuid = ? AND NOT is_nan ORDER BY step, timestamp",
            (identity,),
        ):
            run.log(float(step), {key: float(value)})
        yield run


def _optuna(store: sqlite3.Connection, path: Path) -> Iterator[LoggedRun]:
    for identity, trial, state, study in store.execute(
        "SELECT t.trial_id, t.number, t.state, s.study_name FROM trials t JOIN studies s ON s.study_id = t.study_id "
        "ORDER BY t.study_id, t.number"
    ).fetchall():
        status = "finished" if state == "COMPLETE" else str(state).lower()
        run = LoggedRun("optuna", f"{study}/{trial}", path, status=status)
        attributes = "SELECT key, value_json FROM trial_user_attributes WHERE trial_id = ?"
        run.settings = {key: _unquoted(value) for key, value in store.execute(attributes, (identity,))}
        for key, value, distribution in store.execute(
            "SELECT param_name, param_value, distribution_json FROM trial_params WHERE trial_id = ?", (identity,)
        ):
            run.settings[key] = _choice(value, distribution)
        values = store.execute("SELECT value FROM trial_values WHERE trial_id = ? ORDER BY objective", (identity,))
        for (value,) in values.fetchmany(1):
            if value is not None:
                run.summary["value"] = float(value)
        yield run


def _choice(value: float, distribution: str) -> object:
    """A parameter of a trial: the number itself, or the choice that it numbers."""
    import json

    try:
        kind = json.loads(distribution)
        if kind["name"] == "CategoricalDistribution":
            return kind["attributes"]["choices"][int(value)]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        pass
    return value


def _unquoted(text: str) -> object:
    """An attribute as Optuna keeps it: JSON."""
    return text.strip('"') if number(text) != number(text) else number(text)
