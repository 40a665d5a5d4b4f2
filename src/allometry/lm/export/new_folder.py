"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import UserError
from ...files import sync


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``path`` when the block ends; nothing is left where it fails.

    Raises:
        UserError: ``path`` holds something, or cannot be written.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"--to {path}: exists and is not an empty folder; give another one")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.absolute().parent, prefix=f".{path.name}."))
    except OSError as error:
        raise UserError(f"--to {path}: cannot be written: {error.strerror or error}") from None
    try:
        yield temporary
        for file in temporary.iterdir():
            file.chmod(0o644)
            sync(file)
        temporary.chmod(0o755)
        os.replace(temporary, path)  # over an empty folder, which the system allows
        sync(path.absolute().parent)
    except OSError as error:
        raise UserError(f"--to {path}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
