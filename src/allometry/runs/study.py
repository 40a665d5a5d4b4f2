"""A study: a folder of runs that survives a crash at any moment.

    study/
      study.json            the settings of the study; a command that comes again must have the same ones
      corpus/               the tokens, split once (see data/corpus.py)
      runs/<id>/            record.json, metrics.jsonl, model.safetensors: written when the run ends, the record last;
                            attempts.jsonl: one line for each attempt; state/: saved states of the run's decay
      trunks/<id>/          the two newest saved states of a trunk that is being trained (see saved_states.py)
      claims/<id>.json      which process trains the trunk (see claims.py)
      calibration.json  ladder.json  recipe.json  fit.json  plan.json  outcome.json  report.html

A run exists when its ``record.json`` exists. Recipe, fit and report can be computed again from the records.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import append_line, lock_file, parse_json, read_lines, replace_file, write_json
from ..quantities import plural
from . import claims
from .record import RunRecord, now

_LOCK, _SESSION = ".lock", ".session"
COLLECTION = {"holds": "external runs"}  # the settings of a study whose runs were recorded or imported
_OF_OLD_SETTINGS = ("calibration.json", "ladder.json", "members.json", "recipe.json")


class Study:
    """The runs in one folder."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r})"

    def _repr_html_(self) -> str:
        from .study_card import study_card

        return study_card(self).html()

    # ---- opening

    @classmethod
    def create(cls, path: Path, settings: dict[str, Any]) -> Study:
        """Open the study at ``path``, or create it with ``settings``.

        If the settings differ and nothing has been trained yet, the study starts again with the new ones. The corpus
        is compared by its fingerprint, not by the path (``data``) that it was read from.

        Raises:
            UserError: ``path`` holds a study with other settings, or something else.
        """
        study = cls(path)
        if not study.settings_path.exists():
            study._write_first_settings(settings)
        if difference := _first_difference(study.settings(), settings):
            with study.lock():
                study._start_again(settings, difference)
        return study

    @classmethod
    def open(cls, path: Path) -> Study:
        """Open the study at ``path``.

        Raises:
            UserError: there is no study.
        """
        study = cls(path)
        if not study.path.exists():
            raise UserError(f"{path}: no such file or folder; `allometry ladder` or `quickstart` makes a study")
        if not study.settings_path.is_file():
            raise UserError(f"{path}: not a study (no study.json in it); `allometry ladder` or `quickstart` makes one")
        return study

    @classmethod
    def collect(cls, path: Path) -> Study:
        """Open the study of external runs at ``path``, or create it; any number of processes may.

        Raises:
            UserError: ``path`` holds a ladder, whose runs are not to be mixed with others, or something else.
        """
        study = cls(path)
        if not study.settings_path.exists():
            study._write_first_settings(COLLECTION)
        if study.settings() != COLLECTION:
            raise UserError(f"{path}: holds a ladder; give runs that it did not train a folder of their own")
        return study

    def _write_first_settings(self, settings: dict[str, Any]) -> None:
        if self.path.exists() and not (self.path.is_dir() and _is_empty(self.path)):
            raise UserError(f"{self.path}: exists and is not a study; give another --out")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self.lock():
                if not self.settings_path.exists():
                    write_json(self.settings_path, settings)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from None

    def _start_again(self, settings: dict[str, Any], difference: str) -> None:
        """Replace the settings of a study in which nothing was trained, and delete what the old ones produced."""
        if self.begun():
            raise UserError(f"{self.path}: holds a study with {difference}; give another --out")
        with open(self.path / _SESSION, "a") as file:
            try:
                lock_file(file, wait=False)
            except BlockingIOError:
                raise UserError(
                    f"{self.path}: another process works on a study with {difference}; give another --out"
                ) from None
            for name in _OF_OLD_SETTINGS:
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.corpus_path, ignore_errors=True)
            write_json(self.settings_path, settings)

    def discard(self) -> None:
        """Delete the study, if nothing was trained in it and no other process works on it."""
        if self.begun() or not self.path.is_dir():
            return
        with open(self.path / _SESSION, "a") as file, contextlib.suppress(BlockingIOError):
            lock_file(file, wait=False)
            shutil.rmtree(self.path, ignore_errors=True)

    def settings(self) -> dict[str, Any]:
        """The settings that the study was created with."""
        return self.table("study.json") or {}

    def begun(self) -> bool:
        """Whether any training has left something in the study."""
        return any(any(folder.iterdir()) for name in ("runs", "trunks") if (folder := self.path / name).is_dir())

    # ---- processes at work on it

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Work on the study, possibly together with other processes: meanwhile nobody can change its settings."""
        with open(self.path / _SESSION, "a") as file:
            lock_file(file, exclusive=False)
            yield

    @contextlib.contextmanager
    def lock(self, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
        """Hold what belongs to the study as a whole: settings, corpus, design, plan.

        If another process holds it, ``say`` receives a line and this call waits. The system releases the lock when
        the process dies. Trunks are claimed one by one instead (see :meth:`claim`).
        """
        with open(self.path / _LOCK, "a+") as file:
            try:
                lock_file(file, wait=False)
            except BlockingIOError:
                file.seek(0)
                say(f"{self.path}: process {file.read().strip()} is preparing this study; waiting for it")
                lock_file(file)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def claim(self, trunk: str, follows: int | None = None) -> claims.Claim:
        """This process's right to train a trunk; see :func:`allometry.runs.claims.take`."""
        return claims.take(self.claims_path, trunk, follows)

    # ---- places

    @property
    def settings_path(self) -> Path:
        return self.path / "study.json"

    @property
    def corpus_path(self) -> Path:
        return self.path / "corpus"

    @property
    def claims_path(self) -> Path:
        return self.path / "claims"

    def trunk_path(self, trunk: str) -> Path:
        """Where the saved states of a trunk are."""
        return self.path / "trunks" / trunk

    def run_path(self, run: str) -> Path:
        return self.path / "runs" / run

    def state_path(self, run: str) -> Path:
        """Where the saved states of a run's decay are, after it has left its trunk."""
        return self.run_path(run) / "state"

    def weights_path(self, run: str) -> Path:
        return self.run_path(run) / "model.safetensors"

    # ---- JSON files

    def read(self, name: str) -> Any:
        """The JSON value in a file of the study, or None if the file does not exist.

        Raises:
            UserError: the file cannot be read, or is damaged.
        """
        path = self.path / name
        try:
            return parse_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            if self.path.is_file():
                raise UserError(f"{self.path}: is a file; a study is a folder, so give the name of one") from None
            raise UserError(f"{path}: not readable ({error.strerror or error})") from None
        except ValueError as error:
            raise UserError(f"{path}: not readable ({error}); {_advice(name)}") from None

    def table(self, name: str, needed: Mapping[str, type] | None = None) -> dict[str, Any] | None:
        """The JSON object in a file of the study, or None if the file does not exist.

        Args:
            needed: name → type of what must be in it; a whole number is a float.

        Raises:
            UserError: the file cannot be read, or holds something else.
        """
        value = self.read(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise UserError(f"{self.path / name}: holds no names and values; {_advice(name)}")
        for key, kind in (needed or {}).items():
            one = value.get(key)
            if not isinstance(one, int | float if kind is float else kind) or isinstance(one, bool):
                raise UserError(f"{self.path / name}: {key} is missing or damaged; {_advice(name)}")
        return value

    def write(self, name: str, value: Any) -> None:
        """Write a JSON value to a file of the study, atomically."""
        write_json(self.path / name, value)

    # ---- runs

    def record(self, run: str) -> RunRecord | None:
        """The record of a run, or None if the run has not ended."""
        value = self.read(f"runs/{run}/record.json")
        return None if value is None else RunRecord.from_json(value)

    def ended(self, run: str) -> RunRecord:
        """The record of a run that has ended.

        Raises:
            UserError: it has not.
        """
        record = self.record(run)
        if record is None:
            raise UserError(f"{self.path}: run {run} has no record; run the same command again")
        return record

    def records(self, *kinds: str) -> list[RunRecord]:
        """All records (of these kinds), sorted by FLOPs and then id, whatever order they were saved in."""
        folder = self.path / "runs"
        ids = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        ended = (record for run in ids if (record := self.record(run)) is not None)
        kept = [record for record in ended if not kinds or record.kind in kinds]
        return sorted(kept, key=lambda record: (record.flops, record.id))

    def rows(self, *kinds: str) -> list[dict[str, Any]]:
        """Records as rows of a table; by default the ladder's, to which a law is fitted."""
        return [record.row() for record in self.records(*(kinds or ("ladder",)))]

    def best_run(self) -> RunRecord:
        """The finished run of lowest loss.

        Raises:
            UserError: no run has finished yet.
        """
        finished = [record for record in self.records() if record.status == "finished"]
        if not finished:
            raise UserError(f"{self.path}: no finished run in it yet")
        return min(finished, key=lambda record: math.inf if record.loss is None else record.loss)

    def find(self, prefix: str) -> RunRecord:
        """The one run whose id begins with ``prefix``.

        Raises:
            UserError: no run matches, or several do.
        """
        matches = [record for record in self.records() if record.id.startswith(prefix)]
        if len(matches) != 1:
            number = plural(len(matches), "run") if matches else "no run"
            known = ", ".join(record.id for record in (matches or self.records())[:6])
            raise UserError(f"{self.path}: {number} with an id that begins {prefix!r}; there are {known or 'none yet'}")
        return matches[0]

    def save(
        self,
        record: RunRecord,
        curve: Iterable[Sequence[float] | Mapping[str, float]],
        allowed: AbstractContextManager[Any] | None = None,
    ) -> None:
        """Write a run's curve, and then the record that makes the run exist (its weights must be written before).

        A point of the curve is (tokens, training loss), or names its values: ``tokens`` and any of ``train_loss``,
        ``loss`` (held out), ``lr``, ``step`` and whatever else was logged.

        ``allowed`` is entered for both writes: the claim on the run's trunk, which raises if it is lost.
        """
        points = (p if isinstance(p, Mapping) else dict(zip(("tokens", "train_loss"), p, strict=True)) for p in curve)
        lines = "".join(json.dumps(dict(point), allow_nan=False) + "\n" for point in points)
        with allowed or nullcontext():
            replace_file(self.run_path(record.id) / "metrics.jsonl", lines.encode())
            write_json(self.run_path(record.id) / "record.json", record.to_json())

    def promote(self, record: RunRecord, kind: str) -> None:
        """Give a run another kind: a run of the sweep may turn out to be a rung."""
        self.save(replace(record, kind=kind), self.points(record.id))

    def curve(self, run: str) -> list[tuple[float, float]]:
        """The training curve of a run: (tokens, training loss)."""
        return [(p["tokens"], p["train_loss"]) for p in self.points(run) if {"tokens", "train_loss"} <= p.keys()]

    def points(self, run: str) -> list[dict[str, float]]:
        """All points of a run's curve with all their values."""
        return read_lines(self.run_path(run) / "metrics.jsonl")

    def log(self, run: str, event: str, **values: Any) -> None:
        """Add an event to the run's log of attempts."""
        append_line(self.run_path(run) / "attempts.jsonl", {"event": event, "at": now(), **values})

    def attempts(self, run: str) -> list[dict[str, Any]]:
        """The run's log of attempts, the oldest event first, without lines that a crash left incomplete."""
        return read_lines(self.run_path(run) / "attempts.jsonl")


def find_run(path: Path) -> tuple[Study, RunRecord]:
    """The study and the run that ``path`` names: STUDY means its best run, STUDY/RUN that run.

    Raises:
        UserError: ``path`` names no study and no run.
    """
    if Study(path).settings_path.is_file():
        study = Study(path)
        return study, study.best_run()
    if Study(path.parent).settings_path.is_file():
        study = Study(path.parent)
        return study, study.find(path.name)
    raise UserError(f"{path}: neither a study nor a run of one; write STUDY or STUDY/RUN")


def _advice(name: str) -> str:
    """What to do about a damaged file of a study: what can be made again may go, what cannot is not to be deleted."""
    if name == "study.json":
        return "its settings are lost: put back a copy of it, or give another --out"
    if name.endswith("record.json"):
        return f"`allometry runs` drops run {name.split('/')[-2]}, and the same command trains it again"
    return "it can be made again: move it away and run the command again"


def _is_empty(folder: Path) -> bool:
    """Whether a folder holds at most what a crash during the very first write leaves."""
    names = {entry.name for entry in folder.iterdir()} - {_LOCK, _SESSION}
    return all(name.startswith(".study.json.") for name in names)


def _first_difference(stored: dict[str, Any], requested: dict[str, Any]) -> str:
    """The first setting that differs, in words; empty if none does."""
    for key in sorted((stored.keys() | requested.keys()) - {"data"}):
        old, new = stored.get(key), requested.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := _first_difference(old, new):
                return inner
        elif old != new:
            return f"{key} = {old!r}, not {new!r}"
    return ""
