"""The runs of a study as folders: which there are, recorded or not, and dropping one."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from . import claims
from .record import RunRecord
from .study import Study

_DELETED = ".deleted-"
# What was computed from the records, by what it is for people.
_DERIVED = {"fit.json": "the fit", "plan.json": "the plan", "outcome.json": "the outcome", "report.html": "the report"}


@dataclass(frozen=True)
class RunFolder:
    """A run of a study: its record; or None, with the last event of its log, or what is wrong with its record."""

    id: str
    record: RunRecord | None
    last_event: str = ""


def run_folders(study: Study) -> list[RunFolder]:
    """Every run of a study: the recorded ones by FLOPs, then the others by id."""
    folder = study.path / "runs"
    entries = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    there = [_run_folder(study, name) for name in entries if not name.startswith(".")]
    ended = sorted(
        (run for run in there if run.record), key=lambda run: (run.record.flops if run.record else 0, run.id)
    )
    return ended + [run for run in there if run.record is None]


def _run_folder(study: Study, name: str) -> RunFolder:
    try:
        record = study.record(name)
    except UserError as error:
        return RunFolder(name, None, f"damaged: {error}")
    events = study.attempts(name) if record is None else []
    return RunFolder(name, record, str(events[-1].get("event", "")) if events else "")


def find_folder(study: Study, prefix: str) -> RunFolder:
    """The one run whose id begins with ``prefix``, recorded or not.

    Raises:
        UserError: no run matches, or several do.
    """
    there = run_folders(study)
    matches = [run for run in there if run.id.startswith(prefix)]
    if len(matches) != 1 or not prefix:
        what = "several runs have" if matches else "no run has"
        known = ", ".join(run.id for run in (matches or there)[:6]) or "none yet"
        raise UserError(f"{study.path}: {what} an id that begins {prefix!r}; there are {known}")
    return matches[0]


def drop_run(study: Study, run: RunFolder) -> list[str]:
    """Delete a run with all that it left; what was computed from it stays, and is named in the answer.

    A crash meanwhile leaves the run as it was, or nothing of it under its name.

    Raises:
        UserError: a process is at the run.
    """
    owner = run.id if run.record is None or run.record.external else run.record.config.trunk
    try:
        claim = study.claim(owner)
    except claims.Taken:
        raise UserError(f"{study.path}: a process is at run {run.id} now; end it first") from None
    with claim.kept(), claim:
        hidden = Path(tempfile.mkdtemp(dir=study.path / "runs", prefix=_DELETED))
        os.rename(study.run_path(run.id), hidden / run.id)
        shutil.rmtree(hidden, ignore_errors=True)
    return [words for name, words in _DERIVED.items() if (study.path / name).exists()]
