"""Do the 90 % intervals of ``laws.forecast`` hold: quiet tables and noisy ones, small and large, near and far?

    python benchmarks/calibration.py [--tables 3] [--runs 8,15,40,120,400] [--parts synthetic,branched,public]

- **synthetic**: tables of a known truth, with noise of 0.1 to 5 % and 8 to 400 runs, and new runs 2, 10 and 100 times
  beyond. The truth is Chinchilla's law, skaling, a power law with and without a floor, or Chinchilla's law that drifts:
  a smooth random function of ln N and ln D of 1 % is added, which no law follows. Constants are drawn so that every
  part of a law shows.
- **branched**: ladders of five sizes and three lengths; runs of one size share the noise of a trunk (1 %), with one
  or three seeds a size; the noise is known, estimated, or the column of trunks is left out. Targets at 8 and 64 times.
- **public**: the tables of `forecast_tables.py`, one source left out at a time. The drift (``DriftPrior.sd``) is that
  of a few whose coverage in the other sources is nearest to 90 %, and the source left out is predicted with it.

Rows are kept in the output, and what is there is not run again; delete the file after a change of the forecast.
``inside`` is the share of new runs inside the 90 % interval, ``mean`` that of true means inside the interval of the
expected loss, ``centre`` the mean error over the mean half width of that.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from allometry import laws
from allometry.files import write_json
from allometry.laws import DriftPrior, Forecast, Observations
from allometry.laws.forecasting.calibration import calibrate, correct
from forecast_tables import COUNTED, public_tables, splits

RESULTS = Path(__file__).parent / "results" / "calibration.json"
TRUTHS = ("chinchilla", "skaling", "power", "power_floor", "drifting")
NOISES = (0.001, 0.003, 0.01, 0.03, 0.05)
DESIGNS = {8: (4, 2), 15: (5, 3), 40: (8, 5), 120: (15, 8), 400: (25, 16)}
FACTORS, SHARES = np.array([2.0, 10.0, 100.0]), (0.35, 0.65)
DRIFTS = (0.003, 0.004, 0.005, 0.006, 0.008, 0.011)
BRANCHED = [(seeds, mode) for seeds in (1, 3) for mode in ("ignored", "estimated", "known")]
BRANCHED_FACTORS = (8.0, 64.0)
Law = Callable[[np.ndarray, np.ndarray], np.ndarray]


def truth(kind: str, generator: np.random.Generator) -> tuple[Law, float, float]:
    """A law of x = ln N and y = ln D from the smallest run, and how far the design goes in each."""
    wide_n, wide_d = np.log(generator.uniform(10, 40)), np.log(generator.uniform(8, 30))
    while True:
        high, floor = generator.uniform(1.3, 2.0), 0.0 if kind == "power" else generator.uniform(0.25, 0.8)
        share, late = generator.uniform(0.3, 0.7), generator.uniform(0.35, 0.65)
        if kind in ("power", "power_floor"):
            fall = np.log((high - floor) / (1 - floor))
            a, b = fall * share / wide_n, fall * (1 - share) / wide_d
            if min(a, b) > 0.03:
                return partial(product, floor, high - floor, a, b), wide_n, wide_d
            continue
        k = generator.uniform(0.4, 2) if kind == "skaling" else 1.0
        first, last = (high - floor) ** (1 / k), (1 - floor) ** (1 / k)
        a = np.log(first * share / (last * late)) / wide_n
        b = np.log(first * (1 - share) / (last * (1 - late))) / wide_d
        if min(a, b) > 0.05 and max(a, b) * k < 0.9:
            return partial(joined, floor, high - floor, share, k, a, b), wide_n, wide_d


def product(floor: float, height: float, a: float, b: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A power law above a floor."""
    return floor + height * np.exp(-a * x - b * y)


def joined(floor: float, height: float, share: float, k: float, a: float, b: float, x, y) -> np.ndarray:
    """Skaling; Chinchilla's law where k = 1."""
    return floor + height * (share * np.exp(-a * x) + (1 - share) * np.exp(-b * y)) ** k


def drift(points: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A smooth random function of 1 % at these points (points, 2): Matérn 5/2 of four e-folds."""
    reach = np.sqrt(5) * np.linalg.norm(points[:, None] - points[None], axis=2) / 4
    covariance = (1 + reach + reach**2 / 3) * np.exp(-reach) + 1e-9 * np.eye(len(points))
    return 0.01 * np.linalg.cholesky(covariance) @ generator.standard_normal(len(points))


def synthetic(kind: str, noise: float, runs: int, seed: int) -> list[list[float]]:
    """One table: for each target its factor, error of the centre, half width, and whether run and mean are inside."""
    generator = np.random.default_rng([TRUTHS.index(kind), round(1e5 * noise), runs, seed])
    law, wide_n, wide_d = truth(kind, generator)
    sizes, lengths = DESIGNS[runs]
    axes = np.linspace(0, wide_n, sizes), np.linspace(0, 1, lengths)
    x, along = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    # A grid, or lengths that grow with the size.
    y = along * wide_d if generator.random() < 0.5 else x / wide_n * (wide_d - np.log(4)) + along * np.log(4)
    factor, share = np.repeat(FACTORS, len(SHARES)), np.tile(SHARES, len(FACTORS))
    at_x, at_y = x.max() + share * np.log(factor), y.max() + (1 - share) * np.log(factor)
    every_x, every_y = np.concatenate([x, at_x]), np.concatenate([y, at_y])
    log_loss = np.log(2 * law(every_x, every_y))
    if kind == "drifting":
        log_loss = log_loss + drift(np.stack([every_x, every_y], axis=1), generator)
    observed = np.exp(log_loss + noise * generator.standard_normal(len(log_loss)))
    n, d = 1e7 * np.exp(every_x), 2e8 * np.exp(every_y)
    fitted = laws.forecast(table(n[: len(x)], d[: len(x)], observed[: len(x)]))
    return judged(fitted, n[len(x) :], d[len(x) :], np.exp(log_loss[len(x) :]), observed[len(x) :], factor)


def branched(seeds: int, mode: str, seed: int) -> list[list[float]]:
    """The same for a ladder whose runs of one size and seed share a trunk's noise; the targets are new trunks."""
    generator = np.random.default_rng([77, seed])
    kind = ("chinchilla", "skaling", "power")[seed % 3]
    law, wide_n, wide_d = truth(kind, generator)
    x = np.repeat(np.linspace(0, wide_n, 5), 3 * seeds)
    y = 0.7 * wide_d * (1 - 0.3 * x / wide_n) + np.log(np.tile([0.35, 0.6, 1], 5 * seeds))
    y -= y.min()
    trunk = np.repeat(np.arange(5 * seeds), 3)
    noise = 0.01 * generator.standard_normal(5 * seeds)[trunk] + 0.002 * generator.standard_normal(len(x))
    n, d = 1e4 * np.exp(x), 2e5 * np.exp(y)
    ladder = table(n, d, 2 * law(x, y) * np.exp(noise))
    if mode != "ignored":
        ladder = ladder.with_columns(trunk=trunk, **({"trunk_noise": 0.01} if mode == "known" else {}))
    far = np.array(BRANCHED_FACTORS)
    largest = int((x + y).argmax())
    at_x, at_y = x[largest] + 0.5 * np.log(far), y[largest] + 0.5 * np.log(far)
    mean = 2 * law(at_x, at_y)
    new = mean * np.exp(np.hypot(0.01, 0.002) * generator.standard_normal(2))
    return judged(laws.forecast(ladder), 1e4 * np.exp(at_x), 2e5 * np.exp(at_y), mean, new, far)


def table(n: np.ndarray, d: np.ndarray, loss: np.ndarray) -> Observations:
    """Runs as observations."""
    return Observations.from_records(
        [{"num_params": a, "tokens": b, "loss": c} for a, b, c in zip(n, d, loss, strict=True)]
    )


def judged(forecast: Forecast, n, d, mean, new, factor) -> list[list[float]]:
    """A row a target: factor, error of ln L, both half widths, whether the new run and the mean are inside."""
    one, expected = forecast.predict(n, d), forecast.predict(n, d, repeats=np.inf)
    columns = (
        factor,
        np.log(one.value / mean),
        np.log(one.high / one.low) / 2,
        np.log(expected.high / expected.low) / 2,
        (one.low <= new) & (new <= one.high),
        (expected.low <= mean) & (mean <= expected.high),
    )
    return [[round(float(value), 5) for value in row] for row in zip(*columns, strict=True)]


def cells(rows: dict[str, list[list[float]]], groups: Callable[[str], str]) -> dict[str, dict[str, float]]:
    """Rows pooled by group and factor."""
    pooled: dict[str, list[list[float]]] = {}
    for key, table_rows in rows.items():
        for row in table_rows:
            pooled.setdefault(f"{groups(key)}, {row[0]:g}×", []).append(row)
    result = {}
    numbers = re.compile(r"[\d.]+")
    for name, each in sorted(pooled.items(), key=lambda pair: [float(x) for x in numbers.findall(pair[0])]):
        _, error, half, half_mean, inside, mean = np.array(each).T
        result[name] = {
            "predictions": len(each),
            "inside": round(float(inside.mean()), 3),
            "mean": round(float(mean.mean()), 3),
            "half": round(float(np.median(half)), 4),
            "rms": round(float(np.sqrt((error**2).mean())), 4),
            "centre": round(float(error.mean() / half_mean.mean()), 2),
        }
    return result


def show(title: str, pooled: dict[str, dict[str, float]]) -> None:
    """A table, with a star where less than 85 or more than 95 % are inside."""
    print(title)
    for name, cell in pooled.items():
        star = " " if 0.85 <= cell["inside"] <= 0.95 else "*"
        print(
            f"  {name:44}{cell['predictions']:4}   inside {cell['inside']:4.0%}{star}  mean {cell['mean']:4.0%}   "
            f"half {cell['half']:6.2%}   rms {cell['rms']:6.2%}   centre {cell['centre']:+.2f}"
        )


def public() -> dict[str, dict[str, float]]:
    """Each source with the drift that suits the others."""
    inside: dict[str, list[list[float]]] = {}
    for name, runs in public_tables():
        source = next((one for one in COUNTED if name.startswith(one)), None)
        for _, fitted, held_out in splits(runs) if source else ():
            inside.setdefault(source, []).append(list(_covered(laws.forecast(fitted), held_out)))
    result = {}
    for source in inside:
        others = np.mean([row for other, rows in inside.items() if other != source for row in rows], axis=0)
        best = int(np.abs(others - 0.9).argmin())
        own = np.mean(inside[source], axis=0)
        row = {"splits": len(inside[source]), "sd": DRIFTS[best], "others": others[best], "inside": own[best]}
        result[source] = row
    return {source: {key: round(float(x), 3) for key, x in row.items()} for source, row in result.items()}


def _covered(forecast: Forecast, held_out: Observations) -> Iterator[float]:
    """The share of held-out runs inside 90 %, for each drift."""
    for sd in DRIFTS:
        prior = DriftPrior(sd=sd)
        (scale, freedom), (slope, tested) = calibrate(forecast.backtest, prior), correct(forecast.backtest, prior)
        changed = replace(forecast, drift_prior=prior, scale=scale, freedom=freedom, correction=slope, tested=tested)
        prediction = changed.predict(held_out.num_params, held_out.tokens)
        yield float(np.mean((prediction.low <= held_out.loss) & (held_out.loss <= prediction.high)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=3, help="tables of each truth, noise and number of runs")
    parser.add_argument("--ladders", type=int, default=24, help="branched ladders of each kind")
    parser.add_argument("--runs", default="8,15,40,120,400")
    parser.add_argument("--parts", default="synthetic,branched,public")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    results = json.loads(given.output.read_text()) if given.output.is_file() else {}
    rows, ladders = results.setdefault("rows", {}), results.setdefault("ladders", {})
    began = time.process_time()

    def keep() -> None:
        results["cells"] = cells(rows, lambda key: " ".join(key.split(" | ")[1:3]))
        results["truths"] = cells(rows, lambda key: key.split(" | ")[0])
        results["branched"] = cells(ladders, lambda key: key.split(" | ")[0])
        results["command"] = " ".join(["benchmarks/calibration.py", *sys.argv[1:]])
        write_json(given.output, results)

    if "branched" in given.parts:
        for seed in range(given.ladders):
            for seeds, mode in BRANCHED:
                key = f"{seeds} {'seed' if seeds == 1 else 'seeds'} a size, noise {mode} | {seed}"
                if key not in ladders:
                    ladders[key] = branched(seeds, mode, seed)
            keep()
    if "synthetic" in given.parts:
        for seed in range(given.tables):
            for runs in map(int, given.runs.split(",")):
                for noise in NOISES:
                    for kind in TRUTHS:
                        key = f"{kind} | noise {100 * noise:g} % | {runs} runs | {seed}"
                        if key not in rows:
                            rows[key] = synthetic(kind, noise, runs, seed)
                keep()
    if "public" in given.parts:
        results["public"] = public()
    keep()
    show("by noise and number of runs", results["cells"])
    show("by truth", results["truths"])
    show("branched ladders", results["branched"])
    for source, row in results.get("public", {}).items():
        print(
            f"  {source:12}{row['splits']:3} splits   drift from the others {row['sd']:.3f} ({row['others']:.0%} there)"
            f"   inside {row['inside']:.0%}"
        )
    print(f"{time.process_time() - began:.0f} s of the processor")


if __name__ == "__main__":
    main()
