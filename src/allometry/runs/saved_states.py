"""Folders that are whole or do not count: a training's saved states, by whichever processes write them.

    folder = sealed.begin(parent, "step-00001234")     # hidden; any process may put files into it
    sealed.commit(folder)                              # manifest, marker, sync, one rename
    sealed.newest(parent, say)                         # the newest that verifies; what is damaged is said

A sealed folder holds its files, ``manifest.json`` (size and SHA-256 of each) and, written last, ``COMMITTED``, which
holds the manifest's own SHA-256. It gets its name by one rename, after every file and the folder itself are synced.
So a crash at any moment leaves a folder whole or without a name; and what the disk changes later is noticed, which
``torch.distributed.checkpoint``, for one, does not. Names sort by age: write numbers with leading zeros.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ..files import sync, write_synced

MANIFEST, MARKER = "manifest.json", "COMMITTED"
PARTIAL, DROPPED = ".partial-", ".dropped-"  # hidden: being written, being deleted
_CHUNK = 1 << 22


def begin(parent: Path, name: str) -> Path:
    """A new hidden folder under ``parent`` that :func:`commit` will call ``name``; put files into it, or subfolders.

    Raises:
        OSError: it cannot be made.
    """
    parent = Path(parent)
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=parent, prefix=f"{PARTIAL}{name}."))


def commit(folder: Path, allowed: AbstractContextManager[Any] | None = None) -> Path:
    """Seal what :func:`begin` made and give it its name; all its files must be written and closed.

    ``allowed`` is entered for the last rename alone: it may hold a lock, and raise to forbid it.

    Raises:
        OSError: the disk is full, say; then, and when ``allowed`` raises, the folder is deleted and the ones before
            it stay.
    """
    folder = Path(folder)
    final = folder.parent / folder.name.removeprefix(PARTIAL).rpartition(".")[0]
    try:
        files = {}
        for path in sorted(_files(folder)):
            files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": _sha256(path)}
            sync(path)
        manifest = (json.dumps({"files": files}, indent=1) + "\n").encode()
        write_synced(folder / MANIFEST, manifest)
        write_synced(folder / MARKER, _marker(manifest))
        for inner in {path.parent for path in _files(folder)}:
            sync(inner)
        os.chmod(folder, 0o755)
        with allowed or nullcontext():
            if final.exists():  # of the same name, so no better than this one
                _drop(final)
            os.rename(folder, final)
            sync(folder.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return final


@contextlib.contextmanager
def writing(parent: Path, name: str, allowed: AbstractContextManager[Any] | None = None) -> Iterator[Path]:
    """:func:`begin`, the block that puts files into the folder, :func:`commit`; a block that raises leaves nothing."""
    folder = begin(parent, name)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    commit(folder, allowed)


def newest(parent: Path, say: Callable[[str], None] = lambda text: None, upto: str | None = None) -> Path | None:
    """The newest folder under ``parent`` whose every byte is as it was sealed; None where there is none.

    ``say`` hears a line for each newer one that is damaged: what is wrong, and from where it goes on. Names after
    ``upto`` are left aside.
    """
    damaged: list[tuple[Path, str]] = []
    found = None
    for folder in reversed([folder for folder in named(parent) if upto is None or folder.name <= upto]):
        fault = damage(folder)
        if not fault:
            found = folder
            break
        damaged.append((folder, fault))
    goes_on = f"going on from {found.name}" if found else "no good one is left: starting over"
    for folder, fault in damaged:
        say(f"{folder.parent.name}/{folder.name}: damaged ({fault}); {goes_on}")
    return found


def prune(parent: Path, keep: int = 2) -> None:
    """Delete all but the ``keep`` newest folders that look whole, and what crashes left of writing and deleting.

    Looks whole: marker and manifest agree, and every file has its size. Only one process may write to ``parent``.
    """
    whole = 0
    for folder in reversed(named(parent)):
        if whole >= keep:
            _drop(folder)
        elif not damage(folder, contents=False):
            whole += 1
    _tidy(parent)


def drop(parent: Path, after: str = "", upto: str | None = None) -> None:
    """Delete the folders named after ``after`` and up to ``upto``, by default all; ``parent`` if that empties it."""
    for folder in named(parent):
        if folder.name > after and (upto is None or folder.name <= upto):
            _drop(folder)
    _tidy(parent)
    with contextlib.suppress(OSError):
        os.rmdir(parent)


def named(parent: Path) -> list[Path]:
    """The folders that have their names, damaged or not, the oldest first."""
    return sorted(path for path in _entries(parent) if not path.name.startswith(".") and path.is_dir())


def damage(folder: Path, *, contents: bool = True) -> str:
    """What is wrong with a sealed folder, in a few words; empty if nothing is. Without ``contents``: sizes only."""
    try:
        marker = (folder / MARKER).read_bytes()
        manifest = (folder / MANIFEST).read_bytes()
        if marker != _marker(manifest):
            return f"{MANIFEST} is not the one that was committed"
        for name, expected in json.loads(manifest)["files"].items():
            path = folder / name
            size = path.stat().st_size
            if size != expected["size"]:
                return f"{name} has {size} bytes instead of {expected['size']}"
            if contents and _sha256(path) != expected["sha256"]:
                return f"the checksum of {name} does not match"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return f"not readable: {error}"
    return ""


def _drop(folder: Path) -> None:
    """Delete a folder so that a crash meanwhile leaves no half of it under its name."""
    with contextlib.suppress(FileNotFoundError):
        hidden = Path(tempfile.mkdtemp(dir=folder.parent, prefix=DROPPED))
        os.rename(folder, hidden / folder.name)
        shutil.rmtree(hidden, ignore_errors=True)


def _tidy(parent: Path) -> None:
    """Delete what crashes left of writing and deleting."""
    for path in _entries(parent):
        if path.name.startswith((PARTIAL, DROPPED)):
            shutil.rmtree(path, ignore_errors=True)


def _entries(parent: Path) -> list[Path]:
    try:
        return list(Path(parent).iterdir())
    except FileNotFoundError:
        return []


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _marker(manifest: bytes) -> bytes:
    return hashlib.sha256(manifest).hexdigest().encode() + b"\n"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
