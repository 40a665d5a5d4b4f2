"""Do the 90 % intervals of ``laws.forecast`` hold over any inputs? Many hold-outs of the tables of ``scalebench.py``.

One held-out set is one draw: its runs lie beyond the same fit and are off together, so that of sound intervals some
hold every run of a set and some hold half. Here each table is cut at several places along the cost and along each
input: the runs below a cut are fitted, those up to the next cut are predicted. A row is a cut: runs fitted and
predicted, the share inside, the mean error and its root mean square in half widths, and the half width in standard
deviations of the target. The table at the end takes all sets of a task, and all tasks, each set alike.

    python benchmarks/input_intervals.py [--only TASK …] [--json FILE]

Rows of a file that were not measured again stay in it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from allometry import laws
from allometry.errors import UserError
from scalebench import TASKS, Task, columns, rows_of, rules

# Values of an input nearer to each other than this count as one level.
ONE_LEVEL = 1.1
# Levels from the end at which a table is cut, for an input of few levels; else shares of the runs below a cut.
FROM_THE_END, FEW_LEVELS = (1, 2, 3), 10
SHARES = (0.5, 0.65, 0.8)
LEAST_FITTED, LEAST_HELD, LEAST_LEVELS = 12, 4, 2


class Cut(NamedTuple):
    """Along which input (or the cost), where, and which runs are fitted and predicted (boolean)."""

    along: str
    place: str
    fitted: np.ndarray
    held: np.ndarray


class Row(NamedTuple):
    """What came of a cut."""

    task: str
    along: str
    place: str
    fitted: int
    held_out: int
    inside: float
    mean_error: float
    rms_error: float
    half_width: float
    seconds: float


def cuts(task: Task, frame: dict) -> Iterator[Cut]:
    """Every cut of a table with enough runs on both sides."""
    if task.table.startswith("domain"):  # mixtures have no order: quarters of them
        yield from (Cut("mixtures", rule, ~held, held) for rule, held in rules(task, frame))
        return
    inputs = {name: np.array(frame[name], float) for name in task.inputs}
    lines = dict(inputs)
    if task.cost is not None and task.cost not in inputs:
        lines["cost"] = np.prod([inputs[name] for name in task.cost.removeprefix("6*").split("*")], axis=0)
    groups = np.array([str([frame[name][row] for name in _groups(task)]) for row in range(len(lines[task.inputs[0]]))])
    for name, values in lines.items():
        for place, fitted, held in _along(values):
            varies = all(len(np.unique(own[fitted])) >= LEAST_LEVELS for own in inputs.values())
            known = np.isin(groups[held], groups[fitted]).all()
            if varies and known and fitted.sum() >= LEAST_FITTED and held.sum() >= LEAST_HELD:
                yield Cut(name, place, fitted, held)


def _groups(task: Task) -> list[str]:
    return [] if task.group is None else [task.group] if isinstance(task.group, str) else list(task.group)


def _along(values: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Cuts along one line: by level from the end, or by shares of the runs."""
    distinct = np.unique(values)
    level = np.searchsorted(distinct, values)
    level = np.concatenate([[0], np.cumsum(distinct[1:] > ONE_LEVEL * distinct[:-1])])[level]
    count = level.max() + 1
    if count <= FEW_LEVELS:
        for last in FROM_THE_END:
            if count - last >= LEAST_LEVELS:
                yield f"level {count - last + 1} of {count}", level < count - last, level == count - last
        return
    edges = [*np.quantile(values, SHARES), values.max()]
    for share, low, high in zip(SHARES, edges, edges[1:], strict=False):
        yield f"beyond {share:.0%} of the runs", values <= low, (values > low) & (values <= high)


def measure(name: str, cut: Cut) -> Row:
    """Fit and predict at one cut; of several targets the mean."""
    task = TASKS[name]
    frame = columns(task)
    groups = {} if task.group is None else {"group": task.group}
    fitted, held = rows_of(frame, cut.fitted), rows_of(frame, cut.held)
    start, found = time.process_time(), []
    for target in task.targets:
        runs = laws.Observations.read(fitted, target=target, inputs=list(task.inputs), **groups)
        prediction = laws.forecast(runs).predict(held, level=0.9)
        actual = np.array(held[target], float)
        half = (prediction.high - prediction.low) / 2
        inside = (prediction.low <= actual) & (actual <= prediction.high)
        off = (prediction.value - actual) / half
        spread = max(float(np.array(frame[target], float).std()), 1e-300)
        found.append((inside.mean(), off.mean(), np.sqrt((off**2).mean()), half.mean() / spread))
    seconds = time.process_time() - start
    shown = (float(value) for value in np.mean(found, axis=0))
    return Row(name, cut.along, cut.place, int(cut.fitted.sum()), int(cut.held.sum()), *shown, seconds)


def print_tasks(rows: list[Row]) -> None:
    """The mean over the sets of each task, and over all."""
    print(f"\n{'task':18}{'sets':>5}{'inside':>8}{'least':>7}{'rms error in half widths':>26}{'half width in sd':>18}")
    for name in [*dict.fromkeys(row.task for row in rows), "all"]:
        own = [row for row in rows if name in (row.task, "all")]
        inside, off, half = ([getattr(row, field) for row in own] for field in ("inside", "rms_error", "half_width"))
        rms, wide = np.sqrt(np.mean(np.square(off))), np.median(half)
        print(f"{name:18}{len(own):5}{np.mean(inside):8.0%}{min(inside):7.0%}{rms:26.2f}{wide:18.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=TASKS, help="only these tasks")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    kept = json.loads(options.json.read_text()) if options.json and options.json.is_file() else []
    rows = []
    for name in options.only or TASKS:
        for cut in cuts(TASKS[name], columns(TASKS[name])):
            try:
                rows.append(measure(name, cut))
            except UserError as error:
                print(f"{name}, {cut.along}, {cut.place}: {error}", flush=True)
                continue
            one = rows[-1]
            print(
                f"{name:17}{one.along:26}{one.place:22}{one.fitted:5} →{one.held_out:4}   inside {one.inside:4.0%}"
                f"   errors {one.mean_error:+5.2f}, rms {one.rms_error:5.2f}   half width {one.half_width:5.2f} sd"
                f"{one.seconds:6.1f} s",
                flush=True,
            )
            if options.json:
                own = {(row["task"], row["along"], row["place"]): row for row in kept}
                own |= {(row.task, row.along, row.place): row._asdict() for row in rows}
                options.json.write_text(json.dumps(list(own.values()), indent=1) + "\n")
    print_tasks(rows)


if __name__ == "__main__":
    main()
