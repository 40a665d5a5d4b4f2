"""Between an engine and a listener: pass events on, judge the losses, keep remarks in the records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..config.run import RunConfig
from ..runs.hooks import Progress
from ..runs.record import RunRecord
from ..runs.study import Study
from ..runs.trackers import Trackers
from .early_warning import EarlyWarning
from .listener import Listener, Recorded, Remark, RunsEnded, RunsToCome, silent


class Monitor:
    """Receives an engine's events about some runs and passes them to a listener and to trackers.

    ``seconds`` is what each run is expected to take, by id, with ``workers`` at once. ``early`` judges where the losses
    lie; its remarks go to the listener and into the run's record. Use as a context manager around the training.
    """

    def __init__(
        self,
        study: Study,
        title: str,
        runs: Sequence[RunConfig],
        listener: Listener = silent,
        *,
        seconds: Mapping[str, float] | None = None,
        workers: int = 1,
        early: EarlyWarning | None = None,
        trackers: Trackers | None = None,
    ):
        self.study, self.title, self.listener = study, title, listener
        self.early, self.trackers = early, trackers
        self.runs = {config.id: config for config in runs}
        self.seconds, self.workers = seconds or {}, workers
        self._remarks: dict[str, list[str]] = defaultdict(list)
        self._records = {run: record for run in self.runs if (record := study.record(run)) is not None}
        if trackers:
            for record in self._records.values():
                trackers.catch_up(record)

    def __enter__(self) -> Monitor:
        runs = tuple(self.runs.values())
        self.listener(RunsToCome(self.title, runs, self._records, self.seconds, self.workers))
        return self

    def __exit__(self, *_: object) -> None:
        self.listener(RunsEnded(self.title))

    def __call__(self, event: dict[str, Any]) -> None:
        """One event of the engine."""
        config = self.runs.get(event["id"])
        if event["event"] == "note":  # the trainer has put it into the run's record itself
            self.listener(Remark(event["id"], event["text"]))
        elif config is None:
            return
        elif event["event"] == "progress":
            self._progress(config, event)
        elif event["event"] == "recorded":
            record = self._with_remarks(config)
            if self.trackers:
                self.trackers.ended(record)
            self.listener(Recorded(record))

    def _progress(self, config: RunConfig, event: dict[str, Any]) -> None:
        reading = Progress(config.id, event["tokens"], event["loss"], event["tokens_per_second"])
        if self.trackers:
            self.trackers.progress(config, event)
        if self.early and (warning := self.early.check_reading(config, reading.tokens, reading.loss)):
            self._remark(config, warning)
        self.listener(reading)

    def _remark(self, config: RunConfig, text: str) -> None:
        """A remark for the listener, and for the run's record when it ends."""
        self._remarks[config.id].append(text)
        self.listener(Remark(config.id, text))

    def _with_remarks(self, config: RunConfig) -> RunRecord:
        """The record of a run that has ended, with the remarks about it, which are saved."""
        record = self.study.ended(config.id)
        if self.early and record.status == "finished":
            warning = self.early.check_curve(config)
            if warning and warning not in self._remarks[config.id]:
                self._remark(config, warning)
        if remarks := self._remarks[config.id]:
            record = replace(record, note="; ".join(filter(None, (record.note, *remarks))))
            self.study.save(record, self.study.points(config.id))
        return record
