"""The points of a run as they are logged: one file for each attempt, in which a line is safe as soon as it is written.

A line is handed to the system by one ``write``, so a process that is killed loses none that :meth:`PointsFile.add`
returned from. A thread forces lines to the disk within a second, so that a machine that loses power loses no more.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from ..files import read_lines

SYNC_SECONDS = 0.5  # between looks whether there are lines to force to the disk
PREFIX = "points-"

Point = dict[str, Any]


class PointsFile:
    """The points of one attempt, written as they come."""

    def __init__(self, folder: Path, attempt: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / f"{PREFIX}{attempt:06d}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._fresh = False
        self._ended = threading.Event()
        self._syncing = threading.Thread(target=self._sync, daemon=True)
        self._syncing.start()

    def add(self, point: Point) -> None:
        """Write a point; when this returns, a crash of the process cannot lose it.

        Raises:
            OSError: for example, the disk is full.
        """
        line = json.dumps(point, allow_nan=False).encode() + b"\n"
        while line:  # a disk that is nearly full takes a part; the next write says why
            line = line[os.write(self._file, line) :]
        self._fresh = True

    def close(self) -> None:
        """Force all lines to the disk and close the file."""
        self._ended.set()
        self._syncing.join()
        with contextlib.suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)

    def _sync(self) -> None:
        while not self._ended.wait(SYNC_SECONDS):
            if self._fresh:
                self._fresh = False
                with contextlib.suppress(OSError):
                    os.fsync(self._file)


def read_points(folder: Path) -> list[Point]:
    """The points of all attempts as one curve: what a later attempt did again replaces what an earlier one did."""
    kept: list[Point] = []
    for path in sorted(folder.glob(f"{PREFIX}*.jsonl")):
        points = [point for point in read_lines(path) if isinstance(point, dict) and "tokens" in point]
        if points:
            kept = [point for point in kept if point["tokens"] < points[0]["tokens"]] + points
    return kept


def delete_points(folder: Path) -> None:
    """Delete the files of all attempts."""
    for path in folder.glob(f"{PREFIX}*.jsonl"):
        path.unlink(missing_ok=True)
