"""Is the exponent of N*(C) right? ``laws.isoflop`` by its three methods, on known truths and on public tables.

Without noise: the result of each method on sweeps that are centred, wide, off centre by one factor, or off centre by a
factor that drifts with compute, as when another law chooses the sizes. With noise: bias, spread, and how often the
intervals contain the truth. Then every experiment of Porian et al. and the points of Chinchilla, from `data/` of the
folder that ALLOMETRY_SHARED names (default: `shared` in the folder that holds the repository).

    python benchmarks/isoflop_bias.py [--repeats 200] [--out benchmarks/results/isoflop_bias.json]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from allometry.errors import UserError
from allometry.laws import Observations
from allometry.laws.isoflop_slices.isoflop import IsoFlop, isoflop

SHARED = Path(os.environ.get("ALLOMETRY_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
METHODS = ("slices", "parabola", "interpolation")
BUDGETS = np.geomspace(1e18, 1e21, 6)
SIZES = 7
LEVELS = (0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Truth:
    """L = E + (A/N^α + B/D^β)^k, whose short runs lose the tokens of a warmup: D counts as D²/(D + warmup)."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    k: float = 1.0
    warmup: float = 0.0

    def loss(self, num_params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """L at N and D."""
        tokens = tokens**2 / (tokens + self.warmup)
        return self.E + (self.A / num_params**self.alpha + self.B / tokens**self.beta) ** self.k

    def best(self, flops: float) -> float:
        """N* at C = 6·N·D, by search."""
        from scipy.optimize import minimize_scalar

        middle = np.log(self.alpha * self.A / (self.beta * self.B) * (flops / 6) ** self.beta) / (
            self.alpha + self.beta
        )
        loss = lambda log_n: self.loss(np.exp(log_n), flops / 6 / np.exp(log_n))
        return float(np.exp(minimize_scalar(loss, (middle - 1, middle, middle + 1), tol=1e-10).x))

    @property
    def exponent(self) -> float:
        """The slope of ln N* over ln C through the budgets."""
        return float(np.polyfit(np.log(BUDGETS), np.log([self.best(flops) for flops in BUDGETS]), 1)[0])


TRUTHS = {
    "chinchilla": Truth(1.69, 406.4, 410.7, 0.34, 0.28),
    "chinchilla, alpha = 3 beta": Truth(1.69, 20320.0, 16.4, 0.465, 0.155),
    "chinchilla, beta = 3 alpha": Truth(1.69, 8.0, 24642.0, 0.155, 0.465),
    "skaling, k = 0.3": Truth(1.2, 2e7, 1.5e9, 0.75, 0.62, 0.3),
    "skaling, k = 0.5": Truth(1.6, 6.6e5, 6.7e5, 0.68, 0.5, 0.5),
    "skaling, k = 2.5": Truth(1.5, 15.2, 18.3, 0.16, 0.11, 2.5),
    "warmup of 1B tokens": Truth(1.69, 406.4, 410.7, 0.34, 0.28, 1.0, 1e9),
}


@dataclass(frozen=True)
class Sweep:
    """Sizes from centre/half to centre·half in each budget; the centre is off N* by ``off``·``drift``^(−1 … 1)."""

    half: float
    off: float = 1.0
    drift: float = 1.0

    def runs(self, truth: Truth, noise: float = 0.0, seed: int = 0) -> Observations:
        """The runs, with log-normal noise."""
        generator, rows = np.random.default_rng(seed), []
        for flops, place in zip(BUDGETS, np.linspace(-1, 1, len(BUDGETS)), strict=True):
            centre = truth.best(flops) * self.off * self.drift**place
            num_params = np.geomspace(centre / self.half, centre * self.half, SIZES)
            tokens = flops / 6 / num_params
            loss = truth.loss(num_params, tokens) * np.exp(noise * generator.standard_normal(SIZES))
            rows += [
                {"num_params": n, "tokens": d, "flops": flops, "loss": value}
                for n, d, value in zip(num_params, tokens, loss, strict=True)
            ]
        return Observations.from_records(rows)


SWEEPS = {
    "centred, x4": Sweep(4),
    "wide, x16": Sweep(16),
    "off by 2, x4": Sweep(4, off=2),
    "off by 3, x16": Sweep(16, off=3),
    "drift 2, x4": Sweep(4, drift=2),
    "drift 3, x8": Sweep(8, drift=3),
}


def attempt(observations: Observations, method: str, **options) -> IsoFlop | None:
    """The result, or None where the method refuses the table."""
    try:
        return isoflop(observations, method=method, **options)
    except UserError:
        return None


def without_noise() -> list[dict]:
    """Error of the exponent, and of N* at 100 times the largest budget, by truth, sweep and method."""
    rows = []
    print(f"{'truth':28}{'sweep':16}" + "".join(f"{method + ': a, N* at 100x':>32}" for method in METHODS))
    for name, truth in TRUTHS.items():
        exponent, far = truth.exponent, 100 * BUDGETS[-1]
        for sweep_name, sweep in SWEEPS.items():
            observations, cells = sweep.runs(truth), []
            for method in METHODS:
                result = attempt(observations, method, bootstrap=100)
                row = {"truth": name, "exponent": exponent, "sweep": sweep_name, "method": method}
                if result is not None:
                    row |= {
                        "budgets": len(result.accepted),
                        "error": result.exponents["num_params"] - exponent,
                        "far": result.num_params(far).value / truth.best(far) - 1,
                    }
                cells.append(f"{row['error']:+18.4f}{row['far']:+14.1%}" if "error" in row else f"{'refused':>32}")
                rows.append(row)
            print(f"{name:28}{sweep_name:16}" + "".join(cells), flush=True)
    for method in METHODS:
        errors = np.array([abs(row["error"]) for row in rows if row["method"] == method and "error" in row])
        print(f"{method}: mean |error| {errors.mean():.4f}, worst {errors.max():.4f}, of {len(errors)}")
    return rows


def with_noise(repeats: int) -> list[dict]:
    """Bias and spread of the exponent, and how often the intervals of the exponent and of N* at 10 times hold them."""
    rows = []
    head = f"\n{'truth':28}{'sweep':16}{'noise':>6}  {'method':14}{'bias':>9}{'sd':>8}{'rmse':>8}"
    print(head + "   the 80/90/95 % intervals hold a, and N* at 10x")
    for name in ("chinchilla", "chinchilla, alpha = 3 beta", "skaling, k = 0.5"):
        for sweep_name, noise in (("centred, x4", 0.002), ("off by 3, x16", 0.003), ("drift 2, x4", 0.003)):
            for method in METHODS:
                row = {"truth": name, "sweep": sweep_name, "noise": noise, "method": method}
                row |= repeat(TRUTHS[name], SWEEPS[sweep_name], noise, method, repeats)
                rows.append(row)
                holds = ", ".join("/".join(f"{share:.0%}" for share in row[key]) for key in ("holds_a", "holds_n"))
                print(
                    f"{name:28}{sweep_name:16}{noise:6.1%}  {method:14}{row['bias']:+9.4f}{row['sd']:8.4f}"
                    f"{row['rmse']:8.4f}   {holds}   ({row['n']})",
                    flush=True,
                )
    return rows


def repeat(truth: Truth, sweep: Sweep, noise: float, method: str, repeats: int) -> dict:
    """Statistics over fresh noise."""
    exponent, far = truth.exponent, 10 * BUDGETS[-1]
    best, errors, holds = truth.best(far), [], []
    for seed in range(repeats):
        result = attempt(sweep.runs(truth, noise, seed), method, bootstrap=300, seed=seed)
        if result is None:
            continue
        errors.append(result.exponents["num_params"] - exponent)
        at = [(result.intervals_at(level)["num_params"], result.num_params(far, level)) for level in LEVELS]
        holds.append([[low <= exponent <= high, n.low <= best <= n.high] for (low, high), n in at])
    shares = np.mean(holds, axis=0)
    return {
        "n": len(errors),
        "bias": float(np.mean(errors)),
        "sd": float(np.std(errors)),
        "rmse": float(np.sqrt(np.mean(np.square(errors)))),
        "holds_a": shares[:, 0].tolist(),
        "holds_n": shares[:, 1].tolist(),
    }


def public_tables() -> list[dict]:
    """The exponent that each method gives on the public tables, beside the published one."""
    rows = []
    print(f"\n{'table':52}{'published':>26}" + "".join(f"{method:>26}" for method in METHODS))
    for name, published, observations in _tables():
        row = {"table": name, "published": published}
        for method in METHODS:
            result = attempt(observations, method)
            if result is not None:
                low, high = result.intervals_at(0.95)["num_params"]
                row[method] = {"exponent": result.exponents["num_params"], "low": low, "high": high}
                row[method] |= {"budgets": len(result.accepted), "scatter": result.scatter}
        print(f"{name:52}{_cell(published):>26}" + "".join(f"{_cell(row.get(m)):>26}" for m in METHODS), flush=True)
        rows.append(row)
    return rows


def _cell(result: dict | None) -> str:
    """An exponent with its interval."""
    if result is None:
        return "refused"
    interval = f" [{result['low']:.3f}, {result['high']:.3f}]" if "low" in result else ""
    return f"{result['exponent']:.3f}{interval}"


def _tables():
    """(name, published exponent with its 95 % interval, runs)."""
    porian, keys = SHARED / "porian", ("file", "dataset", "hparams", "warmup", "decay", "param_count", "val")
    with (porian / "isoflop_points.csv").open(newline="") as handle:
        points = list(csv.DictReader(handle))
    with (porian / "published_fits.csv").open(newline="") as handle:
        for fit in csv.DictReader(handle):
            published = {"exponent": fit["n_exponent"], "low": fit["boot_n_lo"], "high": fit["boot_n_hi"]}
            # The noise that the paper puts on a loss, nats: 0.002 on RefinedWeb, 0.01 on OpenWebText2.
            noise = 0.01 if fit["dataset"] == "owt2" else 0.002
            runs = Observations.from_records(
                [
                    {"num_params": p["n"], "tokens": p["t"], "flops": p["flops"], "loss": p["loss"], "loss_se": noise}
                    for p in points
                    if all(p[key] == fit[key] for key in keys)
                ]
            )
            yield " ".join(fit[key] for key in keys[1:]), {k: float(v) for k, v in published.items()}, runs
    chinchilla = Observations.read(SHARED / "chinchilla/svg_extracted_data.csv")
    # β/(α + β) of the joint fit that Besiroglu et al. 2024 publish for these 240 points.
    joint = {"exponent": 0.3658 / (0.3478 + 0.3658)}
    yield "chinchilla, 240 points", joint, chinchilla.where(np.sort(np.argsort(chinchilla.loss)[:240]))


def main() -> None:
    """Run the three parts and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200, help="tables with fresh noise in each case")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "isoflop_bias.json")
    arguments = parser.parse_args()
    results = {
        "budgets": BUDGETS.tolist(),
        "sizes": SIZES,
        "without_noise": without_noise(),
        "with_noise": with_noise(arguments.repeats),
        "public_tables": public_tables(),
    }
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
