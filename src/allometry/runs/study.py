"""A study: a folder of runs that survives a crash at any moment.

    study/
      study.json            what was asked for: settings that must match when the same command comes again
      corpus/               the tokens, split once (see corpus.py)
      runs/<id>/            record.json, metrics.jsonl, model.safetensors: written when the run ends, record last;
                            attempts.jsonl: what was tried, a line each; state/: its training under way, at the end
      trunks/<id>/          states of a training under way, the newest two (see sealed.py)
      claims/<id>.json      which process trains it (see claims.py)
      calibration.json  ladder.json  recipe.json  fit.json  plan.json  outcome.json  report.html

A run exists when its ``record.json`` does. Fit, recipe and report can be made again from the records.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

from ..errors import UserError
from ..files import append_line, read_lines, replace_file, write_json
from . import claims
from .record import RunRecord, now


def best_run(study: Study) -> RunRecord:
    """The finished run of lowest loss."""
    finished = [record for record in study.records() if record.status == "finished"]
    if not finished:
        raise UserError(f"{study.path}: no finished run in it yet")
    return min(finished, key=lambda record: record.loss)


def find_run(path: Path) -> tuple[Study, RunRecord]:
    """The study and the run that STUDY (its best) or STUDY/RUN names."""
    if Study(path).settings_path.is_file():
        study = Study(path)
        return study, best_run(study)
    if Study(path.parent).settings_path.is_file():
        study = Study(path.parent)
        return study, study.find(path.name)
    raise UserError(f"{path}: neither a study nor a run of one; write STUDY or STUDY/RUN")


try:
    import fcntl
except ImportError:  # Windows: no advisory locks; two ladders on one study may repeat work
    fcntl = None
_LOCK, _SESSION = ".lock", ".session"


class Study:
    """The runs in one folder."""

    def __init__(self, path: Path):
        self.path = Path(path)

    @classmethod
    def create(cls, path: Path, settings: dict[str, Any]) -> Study:
        """Open the study at ``path``, or begin it with ``settings``.

        A study in which nothing was trained yet is begun anew when the settings differ. The text is compared by its
        fingerprint, not by the path (``data``) that it was read from.

        Raises:
            UserError: another study, or something else, is there already.
        """
        study = cls(path)
        if not study.settings_path.exists():
            if study.path.exists() and not (study.path.is_dir() and _is_empty(study.path)):
                raise UserError(f"{path}: exists and is not a study; give another --out")
            try:
                study.path.mkdir(parents=True, exist_ok=True)
                with study.lock():
                    if not study.settings_path.exists():
                        write_json(study.settings_path, settings)
            except OSError as error:
                raise UserError(f"{path}: cannot be written: {error.strerror}") from None
        if difference := _difference(study.settings(), settings):
            with study.lock():
                study._begin_anew(settings, difference)
        return study

    @classmethod
    def open(cls, path: Path) -> Study:
        """Open the study at ``path``.

        Raises:
            UserError: there is none.
        """
        study = cls(path)
        if not study.settings_path.is_file():
            raise UserError(f"{path}: not a study (no study.json in it); `allometry ladder` or `quickstart` makes one")
        return study

    def begun(self) -> bool:
        """Whether any training has left something here."""
        return any(any(folder.iterdir()) for name in ("runs", "trunks") if (folder := self.path / name).is_dir())

    def _begin_anew(self, settings: dict[str, Any], difference: str) -> None:
        """Other settings for a study without training; what was made by the old ones goes."""
        if self.begun():
            raise UserError(f"{self.path}: holds a study with {difference}; give another --out, or delete the folder")
        with open(self.path / _SESSION, "a") as file:
            try:
                _flock(file, exclusive=True, wait=False)
            except BlockingIOError:
                raise UserError(
                    f"{self.path}: another process is at work on a study with {difference}; give another --out"
                ) from None
            for name in ("calibration.json", "ladder.json", "recipe.json"):
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.corpus_path, ignore_errors=True)
            write_json(self.settings_path, settings)

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Be at work on the study, beside others: its settings stay what they are."""
        with open(self.path / _SESSION, "a") as file:
            _flock(file, exclusive=False, wait=True)
            yield

    @property
    def settings_path(self) -> Path:
        return self.path / "study.json"

    @property
    def corpus_path(self) -> Path:
        return self.path / "corpus"

    def settings(self) -> dict[str, Any]:
        """What the study was begun with."""
        return self.read("study.json") or {}

    @property
    def claims_path(self) -> Path:
        return self.path / "claims"

    def claim(self, trunk: str, follows: int | None = None) -> claims.Claim:
        """This process's right to train a trunk; see :func:`allometry.runs.claims.take`."""
        return claims.take(self.claims_path, trunk, follows)

    def trunk_path(self, trunk: str) -> Path:
        """Where states of a training under way are kept, each a sealed folder."""
        return self.path / "trunks" / trunk

    def state_path(self, run: str) -> Path:
        """Where states of a run's own end are kept, after it has left its trunk."""
        return self.run_path(run) / "state"

    def run_path(self, run: str) -> Path:
        return self.path / "runs" / run

    def weights_path(self, run: str) -> Path:
        return self.run_path(run) / "model.safetensors"

    def read(self, name: str) -> Any:
        """The JSON value of a file of the study, or None where there is no such file."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path / name}: not readable ({error}); delete it and run the command again"
            ) from None

    def write(self, name: str, value: Any) -> None:
        """Put a JSON value at a file of the study, atomically."""
        write_json(self.path / name, value)

    def record(self, run: str) -> RunRecord | None:
        """The record of a run, or None while it has not ended."""
        value = self.read(f"runs/{run}/record.json")
        return None if value is None else RunRecord.from_json(value)

    def records(self, *kinds: str) -> list[RunRecord]:
        """All records (of these kinds), by FLOPs and then id: the same order whatever order they came in."""
        folder = self.path / "runs"
        ids = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        found = (self.record(run) for run in ids)
        kept = [record for record in found if record is not None and (not kinds or record.kind in kinds)]
        return sorted(kept, key=lambda record: (record.config.flops, record.id))

    def rows(self, *kinds: str) -> list[dict[str, Any]]:
        """Records as rows of a table; by default those that a law is fitted to, the ladder's."""
        return [record.row() for record in self.records(*(kinds or ("ladder",)))]

    def save(
        self, record: RunRecord, curve: Sequence[Sequence[float]], allowed: AbstractContextManager[Any] | None = None
    ) -> None:
        """Write a run's curve, and then the record that makes it exist (its weights are written before).

        ``allowed`` is entered for both: the claim on its trunk, which raises where that is lost.
        """
        lines = "".join(json.dumps({"tokens": tokens, "train_loss": loss}) + "\n" for tokens, loss in curve)
        with allowed or nullcontext():
            replace_file(self.run_path(record.id) / "metrics.jsonl", lines.encode())
            write_json(self.run_path(record.id) / "record.json", record.to_json())

    def log(self, run: str, event: str, **values: Any) -> None:
        """Add what happened to a run to its log of attempts."""
        append_line(self.run_path(run) / "attempts.jsonl", {"event": event, "at": now(), **values})

    def attempts(self, run: str) -> list[dict[str, Any]]:
        """What happened to a run, the oldest first; a line that a crash tore is left out."""
        return read_lines(self.run_path(run) / "attempts.jsonl")

    def curve(self, run: str) -> list[tuple[float, float]]:
        """The training curve of a run: (tokens, smoothed training loss)."""
        rows = read_lines(self.run_path(run) / "metrics.jsonl")
        return [(row["tokens"], row["train_loss"]) for row in rows]

    def find(self, prefix: str) -> RunRecord:
        """The one run whose id begins with ``prefix``.

        Raises:
            UserError: none does, or several do.
        """
        matches = [record for record in self.records() if record.id.startswith(prefix)]
        if len(matches) != 1:
            what = "no run" if not matches else f"{len(matches)} runs"
            known = ", ".join(record.id for record in (matches or self.records())[:6])
            raise UserError(f"{self.path}: {what} with an id that begins {prefix!r}; there are {known or 'none yet'}")
        return matches[0]

    @contextlib.contextmanager
    def lock(self, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
        """Hold what belongs to the study as a whole: settings, text, design, plan. Waits, and says so, until it can.

        Released by the system when the process dies. Trunks are claimed one by one instead (see :meth:`claim`).
        """
        with open(self.path / _LOCK, "a+") as file:
            try:
                _flock(file, exclusive=True, wait=False)
            except BlockingIOError:
                file.seek(0)
                say(f"{self.path}: process {file.read().strip()} is preparing this study; waiting for it")
                _flock(file, exclusive=True, wait=True)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def _flock(file: IO, *, exclusive: bool, wait: bool) -> None:
    if fcntl is not None:
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)


def _is_empty(folder: Path) -> bool:
    """Nothing in it but what a crash left of the very first write."""
    names = {entry.name for entry in folder.iterdir()} - {_LOCK, _SESSION}
    return all(name.startswith(".study.json.") for name in names)


def _difference(there: dict[str, Any], asked: dict[str, Any]) -> str:
    """The first setting that differs, as a person says it; empty if none does."""
    for key in sorted((there.keys() | asked.keys()) - {"data"}):
        old, new = there.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := _difference(old, new):
                return inner
        elif old != new:
            return f"{key} = {old!r}, not {new!r}"
    return ""
