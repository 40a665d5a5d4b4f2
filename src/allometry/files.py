"""Files that survive a crash: written beside, synced, then put in place by one rename; or appended to by the line."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any


def replace_file(path: Path, content: bytes, allowed: AbstractContextManager[Any] | None = None) -> None:
    """Put ``content`` at ``path`` so that a reader sees the old file or the new one, whole, whatever happens.

    ``allowed`` is entered for the rename alone: it may hold a lock, and raise to forbid it.

    Raises:
        OSError: the disk is full, say; the old file is then still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        with allowed or nullcontext():
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def write_json(path: Path, value: Any, allowed: AbstractContextManager[Any] | None = None) -> None:
    """``value`` as indented JSON, by :func:`replace_file`. NaN and infinity are refused: JSON has none."""
    replace_file(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode(), allowed)


def append_line(path: Path, value: Any) -> None:
    """Add ``value`` as one line of JSON, synced. A last line that a crash tore stays as it is, and does no harm.

    Raises:
        OSError: the disk is full, say; the lines before are then still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(value, allow_nan=False).encode() + b"\n"
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[Any]:
    """The JSON values of a file of lines, without those that were torn; none where there is no such file."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    values = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError):  # an object cut short is never a value
            values.append(json.loads(line))
    return values


def write_synced(path: Path, content: bytes) -> None:
    """A new file, on the disk when this returns."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Make a file that was written, or the entries of a folder, durable."""
    if Path(path).is_dir():
        _sync_folder(path)
        return
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can sync a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
