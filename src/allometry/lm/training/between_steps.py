"""What happens between two steps: a lost claim or a wish to stop is obeyed, the state is saved, progress reported."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from ...config.run import RunConfig
from ...runs.claims import Claim, Fenced
from ...runs.hooks import Hooks, Interrupted, Progress
from .meter import Meter

SAVE_SECONDS = 10.0  # at least so long between two saves
SAVING_SHARE = 0.02  # of the time, at most, is spent saving
REPORT_SECONDS = 0.4


class BetweenSteps:
    """Called after each step. ``running`` are the runs under way, which change; ``save`` saves where they stand."""

    def __init__(
        self,
        claim: Claim | None,
        hooks: Hooks,
        save: Callable[[], None],
        log: Callable[[str], None],
        save_seconds: float = SAVE_SECONDS,
    ):
        self.claim, self.hooks, self._save, self._log = claim, hooks, save, log
        self.running: Sequence[tuple[RunConfig, Meter]] = ()
        self.save_seconds = self.pause = save_seconds
        self.reported = self.saved = time.monotonic()

    def wishes(self) -> tuple[float, float, float]:
        """Whether to stop, whether to save, and whether the claim is lost: 1 or 0, which processes can add up."""
        due = time.monotonic() - self.saved > self.pause
        return float(self.hooks.should_stop()), float(due), float(self.claim is not None and self.claim.lost)

    def __call__(self) -> None:
        self.obey(*self.wishes())

    def obey(self, stop: float, save: float, lost: float) -> None:
        """Do what is wished.

        Raises:
            Interrupted: asked to stop; the state is saved. Fenced: the claim is lost.
        """
        if lost:
            raise Fenced
        if stop or save:
            self.save()
        if stop:
            self._log("interrupted")
            raise Interrupted
        if time.monotonic() - self.reported > REPORT_SECONDS:
            self.reported = time.monotonic()
            self._report()

    def save(self) -> None:
        """Save now; the next time only after a while, so that saving takes a small share of the time."""
        begin = time.monotonic()
        try:
            self._save()
        except OSError:
            if self.claim is not None:
                with self.claim:  # who took it over tidied up what was being written here
                    raise
            raise
        self.saved = time.monotonic()
        self.pause = max(self.save_seconds, (self.saved - begin) / SAVING_SHARE)

    def _report(self) -> None:
        for config, meter in self.running:
            if meter.smooth is not None and math.isfinite(meter.smooth):
                tokens = config.schedule.tokens_before(meter.step)
                self.hooks.report(Progress(config.id, tokens, meter.smooth, tokens / meter.seconds))
