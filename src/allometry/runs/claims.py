"""Claims on the trunks of a study: which process trains which trunk, and a fence against writes by former owners.

Any number of processes may work on one study, on one machine or on several that share its folder. A trunk is trained
by the process whose claim is in ``claims/<trunk>.json``: the attempt number, the owner's token, and a heartbeat that
increases while the owner lives. The next attempt may begin when the claim was released, when its process is gone
(detected at once on the same machine), or when its heartbeat has not changed for :data:`STALE_SECONDS`. A process that
was stopped for so long and wakes up again finds another token in the file and is refused, because it makes every
write like this:

    with claim:                  # under the lock, and only if the claim is still ours
        os.rename(…)

The lock is ``flock``. Between machines it works wherever the shared folder supports ``flock``: on NFS 4 and the usual
cluster file systems, but not where the administrator mounted them with local locks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from ..errors import UserError
from ..files import lock_file, parse_json, write_json

# If a disk blocks for longer than this, a living process may be regarded as dead; its work is then repeated.
STALE_SECONDS = float(os.environ.get("ALLOMETRY_STALE_SECONDS", "60"))
_LOCK_SECONDS = 60.0  # to wait for the lock, which is normally held for milliseconds


class Taken(Exception):
    """Another process has claimed this trunk."""


class Fenced(Exception):
    """Another process has taken over this trunk; this process must not write to it any more."""


class Claim:
    """The right of this process to train a trunk. ``with claim:`` holds the lock, or raises :class:`Fenced`."""

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
        if self._lock is not None:
            self._lock.__exit__(None, None, None)

    @contextlib.contextmanager
    def kept(self) -> Iterator[Self]:
        """Keep the claim alive by its heartbeat until the block ends, and release it then."""
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
                    except OSError:  # a full disk: deleting needs no space
                        self.path.unlink()

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(STALE_SECONDS / 12):
            beat += 1
            # If a beat fails, for example on a full disk, the next one may succeed.
            with contextlib.suppress(OSError, UserError), _locked(self.path.parent):
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
    """Claim a trunk, as the attempt after ``follows``; without it, if no living process has claimed the trunk.

    Raises:
        Taken: another process has the claim, or was faster.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{trunk}.json"
    with _locked(folder):
        stored = _read(path)
        attempt = stored.get("attempt", 0)
        free = not stored.get("owner") or _gone(stored)
        if not free if follows is None else follows != attempt:
            raise Taken
        claim = Claim(folder, trunk, attempt + 1)
        claim._write(0)
    return claim


def take_when_free(folder: Path, trunk: str, say: Callable[[str], None] | None = None) -> Claim:
    """Claim a trunk, also one whose owner cannot be seen from here and has stopped beating.

    A process of this machine is seen to be gone at once. Of one on another machine, in another container, or before
    the machine was started again, only the heartbeat tells: it is watched for :data:`STALE_SECONDS`, after ``say`` has
    received a line.

    Raises:
        Taken: the owner lives, or another process was faster.
    """
    observer, first = Observer(folder), _read(folder / f"{trunk}.json")
    while (follows := observer.free(trunk)) is None:
        stored = _read(folder / f"{trunk}.json")
        if stored.get("owner") != first.get("owner") or stored.get("beat") != first.get("beat") or _is_here(stored):
            raise Taken
        if say is not None:
            say(f"another machine's process has claimed this; watching for {STALE_SECONDS:.0f} s whether it lives")
            say = None
        time.sleep(min(1.0, STALE_SECONDS / 10))
    return take(folder, trunk, follows)


class Observer:
    """Watches heartbeats to find the trunks that may be claimed; by its own clock, because machines' clocks differ."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._seen: dict[str, tuple[tuple[Any, ...] | None, float, float]] = {}  # heartbeat, since when, last look

    def free(self, trunk: str) -> int | None:
        """The attempt after which the trunk may be claimed (0: there was none); None while the claim is alive."""
        stored = _read(self.folder / f"{trunk}.json")
        if not stored.get("owner") or _gone(stored) or self._is_stale(trunk, stored):
            return stored.get("attempt", 0)
        return None

    def stalled(self, trunk: str, attempt: int) -> bool:
        """Whether this attempt is still claimed but its heartbeat has stopped."""
        stored = _read(self.folder / f"{trunk}.json")
        return bool(stored.get("owner")) and stored["attempt"] == attempt and self._is_stale(trunk, stored)

    def _is_stale(self, trunk: str, stored: dict[str, Any]) -> bool:
        """Whether the heartbeat has not changed for :data:`STALE_SECONDS`.

        Only looks that are a few seconds apart count: during a longer pause this process itself may have been stopped.
        """
        sign, now = (stored["owner"], stored.get("beat")), time.monotonic()
        seen, since, looked = self._seen.get(trunk, (None, now, now))
        if seen != sign or now - looked > STALE_SECONDS / 4:
            since = now
        self._seen[trunk] = sign, since, now
        return now - since > STALE_SECONDS


def _read(path: Path) -> dict[str, Any]:
    """The content of a claim; empty if there is none or it is damaged, so that no token matches."""
    try:
        value = parse_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) and isinstance(value.get("attempt"), int) else {}


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of all claims of a study. Each use opens the file anew, so threads exclude each other as well."""
    with open(folder / ".lock", "a") as file:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                lock_file(file, wait=False)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{folder / '.lock'}: held by a process that makes no progress; end it, or let it continue"
                    ) from None
                time.sleep(0.01)
        yield


def _is_here(stored: dict[str, Any]) -> bool:
    """Whether the owner is a process of this machine that has not ended."""
    return stored.get("machine") == _machine() and not _gone(stored)


def _gone(stored: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine that has ended."""
    return stored.get("machine") == _machine() and _started(stored["pid"]) != stored["started"]


@lru_cache(maxsize=1)
def _machine() -> str:
    """The scope in which a process id is unique: this machine since it was started, and this container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def _started(pid: int) -> str | None:
    """When a process was started, which distinguishes it from a later one of the same id; None if it has ended."""
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
