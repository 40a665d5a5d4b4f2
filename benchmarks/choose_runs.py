"""Does ``planning.choose_runs`` choose better runs than simple ways to spend the same budget?

Training rows of eight public tables of runs over any inputs (ScaleBench, arXiv 2604.22753). Of each the far end of one
input (of mixtures every fourth; of data_constrained the public test rows) is to be predicted; of the other rows each
way may measure what a share of their cost pays for. ``choose_runs`` ends in its own forecast, in which a process over
the inputs stands beside the law; the other ways end in ``laws.forecast``. The figure is R² on the rows to predict, of
several targets their mean, clipped at −1. "cheapest" takes the cheapest first, "random" a random order; "chosen" and
"random" are means of the seeds, "least" is the worst seed; "all" measures everything. "published" is the best of
ScaleBench's methods at that share, on rows that are kept aside, which lie beyond ours.

    python benchmarks/choose_runs.py [--only TASK …] [--seeds 2] [--json FILE]

Rows of a file that were not measured again stay in it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from allometry import laws, planning
from allometry.errors import UserError
from scalebench import TASKS, columns, rows_of, rules

SHARES, SHARES_OF_FEW = (0.01, 0.05, 0.1), (0.2, 0.35, 0.5)


class Case(NamedTuple):
    """What of a task is to be predicted (None: its public test rows), the shares, and what was published at each."""

    rule: str | None
    shares: tuple[float, ...]
    published: tuple[float, ...]


CASES = {
    "parallel": Case("largest parallel_size", SHARES, (-1.00, 0.77, 0.99)),
    "moe": Case("largest dense_parameter_count", SHARES, (0.67, 0.80, 0.83)),
    "vocab": Case("largest vocab_size", SHARES, (0.96, 0.98, 0.98)),
    "domain_mixture": Case("mixtures 1 of 4", SHARES_OF_FEW, (0.64, 0.91, 0.95)),
    "data_constrained": Case(None, SHARES, (0.73, 0.85, 0.86)),
    "lr_bsz": Case("largest non_embedding_param_size", SHARES, (-0.06, 0.00, 0.22)),
    "sparsity": Case("largest P", SHARES_OF_FEW, (0.31, 0.44, 0.53)),
    "farseer": Case("dearest fifth", SHARES, (0.67, 0.88, 0.93)),
}


class Table:
    """One task: candidates, what they cost, and the rows to predict."""

    def __init__(self, name: str) -> None:
        self.task, rule = TASKS[name], CASES[name].rule
        self.frame, self.at = columns(self.task), None
        if rule is None:
            self.at = columns(self.task, "test")
        else:
            held = dict(rules(self.task, self.frame))[rule]
            self.frame, self.at = rows_of(self.frame, ~held), rows_of(self.frame, held)
        self.inputs, self.rows = list(self.task.inputs), len(self.frame[self.task.inputs[0]])
        self.price = np.ones(self.rows)
        for factor in (self.task.cost or "").removeprefix("6*").split("*"):
            self.price = self.price * (np.array(self.frame[factor], float) if factor else 1.0)
        if name == "sparsity":  # its tokens, in P and N_active, are not among the columns
            self.price = np.array(self.frame["N_active"], float)

    def mean_score(self, fit: Callable[[str], laws.InputForecast]) -> float:
        """Mean R² over the targets; −1 where no law can be fitted."""
        return float(np.mean([self._score(fit, target) for target in self.task.targets]))

    def _score(self, fit: Callable[[str], laws.InputForecast], target: str) -> float:
        actual = np.array(self.at[target], float)
        try:
            errors = np.asarray(fit(target).predict(self.at).value) - actual
        except UserError:
            return -1.0
        return max(-1.0, 1 - float((errors**2).sum() / ((actual - actual.mean()) ** 2).sum()))

    def chosen(self, budget: float, seed: int) -> float:
        """The runs that choose_runs makes, for each target anew."""

        def fit(target: str) -> laws.InputForecast:
            values = np.array(self.frame[target], float)
            settings = {"inputs": self.inputs, "cost": self.price, "at": self.at, "group": self.task.group}
            found = planning.choose_runs(self.frame, lambda rows: values[rows], budget=budget, seed=seed, **settings)
            return found.forecast

        return self.mean_score(fit)

    def in_order(self, order: np.ndarray, budget: float) -> float:
        """The runs that a budget pays for in an order; those that it does not pay for are passed over."""
        taken, left = np.zeros(self.rows, bool), budget
        for row in order:
            if self.price[row] <= left:
                taken[row] = True
                left -= self.price[row]
        frame = rows_of(self.frame, taken)

        def fit(target: str) -> laws.InputForecast:
            read = laws.Observations.read(frame, target=target, inputs=self.inputs, group=self.task.group)
            return laws.forecast(read)

        return self.mean_score(fit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=CASES, nargs="*", help="only these tables")
    parser.add_argument("--seeds", type=int, default=2, help="of the choice and of the random order")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    kept = json.loads(options.json.read_text()) if options.json and options.json.is_file() else []
    found = {(row["task"], row["share"]): row for row in kept}
    for name in options.only or CASES:
        table, case = Table(name), CASES[name]
        everything = table.in_order(np.arange(table.rows), np.inf)
        for share, published in zip(case.shares, case.published, strict=True):
            budget, seeds = share * table.price.sum(), range(options.seeds)
            shuffled = [np.random.default_rng(seed).permutation(table.rows) for seed in seeds]
            chosen = [table.chosen(budget, seed) for seed in seeds]
            row = {"task": name, "share": share, "chosen": float(np.mean(chosen)), "least": min(chosen)}
            row["cheapest"] = table.in_order(np.argsort(table.price, kind="stable"), budget)
            row["random"] = float(np.mean([table.in_order(order, budget) for order in shuffled]))
            found[name, share] = row | {"all": everything, "published": published}
            print(f"{name:17}{share:4.0%}", *(f"  {key} {row[key]:+.3f}" for key in list(row)[2:]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(list(found.values()), indent=1) + "\n", "utf-8")
    print(f"\n{'share':10}" + "".join(f"{key:>10}" for key in ("chosen", "cheapest", "random", "all", "published")))
    for place, words in enumerate(("smallest", "middle", "largest")):
        rows = [found[name, CASES[name].shares[place]] for name in options.only or CASES]
        means = (np.mean([row[key] for row in rows]) for key in ("chosen", "cheapest", "random", "all", "published"))
        print(f"{words:10}" + "".join(f"{mean:10.3f}" for mean in means))


if __name__ == "__main__":
    main()
