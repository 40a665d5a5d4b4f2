"""Finished runs as rows of a table, and what was derived of them in a note a column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ...quantities import parse_number, plural
from .facts_of_run import FinishedRun
from .find_runs import finished_runs

# The convention to count by, the likeliest first, where a table has several.
PREFERENCE = ("active", "non_embedding", "matmul", "total", "unknown")
COLUMNS = ("tokens", "batch_tokens", "steps", "lr", "loss", "sequence_length", "seed", "flops")
# What a user may state for all runs.
GIVEN = (
    *("num_params", "tokens", "batch_tokens", "batch_sequences", "sequence_length"),
    *("accumulation", "processes", "steps", "lr"),
)


@dataclass(frozen=True)
class RunTable:
    """Runs as rows.

    Attributes:
        runs: those that a law can use, in the order of ``rows``.
        rows: field → value, for each.
        counted: which parameters ``num_params`` counts.
        notes: how each column was derived; which runs were left out, and why.
    """

    runs: tuple[FinishedRun, ...]
    rows: tuple[dict[str, Any], ...]
    counted: str
    notes: tuple[str, ...]


def read_run_table(source: Path, given: Mapping[str, Any] | None = None, counted: str | None = None) -> RunTable:
    """The finished runs in a folder or a file that a tool left.

    Args:
        given: field → number that holds for all runs, of :data:`GIVEN`.
        counted: which parameters to take; by default the first of :data:`PREFERENCE` that all runs have.

    Raises:
        UserError: no runs, none that a law can use, losses of two units, a file that is damaged.
    """
    numbers = given_numbers(given or {}, source)
    everything = list(finished_runs(source, numbers))
    if not everything:
        raise UserError(
            f"{source}: not a study and no runs in it; known are folders of Trainer's checkpoints, TensorBoard, W&B, "
            "MLflow, Lightning, Optuna, nanoGPT, nanochat, torchtitan, Lingua and OLMo-core; a table of runs goes to "
            "`allometry fit` as a single file"
        )
    usable, notes = _usable(everything, source)
    counted = counted or _counted(usable)
    kept = [run for run in usable if counted in run.counts]
    if not kept:
        known = ", ".join(dict.fromkeys(name for run in usable for name in run.counts))
        raise UserError(f"{source}: no run counts its parameters {counted}; known are {known}")
    if len(kept) < len(usable):
        others = [run.name for run in usable if counted not in run.counts]
        notes.append(f"left out {plural(len(others), 'run')}, whose sizes are not counted {counted}: {_shown(others)}")
    units = {run.loss_unit for run in kept}
    if len(units) > 1:
        raise UserError(f"{source}: losses in {' and '.join(sorted(units))}; read the runs of one unit alone")
    if units == {"bits per byte"}:
        notes.append("losses are in bits a byte: so are predictions")
    rows = tuple(_row(run, name, counted) for run, name in zip(kept, labels(kept), strict=True))
    return RunTable(tuple(kept), rows, counted, (*how_derived(kept, counted), *notes))


def given_numbers(given: Mapping[str, Any], source: Path) -> dict[str, float]:
    """What the user states, checked.

    Raises:
        UserError: an unknown field, or no number above zero.
    """
    numbers = {}
    for name, value in given.items():
        if name not in GIVEN:
            raise UserError(f"{source} holds runs: of these {', '.join(GIVEN)} can be given as numbers, not {name!r}")
        numbers[name] = parse_number(value, f"{source} holds runs, which have no columns; {name}")
    return numbers


def labels(runs: Iterable[FinishedRun]) -> list[str]:
    """A name for each run, told apart by numbers where several have one."""
    times: dict[str, int] = {}
    names = []
    for run in runs:
        times[run.name] = times.get(run.name, 0) + 1
        names.append(run.name if times[run.name] == 1 else f"{run.name} #{times[run.name]}")
    return names


def how_derived(runs: Iterable[FinishedRun], counted: str) -> list[str]:
    """A note a column: how it was derived, in how many runs."""
    ways: dict[str, dict[str, int]] = {}
    for run in runs:
        for name in (f"num_params_{counted}", *COLUMNS):
            if how := run.how.get(name):
                kinds = ways.setdefault(name.removesuffix(f"_{counted}"), {})
                kinds[how] = kinds.get(how, 0) + 1
    notes = []
    for name, kinds in ways.items():
        named = f"{name} ({counted.replace('_', '-')})" if name == "num_params" else name
        parts = [f"{how} in {plural(times, 'run')}" for how, times in sorted(kinds.items(), key=lambda one: -one[1])]
        more = f"; and {len(parts) - 4} other ways" if len(parts) > 4 else ""
        notes.append(f"{named}: {'; '.join(parts[:4])}{more}")
    return notes


def curve_arrays(
    runs: Sequence[FinishedRun], labels: Sequence[str], sizes: Sequence[float]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names of the runs that have a curve, and all their points one below the other with the run of each."""
    names: list[str] = []
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("run", "step", "loss", "lr", "tokens", "num_params")}
    for run, label, size in zip(runs, labels, sizes, strict=True):
        if not len(run.points.get("loss", ())):
            continue
        for name in ("step", "loss", "lr", "tokens"):
            parts[name].append(run.points[name])
        parts["run"].append(np.full(len(run.points["loss"]), len(names)))
        parts["num_params"].append(np.array([size]))
        names.append(label)
    return names, {name: np.concatenate(arrays) for name, arrays in parts.items() if arrays}


def _usable(runs: list[FinishedRun], source: Path) -> tuple[list[FinishedRun], list[str]]:
    """The finished runs of which everything is known that a law needs, and notes on the others."""
    reasons: dict[str, list[str]] = {}
    usable = []
    for run in runs:
        if not run.finished:
            reasons.setdefault(f"status {run.status}", []).append(run.name)
        elif run.missing:
            reasons.setdefault(f"{', '.join(run.missing)} not known", []).append(run.name)
        else:
            usable.append(run)
    notes = [
        f"left out {len(names)} of {plural(len(runs), 'run')}, {reason}: {_shown(names)}"
        for reason, names in reasons.items()
    ]
    notes += list(dict.fromkeys(f"{run.name}: {note}" for run in usable for note in run.notes))[:12]
    if not usable:
        lacking = next((run.missing for run in runs if run.missing), ())
        remedy = {
            "num_params": "columns={'num_params': 1e8}",
            "tokens": "columns={'processes': 1} or columns={'batch_tokens': 524288}",
        }
        advice = "; ".join(f"give {name}, e.g. {remedy[name]}" for name in lacking if name in remedy)
        raise UserError(f"{source}: no run that a law can use ({'; '.join(notes)})" + (f"; {advice}" if advice else ""))
    return usable, notes


def _counted(runs: list[FinishedRun]) -> str:
    """The likeliest convention that all runs have, or that most have."""
    return max(PREFERENCE, key=lambda one: (sum(one in run.counts for run in runs), -PREFERENCE.index(one)))


def _row(run: FinishedRun, label: str, counted: str) -> dict[str, Any]:
    row: dict[str, Any] = {"label": label, "status": "finished", "num_params": run.counts[counted]}
    row |= {f"num_params_{name}": value for name, value in run.counts.items() if name not in (counted, "unknown")}
    row |= {name: run.numbers[name] for name in (*COLUMNS, "train_loss") if name in run.numbers}
    return row


def _shown(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
