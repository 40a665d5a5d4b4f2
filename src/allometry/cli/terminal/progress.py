"""What a study reports, on a terminal: notes, and a live table of the runs under way; plain lines elsewhere."""

from __future__ import annotations

import time

from rich.live import Live
from rich.table import Table

from ...config.run import RunConfig
from ...quantities import format_count, format_flops, format_seconds, plural
from ...runs.record import RunRecord
from ...workflow import (
    Event,
    Fitted,
    Note,
    Planned,
    Progress,
    Recorded,
    Remark,
    RunsEnded,
    RunState,
    RunsToCome,
    RunsUnderWay,
)
from .output import answer, note, notes

COLUMNS = ("run", "params", "tokens", "batch", "lr", "progress", "loss", "tokens/s", "FLOPs", "time")
WIDE = 92  # columns of a terminal from which all of them fit
QUIET_SECONDS = 20  # without a terminal, a line at least so often


class Terminal:
    """A listener that prints: notes and progress on standard error; law and plan too, or as answers without --json."""

    def __init__(self, *, as_json: bool = False):
        self._show = note if as_json else answer
        self.board: Board | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            note(event.text)
        elif isinstance(event, Remark):
            note(f"run {event.run}: {event.text}")
        elif isinstance(event, Fitted):
            self._show(event.predictor.summary())
        elif isinstance(event, Planned):
            self._show("\n" + event.plan.summary())
        elif isinstance(event, RunsToCome):
            self._start(event)
        elif self.board is not None:
            self.board.update(event)
            if isinstance(event, RunsEnded):
                self.board.stop()
                self.board = None

    def _start(self, batch: RunsToCome) -> None:
        """A board for runs to come; a study without a sweep has none for it."""
        if batch.runs:
            self.board = Board(batch)
            self.board.start()


class Board:
    """The runs of one training: a live table on a terminal, else a line for each run that ends and now and then."""

    def __init__(self, batch: RunsToCome):
        self.runs = RunsUnderWay(batch)
        self._last_line = time.monotonic()
        self._live: Live | None = None

    def start(self) -> None:
        """Show the runs to come; nothing with --quiet."""
        if notes.is_terminal and not notes.quiet:
            self._live = Live(self.table(), console=notes, refresh_per_second=4, get_renderable=self.table)
            self._live.start()
        else:
            recorded = len(self.runs.records)
            note(f"{self.runs.title}: {plural(len(self.runs.states), 'run')}, {recorded} recorded already")

    def stop(self) -> None:
        """Leave the table as it is."""
        if self._live is not None:
            self._live.update(self.table(), refresh=True)
            self._live.stop()

    def update(self, event: Event) -> None:
        """Take in an event, and print a line where there is no table."""
        state = self.runs.update(event)
        if state is None or self._live is not None:
            return
        if isinstance(event, Recorded):
            self._line(_ended(state.config, event.record))
        elif isinstance(event, Progress) and time.monotonic() - self._last_line > QUIET_SECONDS:
            self._line(_reading(state.config, event))

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        note(f"  {len(self.runs.records):>3}/{len(self.runs.states)}  {text}  {self.time_left()}".rstrip())

    def time_left(self) -> str:
        """The time until all runs have ended, in words; empty when it is not known or nothing is left."""
        seconds = self.runs.seconds_left
        if seconds is None or seconds < 1 or len(self.runs.records) == len(self.runs.states):
            return ""
        return f"about {format_seconds(seconds)} left"

    def table(self) -> Table:
        """All runs as they are now."""
        runs = self.runs
        spent = f"{format_flops(runs.flops_spent)} FLOPs in {format_seconds(runs.seconds_spent)} of process time"
        parts = (runs.title, f"{len(runs.records)}/{len(runs.states)}", spent if runs.records else "", self.time_left())
        title = "  ".join(filter(None, parts))
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        shown = [name for name in COLUMNS if notes.width >= WIDE or name not in ("batch", "lr")]
        for name in shown:
            table.add_column(name, justify="left" if name in ("run", "progress") else "right", no_wrap=True)
        for state in runs.states.values():
            cells = _cells(state)
            table.add_row(*(cells[name] for name in shown))
        return table


def _reading(config: RunConfig, reading: Progress) -> str:
    """The line of a run under way."""
    unit = config.task.unit
    return (
        f"{reading.id}  {format_count(reading.tokens)} of {format_count(config.tokens)} {unit}s  "
        f"training loss {reading.loss:.3f}  {format_count(reading.tokens_per_second)} {unit}s/s"
    )


def _ended(config: RunConfig, record: RunRecord) -> str:
    """The line of a run that has ended."""
    unit = config.task.unit
    loss = f"loss {record.loss:.4f}" if record.status == "finished" else f"DIVERGED: {record.note}"
    return (
        f"{record.id}  {format_count(config.num_params)} params  {format_count(config.tokens)} {unit}s  "
        f"lr {config.train.lr:.3g}  {loss}  {format_count(record.tokens_per_second)} {unit}s/s  "
        f"{format_flops(record.flops_spent)} FLOPs in {format_seconds(record.seconds)}"
    )


def _cells(state: RunState) -> dict[str, str]:
    """The row of a run, by the names of the columns."""
    config = state.config
    known = {
        "run": config.id,
        "params": format_count(config.num_params),
        "tokens": format_count(config.tokens),
        "batch": format_count(config.train.batch_tokens),
        "lr": f"{config.train.lr:.3g}",
    }
    return known | (_cells_under_way(state) if state.record is None else _cells_ended(state.record))


def _cells_under_way(state: RunState) -> dict[str, str]:
    reading, expected = state.reading, state.expected_seconds
    return {
        "progress": _bar(state.share),
        "loss": f"[dim]{reading.loss:.3f}[/]" if reading else "",
        "tokens/s": format_count(reading.tokens_per_second) if reading and reading.tokens_per_second else "",
        "FLOPs": "",
        "time": "" if expected is None else f"[dim]~{format_seconds(expected)}[/]",
    }


def _cells_ended(record: RunRecord) -> dict[str, str]:
    return {
        "progress": "diverged" if record.status == "diverged" else _bar(1.0),
        "loss": "" if record.loss is None else f"[bold]{record.loss:.4f}[/]",
        "tokens/s": format_count(record.tokens_per_second) if record.tokens_per_second else "",
        "FLOPs": format_flops(record.flops_spent),
        "time": format_seconds(record.seconds),
    }


def _bar(share: float, width: int = 8) -> str:
    full = round(min(1.0, share) * width)
    return "━" * full + "[dim]" + "─" * (width - full) + "[/]"
