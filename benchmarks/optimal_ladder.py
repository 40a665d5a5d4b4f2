"""Does an optimal ladder predict better than the usual ones that cost the same? Prints tables, writes a JSON file.

The target is fixed: 1e21 FLOPs at 20 tokens a parameter, 100 times the whole reference budget of 1e19 FLOPs (and 130 to
530 times the largest run of the ladders here). A truth is a law drawn at random, with 0.3 % of noise on every run:

- chinchilla, skaling: that law exactly, from ranges wider than those that the optimal ladder assumes;
- drifting: a skaling law that a random walk of 0.5 % an e-fold in N and in D leads away from the target.

The ladders, all of them scaled to cost the same in 6·N·D:

- ours: ``planning.optimal_ladder``, models of 2M parameters and up, 16 runs at most; or 30, for the same FLOPs;
- fixed ratio: six sizes in steps of two, or 15 over the span of ours, all at 20 tokens a parameter. Such runs cannot
  separate N from D, so ``laws.fit`` refuses them; L = E + k·C^−γ is fitted, as is usual, and read at the target;
- near ratio: six sizes in steps of two at 10, 20 and 40 tokens a parameter;
- isoflop: four budgets in steps of four, each with four sizes, from a quarter to four times that at that ratio;
- wide isoflop: the same from a half to twice that size (5 to 80 tokens a parameter), over sizes of the span of ours;
- grid: four sizes and four token counts, each in steps of two.

``fit``: the true form fitted by ``laws.fit`` (skaling for drifting truths). ``forecast``: ``laws.forecast``, which does
not know the form. Errors are of ln L at the target, without the noise of a run there.

    python benchmarks/optimal_ladder.py [--laws 100] [--forecasts 100]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.optimize import nnls

from allometry import laws
from allometry.files import write_json
from allometry.laws import LAWS, Observations
from allometry.planning.experiments.gaussian_model import log_points, walk
from allometry.planning.experiments.optimal_ladder import optimal_ladder

Array = np.ndarray
RESULTS = Path(__file__).parent / "results" / "optimal_ladder.json"
REFERENCE, FACTOR, RATIO = 1e19, 100.0, 20.0
TARGET = (np.sqrt(REFERENCE * FACTOR / 6 / RATIO), np.sqrt(REFERENCE * FACTOR / 6 * RATIO))
NOISE, DRIFT, LEAST_PARAMS = 0.003, 0.005, 2e6
KINDS = ("chinchilla", "skaling", "drifting")
# Budgets over the reference: down for ours, up for the others.
LESS, MORE = (1.0, 1 / 3, 0.1, 1 / 30, 0.01), (1.0, 3.0, 10.0, 30.0)


def scaled(n: Array, d: Array, budget: float) -> tuple[Array, Array]:
    """The same shape at another cost."""
    factor = np.sqrt(budget / (6 * n * d).sum())
    return n * factor, d * factor


def crossed(sizes: Array, others: Array) -> tuple[Array, Array]:
    """Every pair, flat."""
    first, second = np.meshgrid(sizes, others, indexing="ij")
    return first.ravel(), second.ravel()


def ours(budget: float, most_runs: int = 16) -> tuple[Array, Array]:
    """The optimal ladder of the library."""
    chosen = optimal_ladder(budget, TARGET, most_runs=most_runs, least_params=LEAST_PARAMS)
    return np.array([run.num_params for run in chosen.runs]), np.array([run.tokens for run in chosen.runs])


def fixed_ratio(budget: float, count: int = 6, step: float = 2.0) -> tuple[Array, Array]:
    """Sizes in equal steps at one ratio."""
    n = step ** np.arange(count)
    return scaled(n, RATIO * n, budget)


def near_ratio(budget: float) -> tuple[Array, Array]:
    """Sizes at half, once and twice that ratio."""
    n, ratio = crossed(2.0 ** np.arange(6), RATIO * np.array([0.5, 1, 2]))
    return scaled(n, ratio * n, budget)


def isoflop(budget: float, step: float = 4.0, aside: float = 4.0) -> tuple[Array, Array]:
    """Budgets in equal steps, sizes around the one at that ratio, up to ``aside`` times as small and as large."""
    compute, aside = crossed(step ** np.arange(4), np.geomspace(1 / aside, aside, 4))
    n = np.sqrt(compute / RATIO) * aside
    return scaled(n, compute / n, budget)


def grid(budget: float) -> tuple[Array, Array]:
    """Sizes × token counts around that ratio."""
    n, d = crossed(2.0 ** np.arange(4), 2.0 ** np.arange(4))
    return scaled(n, RATIO * d, budget)


def ladders() -> dict[str, Callable[[float], tuple[Array, Array]]]:
    """Name → ladder for a budget."""
    n, _ = ours(REFERENCE)
    span = n.max() / n.min()
    # Two sizes of a budget are a factor of four apart; three steps of compute make up the rest of the span.
    step = (span / 4) ** (2 / 3)
    return {
        "ours": ours,
        "ours, 30 runs": lambda budget: ours(budget, 30),
        "fixed ratio, 6 sizes": fixed_ratio,
        "fixed ratio, 15 sizes": lambda budget: fixed_ratio(budget, 15, span ** (1 / 14)),
        "near ratio": near_ratio,
        "isoflop": isoflop,
        "wide isoflop": lambda budget: isoflop(budget, step, 2.0),
        "grid": grid,
    }


class Truth:
    """A law drawn at random, and the losses of runs under it."""

    def __init__(self, kind: str, seed: int) -> None:
        self.seed, self.drifts = seed, kind == "drifting"
        self.form = LAWS["skaling" if self.drifts else kind]
        uniform = np.random.default_rng(seed).uniform
        # Terms at the compute-optimal run of the reference budget.
        size = np.sqrt(REFERENCE / 6 / RATIO)
        floor, share, alpha, beta = uniform(0.35, 0.9), uniform(0.25, 0.75), uniform(0.18, 0.55), uniform(0.18, 0.55)
        k = np.exp(uniform(np.log(0.25), np.log(1.6))) if self.form.name == "skaling" else 1.0
        rest, alpha, beta = (1 - floor) ** (1 / k), alpha / k, beta / k
        terms = rest * share * size**alpha, rest * (1 - share) * (RATIO * size) ** beta
        self.values = dict(zip(("E", "A", "B", "alpha", "beta", "k"), (floor, *terms, alpha, beta, k), strict=True))

    def observe(self, n: Array, d: Array) -> Observations:
        """Runs of these sizes and tokens."""
        generator = np.random.default_rng((self.seed, len(n)))
        errors = NOISE * generator.standard_normal(len(n))
        if self.drifts:
            covariance = walk(log_points(n, d), log_points(*TARGET), DRIFT)
            errors += generator.multivariate_normal(np.zeros(len(n)), covariance, method="eigh")
        loss = self.form.loss(self.values, n, d) * np.exp(errors)
        return Observations.from_records(
            [{"num_params": a, "tokens": b, "loss": c} for a, b, c in zip(n, d, loss, strict=True)]
        )

    def error(self, predicted: float) -> float:
        """ln(predicted/true) at the target."""
        return float(np.log(predicted / self.form.loss(self.values, *TARGET)))


def read_off(runs: Observations) -> float:
    """L = E + k·C^−γ with E, k ≥ 0 by least squares of relative errors, at the target's compute."""
    compute = np.log(runs.flops / runs.flops.max())
    beyond = np.log(6 * TARGET[0] * TARGET[1] / runs.flops.max())

    def solve(gamma: float) -> tuple[float, float]:
        columns = np.stack([np.ones_like(compute), np.exp(-gamma * compute)], axis=1)
        (floor, k), rest = nnls(columns / runs.loss[:, None], np.ones(len(runs)))
        return rest, floor + k * np.exp(-gamma * beyond)

    gammas = np.geomspace(0.005, 2, 80)
    best = int(np.argmin([solve(gamma)[0] for gamma in gammas]))
    close = np.linspace(gammas[max(best - 1, 0)], gammas[min(best + 1, 79)], 80)
    return min(map(solve, close))[1]


def fit_error(name: str, truth: Truth, n: Array, d: Array) -> float:
    """Error of the fit of the true form, or of the power law in compute where there is one ratio."""
    runs = truth.observe(n, d)
    if name.startswith("fixed"):
        return truth.error(read_off(runs))
    return truth.error(laws.fit(truth.form, runs, "log_squares", bootstrap=0).predict(*TARGET).value)


def forecast_error(truth: Truth, n: Array, d: Array) -> tuple[float, float]:
    """Error of the forecast, and half the width of its 90 % interval of ln L."""
    prediction = laws.forecast(truth.observe(n, d)).predict(*TARGET, level=0.9)
    return truth.error(prediction.value), float(np.log(prediction.high / prediction.low) / 2)


def rms(errors) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(errors))))


def crossing(budgets: tuple[float, ...], errors: list[float], goal: float) -> float | None:
    """The budget at which the error is the goal, between those tried, by straight lines in logarithms; else None."""
    order = np.argsort(budgets)
    x, y = np.log(np.array(budgets)[order]), np.log(np.minimum.accumulate(np.array(errors)[order]))
    if not y[-1] <= np.log(goal) <= y[0]:
        return None
    return float(np.exp(np.interp(-np.log(goal), -y, x)))


def times(value: float | None, limit: str) -> str:
    """``3.2×``, or the end of what was tried."""
    return limit if value is None else f"{value:.3g}×"


def with_fits(kind: str, count: int) -> dict[str, dict]:
    """For each ladder: errors at the reference budget and by budget, and what ours saves; printed."""
    truths = [Truth(kind, seed) for seed in range(count)]
    rows = {}
    for name, make in ladders().items():
        budgets = LESS if name == "ours" else (1.0,) if name.startswith("ours") else MORE
        shapes = [make(budget * REFERENCE) for budget in budgets]
        errors = [[fit_error(name, truth, *shape) for truth in truths] for shape in shapes]
        rows[name] = {
            "runs": len(shapes[0][0]),
            "largest_run": float((6 * shapes[0][0] * shapes[0][1]).max()),
            "median": float(np.median(np.abs(errors[0]))),
            "budgets": list(budgets),
            "rms": [rms(each) for each in errors],
        }
    us = rows["ours"]
    print(f"\n{kind}: {count} laws, {REFERENCE:.0e} FLOPs, fit of the form")
    print(f"{'ladder':24}{'runs':>5}{'rms':>8}{'median':>8}{'its FLOPs for our error':>26}{'ours for its error':>20}")
    for name, row in rows.items():
        if not name.startswith("ours"):
            row["flops_for_our_error"] = crossing(MORE, row["rms"], us["rms"][0])
            row["our_flops_for_its_error"] = crossing(LESS, us["rms"], row["rms"][0])
            ends = f"> {MORE[-1]:g}×" if row["rms"][-1] > us["rms"][0] else "< 1×"
            our_ends = f"< {LESS[-1]:g}×" if row["rms"][0] > us["rms"][-1] else "> 1×"
            saved = times(row["flops_for_our_error"], ends), times(row["our_flops_for_its_error"], our_ends)
        else:
            saved = "", ""
        print(
            f"{name:24}{row['runs']:5}{row['rms'][0]:8.2%}{row['median']:8.2%}{saved[0]:>26}{saved[1]:>20}", flush=True
        )
    return rows


def with_forecasts(kind: str, count: int) -> dict[str, dict]:
    """For each ladder, and ours at a third: error, half width and coverage of the forecast; printed."""
    truths = [Truth(kind, seed) for seed in range(count)]
    every = {name: make(REFERENCE) for name, make in ladders().items() if not name.startswith("fixed")}
    every["ours at a third"] = ours(REFERENCE / 3)
    rows = {}
    print(f"\n{kind}: {count} laws, {REFERENCE:.0e} FLOPs, forecast (fixed ratios: power law in compute)")
    print(f"{'ladder':24}{'rms':>8}{'median':>8}{'half width':>12}{'inside 90 %':>12}")
    for name, shape in every.items():
        errors, halves = map(np.array, zip(*(forecast_error(truth, *shape) for truth in truths), strict=True))
        rows[name] = {
            "rms": rms(errors),
            "median": float(np.median(np.abs(errors))),
            "half_width": float(np.median(halves)),
            "inside": float(np.mean(np.abs(errors) <= halves)),
        }
        row = rows[name]
        print(
            f"{name:24}{row['rms']:8.2%}{row['median']:8.2%}{row['half_width']:12.2%}{row['inside']:12.0%}", flush=True
        )
    for name in ("fixed ratio, 6 sizes", "fixed ratio, 15 sizes"):
        errors = [fit_error(name, truth, *ladders()[name](REFERENCE)) for truth in truths]
        rows[name] = {"rms": rms(errors), "median": float(np.median(np.abs(errors)))}
        print(f"{name:24}{rows[name]['rms']:8.2%}{rows[name]['median']:8.2%}", flush=True)
    return rows


def main() -> None:
    """Run all and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--laws", type=int, default=100, help="laws of each kind, fitted")
    parser.add_argument("--forecasts", type=int, default=100, help="laws of each kind, forecast")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    start = time.perf_counter()
    chosen = optimal_ladder(REFERENCE, TARGET, least_params=LEAST_PARAMS)
    print(chosen.summary())
    results = {
        "reference_flops": REFERENCE,
        "target": list(TARGET),
        "noise": NOISE,
        "drift": DRIFT,
        "ladder": chosen.to_json(),
        "fit": {kind: with_fits(kind, arguments.laws) for kind in KINDS},
        "forecast": {kind: with_forecasts(kind, arguments.forecasts) for kind in KINDS if arguments.forecasts},
    }
    write_json(arguments.output, results)
    print(f"\n{time.perf_counter() - start:.0f} s; written to {arguments.output}")


if __name__ == "__main__":
    main()
