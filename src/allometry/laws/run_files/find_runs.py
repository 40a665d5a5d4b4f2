"""Which runs a folder holds: its files are judged by their names and first bytes; no link leads out of the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UserError
from .event_files import read_events
from .facts_of_run import FinishedRun, finished_run
from .framed_records import WANDB_HEADER
from .logged_run import LoggedRun
from .metric_tables import read_lightning, read_lingua, read_olmo
from .printed_logs import kind_of_log, read_log
from .sqlite_stores import read_store
from .trainer_checkpoints import newest, read_state
from .wandb_files import read_wandb

MOST_FILES = 1_000_000
STORES = (".db", ".sqlite", ".sqlite3")
LOGS = (".log", ".txt", ".out", ".stdout", "")
SQLITE = b"SQLite format 3\x00"


@dataclass
class _Folder:
    """The files of runs below a folder, by what reads them."""

    states: dict[Path, list[Path]] = field(default_factory=dict)
    events: dict[Path, list[Path]] = field(default_factory=dict)
    olmo: dict[Path, list[Path]] = field(default_factory=dict)
    wandb: list[Path] = field(default_factory=list)
    lightning: list[Path] = field(default_factory=list)
    lingua: list[Path] = field(default_factory=list)
    stores: list[Path] = field(default_factory=list)
    logs: list[tuple[Path, str]] = field(default_factory=list)
    outside: list[Path] = field(default_factory=list)


def holds_runs(path: Path) -> bool:
    """Whether a file is one that a run left, rather than a table of runs; a folder always may."""
    if path.is_dir():
        return True
    return path.is_file() and bool(_kind_of_file(path))


def finished_runs(path: Path, given: Mapping[str, float] | None = None) -> Iterator[FinishedRun]:
    """All runs in a folder, or in one file, in the order of their places.

    Args:
        path: a folder of any depth, or a single file that a tool left.
        given: field → number that holds for all runs (``processes``, ``sequence_length``, ``num_params`` …).

    Raises:
        UserError: a file that is damaged or of another version, or more files than a folder of runs has.
    """
    for run in _logged_runs(path):
        yield finished_run(run, given or {})


def _logged_runs(path: Path) -> Iterator[LoggedRun]:
    files = _Folder()
    if path.is_dir():
        _walk(path, files)
    else:
        _sort(path, _kind_of_file(path), files)
    yield from _read_all(files, path)


def _walk(top: Path, files: _Folder) -> None:
    """Sort the files below a folder. Folders that are links are not entered, files that are links only within it."""
    inside, count = top.resolve(), 0
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            count += 1
            if count > MOST_FILES:
                raise UserError(f"{top} holds more than {MOST_FILES:,} files; give the folder of the runs alone")
            path = Path(folder, name)
            if not (kind := _kind_of_name(name)):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                files.outside.append(path)
            elif path.is_file() and (kind := _judged(path, kind)):
                _sort(path, kind, files)


def _kind_of_name(name: str) -> str:
    """What a file may be by its name; "log" and "store" are judged by their content."""
    if name in ("trainer_state.json", "metrics.csv", "metrics.jsonl"):
        return {"trainer_state.json": "state", "metrics.csv": "lightning", "metrics.jsonl": "lingua"}[name]
    if "tfevents" in name:
        return "events"
    suffix = Path(name).suffix.lower()
    if suffix == ".wandb":
        return "wandb"
    if suffix in STORES:
        return "store"
    if name == "metrics.json" or (name.startswith("metrics_step") and suffix == ".json"):
        return "olmo"
    return "log" if suffix in LOGS and not name.startswith(".") else ""


def _judged(path: Path, kind: str) -> str:
    """The kind of a file, or "" for one that is something else by its content."""
    if kind == "store":
        with path.open("rb") as file:
            return kind if file.read(16) == SQLITE else ""
    if kind == "log":
        return kind_of_log(path)
    if kind == "lightning":
        with path.open("rb") as file:
            names = file.readline(1 << 16).decode("utf-8", "replace").strip().split(",")
        # A table of runs may be called so too; Lightning writes epoch and step, and no sizes.
        return kind if {"epoch", "step"} <= set(names) and any("loss" in name for name in names) else ""
    if kind == "lingua":
        with path.open("rb") as file:
            head = file.readline(1 << 16)
            return kind if b'"global_step"' in head and (b'"acc_step"' in head or b'"loss/out"' in head) else ""
    return kind


def _kind_of_file(path: Path) -> str:
    """The kind of one file, whatever it is called."""
    with path.open("rb") as file:
        head = file.read(16)
    if head == SQLITE:
        return "store"
    if head.startswith(WANDB_HEADER):
        return "wandb"
    kind = _kind_of_name(path.name)
    return _judged(path, kind) if kind else ""


def _sort(path: Path, kind: str, files: _Folder) -> None:
    folder = path.parent
    if kind == "state":
        root = folder.parent if folder.name.startswith("checkpoint-") else folder
        files.states.setdefault(root, []).append(path)
    elif kind in ("events", "olmo"):
        getattr(files, kind).setdefault(folder, []).append(path)
    elif kind in ("wandb", "lightning", "lingua"):
        getattr(files, kind).append(path)
    elif kind == "store":
        files.stores.append(path)
    elif kind:
        files.logs.append((path, kind))


def _read_all(files: _Folder, top: Path) -> Iterator[LoggedRun]:
    """The runs, each from all its files: a checkpoint's folder with the trackers below it, and the trackers alone."""
    used: set[Path] = set()
    for root, states in files.states.items():
        run = read_state(newest(states), root)
        run.name = _name(root, top)
        for folder, paths in files.events.items():
            if folder.is_relative_to(root) and _owner(folder, files.states) == root:
                used.update(paths)
                _join(run, read_events(sorted(paths), "", folder))
        for path in files.wandb:
            if path.is_relative_to(root) and _owner(path.parent, files.states) == root:
                used.add(path)
                _join(run, read_wandb(path))
        yield run
    for folder, paths in files.events.items():
        if not used.intersection(paths):
            yield read_events(sorted(paths), _name(folder, top), folder)
    for path in files.wandb:
        if path not in used:
            yield read_wandb(path)
    for reader, places in ((read_lightning, files.lightning), (read_lingua, files.lingua)):
        for path in places:
            run = reader(path)
            run.name = _name(path.parent, top)
            yield run
    for folder, paths in files.olmo.items():
        yield read_olmo(paths, folder)
    for path in files.stores:
        yield from read_store(path)
    for path, kind in files.logs:
        yield from read_log(path, kind)


def _owner(folder: Path, roots: Mapping[Path, object]) -> Path | None:
    """The innermost folder of a run that a folder lies in."""
    return next((one for one in (folder, *folder.parents) if one in roots), None)


def _join(run: LoggedRun, other: LoggedRun) -> None:
    """What a tracker knows beyond the checkpoint of the same run: its arguments, and what only it logged."""
    for name, value in other.settings.items():
        run.settings.setdefault(name, value)
    for name, series in other.series.items():
        if name.rsplit("/", 1)[-1] not in run.series and not name.startswith(("train/", "eval/")):
            run.series.setdefault(name, series)
    run.notes += other.notes


def _name(folder: Path, top: Path) -> str:
    """A run's name by its place below the folder that was given."""
    within = folder.relative_to(top) if folder.is_relative_to(top) and top.is_dir() else Path(folder.name)
    return within.as_posix() if within.parts else folder.name
