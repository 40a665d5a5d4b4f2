"""How well does ``laws.forecast`` predict dearer runs of nine public tasks of any inputs? R², beside published ones.

The rows that the two benchmarks judge on are kept aside, so runs are held out of the training rows by several rules:
the dearest fifth by cost, and the runs at the largest values of each input. A task is fitted apart for each rule. R²
is over all groups together, of several targets their mean, clipped at −1, as the benchmarks do; "inside" is the share
of held-out runs in the 90 % interval. For ``data_constrained`` the public test rows are predicted too.

Published: SLDBench (arXiv 2507.21184: human experts, and the best of five runs of the best agent) and ScaleBench
(arXiv 2604.22753: the mean over its ten laws, fitted to all training rows), each judged on rows kept aside.

    python benchmarks/scalebench.py [--only TASK …] [--json FILE]

Rows of a file that were not measured again stay in it; its field "seconds" is of the processor.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from allometry import laws

SHARED = Path(os.environ.get("ALLOMETRY_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
SHARE = 0.2


class Task(NamedTuple):
    """A public table, what it asks for, and what was published (experts, best agent, mean of ScaleBench's laws)."""

    table: str
    targets: tuple[str, ...]
    inputs: tuple[str, ...]
    group: str | list[str] | None
    cost: str | None
    published: tuple[float | None, float | None, float | None]


DOMAINS = tuple(range(1, 6))
TASKS = {
    "parallel": Task(
        "parallel_scaling_law", ("loss",), ("num_params", "parallel_size"), "group", "num_params", (1.0, 0.99998, 0.99)
    ),
    "moe": Task(
        "moe_scaling_law",
        ("loss_validation",),
        ("num_experts", "dense_parameter_count"),
        None,
        "num_experts*dense_parameter_count",
        (0.703, 0.962, 0.81),
    ),
    "vocab": Task(
        "vocab_scaling_law",
        ("unigram_normalized_loss",),
        ("non_vocab_parameters", "vocab_size", "num_characters"),
        None,
        "non_vocab_parameters*num_characters",
        (0.966, 0.989, 0.93),
    ),
    "domain_mixture": Task(
        "domain_mixture_scaling_law",
        tuple(f"loss_domain_{number}" for number in DOMAINS),
        tuple(f"proportion_domain_{number}" for number in DOMAINS),
        "group",
        None,
        (0.671, 0.989, 0.81),
    ),
    "data_constrained": Task(
        "data_constrained_scaling_law",
        ("loss",),
        ("unique_tokens", "params", "tokens"),
        None,
        "6*params*tokens",
        (0.911, 0.927, 0.79),
    ),
    "lr_bsz": Task(
        "lr_bsz_scaling_law",
        ("lm_loss",),
        ("lr", "bsz", "data_size", "non_embedding_param_size"),
        None,
        "6*non_embedding_param_size*data_size",
        (-0.076, 0.983, 0.04),
    ),
    "sparsity": Task("sparsity_scaling_law", ("loss",), ("P", "N_active"), "group", None, (None, None, 0.37)),
    "farseer": Task("farseer_scaling_law", ("loss",), ("N", "D"), None, "6*N*D", (None, None, 0.91)),
    "sft": Task("sft", ("loss",), ("samples",), ["model", "dataset"], None, (0.957, 0.9993, None)),
}


class Outcome(NamedTuple):
    """Of one rule of one task: runs fitted and held out, R², share inside, mean half width over spread, CPU seconds."""

    task: str
    rule: str
    fitted: int
    held_out: int
    r2: float
    inside: float
    half_width: float
    seconds: float


def columns(task: Task, part: str = "train") -> dict[str, list[Any]]:
    """The rows of a task as columns."""
    if task.table == "sft":
        with (SHARED / "sft" / "sft_train.csv").open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        return {name: [row[name] for row in rows] for name in rows[0]}
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(SHARED / "scalebench" / f"{task.table}__{part}.parquet")
    return {name: table[name].to_pylist() for name in table.column_names}


def rows_of(frame: dict[str, list[Any]], mask: np.ndarray) -> dict[str, list[Any]]:
    """The rows of a frame where the mask holds."""
    return {name: [value for value, kept in zip(values, mask, strict=True) if kept] for name, values in frame.items()}


def rules(task: Task, frame: dict[str, list[Any]]) -> Iterator[tuple[str, np.ndarray]]:
    """Name of a rule and which rows it holds out."""
    if task.table.startswith("domain"):
        # Mixtures have no cost: every fourth mixture, in all groups.
        mixtures = [tuple(frame[name][row] for name in task.inputs) for row in range(len(frame["group"]))]
        order = {mixture: number for number, mixture in enumerate(sorted(set(mixtures)))}
        for rest in range(4):
            yield f"mixtures {rest + 1} of 4", np.array([order[mixture] % 4 == rest for mixture in mixtures])
        return
    inputs = {name: np.array(frame[name], float) for name in task.inputs}
    if task.cost is not None:
        cost = np.prod([inputs[name] for name in task.cost.removeprefix("6*").split("*")], axis=0)
        yield "dearest fifth", cost > np.quantile(cost, 1 - SHARE)
    for name, values in inputs.items():
        levels = np.unique(values)
        if len(levels) >= 3:
            top = levels[-1] if len(levels) < 12 else np.quantile(values, 1 - SHARE)
            yield f"largest {name}", values >= top


def measure(name: str, task: Task, rule: str, fitted: dict, held: dict) -> Outcome:
    """Fit one part of a task's rows and predict the other."""
    groups = {} if task.group is None else {"group": task.group}
    start, scores, inside, half = time.process_time(), [], [], []
    for target in task.targets:
        runs = laws.Observations.read(fitted, target=target, inputs=list(task.inputs), **groups)
        prediction = laws.forecast(runs).predict(held, level=0.9)
        actual = np.array(held[target], float)
        spread = actual.std()
        scores.append(max(1 - np.mean((prediction.value - actual) ** 2) / spread**2, -1.0))
        inside.append(np.mean((prediction.low <= actual) & (actual <= prediction.high)))
        half.append(np.mean(prediction.high - prediction.low) / 2 / spread)
    seconds = time.process_time() - start
    count = len(next(iter(fitted.values())))
    values = (float(np.mean(values)) for values in (scores, inside, half))
    return Outcome(name, rule, count, len(actual), *values, seconds)


def outcomes(names: Sequence[str]) -> Iterator[Outcome]:
    """Every rule of these tasks, as they are measured."""
    for name in names:
        task = TASKS[name]
        frame = columns(task)
        for rule, held in rules(task, frame):
            yield measure(name, task, rule, rows_of(frame, ~held), rows_of(frame, held))
        if name == "data_constrained":
            yield measure(name, task, "public test rows", frame, columns(task, "test"))


def main() -> None:
    """One line a rule, and a table beside the published figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=TASKS, help="only these tasks")
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    kept = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.is_file() else []
    results = []
    for one in outcomes(arguments.only or list(TASKS)):
        results.append(one)
        print(
            f"{one.task:17}{one.rule:34}{one.fitted:5} →{one.held_out:4}   R² {one.r2:8.4f}   inside {one.inside:4.0%}"
            f"   half width {one.half_width:5.2f} sd{one.seconds:7.1f} s",
            flush=True,
        )
        if arguments.json:
            measured = {(row["task"], row["rule"]): row for row in (*kept, *(each._asdict() for each in results))}
            arguments.json.write_text(json.dumps(list(measured.values()), indent=1) + "\n")
    head = f"{'task':17}{'held out: mean R²':>18}{'least':>9}{'inside':>8}"
    print(f"\n{head}     experts  best agent  ScaleBench (published, other rows)")
    for name in dict.fromkeys(one.task for one in results):
        scores = [one.r2 for one in results if one.task == name]
        held_out = [one.held_out for one in results if one.task == name]
        inside = np.average([one.inside for one in results if one.task == name], weights=held_out)
        published = "".join("           –" if one is None else f"{one:12.4g}" for one in TASKS[name].published)
        print(f"{name:17}{np.mean(scores):18.4f}{min(scores):9.4f}{inside:8.0%}{published}")


if __name__ == "__main__":
    main()
