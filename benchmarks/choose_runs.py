"""Does ``planning.choose_runs`` choose better runs than simple ways to spend the same budget?

Training rows of public tables of runs over any inputs (ScaleBench, arXiv 2604.22753). The dearest fifth of the runs by
cost is to be predicted; of the others each way may measure what 1, 5 and 10 % of their cost pays for. All ways end in
``laws.forecast``; the figure is R² on the dear runs, clipped at −1. "cheapest" takes the cheapest first, "random" a
random order (mean of the seeds), "all" measures everything, or 300 runs of it.

    python benchmarks/choose_runs.py [--only TASK] [--shares 0.01 0.1] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from allometry import laws, planning
from allometry.errors import UserError

SHARED = Path(os.environ.get("ALLOMETRY_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data/scalebench"
MOST, SEEDS = 300, 2
# table: target, inputs, cost
TASKS = {
    "moe": (
        "loss_validation",
        ("num_experts", "dense_parameter_count"),
        lambda t: t["num_experts"] * t["dense_parameter_count"],
    ),
    "vocab": (
        "unigram_normalized_loss",
        ("non_vocab_parameters", "vocab_size", "num_characters"),
        lambda t: t["non_vocab_parameters"] * t["num_characters"],
    ),
    "data_constrained": ("loss", ("unique_tokens", "params", "tokens"), lambda t: 6 * t["params"] * t["tokens"]),
    "farseer": ("loss", ("N", "D"), lambda t: 6 * t["N"] * t["D"]),
}


class Table:
    """One task: candidates, the runs to predict, and ways to choose."""

    def __init__(self, name: str) -> None:
        from pyarrow import parquet

        target, self.inputs, cost = TASKS[name]
        table = parquet.read_table(SHARED / f"{name}_scaling_law__train.parquet")
        columns = {column: np.array(table.column(column).to_pylist(), float) for column in (target, *self.inputs)}
        price = cost(columns)
        dear = price > np.quantile(price, 0.8)
        self.values, self.wanted = columns[target][~dear], columns[target][dear]
        self.price = price[~dear]
        self.candidates, self.at = ({x: columns[x][rows] for x in self.inputs} for rows in (~dear, dear))

    def chosen(self, budget: float) -> float:
        """R² of the runs that choose_runs makes."""
        found = planning.choose_runs(
            self.candidates,
            lambda rows: self.values[rows],
            inputs=self.inputs,
            cost=self.price,
            at=self.at,
            budget=budget,
        )
        return self.score(found.forecast)

    def in_order(self, order: np.ndarray, budget: float) -> float:
        """R² of the runs that a budget pays for in an order; those that it does not pay for are passed over."""
        rows, left = [], budget
        for row in order:
            if self.price[row] <= left and len(rows) < MOST:
                rows.append(int(row))
                left -= self.price[row]
        frame = {x: self.candidates[x][rows] for x in self.inputs} | {"target": self.values[rows]}
        try:
            return self.score(laws.forecast(laws.Observations.read(frame, target="target", inputs=list(self.inputs))))
        except UserError:
            return -1.0

    def score(self, forecast: laws.InputForecast) -> float:
        """R² on the dear runs."""
        errors = np.asarray(forecast.predict(self.at).value) - self.wanted
        return max(-1.0, 1 - float((errors**2).sum() / ((self.wanted - self.wanted.mean()) ** 2).sum()))


def rows_of(name: str, shares: list[float]) -> Iterator[dict]:
    """One row for each share of the cost."""
    table = Table(name)
    everything = table.in_order(np.random.default_rng(0).permutation(len(table.price)), np.inf)
    for share in shares:
        budget = share * table.price.sum()
        random: Callable[[int], float] = lambda seed, budget=budget: table.in_order(
            np.random.default_rng(seed).permutation(len(table.price)), budget
        )
        yield {
            "task": name,
            "share": share,
            "chosen": table.chosen(budget),
            "cheapest": table.in_order(np.argsort(table.price), budget),
            "random": float(np.mean([random(seed) for seed in range(SEEDS)])),
            "all": everything,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TASKS, nargs="*", help="only these tables")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.01, 0.05, 0.1], help="of the candidates' cost")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    found = []
    for name in options.only or TASKS:
        for row in rows_of(name, options.shares):
            found.append(row)
            cells = "  ".join(f"{key} {row[key]:+.3f}" for key in ("chosen", "cheapest", "random", "all"))
            print(f"{name:18} {row['share']:.0%}  {cells}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
