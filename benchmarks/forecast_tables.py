"""How far off is ``laws.forecast`` beyond the data, and how often does its 90 % interval hold? Prints two tables.

Public tables, in the folder that ALLOMETRY_SHARED (or ../shared beside the repository) names: fit on the lower 80 % of
the runs by compute and predict the rest; fit on C ≤ C_max/10 and predict the rest. Simulated small ladders, 5 sizes ×
3 token counts of a tiny byte-level model: a true law of each family with noise, target at 8 to 10 times the largest
run's compute; "bent" is a power law whose short runs lie above it.

    python benchmarks/forecast_tables.py [--ladders 60] [--only NAME]
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from allometry import laws
from allometry.laws import Observations

SHARED = Path(os.environ.get("ALLOMETRY_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
OWN_LOSS = {
    "c4_original": "loss_c4_val",
    "rpj": "loss_paloma_redpajama",
    "rw_original": "loss_paloma_falcon-refinedweb",
}


def rows(name: str) -> list[dict[str, str]]:
    """The rows of one of the shared tables."""
    with (SHARED / name).open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def table(source: list[dict], size: str, tokens: str | Callable, loss: str) -> Observations:
    """Observations from columns, or from a function of the row for the tokens."""
    count = tokens if callable(tokens) else lambda row: float(row[tokens])
    return Observations.from_records(
        [{"num_params": row[size], "tokens": count(row), "loss": row[loss]} for row in source if row[loss]]
    )


def public_tables() -> Iterator[tuple[str, Observations]]:
    """(name, runs) of every shared table that is CSV."""
    chinchilla = sorted(rows("chinchilla/svg_extracted_data.csv"), key=lambda row: float(row["loss"]))[:240]
    yield (
        "chinchilla",
        table(chinchilla, "Model Size", lambda r: float(r["Training FLOP"]) / 6 / float(r["Model Size"]), "loss"),
    )
    gadre = rows("gadre/models.csv")
    for corpus, column in OWN_LOSS.items():
        for loss in (column, "loss_openlm"):
            yield f"gadre {corpus} {loss[5:]}", table([r for r in gadre if r["train"] == corpus], "N", "D", loss)
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
    for name in sorted({tuple(row[key] for key in keys) for row in porian}):
        chosen = table([r for r in porian if tuple(r[key] for key in keys) == name], "n", "t", "loss")
        yield "porian " + " ".join(name), chosen
        yield "porian D≥N " + " ".join(name), chosen.where(chosen.tokens >= chosen.num_params)


def splits(runs: Observations) -> Iterator[tuple[str, Observations, Observations]]:
    """(name, fitted, predicted) for both splits."""
    for name, cut in (("80 %", np.quantile(runs.flops, 0.8)), ("C/10", 1.0001 * runs.flops.max() / 10)):
        yield name, runs.where(runs.flops <= cut), runs.where(runs.flops > cut)


def measure(fitted: Observations, held_out: Observations) -> tuple[float, float, float]:
    """Mean |relative error|, share of the held-out runs inside the 90 % interval, mean half width."""
    prediction = laws.forecast(fitted).predict(held_out.num_params, held_out.tokens, level=0.9)
    inside = (prediction.low <= held_out.loss) & (held_out.loss <= prediction.high)
    error = np.abs(prediction.value / held_out.loss - 1)
    return float(error.mean()), float(inside.mean()), float(np.mean(np.log(prediction.high / prediction.low)) / 2)


def simulated_ladder(seed: int, kind: str) -> tuple[Observations, Observations]:
    """Fifteen noisy runs of a true law and one run of 8 to 10 times the largest one's compute."""
    generator = np.random.default_rng(seed)
    sizes, tokens = np.geomspace(13e3, 200e3, 5), np.geomspace(0.2e6, 2e6, 3)
    n, d = (axis.ravel() for axis in np.meshgrid(sizes, tokens, indexing="ij"))
    true, noise = _true_law(generator, kind), generator.uniform(0.003, 0.008)
    factor, share = generator.uniform(8, 10), generator.uniform(0.35, 0.65)
    target = (np.array([200e3 * factor**share]), np.array([2e6 * factor ** (1 - share)]))
    made = []
    for big_n, big_d in ((n, d), target):
        loss = true(big_n, big_d) * np.exp(noise * generator.standard_normal(len(big_n)))
        made.append(
            Observations.from_records(
                [{"num_params": a, "tokens": b, "loss": c} for a, b, c in zip(big_n, big_d, loss, strict=True)]
            )
        )
    return made[0], made[1]


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


def report(title: str, results: list[tuple[float, float, float]]) -> None:
    """One line: geometric mean error, coverage, the least coverage, half width."""
    errors, inside, half = map(np.array, zip(*results, strict=True))
    print(
        f"{title:24}{len(results):4}   error {np.exp(np.log(errors).mean()):6.2%}   inside 90 %: {inside.mean():4.0%}"
        f"   least {inside.min():4.0%}   under 75 %: {(inside < 0.75).sum():2}   half width {half.mean():5.1%}",
        flush=True,
    )


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ladders", type=int, default=60, help="simulated ladders of each kind")
    parser.add_argument("--only", default="", help="only tables whose name begins so")
    arguments = parser.parse_args()
    start, results = time.perf_counter(), {}
    for name, runs in public_tables():
        if not name.startswith(arguments.only):
            continue
        for split, fitted, held_out in splits(runs):
            result = measure(fitted, held_out)
            results[split, name] = result
            print(f"{split:5} {name:58}{len(fitted):4} →{len(held_out):3}   " + "  ".join(f"{x:6.1%}" for x in result))
    for split in ("80 %", "C/10"):
        for group in ("chinchilla", "gadre", "olmo", "nqs", "porian D≥N", "porian owt2", "porian rw", ""):
            chosen = [r for (s, name), r in results.items() if s == split and name.startswith(group)]
            if chosen:
                report(f"{split} {group or 'all'}", chosen)
    for kind in ("power", "power_floor", "chinchilla", "skaling", "bent") if arguments.ladders else ():
        report(f"ladder {kind}", [measure(*simulated_ladder(seed, kind)) for seed in range(arguments.ladders)])
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
