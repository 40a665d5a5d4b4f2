"""Checkpoint folders, written atomically: a crash leaves a complete folder or none; checksums detect later damage.

    folder = saved_states.begin(parent, "step-00001234")  # hidden; any process may put files into it
    saved_states.commit(folder)                           # manifest, marker, sync, one rename
    saved_states.newest(parent, say)                      # the newest undamaged one; `say` receives a line for each
                                                          # damaged one

A committed folder holds its files, ``manifest.json`` (size and SHA-256 of each) and ``COMMITTED``, written last, which
holds the manifest's own SHA-256. One rename gives the folder its name, after every file and the folder itself are
synced. So a crash at any moment leaves either a complete folder or one without a name, and damage that the disk does
later is detected, which ``torch.distributed.checkpoint``, for example, does not do. Names must sort by age: write
numbers with leading zeros.
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
PARTIAL, DELETED = ".partial-", ".deleted-"  # hidden: being written, being deleted
_CHUNK = 1 << 22


def begin(parent: Path, name: str) -> Path:
    """Create a hidden folder under ``parent``, for files and subfolders; :func:`commit` renames it to ``name``.

    Raises:
        OSError: the folder cannot be created.
    """
    parent = Path(parent)
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=parent, prefix=f"{PARTIAL}{name}."))


def commit(folder: Path, allowed: AbstractContextManager[Any] | None = None) -> Path:
    """Add manifest and marker to a folder of :func:`begin` and give it its name; all files must be written and closed.

    ``allowed`` is entered for the last rename only: it may hold a lock, or raise to forbid the rename.

    Raises:
        OSError: for example, the disk is full. In that case, and when ``allowed`` raises, the folder is deleted and
            earlier folders stay.
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
            if final.exists():  # a folder of the same name is no newer
                _delete(final)
            os.rename(folder, final)
            sync(folder.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return final


@contextlib.contextmanager
def writing(parent: Path, name: str, allowed: AbstractContextManager[Any] | None = None) -> Iterator[Path]:
    """Run :func:`begin`, then the block that writes files, then :func:`commit`; a block that raises leaves nothing."""
    folder = begin(parent, name)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    commit(folder, allowed)


def newest(parent: Path, say: Callable[[str], None] = lambda text: None, upto: str | None = None) -> Path | None:
    """The newest folder under ``parent`` in which every byte is as it was committed, or None.

    ``say`` receives a line for each newer folder that is damaged: what is wrong, and where training continues. Names
    after ``upto`` are ignored.
    """
    damaged: list[tuple[Path, str]] = []
    intact = None
    for folder in reversed([folder for folder in committed(parent) if upto is None or folder.name <= upto]):
        fault = damage(folder)
        if not fault:
            intact = folder
            break
        damaged.append((folder, fault))
    continues = f"going on from {intact.name}" if intact else "no good one is left: starting over"
    for folder, fault in damaged:
        say(f"{folder.parent.name}/{folder.name}: damaged ({fault}); {continues}")
    return intact


def prune(parent: Path, keep: int = 2) -> None:
    """Keep the ``keep`` newest folders that look complete; delete the older ones and what crashes left behind.

    A folder looks complete if marker and manifest agree and every file has its size. Only one process may write to
    ``parent``.
    """
    complete = 0
    for folder in reversed(committed(parent)):
        if complete >= keep:
            _delete(folder)
        elif not damage(folder, contents=False):
            complete += 1
    _tidy(parent)


def delete(parent: Path, after: str = "", upto: str | None = None) -> None:
    """Delete the folders whose names sort after ``after`` and not after ``upto`` (by default all).

    ``parent`` is deleted too if that leaves it empty.
    """
    for folder in committed(parent):
        if folder.name > after and (upto is None or folder.name <= upto):
            _delete(folder)
    _tidy(parent)
    with contextlib.suppress(OSError):
        os.rmdir(parent)


def committed(parent: Path) -> list[Path]:
    """The folders that have their names, damaged or not, the oldest first."""
    return sorted(path for path in _entries(parent) if not path.name.startswith(".") and path.is_dir())


def damage(folder: Path, *, contents: bool = True) -> str:
    """What is wrong with a committed folder, in a few words; empty if nothing is. Without ``contents``: sizes only."""
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


def _delete(folder: Path) -> None:
    """Delete a folder; a crash meanwhile leaves no incomplete folder under its name."""
    with contextlib.suppress(FileNotFoundError):
        hidden = Path(tempfile.mkdtemp(dir=folder.parent, prefix=DELETED))
        os.rename(folder, hidden / folder.name)
        shutil.rmtree(hidden, ignore_errors=True)


def _tidy(parent: Path) -> None:
    """Delete folders that a crash left half written or half deleted."""
    for path in _entries(parent):
        if path.name.startswith((PARTIAL, DELETED)):
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
