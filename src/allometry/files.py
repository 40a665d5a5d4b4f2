"""Files that survive a crash: written under a temporary name, synced, then renamed; or appended to line by line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

if sys.platform != "win32":
    import fcntl


def check_replaceable(path: Path | str) -> None:
    """Raises OSError where no file can be put in the place of what is there: a folder, a device, or "-";
    or in its folder."""
    path = Path(path)
    if path == Path("-"):
        raise OSError(errno.EINVAL, "give a file; --json prints the answer on standard output", "-")
    if path.exists() and not path.is_file():
        kind = "is a folder" if path.is_dir() else "is no regular file and is left as it is"
        raise OSError(errno.EINVAL, f"{kind}; give the name of a file", str(path))
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise OSError(errno.ENOTDIR, f"{folder} is no folder", str(path))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, f"no permission to write in {folder}", str(path))


def replace_file(path: Path, content: bytes, allowed: AbstractContextManager[Any] | None = None) -> None:
    """Write ``content`` to ``path``; whatever happens, a reader sees either the old file or the new one, complete.

    ``allowed`` is entered for the rename only: it may hold a lock, or raise to forbid the rename.

    Raises:
        OSError: for example, the disk is full; the old file is then still there. Or ``path`` is there and is no
            regular file: a rename would destroy a device.
    """
    path = Path(path)
    check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:  # it would name the temporary file
        raise OSError(error.errno, error.strerror, str(path)) from None
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
    """Write ``value`` as indented JSON by :func:`replace_file`.

    Raises:
        ValueError: ``value`` holds NaN or infinity, which JSON lacks.
        OSError: as :func:`replace_file`.
    """
    replace_file(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode(), allowed)


def parse_json(text: str | bytes) -> Any:
    """The JSON value in a text.

    Raises:
        ValueError: it is none, or is nested too deeply to be anybody's data.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def append_line(path: Path, value: Any) -> None:
    """Append ``value`` as one line of JSON and sync. A last line that a crash left incomplete stays, and does no harm.

    Raises:
        OSError: for example, the disk is full; the earlier lines are then still there.
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
    """The JSON values in a file of lines, without incomplete lines; empty if the file does not exist."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    values = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError):  # an incomplete object is never valid JSON
            values.append(parse_json(line))
    return values


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file, and return when it is on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def lock_file(file: IO[Any], *, exclusive: bool = True, wait: bool = True) -> None:
    """Lock an open file by ``flock`` until it is closed or the process ends.

    On Windows, which has no such locks, this does nothing: two processes on one study may then repeat work.

    Raises:
        BlockingIOError: another process holds the lock, and ``wait`` is false.
    """
    if sys.platform != "win32":
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)


def sync(path: Path) -> None:
    """Force the content of a file, or the entries of a folder, to the disk."""
    if Path(path).is_dir():
        _sync_folder(path)
        return
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Force the entries of a folder to the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
