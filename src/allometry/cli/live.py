"""The runs of a study while they are trained: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.live import Live
from rich.table import Table

from ..config import RunConfig
from ..quantities import format_count, format_flops, format_seconds
from ..runs.store import Study
from .output import note, notes

QUIET_SECONDS = 20  # without a terminal, a line at least so often


class Board:
    """Hears the engine's events and shows them. ``seconds``: what each run is expected to take, by id."""

    def __init__(self, study: Study, title: str, seconds: dict[str, float] | None = None, workers: int = 1):
        self.study, self.title, self.seconds, self.workers = study, title, seconds or {}, workers
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
        if event["event"] == "note":
            note(event["text"])
        state = self.state.get(event["id"])
        if state is None:
            return
        if event["event"] == "progress":
            state.update(event)
            if self.live is None and time.monotonic() - self.spoke > QUIET_SECONDS:
                self._progress_line(event)
        elif event["event"] == "recorded":
            state["record"] = self.study.record(event["id"])
            if self.live is None:
                self._line(event["id"])

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
            f"{format_count(config.tokens)} tokens  lr {config.train.lr:.3g}  {loss}  {format_seconds(record.seconds)}"
            f"  {self._left()}"
        )

    def _done(self) -> int:
        return sum("record" in state for state in self.state.values())

    def _left(self) -> str:
        """Time left, from what the runs still to come were expected to take."""
        if not self.seconds:
            return ""
        remaining = 0.0
        for run, state in self.state.items():
            if "record" not in state:
                done = state.get("tokens", 0) / self.configs[run].tokens
                remaining += self.seconds.get(run, 0.0) * max(0.0, 1 - done)
        return f"about {format_seconds(remaining / self.workers)} left"

    def _table(self) -> Table:
        title = f"{self.title}  {self._done()}/{len(self.configs)}  {self._left()}"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for name in ("run", "params", "tokens", "batch", "lr", "progress", "loss", "tokens/s"):
            table.add_column(name, justify="left" if name in ("run", "progress") else "right", no_wrap=True)
        for run, state in self.state.items():
            config, record = self.configs[run], state.get("record")
            if record is not None:
                share, loss, rate = 1.0, record.loss, record.tokens_per_second
            else:
                share, loss = state.get("tokens", 0) / config.tokens, state.get("loss")
                rate = state.get("tokens_per_second")
            done = "diverged" if record is not None and record.status == "diverged" else _bar(share)
            held_out = record is not None and loss is not None
            table.add_row(
                run,
                format_count(config.num_params),
                format_count(config.tokens),
                format_count(config.train.batch_tokens),
                f"{config.train.lr:.3g}",
                done,
                "" if loss is None else (f"[bold]{loss:.4f}[/]" if held_out else f"[dim]{loss:.3f}[/]"),
                "" if not rate else format_count(rate),
            )
        return table


def cost_table(rows: Sequence[tuple[str, RunConfig, float]]) -> Table:
    """Every run of a ladder, what it is for and the seconds it will take, before anything is spent."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("kind", "params", "total", "tokens", "batch", "lr", "FLOPs", "seconds"):
        table.add_column(name, justify="left" if name == "kind" else "right", no_wrap=True)
    for kind, config, seconds in rows:
        table.add_row(
            kind,
            format_count(config.num_params),
            format_count(config.model.num_params_total),
            format_count(config.tokens),
            format_count(config.schedule.stages[-1].batch * config.model.context),
            f"{config.train.lr:.3g}",
            format_flops(config.flops),
            f"{seconds:.1f}",
        )
    return table


def _bar(share: float, width: int = 12) -> str:
    full = round(min(1.0, share) * width)
    return "━" * full + "[dim]" + "─" * (width - full) + "[/]"
