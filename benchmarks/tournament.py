"""How true the ladder's answers are: studies of minutes on many texts, each prediction held against what came out.

    python benchmarks/tournament.py --group tuning     # the studies on which choices were made
    python benchmarks/tournament.py --group final      # texts and seeds that no choice has seen, run once
    python benchmarks/tournament.py --group repeated --repeats 3
    python benchmarks/tournament.py --table            # the table of all results so far

A study is `allometry quickstart` in a process of its own. Its result goes to ``tournament.jsonl`` as soon as it is
known, and a study whose result stands there is not run again; what it lacks of the seeds and sizes that are asked for
is added, as long as its folder is there. Texts are made from what every Debian machine with manual pages, headers, Perl
and translations has; a text that cannot be made here is left out and named. With ``--repeats`` the target is trained
with further seeds, and with ``--sizes`` half and twice the planned size is trained for the same FLOPs. Two cores,
nothing else running: about four minutes a study.

With ``--speed`` (the ``calibration.json`` of a study that was begun while nothing else ran) each study is designed for
that speed, its minutes are minutes of that machine, and no time is watched: what runs beside it cannot make it smaller.
``--at-once 2`` gives each of two studies a core of its own.
"""

from __future__ import annotations

import argparse
import gettext
import gzip
import json
import math
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from result_rows import ResultRows, parse_options

RESULTS = ResultRows("tournament")
MOST_CHARACTERS = 24_000_000  # more than any run here reads, where a text has as many
SUBWORDS = re.compile(r"(.+) BPE-(\d+)")  # a text by its subwords, of a vocabulary


@dataclass(frozen=True)
class Entry:
    """A study of the tournament."""

    text: str
    seed: int = 0
    minutes: float = 3.0
    target_ratio: float = 8.0

    @property
    def name(self) -> str:
        return f"{self.text}-{self.seed}-{self.minutes:g}min-{self.target_ratio:g}x"


TUNING = (
    *(Entry(text, 0) for text in ("stdlib", "wikitext", "man", "french", "packages")),
    *(Entry(text, 1) for text in ("stdlib", "wikitext", "man", "french")),
    Entry("shakespeare", 0, minutes=1.5),
    Entry("man", 0, minutes=4.0, target_ratio=64.0),
)
FINAL = (
    *(Entry(text, seed) for seed in (2, 3) for text in ("perl", "headers", "javascript", "german", "russian")),
    Entry("perl", 4, minutes=5.0, target_ratio=64.0),
    Entry("german", 4, minutes=5.0, target_ratio=64.0),
    Entry("headers", 4, minutes=6.0, target_ratio=100.0),
)
# After the sweep was changed once more; each target with three seeds.
REPEATED = (
    *(Entry(text, 5) for text in ("german", "russian", "javascript")),
    Entry("shakespeare", 5, minutes=1.5),
    *(Entry(text, 5) for text in ("stdlib BPE-4096", "perl", "headers")),
    Entry("man BPE-4096", 5),  # after subwords were no longer given the constants of bytes
)
# Once, after all choices: texts that no choice had seen, and German.
FRESH = (
    *(Entry(text, 6) for text in ("spanish", "japanese", "vim", "cmake", "changelogs", "german")),
    Entry("spanish", 7),
)
# After decoders were wired to copy and weights let fade with the tokens seen (docs/log.md): new losses, new laws.
WIRED = (
    *(Entry(text, 8) for text in ("stdlib", "german", "vim", "russian", "perl", "wikitext", "man")),
    *(Entry(text, 8) for text in ("headers", "spanish", "javascript", "cmake", "french", "packages", "changelogs")),
)
# After the wired heads were made to look far more clearly (docs/log.md). The constants of the law are from the first
# and from those before; the others were run once after that.
COPYING = (
    *(Entry(text, 10) for text in ("stdlib", "vim", "german", "cmake", "headers", "french", "perl")),
    *(Entry(text, 11) for text in ("russian", "wikitext", "man", "spanish", "javascript", "packages", "changelogs")),
)
JUDGED = tuple(Entry(text, 13) for text in ("stdlib", "german", "perl", "headers", "vim"))
FAR = (
    Entry("stdlib", 12, minutes=5.0, target_ratio=64.0),
    Entry("headers", 12, minutes=6.0, target_ratio=100.0),
)
# After a fit was told the noise of a run around its trunk (docs/log.md), once.
TOLD = (
    *(Entry(text, 14) for text in ("stdlib", "javascript", "man", "cmake", "vim")),
    *(Entry(text, 14) for text in ("german", "french", "russian", "spanish", "wikitext")),
)
TOLD_FAR = (
    *(Entry(text, 14, minutes=5.0, target_ratio=64.0) for text in ("perl", "man")),
    Entry("headers", 14, minutes=6.0, target_ratio=100.0),
)
# After ladders were centred where the studies since wired decoders had found the best sizes.
CENTRED = (
    *(Entry(text, 15) for text in ("perl", "headers", "changelogs", "packages", "german")),
    Entry("perl", 15, minutes=5.0, target_ratio=64.0),
)
# Subwords by wired decoders with heads of 16, by the laws of anybody's table.
NARROW_HEADS = (
    Entry("stdlib BPE-4096", 15),
    *(Entry(f"{text} BPE-4096", 16) for text in ("man", "headers", "changelogs", "perl")),
    *(Entry(f"{text} BPE-1024", 16) for text in ("vim", "stdlib")),
    Entry("packages BPE-8192", 16),
)
# Subwords with heads of 32 and more: what their law has in common with that of bytes is from these.
SUBWORD = (
    *(Entry(f"{text} BPE-4096", 17) for text in ("stdlib", "headers", "perl")),
    *(Entry(f"{text} BPE-1024", 17) for text in ("vim", "man")),
    Entry("packages BPE-8192", 17),
)
# Once, after that; and once after the drift of early runs was set by all of these.
SUBWORD_LONGER = (
    Entry("stdlib BPE-4096", 18, minutes=8.0),
    Entry("man BPE-1024", 18, minutes=8.0),
)
SUBWORD_JUDGED = (
    *(Entry(f"{text} BPE-4096", 19) for text in ("changelogs", "javascript", "packages")),
    *(Entry(f"{text} BPE-1024", 19) for text in ("stdlib", "perl", "headers")),
)
GROUPS = {
    "tuning": TUNING,
    "final": FINAL,
    "repeated": REPEATED,
    "fresh": FRESH,
    "wired": WIRED,
    "copying": COPYING,
    "judged": JUDGED,
    "far": FAR,
    "told": TOLD,
    "told far": TOLD_FAR,
    "centred": CENTRED,
    "narrow heads": NARROW_HEADS,
    "subwords": SUBWORD,
    "subwords, longer": SUBWORD_LONGER,
    "subwords judged": SUBWORD_JUDGED,
}


def files(
    *folders: str, pattern: str, read: Callable[[Path], str] = lambda path: path.read_text(errors="ignore")
) -> str:
    """Files under folders in a random order, always the same, up to the limit: so that all of it is of one kind."""
    found = [path for folder in folders for path in sorted(Path(folder).rglob(pattern))]
    paths = [path for path in found if path.is_file() and not path.is_symlink() and path.stat().st_size < 200_000]
    random.Random(0).shuffle(paths)
    texts, length = [], 0
    for path in paths:
        if length < MOST_CHARACTERS:
            texts.append(read(path))
            length += len(texts[-1])
    return "\n\n".join(texts)


def unpacked(path: Path) -> str:
    """The text of a compressed file."""
    return gzip.decompress(path.read_bytes()).decode(errors="ignore")


def catalogues(language: str) -> str:
    """The translated messages of every program, each once."""
    seen: dict[str, None] = {}
    for path in sorted(Path(f"/usr/share/locale/{language}/LC_MESSAGES").glob("*.mo")):
        try:
            with path.open("rb") as file:
                messages = vars(gettext.GNUTranslations(file))["_catalog"]
        except UnicodeDecodeError:  # a catalogue that is not of the encoding it states
            continue
        seen |= {text: None for source, text in messages.items() if source and isinstance(text, str)}
    return "\n".join(seen)


def package_lists() -> str:
    """Debian's list of packages, as apt has it."""
    path = next(Path("/var/lib/apt/lists").glob("*_Packages*"))
    return subprocess.run(
        ["/usr/lib/apt/apt-helper", "cat-file", str(path)], capture_output=True, check=True
    ).stdout.decode(errors="ignore")


def shared(*names: str) -> str:
    """Public texts that the tests use, where they are."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "text"
    return "\n\n".join((folder / name).read_text() for name in names)


TEXTS: dict[str, Callable[[], str]] = {
    "wikitext": lambda: shared("wikitext-103-valid.txt", "wikitext-103-test.txt"),
    "shakespeare": lambda: shared("tinyshakespeare.txt"),
    "man": lambda: files("/usr/share/man", pattern="*.gz", read=unpacked),
    "headers": lambda: files("/usr/include", pattern="*.h"),
    "perl": lambda: files("/usr/share/perl", "/usr/share/perl5", pattern="*.p[ml]"),
    "javascript": lambda: files("/usr/lib/node_modules", "/usr/share/nodejs", pattern="*.js"),
    "vim": lambda: files("/usr/share/vim", pattern="*.vim"),
    "cmake": lambda: files("/usr/share/cmake-3.25", pattern="*.cmake"),
    "changelogs": lambda: files("/usr/share/doc", pattern="changelog*.gz", read=unpacked),
    "french": lambda: catalogues("fr"),
    "spanish": lambda: catalogues("es"),
    "japanese": lambda: catalogues("ja"),
    "german": lambda: catalogues("de"),
    "russian": lambda: catalogues("ru"),
    "packages": package_lists,
}


def source(entry: Entry, folder: Path) -> str:
    """What ``--data`` names: the standard library, a folder of its tokens, or the text, made once."""
    if entry.text == "stdlib":
        return "stdlib"
    if subwords := SUBWORDS.fullmatch(entry.text):
        from allometry.data.packing import prepare
        from allometry.data.sources import open_source

        text = source(replace(entry, text=subwords[1]), folder)
        prepare(open_source(text), folder / entry.text, f"bpe:{subwords[2]}")
        return str(folder / entry.text)
    path = folder / f"{entry.text}.txt"
    if not path.exists():
        text = TEXTS[entry.text]()[:MOST_CHARACTERS]
        if len(text) < 500_000:
            raise FileNotFoundError(f"only {len(text)} characters of {entry.text} on this machine")
        path.write_text(text)
    return str(path)


def run_study(entry: Entry, folder: Path, repeats: int, sizes: bool, speed_file: Path | None) -> dict:
    """One study, and what it said and what came out."""
    from allometry import workflow
    from allometry.ladder.speed import Speed
    from allometry.planning import Plan
    from allometry.workflow.outcome import planned_run

    out, started = folder / entry.name, time.time()
    config = workflow.StudyConfig(
        data=source(entry, folder), minutes=entry.minutes, seed=entry.seed, target_ratio=entry.target_ratio
    )
    speed = None if speed_file is None else Speed.from_json(json.loads(speed_file.read_text()))
    with workflow.open_study(config, out, speed=speed) as session:
        if speed is not None:  # the time that the target takes is no limit of its size, as on a machine of that speed
            session = replace(session, design=replace(session.design, target_seconds=None))
        session.train_rungs(session.run_sweep())
        plan = session.plan()
        record = session.train(plan)
        outcome = workflow.conclude(session.study, plan, record)
        seconds = time.time() - started
        chosen = planned_run(Plan.load(out / "plan.json"))
        actual = [outcome.actual]
        for repeat in range(1, repeats):
            run = chosen.with_train(seed=chosen.train.seed + 1000 + repeat)
            actual.append(loss_of(session, run))
        beside = {}
        for factor in (0.5, 2.0) if sizes else ():
            beside[str(factor)] = loss_of(session, resized(chosen, factor))
    interval = plan.optimum.intervals.get("num_params")
    rungs = session.study.records("ladder")
    run_sizes = [rung.num_params for rung in rungs]
    return asdict(entry) | {
        "name": entry.name,
        "predicted": outcome.predicted,
        "low": outcome.low,
        "high": outcome.high,
        "actual": actual,
        "error": outcome.predicted / float(np.mean(actual)) - 1,
        "error_of_first": outcome.relative_error,
        "half_width": math.sqrt(outcome.high / outcome.low) - 1 if outcome.low and outcome.high else None,
        "inside": outcome.inside,
        "ladder_share": outcome.ladder_share,
        "compute_ratio": outcome.compute_ratio,
        "num_params": plan.num_params,
        "best_size": plan.optimum.num_params,
        "best_size_interval": interval,
        "at_edge": plan.optimum.at_edge,
        "optimum_inside": bool(
            interval and min(run_sizes) < interval[0] and interval[1] < max(run_sizes) and not plan.optimum.at_edge
        ),
        "tokens": plan.tokens,
        "epochs": record.epochs,
        "target_flops": record.flops,
        "rungs": len(rungs),
        "lr": chosen.train.lr,
        "batch_tokens": chosen.train.batch_tokens,
        "beside": beside,
        "seconds": seconds,
        "speed": "measured" if speed is None else "given",
    }


def loss_of(session, run) -> float:
    """The loss of a further run of the study, trained on the whole machine."""
    from allometry.runs.job import Job

    session.target_engine.train(session.study, [Job((run,), "run")])
    return session.study.ended(run.id).loss


def resized(run, factor: float):
    """The run of a model nearest to ``factor`` times the size, for the same FLOPs."""
    from allometry.ladder.shape import shape_near

    model = shape_near(factor * run.num_params, run.model.context, run.model.vocab_size)
    return run.model_copy(update={"model": model}).with_train(tokens=round(run.flops / model.flops_per_token))


def missing(group: str, repeats: int, sizes: bool) -> Iterator[Entry]:
    """Entries without a result, or whose result lacks seeds or sizes that are asked for."""
    done = {row["name"]: row for row in RESULTS.read()}
    for entry in GROUPS[group]:
        row = done.get(entry.name)
        if row is None or len(row["actual"]) < repeats or (sizes and not row["beside"]):
            yield entry


def table(rows: list[dict]) -> str:
    """The results, and what they are together."""
    lines = [
        "| text, seed | × | planned | predicted [90 %] | actual | error | half-width | inside | size inside | share |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        actual = " ".join(f"{loss:.4f}" for loss in row["actual"])
        lines.append(
            f"| {row['text']}, {row['seed']} | {row['compute_ratio']:.0f} | {row['num_params'] / 1e3:.0f} k × "
            f"{row['tokens'] / 1e6:.1f} M | {row['predicted']:.4f} [{row['low']:.4f}, {row['high']:.4f}] | {actual} | "
            f"{row['error']:+.1%} | {row['half_width']:.1%} | {'yes' if row['inside'] else '**no**'} | "
            f"{'yes' if row['optimum_inside'] else '**no**'} | {row['ladder_share']:.0%} |"
        )
    for name, kept in (
        ("8×", [r for r in rows if r["target_ratio"] < 10]),
        ("64× and more", [r for r in rows if r["target_ratio"] > 10]),
    ):
        if kept:
            errors = np.array([row["error"] for row in kept])
            first = np.array([row["error_of_first"] for row in kept])
            lines.append(
                f"\n{name}: {len(kept)} studies; error {np.sqrt(np.mean(errors**2)):.2%} rms ({errors.mean():+.2%} on "
                f"average; against single targets {np.sqrt(np.mean(first**2)):.2%}), half-width "
                f"{np.median([row['half_width'] for row in kept]):.1%}, inside "
                f"{sum(row['inside'] for row in kept)}, optimum inside {sum(row['optimum_inside'] for row in kept)}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--group", choices=GROUPS, default="tuning")
    parser.add_argument("--repeats", type=int, default=1, help="seeds of each target")
    parser.add_argument("--sizes", action="store_true", help="also train half and twice the planned size")
    parser.add_argument("--speed", type=Path, help="calibration.json of a study begun while nothing else ran")
    parser.add_argument("--at-once", type=int, default=1, help="studies at a time, each on a core of its own")
    parser.add_argument("--one", help="a single entry, as the process that runs it is asked for")
    options = parse_options(parser, lambda: table(RESULTS.read()))
    if options.one:
        entry = next(entry for entry in GROUPS[options.group] if entry.name == options.one)
        known = next((row for row in RESULTS.read() if row["name"] == options.one), {"actual": [], "beside": {}})
        repeats, sizes = max(options.repeats, len(known["actual"])), options.sizes or bool(known["beside"])
        result = run_study(entry, options.folder, repeats, sizes, options.speed)
        seconds = known.get("seconds", result["seconds"])  # of the study, not of what was added
        RESULTS.put("name", result | {"group": options.group, "seconds": seconds})
        return
    waiting, running = list(missing(options.group, options.repeats, options.sizes)), {}
    while waiting or running:
        for core in range(options.at_once):
            if core in running and running[core][1].poll() is not None:
                entry, process = running.pop(core)
                said = "done" if process.returncode == 0 else f"failed ({process.returncode})"
                print(entry.name, said, flush=True)
            if core not in running and waiting:
                entry = waiting.pop(0)
                running[core] = entry, subprocess.Popen(command_of(entry, options, core))
        time.sleep(1)


def command_of(entry: Entry, options: argparse.Namespace, core: int) -> list[str]:
    """The process of one study; on a core of its own where several run at once."""
    pinned = ["taskset", "--cpu-list", str(core)] if options.at_once > 1 else []
    asked = [sys.executable, __file__, "--group", options.group, "--one", entry.name, "--folder", str(options.folder)]
    more = ["--repeats", str(options.repeats), *(["--sizes"] if options.sizes else [])]
    return [*pinned, *asked, *more, *(["--speed", str(options.speed)] if options.speed else [])]


if __name__ == "__main__":
    main()
