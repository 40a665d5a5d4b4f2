"""Who trains what: claims on the trunks of a study, and the fence around what only a claim's owner may write.

Any number of processes may work on one study, on one machine or on several that share its folder. Each trunk is
trained by the process whose claim stands in ``claims/<trunk>.json``: attempt number, owner's token, a beat that goes
on while the owner lives. A claim may be followed by the next attempt when it was given back, when its process is gone
(seen at once on the same machine), or when its beat has stood still for :data:`STALE_SECONDS`. A process that was
stopped that long and wakes finds another token in the file and is refused: whatever it writes, it writes as

    with claim:                  # under the lock, and only if the claim is still ours
        os.rename(…)

The lock is ``flock``, so between machines it holds as far as the shared folder's ``flock`` does: on NFS 4 and the
usual cluster file systems, not where the administrator mounted them with local locks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from ..errors import UserError
from ..files import write_json

try:
    import fcntl
except ImportError:  # Windows: no such locks; two ladders on one study may repeat work
    fcntl = None

# On a disk that is held up for longer than this, a process that lives may be taken for dead: its work is then repeated.
STALE_SECONDS = float(os.environ.get("ALLOMETRY_STALE_SECONDS", "60"))
_LOCK_SECONDS = 60.0  # the lock is held for milliseconds


class Taken(Exception):
    """Another process is at this trunk."""


class Fenced(Exception):
    """Another process has taken this trunk over; nothing more may be written."""


class Claim:
    """A trunk that is this process's to train. ``with claim:`` holds the lock, or raises :class:`Fenced`."""

    def __init__(self, folder: Path, trunk: str, attempt: int):
        self.path, self.attempt = folder / f"{trunk}.json", attempt
        self.owner = uuid.uuid4().hex
        self.lost = False
        self._lock: contextlib.AbstractContextManager | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._lock = _locked(self.path.parent)
        self._lock.__enter__()
        if not self._ours():
            self._lock.__exit__(None, None, None)
            raise Fenced
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.__exit__(None, None, None)

    @contextlib.contextmanager
    def kept(self) -> Iterator[Self]:
        """Let it beat until the block ends, and give it back then."""
        beating = threading.Thread(target=self._beat, daemon=True)
        beating.start()
        try:
            yield self
        finally:
            self._ended.set()
            beating.join()
            with _locked(self.path.parent):
                if self._ours():
                    try:
                        write_json(self.path, {"attempt": self.attempt, "owner": None})
                    except OSError:  # a full disk has room for this
                        self.path.unlink()

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(STALE_SECONDS / 12):
            beat += 1
            with contextlib.suppress(OSError, UserError), _locked(self.path.parent):  # a full disk, say: the next beat
                if not self._ours():
                    self.lost = True
                    return
                self._write(beat)

    def _ours(self) -> bool:
        self.lost = self.lost or _read(self.path).get("owner") != self.owner
        return not self.lost

    def _write(self, beat: int) -> None:
        pid = os.getpid()
        owner = {"owner": self.owner, "machine": _machine(), "pid": pid, "started": _started(pid), "beat": beat}
        write_json(self.path, {"attempt": self.attempt} | owner)


def take(folder: Path, trunk: str, follows: int | None = None) -> Claim:
    """Claim a trunk, as the attempt after ``follows``; without it, if nobody alive on this machine has claimed it.

    Raises:
        Taken: somebody else has, or was quicker.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{trunk}.json"
    with _locked(folder):
        standing = _read(path)
        attempt = standing.get("attempt", 0)
        free = not standing.get("owner") or _gone(standing)
        if not free if follows is None else follows != attempt:
            raise Taken
        claim = Claim(folder, trunk, attempt + 1)
        claim._write(0)
    return claim


class Observer:
    """Tells which trunks may be claimed, by watching their beats on its own clock: machines' clocks differ."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._seen: dict[str, tuple[tuple[Any, ...], float, float]] = {}  # sign of life, since when, last look

    def free(self, trunk: str) -> int | None:
        """The attempt that may be followed, 0 where there was none; None while the claim is alive."""
        standing = _read(self.folder / f"{trunk}.json")
        if not standing.get("owner") or _gone(standing) or self._still(trunk, standing):
            return standing.get("attempt", 0)
        return None

    def stalled(self, trunk: str, attempt: int) -> bool:
        """Whether this attempt is under way and its beat stands still."""
        standing = _read(self.folder / f"{trunk}.json")
        return bool(standing.get("owner")) and standing["attempt"] == attempt and self._still(trunk, standing)

    def _still(self, trunk: str, standing: dict[str, Any]) -> bool:
        """Whether a beat has stood still for long.

        Only looks a few seconds apart tell: in a longer pause this process itself may have been stopped.
        """
        sign, now = (standing["owner"], standing.get("beat")), time.monotonic()
        seen, since, looked = self._seen.get(trunk, (None, now, now))
        if seen != sign or now - looked > STALE_SECONDS / 4:
            since = now
        self._seen[trunk] = sign, since, now
        return now - since > STALE_SECONDS


def _read(path: Path) -> dict[str, Any]:
    """What stands in a claim; nothing where there is none or it is damaged: then no token is the right one."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) and isinstance(value.get("attempt"), int) else {}


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The lock of all claims of a study; each use has a file of its own, so threads exclude each other as well."""
    with open(folder / ".lock", "a") as file:
        deadline = time.monotonic() + _LOCK_SECONDS
        while fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{folder / '.lock'}: held by a process that does not go on; end that process, or let it go on"
                    ) from None
                time.sleep(0.01)
        yield


def _gone(standing: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine that runs no more."""
    return standing.get("machine") == _machine() and _started(standing["pid"]) != standing["started"]


@lru_cache(maxsize=1)
def _machine() -> str:
    """Where process ids mean the same: this machine since it was started, and this container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def _started(pid: int) -> str | None:
    """When a process was started, which tells it from a later one of the same id; None where it runs no more."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    else:
        return None if state in "ZX" else fields[18]
    try:  # no /proc: macOS
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "runs"
