"""The runs of a study while they are trained: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.live import Live
from rich.table import Table

from ..config.run import RunConfig
from ..quantities import format_count, format_flops, format_seconds
from ..runs.record import RunRecord
from ..runs.study import Study
from ..runs.trackers import Trackers
from ..workflow.early_warning import Early
from .output import note, notes

COLUMNS = ("run", "params", "tokens", "batch", "lr", "progress", "loss", "tokens/s", "FLOPs", "time")
WIDE = 92  # columns of a terminal from which all of them fit
QUIET_SECONDS = 20  # without a terminal, a line at least so often


class Board:
    """Hears the engine's events and shows them.

    ``seconds``: what each run is expected to take, by id. ``early`` judges where the losses lie; what it says is shown
    and written into the run's record. ``trackers`` receive everything too.
    """

    def __init__(
        self,
        study: Study,
        title: str,
        seconds: dict[str, float] | None = None,
        workers: int = 1,
        *,
        early: Early | None = None,
        trackers: Trackers | None = None,
    ):
        self.study, self.title, self.seconds, self.workers = study, title, seconds or {}, workers
        self.early, self.trackers = early, trackers
        self.configs: dict[str, RunConfig] = {}
        self.state: dict[str, dict[str, Any]] = {}
        self.spoke = time.monotonic()
        self.live: Live | None = None

    def show(self, configs: Sequence[RunConfig]) -> Board:
        """The runs to come; those recorded already are shown as they ended."""
        for config in sorted(configs, key=lambda config: (config.num_params, config.train.lr, config.flops)):
            self.configs[config.id] = config
            record = self.study.record(config.id)
            self.state[config.id] = {} if record is None else {"record": record}
            if record is not None and self.trackers:
                self.trackers.catch_up(record)
        return self

    def __enter__(self) -> Board:
        if notes.is_terminal:
            self.live = Live(self._table(), console=notes, refresh_per_second=4, get_renderable=self._table)
            self.live.start()
        else:
            note(f"{self.title}: {len(self.configs)} runs, {self._done()} of them recorded already")
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.update(self._table(), refresh=True)
            self.live.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """One event of the engine."""
        if event["event"] == "note":  # the trainer has put it into the run's record itself
            note(f"run {event['id']}: {event['text']}")
        state = self.state.get(event["id"])
        if state is None:
            return
        run, config = event["id"], self.configs[event["id"]]
        if event["event"] == "progress":
            state.update(event)
            if self.trackers:
                self.trackers.progress(config, event)
            if self.early and (said := self.early.reading(config, event["tokens"], event["loss"])):
                self._remark(run, said)
            if self.live is None and time.monotonic() - self.spoke > QUIET_SECONDS:
                self._progress_line(event)
        elif event["event"] == "recorded":
            state["record"] = self._ended(run)
            if self.trackers:
                self.trackers.ended(state["record"])
            if self.live is None:
                self._line(event["id"])

    def _remark(self, run: str, text: str) -> None:
        """A line about a run, for its record too."""
        self.state[run].setdefault("remarks", []).append(text)
        note(f"run {run}: {text}")

    def _ended(self, run: str) -> RunRecord:
        """The record of a run, with the remarks made on the way."""
        record, remarks = self.study.record(run), self.state[run].get("remarks", [])
        if self.early and record.status == "finished":
            said = self.early.ended(self.configs[run])
            if said and said not in remarks:
                self._remark(run, said)
                remarks = self.state[run]["remarks"]
        if remarks:
            record = replace(record, note="; ".join(filter(None, (record.note, *remarks))))
            self.study.save(record, self.study.curve(run))
        return record

    def _progress_line(self, event: dict[str, Any]) -> None:
        self.spoke = time.monotonic()
        config = self.configs[event["id"]]
        note(
            f"  {self._done():>3}/{len(self.configs)}  {event['id']}  {format_count(event['tokens'])} of "
            f"{format_count(config.tokens)} tokens  training loss {event['loss']:.3f}  "
            f"{format_count(event['tokens_per_second'])} tokens/s  {self._left()}"
        )

    def _line(self, run: str) -> None:
        self.spoke = time.monotonic()
        record, config = self.state[run]["record"], self.configs[run]
        loss = f"loss {record.loss:.4f}" if record.status == "finished" else f"DIVERGED: {record.note}"
        note(
            f"  {self._done():>3}/{len(self.configs)}  {run}  {format_count(config.num_params)} params  "
            f"{format_count(config.tokens)} tokens  lr {config.train.lr:.3g}  {loss}  "
            f"{format_count(record.tokens_per_second)} tokens/s  {format_flops(record.flops_spent)} FLOPs in "
            f"{format_seconds(record.seconds)}  {self._left()}"
        )

    def _done(self) -> int:
        return sum("record" in state for state in self.state.values())

    def _spent(self) -> str:
        """What the runs that ended cost, in FLOPs and in seconds of their processes."""
        ended = [state["record"] for state in self.state.values() if "record" in state]
        if not ended:
            return ""
        spent, seconds = sum(record.flops_spent for record in ended), sum(record.seconds for record in ended)
        return f"{format_flops(spent)} FLOPs in {format_seconds(seconds)} of process time"

    def _left(self) -> str:
        """Time left, from what the runs still to come were expected to take, or else from how fast they are."""
        remaining = 0.0
        for run, state in self.state.items():
            if "record" in state:
                continue
            tokens, rate = self.configs[run].tokens, state.get("tokens_per_second")
            whole = self.seconds.get(run) or (tokens / rate if rate else None)
            if whole is None:
                return ""
            remaining += whole * max(0.0, 1 - state.get("tokens", 0) / tokens)
        return f"about {format_seconds(remaining / self.workers)} left"

    def _table(self) -> Table:
        parts = (self.title, f"{self._done()}/{len(self.configs)}", self._spent(), self._left())
        title = "  ".join(filter(None, parts))
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        shown = [name for name in COLUMNS if notes.width >= WIDE or name not in ("batch", "lr")]
        for name in shown:
            table.add_column(name, justify="left" if name in ("run", "progress") else "right", no_wrap=True)
        for run, state in self.state.items():
            config, record = self.configs[run], state.get("record")
            if record is not None:
                share, loss, rate = 1.0, record.loss, record.tokens_per_second
                flops, seconds = format_flops(record.flops_spent), format_seconds(record.seconds)
            else:
                share, loss = state.get("tokens", 0) / config.tokens, state.get("loss")
                rate, flops = state.get("tokens_per_second"), ""
                seconds = f"[dim]~{format_seconds(self.seconds[run])}[/]" if run in self.seconds else ""
            done = "diverged" if record is not None and record.status == "diverged" else _bar(share)
            held_out = record is not None and loss is not None
            cells = {
                "run": run,
                "params": format_count(config.num_params),
                "tokens": format_count(config.tokens),
                "batch": format_count(config.train.batch_tokens),
                "lr": f"{config.train.lr:.3g}",
                "progress": done,
                "loss": "" if loss is None else (f"[bold]{loss:.4f}[/]" if held_out else f"[dim]{loss:.3f}[/]"),
                "tokens/s": "" if not rate else format_count(rate),
                "FLOPs": flops,
                "time": seconds,
            }
            table.add_row(*(cells[name] for name in shown))
        return table


def cost_table(rows: Sequence[tuple[str, RunConfig, float]]) -> Table:
    """Every run of a ladder, what it is for and the seconds it will take, before anything is spent."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("kind", "params", "total", "tokens", "epochs", "batch", "lr", "FLOPs", "seconds"):
        table.add_column(name, justify="left" if name == "kind" else "right", no_wrap=True)
    for kind, config, seconds in rows:
        table.add_row(
            kind,
            format_count(config.num_params),
            format_count(config.model.num_params_total),
            format_count(config.tokens),
            "" if config.epochs is None else f"{config.epochs:.2g}",
            format_count(config.schedule.stages[-1].batch * config.model.context),
            f"{config.train.lr:.3g}",
            format_flops(config.flops),
            f"{seconds:.1f}",
        )
    return table


def _bar(share: float, width: int = 8) -> str:
    full = round(min(1.0, share) * width)
    return "━" * full + "[dim]" + "─" * (width - full) + "[/]"
