"""How often does the early warning report a healthy run, and which failures does it catch? On curves of real studies.

Every run of a ladder is judged by the runs of other sizes, every target by all runs of the ladder. Then each is judged
again with its losses multiplied by a factor, as those of a run that went wrong.

    python benchmarks/early_warning.py STUDY … [--out benchmarks/results/early_warning.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median

from allometry import laws
from allometry.files import write_json
from allometry.laws.along_a_run.expected_band import Course, band

FACTORS = (0.9, 1.0, 1.05, 1.1, 1.2, 1.4)


def load(study: Path) -> list[dict]:
    """Records with their curves; read as JSON, for an older version may have trained them."""
    runs = []
    for path in sorted(study.glob("runs/*/record.json")):
        run = json.loads(path.read_text())
        lines = (path.parent / "metrics.jsonl").read_text().splitlines()
        run["curve"] = [(row["tokens"], row["train_loss"]) for row in map(json.loads, lines)]
        if run["status"] == "finished" and run["kind"] in ("ladder", "target"):
            runs.append(run)
    return runs


def course(run: dict) -> Course:
    tokens, decay = run["counts"]["tokens"], run["config"]["train"]["decay"]
    return Course(run["counts"]["num_params"], tokens, (1 - decay) * tokens, run["curve"])


def law(runs: list[dict]) -> laws.Fit:
    rows = [{name: run["counts"][name] for name in ("num_params", "tokens")} | {"loss": run["loss"]} for run in runs]
    return laws.fit("chinchilla", laws.Observations.from_records(rows, counted="non_embedding"), "log_squares")


def judged(study: Path) -> list[dict]:
    """For each run and factor, the share of the run after which a warning comes; None without a warning."""
    runs = load(study)
    ladder = [run for run in runs if run["kind"] == "ladder"]
    sizes = {run["counts"]["num_params"] for run in ladder}
    without = {size: [run for run in ladder if run["counts"]["num_params"] != size] for size in sizes}
    fits = {size: law(rest) for size, rest in without.items()} | {None: law(ladder)}
    rows = []
    for run in runs:
        size = run["counts"]["num_params"] if run["kind"] == "ladder" else None
        others = ladder if size is None else without[size]
        limits = band(fits[size], [course(other) for other in others], course(run))
        warned = {}
        for factor in FACTORS:
            left = limits.first_outside([(tokens, factor * loss) for tokens, loss in run["curve"]])
            warned[str(factor)] = left and left[0] / run["counts"]["tokens"]
        rows.append({"study": study.name, "kind": run["kind"], "warned": warned})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = [one for study in options.studies for one in judged(study)]
    table = []
    for kind in ("ladder", "target"):
        group = [one["warned"] for one in rows if one["kind"] == kind]
        for factor in map(str, FACTORS):
            shares = [warned[factor] for warned in group if warned[factor] is not None]
            row = {"kind": kind, "factor": float(factor), "runs": len(group), "warned": len(shares)}
            table.append(row | {"median_share": round(median(shares), 3) if shares else None})
            print(table[-1])
    if options.out:
        write_json(options.out, {"studies": len(options.studies), "table": table})


if __name__ == "__main__":
    main()
