"""How far off is ``laws.forecast`` beyond the data, and how often does its 90 % interval hold? Prints two tables.

Public tables are in `data/` of the folder that ALLOMETRY_SHARED names (default: `shared` in the folder that holds the
repository). Two tests: fit on the lower 80 % of the runs by compute and predict the rest; fit on C ≤ C_max/10 and
predict the rest. The forecast is compared with one law alone, skaling by least squares on log loss with weights C^¼.
Variants of a table (other losses of the same runs, an IsoFLOP table without its extremes) are listed separately and
do not count in "all".

Simulated small ladders have 5 sizes × 3 token counts of a tiny byte-level model: a true law of each family with noise,
and a target at 8 to 10 times the largest run's compute; "bent" is a power law whose short runs lie above it.

    python benchmarks/forecast_tables.py [--ladders 60] [--only NAME] [--output FILE]

The figures of every table and group stay in `results/forecast_tables.json`, with which a change of the forecast is
compared; it is written when all tables were run.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from allometry import laws
from allometry.files import write_json
from allometry.laws import Observations

RESULTS = Path(__file__).parent / "results" / "forecast_tables.json"
SHARED = Path(os.environ.get("ALLOMETRY_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
OWN_LOSS = {
    "c4_original": "loss_c4_val",
    "rpj": "loss_paloma_redpajama",
    "rw_original": "loss_paloma_falcon-refinedweb",
}
# Beginnings of names: the tables that count, and the variants.
COUNTED = ("chinchilla", "farseer", "gadre", "olmo", "nqs", "porian")
VARIANTS = ("other loss gadre", "D≥N porian", "within 5 % porian")
SPLITS = ("80 %", "C/10")


class Result(NamedTuple):
    """Of one split of one table: mean |relative error|, also of one law alone; held-out runs inside; half width."""

    error: float
    alone: float
    inside: float
    half: float
    runs: int


def rows(name: str) -> list[dict[str, str]]:
    """The rows of one of the shared tables."""
    if name.endswith(".parquet"):
        import pyarrow.parquet

        return pyarrow.parquet.read_table(SHARED / name).to_pylist()
    with (SHARED / name).open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def table(source: list[dict], size: str, tokens: str | Callable, loss: str) -> Observations:
    """Observations from columns, or from a function of the row for the tokens."""
    count = tokens if callable(tokens) else lambda row: float(row[tokens])
    return Observations.from_records(
        [{"num_params": row[size], "tokens": count(row), "loss": row[loss]} for row in source if row[loss]]
    )


def public_tables() -> Iterator[tuple[str, Observations]]:
    """(name, runs) of every shared table with sizes, tokens and losses."""
    chinchilla = sorted(rows("chinchilla/svg_extracted_data.csv"), key=lambda row: float(row["loss"]))[:240]
    yield (
        "chinchilla",
        table(chinchilla, "Model Size", lambda r: float(r["Training FLOP"]) / 6 / float(r["Model Size"]), "loss"),
    )
    yield "farseer", table(rows("scalebench/farseer_scaling_law__train.parquet"), "N", "D", "loss")
    gadre = rows("gadre/models.csv")
    for corpus, column in OWN_LOSS.items():
        chosen = [row for row in gadre if row["train"] == corpus]
        yield f"gadre {corpus}", table(chosen, "N", "D", column)
        yield f"other loss gadre {corpus}", table(chosen, "N", "D", "loss_openlm")
    olmo = [
        row
        for row in rows("olmo_ladder/final_losses.csv")
        if "peteish" not in row["run"] or row["run"] in ("peteish7_eval_anneal", "peteish13_eval_final")
    ]
    for loss in ("c4_loss", "pile_loss"):
        yield f"olmo {loss}", table(olmo, "N", "D", loss)
    yield "nqs", table(rows("nqs/dataset.csv"), "N", lambda r: 128 * float(r["B"]) * float(r["K"]), "loss")
    porian = rows("porian/isoflop_points.csv")
    keys = ("dataset", "hparams", "warmup", "decay", "param_count", "val")
    for experiment in sorted({tuple(row[key] for key in keys) for row in porian}):
        chosen = table([r for r in porian if tuple(r[key] for key in keys) == experiment], "n", "t", "loss")
        name = "porian " + " ".join(experiment)
        yield name, chosen
        yield f"D≥N {name}", chosen.where(chosen.tokens >= chosen.num_params)
        yield f"within 5 % {name}", chosen.where(near_best(chosen))


def near_best(runs: Observations) -> np.ndarray:
    """Which runs of an IsoFLOP table lie within 5 % of their budget's best loss."""
    budgets = [np.abs(runs.flops / flops - 1) < 0.02 for flops in runs.flops]
    return runs.loss <= 1.05 * np.array([runs.loss[budget].min() for budget in budgets])


def splits(runs: Observations) -> Iterator[tuple[str, Observations, Observations]]:
    """(name, fitted, predicted) for both splits."""
    cuts = (np.quantile(runs.flops, 0.8), 1.0001 * runs.flops.max() / 10)
    for name, cut in zip(SPLITS, cuts, strict=True):
        yield name, runs.where(runs.flops <= cut), runs.where(runs.flops > cut)


def measure(fitted: Observations, held_out: Observations) -> Result:
    """Forecast the held-out runs, and predict them with one law alone."""
    points = held_out.num_params, held_out.tokens
    prediction = laws.forecast(fitted).predict(*points, level=0.9)
    weights = (fitted.flops / fitted.flops.max()) ** 0.25
    alone = laws.fit("skaling", fitted, "log_squares", weights=weights, bootstrap=0).predict(*points).value
    inside = (prediction.low <= held_out.loss) & (held_out.loss <= prediction.high)
    error, other = (float(np.abs(value / held_out.loss - 1).mean()) for value in (prediction.value, alone))
    half = float(np.mean(np.log(prediction.high / prediction.low)) / 2)
    return Result(error, other, float(inside.mean()), half, len(held_out))


def simulated_ladder(seed: int, kind: str) -> tuple[Observations, Observations]:
    """Fifteen noisy runs of a true law and one run of 8 to 10 times the largest one's compute."""
    generator = np.random.default_rng(seed)
    sizes, tokens = np.geomspace(13e3, 200e3, 5), np.geomspace(0.2e6, 2e6, 3)
    n, d = (axis.ravel() for axis in np.meshgrid(sizes, tokens, indexing="ij"))
    true, noise = _true_law(generator, kind), generator.uniform(0.003, 0.008)
    factor, share = generator.uniform(8, 10), generator.uniform(0.35, 0.65)
    target = (np.array([200e3 * factor**share]), np.array([2e6 * factor ** (1 - share)]))
    halves = []
    for big_n, big_d in ((n, d), target):
        loss = true(big_n, big_d) * np.exp(noise * generator.standard_normal(len(big_n)))
        halves.append(
            Observations.from_records(
                [{"num_params": a, "tokens": b, "loss": c} for a, b, c in zip(big_n, big_d, loss, strict=True)]
            )
        )
    return halves[0], halves[1]


def _true_law(generator: np.random.Generator, kind: str) -> Callable:
    """A law that falls from about 2.2 at the smallest run of the ladder to about 1.2 at the largest."""
    span_n, span_d = np.log(200 / 13), np.log(10)
    while True:
        high, low, share, late = (
            generator.uniform(*pair) for pair in ((2, 2.4), (1.1, 1.35), (0.3, 0.7), (0.35, 0.65))
        )
        floor = 0.0 if kind in ("power", "bent") else generator.uniform(0.3, 0.75) * low
        bend = generator.uniform(0.02, 0.05) if kind == "bent" else 0.0
        total = np.log((high - floor) / (low - floor))
        if kind in ("power", "power_floor", "bent"):
            alpha, beta = total * share / span_n, total * (1 - share) / span_d
            return lambda n, d: (
                (floor + (high - floor) * (n / 13e3) ** -alpha * (d / 2e5) ** -beta)
                * (1 + bend * (2e5 / d) * (n / 2e5) ** 0.5)
            )
        k = 1.0 if kind == "chinchilla" else generator.uniform(0.3, 2)
        first, last = (high - floor) ** (1 / k), (low - floor) ** (1 / k)
        alpha = np.log(first * share / (last * late)) / span_n
        beta = np.log(first * (1 - share) / (last * (1 - late))) / span_d
        if min(alpha, beta) > 0.03:
            return lambda n, d: (
                floor + first**k * (share * (n / 13e3) ** -alpha + (1 - share) * (d / 2e5) ** -beta) ** k
            )


def report(title: str, results: Iterable[Result]) -> dict[str, float]:
    """One line: geometric mean error, of one law alone; coverage of all held-out runs, the least; half width."""
    error, alone, inside, half, runs = map(np.array, zip(*results, strict=True))
    print(
        f"{title:27}{len(error):4}   error {_mean(error):6.2%}   one law {_mean(alone):6.2%}"
        f"   inside 90 %: {np.average(inside, weights=runs):4.0%}   least {inside.min():4.0%}"
        f"   under 75 %: {(inside < 0.75).sum():2}   half width {_mean(half):5.1%}",
        flush=True,
    )
    figures = {
        "error": _mean(error),
        "one law": _mean(alone),
        "inside": float(np.average(inside, weights=runs)),
        "least": float(inside.min()),
        "half": _mean(half),
    }
    return {"splits": len(error), **{name: round(value, 5) for name, value in figures.items()}}


def _mean(values: np.ndarray) -> float:
    return float(np.exp(np.log(values).mean()))


def report_tables(only: str) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Every table, then groups of them for each split, then all that count with both splits together."""
    results: dict[tuple[str, str], Result] = {}
    groups: dict[str, dict[str, float]] = {}
    for name, runs in public_tables():
        if not name.startswith(only):
            continue
        for split, fitted, held_out in splits(runs):
            result = results[split, name] = measure(fitted, held_out)
            numbers = f"{result.error:7.2%} {result.alone:7.2%}  inside {result.inside:4.0%}  half {result.half:5.1%}"
            print(f"{split:5} {name:62}{len(fitted):4} →{len(held_out):4}  {numbers}", flush=True)
    for split in (*SPLITS, ""):
        for group in (*COUNTED, COUNTED, *VARIANTS):
            chosen = [r for (s, name), r in results.items() if s.startswith(split) and name.startswith(group)]
            title = "all that count" if group is COUNTED else group
            if chosen:
                groups[f"{split or 'both'} {title}"] = report(f"{split or 'both':5} {title}", chosen)
    rows = {f"{split} {name}": result._asdict() for (split, name), result in results.items()}
    return {name: {key: round(float(x), 5) for key, x in row.items()} for name, row in rows.items()}, groups


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ladders", type=int, default=60, help="simulated ladders of each kind")
    parser.add_argument("--only", default="", help="only tables whose name begins so; nothing is written then")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    start = time.perf_counter()
    tables, groups = report_tables(arguments.only)
    for kind in ("power", "power_floor", "chinchilla", "skaling", "bent") if arguments.ladders else ():
        measured = [measure(*simulated_ladder(seed, kind)) for seed in range(arguments.ladders)]
        groups[f"ladder {kind}"] = report(f"ladder {kind}", measured)
    print(f"{time.perf_counter() - start:.0f} s")
    if not arguments.only:
        command = " ".join(["benchmarks/forecast_tables.py", *sys.argv[1:]])
        write_json(arguments.output, {"command": command, "groups": groups, "tables": tables})


if __name__ == "__main__":
    main()
