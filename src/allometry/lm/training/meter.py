"""What a run measures of itself as it trains: its place, the smoothed loss, the curve, the time, and its divergence."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ...config.run import RunConfig
from ...config.schedule import Schedule
from .health import SMOOTHING, SPIKE_STEPS, Spikes

CURVE_POINTS = 200


@dataclass(frozen=True)
class Start:
    """From where the cost of a run is counted; what a shorter run of its trunk has trained is not its own."""

    run: str = ""
    tokens: int = 0
    seconds: float = 0.0


class Meter:
    """The measurements of one model in training; all of it goes through a saved state."""

    def __init__(self, schedule: Schedule):
        self.step = 0
        self.smooth: float | None = None
        self.curve: list[list[float]] = []
        self.seconds = 0.0
        self.spikes = Spikes()
        self.diverged = ""  # why, once it has
        self.start = Start()
        self._curve_every = max(1, schedule.steps // CURVE_POINTS)

    def begin(self, config: RunConfig) -> None:
        """Count the cost of a run from here, unless it is that run already."""
        if self.start.run != config.id:
            self.start = Start(config.id, config.schedule.tokens_before(self.step), self.seconds)

    def spent(self, config: RunConfig) -> tuple[int, float]:
        """Tokens and seconds that a run has cost since it began."""
        tokens = config.schedule.tokens_before(self.step)
        return tokens - self.start.tokens, self.seconds - self.start.seconds

    def account(self, loss: float, seconds: float, schedule: Schedule, until: int) -> None:
        """Note a step of this loss; a loss that is not finite, or has risen and stays high, is a divergence."""
        self.step += 1
        self.smooth = loss if self.smooth is None else self.smooth + SMOOTHING * (loss - self.smooth)
        self.seconds += seconds
        if not math.isfinite(loss):
            self.diverged = f"the training loss is not finite at step {self.step}"
            return
        if self.step % self._curve_every == 0 or self.step == until:
            self.curve.append([schedule.tokens_before(self.step), round(self.smooth, 5)])
        if self.spikes.see(self.step, self.smooth, loss):
            rise = f"{self.spikes.rise:.2g} nats above its least"
            self.diverged = f"the training loss stayed {rise} for {SPIKE_STEPS} steps"

    def fault(self) -> str:
        """Why a run that ends here has diverged; empty if it has not."""
        rise = f"{self.spikes.rise:.2g} nats above its least"
        high = f"the training loss ended more than {rise}" if self.spikes.up else ""
        return self.diverged or high

    def capture(self) -> dict[str, Any]:
        """A copy, as JSON, which has no NaN."""
        smooth = None if self.smooth is None or not math.isfinite(self.smooth) else self.smooth
        values = {"step": self.step, "smooth": smooth, "curve": [*self.curve], "seconds": self.seconds}
        return values | {"spikes": self.spikes.state(), "diverged": self.diverged, "start": asdict(self.start)}

    def restore(self, meta: dict[str, Any]) -> None:
        """Go back to what was captured."""
        self.step, self.smooth, self.seconds = meta["step"], meta["smooth"], meta["seconds"]
        self.curve, self.diverged = [*meta["curve"]], meta["diverged"]
        if self.diverged and self.smooth is None:
            self.smooth = math.nan
        self.spikes.restore(meta["spikes"])
        self.start = Start(**meta["start"])
