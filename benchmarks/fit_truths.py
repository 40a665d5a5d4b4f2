"""Known truths: is the optimum always found, and do the intervals have the stated coverage? Prints two tables.

    python benchmarks/fit_truths.py [--laws chinchilla,skaling] [--tables 1000] [--output results/fit_truths.json]

Every table of runs follows one law with random constants: 4 to 8 sizes × 3 to 6 token counts at random places, cells
missing in a third of the tables, noise of 0.1 to 2 %. For each table:

- the objective of ``laws.fit`` is compared with the best of a SciPy multi-start (bounded least squares with the
  analytic Jacobian), from the truth and from ``--starts`` random points, and on every tenth table from ``--long``;
- the 80 and 95 % intervals are tested: whether they contain each constant, and, up to ten times beyond the data, the
  true mean and the loss of a new run.

A law that the output file already holds, with the same settings, is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from allometry import laws
from allometry.files import write_json
from allometry.laws.fitting.fit import make_problem

LEVELS = (0.8, 0.95)
PROMISED = {0.8: (0.77, 0.83), 0.95: (0.93, 0.97)}
TOLERANCE = 1e-9
REFITS = 400
SIZES, TOKENS, FAR = (2e7, 3e9), (5e8, 2e11), 10.0

MIDDLE = {"num_params": np.sqrt(np.prod(SIZES)), "tokens": np.sqrt(np.prod(TOKENS)), "batch_tokens": 6e5, "steps": 2e4}

# Least and most of θ in the middle: floors, and logarithms of terms, from which the paper's letters follow.
FLOOR, TERM, FALL = (0.5, 2.0), (np.log(0.3), np.log(1.5)), (0.2, 0.45)
WHOLE, SLOW = (np.log(1.5), np.log(5)), (0.03, 0.12)
THETA = {
    "power": [WHOLE, (-0.12, -0.03), (-0.12, -0.03)],
    "power_floor": [FLOOR, (np.log(0.5), np.log(3)), (-0.3, -0.1), (-0.3, -0.1)],
    "kaplan": [WHOLE, (-2, 2), SLOW, np.log(SLOW)],
    "kaplan_floor": [FLOOR, (np.log(0.5), np.log(3)), (-2, 2), (0.15, 0.4), np.log((0.15, 0.4))],
    "chinchilla": [FLOOR, TERM, TERM, FALL, FALL],
    "chinchilla_tied": [FLOOR, TERM, TERM, FALL],
    "skaling": [FLOOR, (np.log(0.5), np.log(3)), (-1.5, 1.5), FALL, FALL, np.log((0.4, 2))],
    "farseer": [
        (np.log(1), np.log(2)), (-0.15, -0.03), (-0.2, 0.2), TERM, (-0.5, 0.0), (-0.1, 0.1),
        np.log((0.25, 0.45)), (-0.15, 0.0), (-0.1, 0.1),
    ],
    "data_constrained": [FLOOR, TERM, TERM, FALL, FALL, np.log((2, 15)), np.log((5, 30))],
    "three_term": [FLOOR, TERM, TERM, TERM, FALL, FALL, FALL],
}  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A table of runs, the law behind it, and a point beyond it."""

    law: laws.Law
    values: dict[str, float]
    observations: laws.Observations
    point: dict[str, float]
    new_loss: float


def truth(name: str, generator: np.random.Generator) -> dict[str, float]:
    """Constants drawn so that every part of the law shows in the middle of the designs."""
    theta = np.array([generator.uniform(*pair) for pair in THETA[name]])
    law, centre = laws.LAWS[name], [np.log(MIDDLE[key]) for key in laws.LAWS[name].inputs if key in MIDDLE]
    if name == "data_constrained":
        constants = [*laws.Chinchilla().values(theta[:5], centre), *np.exp(theta[5:])]
    elif name == "farseer":  # N alone has a middle
        theta[3] += centre[1] * np.exp(theta[6])
        constants = law.values(theta, centre)
    else:
        constants = law.values(theta, centre)
    return dict(zip(law.symbols, map(float, constants), strict=True))


def trial(name: str, seed: int) -> Trial:
    """The same trial for the same name and seed."""
    generator = np.random.default_rng([seed, list(laws.LAWS).index(name)])
    law, values = laws.LAWS[name], truth(name, generator)
    noise = np.exp(generator.uniform(*np.log([0.001, 0.02])))
    columns = design(law, generator)
    mean = law.loss(values, *(columns[key] for key in law.inputs))
    columns["loss"] = mean * np.exp(noise * generator.standard_normal(mean.shape))
    rows = [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    point = beyond(columns, generator)
    new_loss = law.loss(values, *(point[key] for key in law.inputs)) * np.exp(noise * generator.standard_normal())
    return Trial(law, values, laws.Observations.from_records(rows), point, float(new_loss))


def design(law: laws.Law, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """The columns of a grid of sizes and token counts, and of what else the law reads."""
    axes = [
        axis(generator, *SIZES, generator.integers(4, 9)),
        axis(generator, *TOKENS, generator.integers(3, 7)),
    ]
    if "batch_tokens" in law.inputs:
        axes.append(axis(generator, 1e5, 4e6, 3))
    if "unique_tokens" in law.inputs:
        axes.append(axis(generator, 0.02, 1, 3))
    n, d, *third = (array.ravel() for array in np.meshgrid(*axes, indexing="ij"))
    columns = {"num_params": n, "tokens": d}
    if "batch_tokens" in law.inputs:
        columns |= {"batch_tokens": third[0], "steps": d / third[0]}
    if "unique_tokens" in law.inputs:
        columns["unique_tokens"] = third[0] * d
    kept = generator.permutation(len(n))
    if generator.random() < 1 / 3:
        least = max(law.num_constants + 4, round(0.7 * len(n)))
        kept = kept[: generator.integers(min(least, len(n)), len(n) + 1)]
    return {key: array[np.sort(kept)] for key, array in columns.items()}


def axis(generator: np.random.Generator, low: float, high: float, count: int) -> np.ndarray:
    """So many places from about ``low`` to about ``high``, none of them quite where an even ladder would have it."""
    even = np.linspace(*np.log([low, high]), count)
    step = even[1] - even[0]
    return np.exp(even + step * generator.uniform(-0.3, 0.3, count))


def beyond(columns: dict[str, np.ndarray], generator: np.random.Generator) -> dict[str, float]:
    """A point at one to ten times the largest size and token count; other inputs as somewhere in the table."""
    point = {key: float(columns[key].max() * FAR ** generator.random()) for key in ("num_params", "tokens")}
    if "batch_tokens" in columns:
        point["batch_tokens"] = float(generator.choice(columns["batch_tokens"]))
        point["steps"] = point["tokens"] / point["batch_tokens"]
    if "unique_tokens" in columns:
        point["unique_tokens"] = point["tokens"] * float(generator.choice(columns["unique_tokens"] / columns["tokens"]))
    return point


def judge(case: Trial, name: str, starts: int, seed: int) -> float:
    """The least ½Σr² that SciPy finds from the truth and from ``starts`` other draws of the constants."""
    generator = np.random.default_rng([seed, 1])
    law = case.law
    problem, centre = make_problem(law, case.observations, "log_squares", 1.0)
    residuals = lambda theta: law.log_loss(theta[None], *problem.inputs)[0][0] - problem.log_loss
    jacobian = lambda theta: law.log_loss(theta[None], *problem.inputs)[1][0].T
    best = np.inf
    for start in [case.values, *(truth(name, generator) for _ in range(starts))]:
        theta = law.theta(np.array([start[symbol] for symbol in law.symbols]), centre)
        solution = least_squares(
            residuals,
            np.clip(theta, problem.lower, problem.upper),
            jacobian,
            # SciPy wants starts inside the bounds; what it finds is put back before it counts.
            bounds=(problem.lower - 1e-9, problem.upper + 1e-9),
            x_scale="jac",
            xtol=1e-14,
            ftol=1e-14,
            gtol=1e-14,
            max_nfev=400,
        )
        best = min(best, 0.5 * float((residuals(np.clip(solution.x, problem.lower, problem.upper)) ** 2).sum()))
    return best


def covered(case: Trial, fit: laws.Fit) -> Iterator[tuple[str, float, bool]]:
    """(what, level, whether the interval holds it)."""
    law, point = case.law, case.point
    inputs = [np.array([point[key]]) for key in law.inputs]
    mean = float(np.log(law.loss(case.values, *inputs))[0])
    samples = fit.log_samples(*inputs)[:, 0]
    for level in LEVELS:
        for symbol, (low, high) in fit.intervals_at(level).items():
            yield symbol, level, low <= case.values[symbol] <= high
        low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], method="weibull")
        yield "mean", level, low <= mean <= high
        others = {key: point[key] for key in law.inputs if key not in ("num_params", "tokens", "steps")}
        new = fit.predict(point["num_params"], point["tokens"], level, **others)
        yield "new run", level, new.low <= case.new_loss <= new.high


def measure(name: str, tables: int, starts: int, long: int) -> dict:
    """Failures and coverage of one law over tables 0, 1, 2 ...; every tenth is judged from ``long`` starts."""
    failures, beaten, hits, began = [], 0, {}, time.process_time()
    for seed in range(tables):
        case = trial(name, seed)
        fit = laws.fit(name, case.observations, "log_squares", bootstrap=REFITS)
        best = judge(case, name, long if seed % 10 == 0 else starts, seed)
        if fit.objective_value > best * (1 + TOLERANCE):
            failures.append({"table": seed, "objective": fit.objective_value, "excess": fit.objective_value / best - 1})
        beaten += best > fit.objective_value * (1 + TOLERANCE)
        for what, level, inside in covered(case, fit):
            hits.setdefault(str(level), {}).setdefault(what, []).append(inside)
    return {
        "tables": tables,
        "starts": starts,
        "long": long,
        "failures": failures,
        "scipy_worse": beaten,
        "coverage": {level: {what: float(np.mean(x)) for what, x in shares.items()} for level, shares in hits.items()},
        "processor_seconds": round(time.process_time() - began, 1),
    }


def print_law(name: str, result: dict) -> None:
    """How often the optimum was missed; coverage at both levels, with * where it is not as promised."""
    worst = max((failure["excess"] for failure in result["failures"]), default=0.0)
    print(
        f"{name}: {result['tables']} tables; ours worse in {len(result['failures'])} (at most {worst:.1e}), "
        f"SciPy worse in {result['scipy_worse']}; {result['processor_seconds']:.0f} s of the processor"
    )
    for level in LEVELS:
        low, high = PROMISED[level]
        error = np.sqrt(level * (1 - level) / result["tables"])
        shares = result["coverage"][str(level)].items()
        marked = (f"{what} {share:.1%}{'' if low <= share <= high else '*'}" for what, share in shares)
        print(f"  {level:.0%} (± {error:.1%}): {', '.join(marked)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laws", default=",".join(THETA), help="names, with commas between")
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=4, help="random starts of SciPy on each table, besides the truth")
    parser.add_argument("--long", type=int, default=40, help="random starts on every tenth table")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    settings = {"tables": arguments.tables, "starts": arguments.starts, "long": arguments.long}
    there = arguments.output is not None and arguments.output.is_file()
    results = json.loads(arguments.output.read_text()) if there else {}
    for name in arguments.laws.split(","):
        if not settings.items() <= results.get(name, {}).items():
            results[name] = measure(name, **settings)
            if arguments.output:
                write_json(arguments.output, results)
        print_law(name, results[name])


if __name__ == "__main__":
    main()
