"""From a run that has ended to its record, weights and curve in the study; the record is written last."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config.run import RunConfig
from ...runs import saved_states
from ...runs.claims import Claim
from ...runs.hooks import Hooks
from ...runs.job import Job
from ...runs.record import RunRecord, environment, now
from ...runs.study import Study
from ...tasks.contract import Score
from .. import checkpoint
from .. import device as devices
from .member import Member
from .meter import Meter

UNSCORED = {"loss": Score(math.nan, math.nan)}  # of a run that diverged on its way


class RecordWriter:
    """Records the runs of a job, under the claim on it. ``where`` is added to the record's environment."""

    def __init__(self, job: Job, study: Study, claim: Claim, hooks: Hooks, where: Mapping[str, Any] | None = None):
        self.job, self.study, self.claim, self.hooks, self.where = job, study, claim, hooks, where or {}

    def log(self, config: RunConfig, event: str, **values: Any) -> None:
        """Add an event to a run's log of attempts."""
        with self.claim:
            self.study.log(config.id, event, attempt=self.claim.attempt, **values)

    def note(self, config: RunConfig, text: str) -> None:
        """A sentence for the user, and for the run's record."""
        self.log(config, "note", text=text)
        self.hooks.note(config.id, text)

    def record(
        self,
        config: RunConfig,
        member: Member,
        scores: Mapping[str, Score],
        weights: Mapping[str, Tensor],
        reason: str = "",
        spent: tuple[int, float] | None = None,
        savings: Mapping[str, Any] | None = None,
    ) -> RunRecord:
        """Write what came of a run: weights if it has not diverged, curve and record; delete the states of its decay.

        ``reason`` says why it has diverged, if it has. ``spent`` are its tokens and seconds, by default the meter's.
        """
        notes = [event["text"] for event in self.study.attempts(config.id) if event.get("event") == "note"]
        device = {"device": devices.describe(member.device)}
        where = environment(torch.get_num_threads()) | device | {**(savings or {})} | {**self.where}
        spent = spent or member.meter.spent(config)
        reason = reason or no_better_than(member.task.guess, scores["loss"])
        record = record_of(config, self.job, member.meter, scores, spent, reason, notes, where)
        if record.status == "finished":
            meta = {"config": config.to_dict()}
            checkpoint.write(self.study.weights_path(config.id), dict(weights), meta, self.claim)
        self.study.save(record, member.meter.curve, self.claim)
        self.log(config, record.status, step=member.meter.step)
        with self.claim:
            saved_states.delete(self.study.state_path(config.id))
        self.hooks.recorded(record)
        return record


def no_better_than(guess: float, loss: Score) -> str:
    """Why a run with this loss has diverged: it is no better than guessing; empty if it is."""
    return "" if loss.value < guess else f"loss {loss.value:.4g} is no better than guessing ({guess:.2f})"


def record_of(
    config: RunConfig,
    job: Job,
    meter: Meter,
    scores: Mapping[str, Score],
    spent: tuple[int, float],
    reason: str,
    notes: Sequence[str],
    where: dict[str, Any],
) -> RunRecord:
    """The record of a run that cost so many tokens and seconds beyond the shorter ones of its trunk."""
    (tokens, seconds), loss = spent, scores["loss"]
    return RunRecord(
        run=config,
        kind=job.kind,
        status="diverged" if reason else "finished",
        loss=loss.value if math.isfinite(loss.value) else None,
        loss_se=loss.error if math.isfinite(loss.error) else None,
        train_loss=meter.smooth if meter.smooth is not None and math.isfinite(meter.smooth) else None,
        seconds=round(seconds, 3),
        flops_spent=tokens * config.model.flops_per_token,
        tokens_per_second=round(tokens / seconds, 1) if seconds else 0.0,
        finished_at=now(),
        environment=where,
        note="; ".join(filter(None, [reason, *notes])),
        retry_of=job.retry_of.get(config.id, ""),
        scores={name: score for name, score in scores.items() if name != "loss"},
    )


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights of a model by name, in the CPU's memory, and what else it has learned (running means)."""
    return {name: value.detach().cpu() for name, value in (*model.named_parameters(), *model.named_buffers())}


def save_weights(path: Path, model: torch.nn.Module, config: RunConfig) -> None:
    """The weights of a run, its configuration beside them."""
    checkpoint.write(path, weights_of(model), {"config": config.to_dict()})
