"""What a study will cost, known before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..config.model import DecoderConfig
from ..config.run import RunConfig
from ..ladder.design import Design, describe_cost, target_run
from ..ladder.fill_minutes import FIXED_SECONDS
from ..ladder.speed import Speed
from ..planning.optimum.repeated_data import repetition_note
from ..quantities import format_count, format_flops, format_seconds
from ..runs.trunks import trunk_costs
from .own_ladder.earlier_studies import SHORT_TOKENS

USED_SHARE = 0.8  # of the minutes; a design that fills less was cut for its text


@dataclass(frozen=True)
class RunCost:
    """A run of the ladder, what it is for ("sweep" or "ladder"), and the seconds that it will take."""

    kind: str
    config: RunConfig
    seconds: float


@dataclass(frozen=True)
class LadderCost:
    """The runs of a study's design with what they cost, and the target that the ladder is to predict.

    ``minutes`` is what the study was given to fill; None if its widths and tokens are given instead. ``num_recorded``
    runs of the study are recorded already and cost nothing more.
    """

    runs: tuple[RunCost, ...]
    design: Design
    minutes: float | None = None
    num_recorded: int = 0

    @classmethod
    def of(cls, design: Design, speed: Speed, minutes: float | None = None, num_recorded: int = 0) -> LadderCost:
        """The cost of a design at a measured speed."""
        runs = [
            RunCost(kind, config, seconds[config.id])
            for kind, configs in (("sweep", design.sweep), ("ladder", design.rungs))
            for seconds in [trunk_costs(speed.ladder, configs)]
            for config in configs
        ]
        return cls(tuple(runs), design, minutes, num_recorded)

    def notes(self) -> list[str]:
        """Time and memory in words, and what a person should know before anything is spent."""
        design = self.design
        longest = max(design.rungs, key=lambda run: run.tokens)
        notes = [describe_cost(design)]
        if isinstance(longest.model, DecoderConfig) and not longest.model.plain:
            notes.append("a decoder with options is trained by its layers: the compiled kernels serve none of them")
        if repeats := repetition_note(longest.epochs):
            notes.append(f"the longest run {repeats}")
        if self.minutes is None or design.target_seconds is None:
            return notes
        notes.append(
            f"then the plan: {format_flops(design.target_flops)} FLOPs, {design.target_ratio:g}× the largest rung, "
            f"{format_seconds(design.target_seconds)}"
        )
        epochs = target_run(design).epochs
        if epochs is not None and design.total_seconds < USED_SHARE * (60 * self.minutes - FIXED_SECONDS):
            times = "once" if round(epochs, 1) == 1 else f"{epochs:.2g} times"
            notes.append(
                f"the text is short: the ladder is smaller than {self.minutes:g} minutes allow, so that the plan reads "
                f"it about {times}; a longer text makes it larger, and so do more epochs in the study's file, with a "
                "wider interval"
            )
        most_tokens = longest.tokens * design.largest_flops / longest.flops  # of the later rungs too
        if most_tokens < SHORT_TOKENS:
            notes.append(
                f"these runs are short, at most {format_count(most_tokens)} tokens: laws bend at such lengths, so "
                "the interval is wide; give more --minutes, or use a machine that does nothing else"
            )
        return notes

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        names = ("num_params", "tokens", "flops", "epochs")
        return {
            "runs": [
                {
                    "kind": run.kind,
                    "seconds": run.seconds,
                    "lr": run.config.train.lr,
                    "batch_tokens": run.config.train.batch_tokens,
                }
                | {name: getattr(run.config, name) for name in names}
                for run in self.runs
            ],
            "ladder_seconds": self.design.ladder_seconds,
            "target_seconds": self.design.target_seconds,
            "target_flops": self.design.target_flops,
        }
