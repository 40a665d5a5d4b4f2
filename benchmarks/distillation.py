"""The law of distillation, fitted to students of our own: how well does it predict larger ones?

    python benchmarks/distillation.py train FOLDER      # ladders, teachers, students; about an hour; goes on if stopped
    python benchmarks/distillation.py table FOLDER      # what is there → results/distillation.csv
    python benchmarks/distillation.py fit               # that table → results/distillation.json

Students of Python's library (bytes, context 128) under seven teachers, each beside its run without one. Those of more
than 100k parameters or 0.9M tokens are held out; the law (``laws.LAWS`` calls it "distillation") is fitted to the
others in three ways:

- "ten": all its constants from the students that were taught;
- "nine": t = 1, as it is published;
- "two steps": first L = E + k·((10⁸/N)^α + r·(10¹⁰/D)^β)^γ from the runs without a teacher, then t = 1, the α, β, γ and
  r of that, and only k, c_0, c_1, d_1, f_1 from the taught.

Errors are those of ln L. Beside them: what the loss alone says, and the smaller of it and the teacher's.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from allometry import laws
from allometry.config.task import DistilledTextConfig
from allometry.files import write_json
from allometry.laws.forms.formula import COEFFICIENT, EXPONENT, FLOOR, Formula
from allometry.laws.forms.input_laws import Distillation
from allometry.runs.study import Study

RESULTS = Path(__file__).parent / "results"
COLUMNS = ("num_params", "tokens", "teacher_params", "teacher_loss", "loss_alone", "loss")
REFITS = 40
LARGE_SIZE, LARGE_TOKENS = 1e5, 9e5  # held out beyond
SETTINGS = 'data = "stdlib"\nsweep = false\nlr = 0.5\nbatch_tokens = 512\n'
# Ladder → widths and tokens.
LADDERS = {
    "short": ([12, 16, 24, 32], [125_000, 250_000, 500_000]),
    "middle": ([12, 16, 24, 32, 48, 64], [125_000, 250_000, 500_000, 1_000_000]),
    "long": ([16, 24, 32, 48], [500_000, 1_000_000, 2_000_000]),
}
# Ladder, width and tokens of a teacher → the ladders of its students, with their widths.
TEACHERS = {
    ("middle", 64, 1_000_000): {"short": [12, 16, 24, 32], "middle": [24, 32, 48]},
    ("middle", 32, 1_000_000): {"short": [12, 16, 24, 32]},
    ("middle", 16, 1_000_000): {"short": [12, 16, 24, 32]},
    ("middle", 48, 500_000): {"short": [12, 16, 24, 32]},
    ("middle", 48, 125_000): {"short": [12, 16, 24, 32]},
    ("long", 48, 2_000_000): {"short": [12, 16, 24], "middle": [12, 32], "long": [16, 24]},
    ("long", 32, 2_000_000): {"long": [24]},
}


def train(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (widths, tokens) in LADDERS.items():
        settings = folder / f"{name}.toml"
        settings.write_text(f"{SETTINGS}widths = {widths}\ntokens = {tokens}\n")
        _allometry("ladder", settings, "--out", folder / name)
    for (ladder, width, tokens), students in TEACHERS.items():
        (teacher,) = (
            record.id
            for record in Study.open(folder / ladder).records("ladder")
            if (record.config.decoder.width, record.config.train.tokens) == (width, tokens)
        )
        for source, widths in students.items():
            chosen = [part for each in widths for part in ("--width", str(each))]
            out = folder / f"taught-by-{width}-{tokens}"
            _allometry("distill", folder / source, "--teacher", folder / ladder / teacher, "--out", out, *chosen)


def _allometry(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "allometry", *map(str, arguments)], check=True)


def table(folder: Path) -> None:
    """Join what the students of all teachers came to, and what they came to alone."""
    studies = [Study(path.parent) for path in sorted(folder.glob("*/study.json"))]
    ended = [record for study in studies for record in study.records("ladder") if record.status == "finished"]
    alone = {
        (run.num_params, run.tokens): run.loss for run in ended if not isinstance(run.config.task, DistilledTextConfig)
    }
    rows = {
        (task.teacher_loss, run.num_params, run.tokens): (task.teacher_params, run.loss)
        for run in ended
        if isinstance(task := run.config.task, DistilledTextConfig)
    }
    with (RESULTS / "distillation.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for (teacher_loss, size, tokens), (teacher_size, loss) in sorted(rows.items()):
            writer.writerow([size, tokens, teacher_size, teacher_loss, alone[size, tokens], loss])
    print(f"{len(rows)} students")


@dataclass(frozen=True)
class Alone(Formula):
    """The law of the runs without a teacher, in the units of the law of distillation."""

    name: ClassVar[str] = "alone"
    formula: ClassVar[str] = "L = E + k·((10⁸/N)^α + r·(10¹⁰/D)^β)^γ"
    source: ClassVar[str] = "arXiv 2502.08606, its law without a teacher"
    constants: ClassVar = {
        "E": FLOOR,
        "k": COEFFICIENT,
        "r": (1e-3, 1e3),
        "alpha": EXPONENT,
        "beta": EXPONENT,
        "gamma": (0.1, 2.0),
    }

    def evaluate(self, c, n, d):
        return c["E"] + c["k"] * ((1e8 / n) ** c["alpha"] + c["r"] * (1e10 / d) ** c["beta"]) ** c["gamma"]


def with_fixed(**fixed: float) -> Distillation:
    """The law of distillation with some of its constants known."""

    @dataclass(frozen=True)
    class Fixed(Distillation):
        constants: ClassVar = {name: kind for name, kind in Distillation.constants.items() if name not in fixed}

        def evaluate(self, c, *inputs):
            return super().evaluate(c | fixed, *inputs)

    return Fixed()


Rows = dict[str, np.ndarray]


def observations(rows: Rows, target: str) -> laws.Observations:
    count = len(rows[target])
    return laws.Observations(
        num_params=rows["num_params"],
        tokens=rows["tokens"],
        loss=rows[target],
        flops=6 * rows["num_params"] * rows["tokens"],
        loss_se=np.full(count, np.nan),
        labels=tuple(map(str, range(count))),
        extra={name: rows[name] for name in ("teacher_loss", "loss_alone")},
    )


def errors(predicted: np.ndarray, rows: Rows) -> dict[str, float]:
    """Root mean square and mean of the errors of ln L, in per cent."""
    each = 100 * np.log(predicted / rows["loss"])
    return {"rms": round(float(np.sqrt(np.mean(each**2))), 2), "mean": round(float(each.mean()), 2)}


def ways(rows: Rows) -> Iterator[tuple[str, Distillation, laws.Fit]]:
    """Each way of fitting the law to these students, with what is fitted."""
    pairs = np.stack([rows["num_params"], rows["tokens"]])
    _, first = np.unique(pairs, axis=1, return_index=True)
    alone = laws.fit(Alone(), observations({k: v[first] for k, v in rows.items()}, "loss_alone"), bootstrap=0)
    shared = {name: float(alone.values[name]) for name in ("alpha", "beta", "gamma", "r")}
    for name, law in {
        "ten": Distillation(),
        "nine": with_fixed(t=1.0),
        "two steps": with_fixed(t=1.0, **shared),
    }.items():
        yield name, law, laws.fit(law, observations(rows, "loss"), bootstrap=REFITS)


def fit() -> None:
    with (RESULTS / "distillation.csv").open() as file:
        lines = list(csv.DictReader(file))
    rows = {name: np.array([float(line[name]) for line in lines]) for name in COLUMNS}
    large = (rows["num_params"] > LARGE_SIZE) | (rows["tokens"] > LARGE_TOKENS)
    seen, held_out = ({name: values[where] for name, values in rows.items()} for where in (~large, large))
    result: dict = {"students": len(large), "held out": int(large.sum())}
    for name, law, fitted in ways(seen):
        values = {symbol: np.array(value) for symbol, value in fitted.values.items()}
        seen_as, held_out_as = (law.evaluate(values, *(p[key] for key in law.inputs)) for p in (seen, held_out))
        errors_of = {"fitted": errors(seen_as, seen), "held out": errors(held_out_as, held_out)}
        result[name] = errors_of | {
            "constants": {key: float(f"{value:.4g}") for key, value in fitted.values.items()},
            "standard_errors": {key: float(f"{value:.2g}") for key, value in fitted.standard_errors.items()},
        }
    lesser = lambda part: np.minimum(part["loss_alone"], part["teacher_loss"])
    for name, of in {"the loss alone": lambda part: part["loss_alone"], "alone or teacher": lesser}.items():
        result[name] = {"fitted": errors(of(seen), seen), "held out": errors(of(held_out), held_out)}
    for name, value in result.items():
        print(f"{name}: {value}")
    write_json(RESULTS / "distillation.json", {"command": "benchmarks/distillation.py fit"} | result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["train", "table", "fit"])
    parser.add_argument("folder", type=Path, nargs="?", help="of the studies")
    options = parser.parse_args()
    if options.step == "fit":
        return fit()
    if options.folder is None:
        parser.error(f"{options.step} needs a folder")
    (train if options.step == "train" else table)(options.folder)


if __name__ == "__main__":
    main()
