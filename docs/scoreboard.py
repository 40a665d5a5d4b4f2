"""Make everything that says how true predictions are, from the committed results in benchmarks/results:

    python docs/scoreboard.py

writes the page docs/explanation/scoreboard.md, its pictures tournament.svg and calibration.svg, the picture (of
the latest studies), the badges and the figures (between the marks) of README.md and README.zh.md, and the table in
docs/how-to/tasks.md. A test holds them to the results, so run it after a result has changed.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "benchmarks")]

from result_pictures import actual, badge, calibration, held, hits, tournament  # noqa: E402

from task_ladders import table as task_table  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
IN_CHINESE = {
    "images": "图像",
    "audio": "语音",
    "translation": "翻译",
    "quiz": "问答",
    "kinds": "词类问答",
    "summaries": "摘要",
}
FEW = 0.75  # fewer held-out runs than this inside a 90 % interval is called a miss
FAR = 0.02  # so is a mean error above this
POOR = 0.9  # and an R² below this
FIGURES = re.compile(r"(<!-- scoreboard -->\n).*?(<!-- end of scoreboard -->)", re.DOTALL)
TASKS = re.compile(r"(<!-- task ladders -->\n).*?(<!-- end of task ladders -->)", re.DOTALL)


def read(name: str) -> Any:
    """A committed result."""
    text = (RESULTS / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else json.loads(text)


STUDIES = {  # by group, the latest first
    "centred": "as it stands",
    "told": "smaller sizes",
    "told far": "smaller sizes, far",
    "judged": "noise not told",
    "far": "noise not told, far",
    "copying": "noise not told, earlier",
    "wired": "wired less clearly",
    "subwords judged": "subwords, as it stands",
    "subwords, longer": "subwords, eight minutes",
    "subwords": "subwords, seen",
    "narrow heads": "subwords, heads of 16",
    "fresh": "before, latest",
    "repeated": "before, second",
    "final": "before, first",
    "tuning": "before, seen",
}
PRESENT = ("centred", "told", "told far", "judged", "far", "copying", "wired")  # decoders that start able to copy
OF_SUBWORDS = ("subwords judged", "subwords, longer")  # predicted before any choice had seen them
LATEST = ("centred", "told", "told far", *OF_SUBWORDS)  # of README's picture


def studies() -> list[dict]:
    """The studies of the tournament: those that no choice had seen first, the latest of them at the head."""
    order = list(STUDIES)
    return sorted(read("tournament.jsonl"), key=lambda row: (order.index(row["group"]), row["compute_ratio"] > 16))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines = [list(head)]
    lines.append(["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in [*lines, *map(list, rows)])


def share(value: float, least: float = FEW) -> str:
    """A share in per cent, bold where it is too small."""
    return f"**{value:.0%}**" if value < least else f"{value:.0%}"


def error(value: float) -> str:
    """An error in per cent, bold where it is large."""
    return f"**{value:.2%}**" if value > FAR else f"{value:.2%}"


# ---------------------------------------------------------------------------------------------------- our own ladder


def tournament_table(rows: list[dict]) -> str:
    return table(
        ("text, seed", "group", "beyond", "planned", "predicted [90 %]", "actual", "actual / predicted", "inside"),
        (
            (
                f"{row['text']}, {row['seed']}",
                STUDIES[row["group"]],
                f"{row['compute_ratio']:.0f}×",
                f"{row['num_params'] / 1e3:.0f}k on {row['tokens'] / 1e6:.1f}M",
                f"{row['predicted']:.4f} [{row['low']:.4f}, {row['high']:.4f}]",
                " ".join(f"{loss:.4f}" for loss in row["actual"]),
                f"{actual(row) / row['predicted'] - 1:+.2%}",
                seeds_inside(row),
            )
            for row in rows
        ),
    )


def seeds_inside(row: dict) -> str:
    """In words; bold where most seeds of the target are outside."""
    inside, seeds = sum(hits(row)), len(row["actual"])
    text = ("yes" if inside else "no") if inside in (0, seeds) else f"{inside} of {seeds}"
    return text if held(row) else f"**{text}**"


def tournament_groups(rows: list[dict]) -> list[tuple[str, list[dict]]]:
    """The studies by what was known of their text and by how far they reach; empty groups left out."""
    groups = [
        (f"{known}, {name}", [r for r in rows if r["group"] == group and (r["target_ratio"] > 16) == far])
        for group, known in STUDIES.items()
        for name, far in (("about 8×", False), ("64× and more", True))
    ]
    return [(name, kept) for name, kept in groups if kept]


def rms(rows: list[dict]) -> float:
    """Root mean square of the relative errors of the predictions."""
    return float(np.sqrt(np.mean([row["error"] ** 2 for row in rows])))


def tournament_summary(rows: list[dict]) -> str:
    return table(
        ("studies", "number", "error, rms", "error, mean", "half-width, median", "targets inside 90 %"),
        (
            (
                name,
                f"{len(kept)}",
                f"{rms(kept):.2%}",
                f"{np.mean([row['error'] for row in kept]):+.2%}",
                f"{np.median([row['half_width'] for row in kept]):.1%}",
                f"{sum(sum(hits(row)) for row in kept)} of {sum(len(row['actual']) for row in kept)}",
            )
            for name, kept in tournament_groups(rows)
        ),
    )


# ------------------------------------------------------------------------------------------------------ public tables


def public_names(tables: dict[str, dict]) -> tuple[list[str], list[str]]:
    """The tables that count, and the variants of them."""
    from forecast_tables import COUNTED

    names = [name.removeprefix("C/10 ") for name in tables if name.startswith("C/10 ")]
    counted = [name for name in names if name.startswith(COUNTED)]
    return counted, [name for name in names if name not in counted]


def public_table(tables: dict[str, dict], names: list[str]) -> str:
    def cells(split: str, name: str) -> list[str]:
        row = tables.get(f"{split} {name}")
        if row is None:
            return ["–"] * 5
        numbers = error(row["error"]), error(row["alone"]), share(row["inside"]), f"± {row['half']:.1%}"
        return [f"{row['runs']:.0f}", *numbers]

    head = ("held out", "error", "one law", "inside", "half-width")
    return table(
        (
            "table",
            *(f"80 %: {x}" if x == "held out" else x for x in head),
            *(f"C/10: {x}" if x == "held out" else x for x in head),
        ),
        ([name, *cells("80 %", name), *cells("C/10", name)] for name in names),
    )


# ------------------------------------------------------------------------------------------------------- known truths


def known_truths(results: dict) -> dict[tuple[float, float], np.ndarray]:
    """By noise in per cent and factor of compute: rows of error, half-width, and whether the new run was inside."""
    cells: dict[tuple[float, float], list[list[float]]] = {}
    for key, rows in results["rows"].items():
        noise = float(re.search(r"noise ([\d.]+) %", key)[1])
        for factor, off, half, _, inside, _ in rows:
            cells.setdefault((noise, factor), []).append([off, half, inside])
    return {key: np.array(rows) for key, rows in sorted(cells.items())}


def known_truths_table(results: dict) -> str:
    cells = known_truths(results)
    factors = sorted({factor for _, factor in cells})

    def cell(rows: np.ndarray) -> str:
        off, half, inside = rows.T
        return f"{share(inside.mean())} (± {np.median(half):.1%}, error {np.sqrt(np.mean(off**2)):.1%})"

    return table(
        ("noise of a run", *(f"{factor:g}×" for factor in factors)),
        (
            [f"{noise:g} %", *(cell(cells[noise, factor]) for factor in factors)]
            for noise in sorted({n for n, _ in cells})
        ),
    )


# ----------------------------------------------------------------------------------------------- laws of any inputs


def any_inputs_table(rows: list[dict]) -> str:
    from scalebench import TASKS

    def published(task: str) -> list[str]:
        return ["–" if value is None else f"{value:g}" for value in TASKS[task].published]

    def r2(value: float) -> str:
        return f"**{value:.4f}**" if value < POOR else f"{value:.4f}"

    return table(
        ("task", "held out", "rows", "R²", "inside", "experts", "best agent", "ScaleBench"),
        (
            (
                row["task"],
                row["rule"].replace("dearest", "most expensive"),
                f"{row['held_out']} of {row['held_out'] + row['fitted']}",
                r2(row["r2"]),
                share(row["inside"]),
                *published(row["task"]),
            )
            for row in rows
        ),
    )


# --------------------------------------------------------------------------------------------------------- the misses


def misses() -> list[str]:
    """A line for each result that is worse than promised, our own first."""
    lines = [
        f"Tournament, {row['text']}, seed {row['seed']}, {row['compute_ratio']:.0f}×: actual {actual(row):.4f}, "
        f"predicted {row['predicted']:.4f} [{row['low']:.4f}, {row['high']:.4f}]."
        for row in studies()
        if not row["inside"]
    ]
    tables = read("forecast_tables.json")["tables"]
    counted, variants = public_names(tables)
    for split in ("80 %", "C/10"):
        for name in (*counted, *variants):
            row = tables.get(f"{split} {name}")
            if row and (row["error"] > FAR or row["inside"] < FEW):
                lines.append(
                    f"{name}, {split}: {row['error']:.1%} off, {row['inside']:.0%} of {row['runs']:.0f} runs inside."
                )
    for (noise, factor), rows in known_truths(read("calibration.json")).items():
        if rows[:, 2].mean() < 0.85:
            lines.append(
                f"Known truths, noise {noise:g} %, {factor:g}×: {rows[:, 2].mean():.0%} of {len(rows)} inside."
            )
    for row in read("scalebench.json"):
        if row["r2"] < POOR or row["inside"] < FEW:
            lines.append(
                f"{row['task']}, {row['rule'].replace('dearest', 'most expensive')}: R² {row['r2']:.2f}, {row['inside']:.0%} of {row['held_out']} inside."
            )
    return lines


# ------------------------------------------------------------------------------------------------------ the documents


def figures() -> dict[str, Any]:
    """The three numbers, and what they are of."""
    group = read("forecast_tables.json")["groups"]["C/10 all that count"]
    any_inputs, rows, other = read("scalebench.json"), studies(), read("task_ladders.jsonl")
    of_bytes = [row for row in rows if " BPE-" not in row["text"]]
    wired = [row for row in of_bytes if row["group"] in PRESENT]
    before = [row for row in of_bytes if row["group"] not in (*PRESENT, "tuning")]
    subwords = [row for row in rows if row["group"] in OF_SUBWORDS]
    unseen = [row for row in wired if row["target_ratio"] <= 16]
    each = lambda studies: ", ".join(f"{abs(row['error']):.1%}" for row in studies if row["target_ratio"] > 16)
    return {
        "tables": group["splits"],
        "error": f"{group['error']:.1%}",
        "inside": f"{group['inside']:.0%}",
        "studies": len(unseen),
        "plural": "study" if len(unseen) == 1 else "studies",
        "rms": f"{rms(unseen):.1%}",
        "before": len(before),
        "rms_before": f"{rms([row for row in before if row['target_ratio'] <= 16]):.1%}",
        "far": each(wired),
        "far_before": each(before),
        "subword_studies": len(subwords),
        "subword_errors": ", ".join(f"{abs(row['error']):.1%}" for row in subwords),
        "subword_width": f"{np.median([row['half_width'] for row in subwords]):.0%}",
        "subword_hits": sum(sum(hits(row)) for row in subwords),
        "subword_targets": sum(len(row["actual"]) for row in subwords),
        "targets": sum(len(row["actual"]) for row in unseen),
        "hits": sum(sum(hits(row)) for row in unseen),
        "others": len(other),
        "names": ", ".join(dict.fromkeys(row["name"] for row in other)),
        "chinese": "、".join(dict.fromkeys(IN_CHINESE[row["name"]] for row in other)),
        "other_hits": sum(bool(row["inside"]) for row in other),
        "other_errors": ", ".join(f"{abs(row['error']):.1%}" for row in other),
        "other_width": f"{np.median([np.sqrt(row['high'] / row['low']) - 1 for row in other]):.0%}",
        "tasks": len({row["task"] for row in any_inputs}),
        "sets": len(any_inputs),
        "median": f"{np.median([row['r2'] for row in any_inputs]):.2f}",
        "worst": f"{min(row['r2'] for row in any_inputs):.2f}",
    }


ENGLISH = """\
| tried on | outcome |
|---|---|
| **{tables} public tables** of runs, fitted on at most a tenth of the compute | {error} off on average; {inside} of the held-out runs inside their 90 % intervals |
| **our own ladder**, {studies} {plural} at 8×, each predicted before any choice had seen it | {rms} off (rms), {hits} of {targets} targets inside; at 64× and more each {far}; {before} studies before its decoders were wired to copy: {rms_before} at 8×, at 64× and more each {far_before} |
| **the ladder on subwords** (BPE of 1024 to 4096 tokens), {subword_studies} studies at 8× | {subword_errors} off, intervals of ± {subword_width} in the median; {subword_hits} of {subword_targets} targets inside |
| **other tasks** ({names}) at 8× | {other_errors} off, intervals of ± {other_width} in the median; {other_hits} of {others} inside |
| **laws of any inputs**, {tasks} tasks of SLDBench and ScaleBench, {sets} held-out sets | R² {median} in the median, {worst} at worst |
"""

CHINESE = """\
| 检验对象 | 结果 |
|---|---|
| **{tables} 张公开的训练记录表**，只用不超过十分之一算力的记录拟合 | 平均误差 {error}；{inside} 的留出记录落在各自的 90 % 区间内 |
| **我们自己的模型梯队**：{studies} 次研究（8 倍算力），其文本与随机种子从未参与此前的任何设计选择 | 误差 {rms}（均方根），{targets} 个目标模型中有 {hits} 个落在区间内；64 倍及以上处误差 {far}。解码器预置复制回路之前的 {before} 次研究：8 倍算力处误差 {rms_before}，64 倍及以上处误差 {far_before} |
| **以子词（1024 至 4096 个 BPE 词元）训练的模型梯队**：{subword_studies} 次研究（8 倍算力） | 误差 {subword_errors}，区间半宽中位数 ± {subword_width}；{subword_targets} 个目标模型中有 {subword_hits} 个落在区间内 |
| **其他任务**（{chinese}）：8 倍算力 | 误差 {other_errors}，区间半宽中位数 ± {other_width}；{others} 次中有 {other_hits} 次落在区间内 |
| **任意输入的定律**：SLDBench 与 ScaleBench 的 {tasks} 项任务，{sets} 个留出集 | R² 中位数 {median}，最差 {worst} |
"""


def page() -> str:
    """The page docs/explanation/scoreboard.md."""
    tables = read("forecast_tables.json")["tables"]
    counted, variants = public_names(tables)
    truths, any_inputs, rows = read("calibration.json"), read("scalebench.json"), studies()
    return f"""\
# How true are scaling-law predictions?

A prediction is worth what its misses show. This page lists every prediction that was made for it, also the bad ones. It is
made from the committed results by `python docs/scoreboard.py`, and a test holds it to them. Bold marks a miss: a mean error
above {FAR:.0%}, an R² below {POOR:g}, or fewer than {FEW:.0%} of the held-out runs inside their 90 % interval.

{ENGLISH.format(**figures())}
## Our own ladder

Each study takes a text, trains a ladder of small models for some minutes, writes a prediction down, and then trains the
larger model. "Beyond" is the compute of that model over that of the largest rung. No choice of the method had been made on the
text and seed of a study when it was made, but for those that are called seen. Since then decoders start wired to copy and their
weights fade with the tokens seen ([why](../log.md)): texts whose plans are alike end 1 to 12 % lower. The first groups are of
such decoders. Intervals of "as it stands" were made before noise and drift were set a last time; ladders of "smaller sizes" were
centred on smaller models; before them the fit was not told the noise of a run around its trunk, and of "wired less clearly" the
wiring was another too. Groups of subwords (BPE) are apart: the drift of their law was set by those that are called seen, and a last
time by all but "heads of 16", which are of models that could hardly copy. How a decoder is wired was chosen by losses of the standard library and Vim's scripts with other seeds.
Errors are against the mean of all seeds of the target. Losses are in nats per token, which is a byte but where a BPE is named (`python benchmarks/tournament.py`).

![Predicted and actual losses of every study](../pictures/tournament.svg)

{tournament_summary(rows)}

{tournament_table(rows)}

## Other tasks

One study of each task, by the built-in decoder on speech and on pairs of texts, before decoders were wired to copy (`python benchmarks/task_ladders.py`; [what the
tasks are](../how-to/tasks.md)). The ladders were small and the machine was busy; the last column is the time on two cores that do
nothing else, from processor time.

{task_table(read("task_ladders.jsonl"))}

## Public tables of runs

`python benchmarks/forecast_tables.py` fits each table twice: on the lower 80 % of its runs by compute, and on the runs of at
most a tenth of the largest compute (C/10). It predicts the rest. *Error* is the mean relative error, *one law* that of the law
`skaling` fitted alone, *inside* the share of held-out runs inside their 90 % intervals. Where the tables come from:
[laws.md](../how-to/laws.md#how-good-is-it). The method's few constants were chosen on these tables, so expect more elsewhere.

{public_table(tables, counted)}

The names of the rows of `porian` are: corpus (`rw` RefinedWeb, `owt2` OpenWebText2), hyperparameters, warmup, decay, which
parameters are counted, which loss.

Variants of the same tables, which do not count: another loss of the same runs, only runs with at least one token per parameter,
only runs within 5 % of their budget's best.

{public_table(tables, variants)}

## Known truths: do intervals hold?

`python benchmarks/calibration.py` draws {len(truths["rows"])} tables from laws that are known (one of them drifts from its
form), fits each, and predicts new runs 2, 10 and 100 times beyond. Each cell: the share of new runs inside their 90 % intervals,
the median half-width, and the error of the centre (rms). Ninety per cent would be right; more means too wide.

![Share of new runs inside their intervals](../pictures/calibration.svg)

{known_truths_table(truths)}

## Laws of any inputs: SLDBench and ScaleBench

Two public benchmarks ask for a law over any inputs, fitted on cheap runs and judged on expensive ones: SLDBench (2507.21184) and
ScaleBench (2604.22753). The rows that they judge on are kept aside, so `python benchmarks/scalebench.py` holds rows out of
the public ones. The published figures (human experts, the best of five runs of the best agent, the mean of ScaleBench's ten
laws) are of **other rows**: only the magnitude compares.

{any_inputs_table(any_inputs)}

## The misses

{chr(10).join(f"- {line}" for line in misses())}

## What this does not show

- Our ladder has predicted models of some 100k to 1M parameters trained for minutes. Nobody has tried it at a billion.
- No public table tests a law more than a thousand times beyond its runs; a plan that far out begins with a caution.
- A prediction holds for the recipe of the runs. A model that is trained with another tokenizer, corpus, optimiser or schedule has
  another law.
"""


def badges() -> dict[str, str]:
    """README's badges, from what the package itself says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    status = next(line for line in project["classifiers"] if line.startswith("Development Status"))
    needs_torch = any(need.startswith("torch") for need in project["dependencies"])
    return {
        "python": badge("Python", project["requires-python"].replace(">=", "≥ ")),
        "licence": badge("licence", project["license"]),
        "status": badge("status", f"{status.rpartition(' ')[2].lower()} {project['version']}"),
        "torch": badge("torch", "needed" if needs_torch else "optional"),
    }


def with_figures(text: str, figures_of_language: str) -> str:
    """A README with the current figures between its marks."""
    return FIGURES.sub(lambda match: f"{match[1]}\n{figures_of_language}\n{match[2]}", text)


def documents() -> dict[Path, str]:
    """Every file that this script writes, with its text."""
    read_me, chinese, tasks = ROOT / "README.md", ROOT / "README.zh.md", ROOT / "docs/how-to/tasks.md"
    table_of_tasks = f"\\1\n{task_table(read('task_ladders.jsonl'))}\n\n\\2"
    return {
        tasks: TASKS.sub(table_of_tasks, tasks.read_text(encoding="utf-8")),
        ROOT / "docs/explanation/scoreboard.md": page(),
        ROOT / "docs/pictures/tournament.svg": tournament(studies()),
        ROOT / "docs/pictures/latest_studies.svg": tournament([row for row in studies() if row["group"] in LATEST]),
        ROOT / "docs/pictures/calibration.svg": calibration(known_truths(read("calibration.json"))),
        **{ROOT / f"docs/pictures/badges/{name}.svg": picture for name, picture in badges().items()},
        read_me: with_figures(read_me.read_text(encoding="utf-8"), ENGLISH.format(**figures())),
        chinese: with_figures(
            chinese.read_text(encoding="utf-8"),
            CHINESE.format(**figures() | {"far": figures()["far"].replace(", ", "、")}),
        ),
    }


def main() -> None:
    for path, text in documents().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
