"""The tables of a study: runs, cost, recipe, corpus, environment; and all tables of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..runs.record import RunRecord
from . import cells, law_tables
from .cells import NONE, ReportCell, ReportRow, ReportTable, row
from .study_contents import StudyContents

# How the fields of recipe.json read; others by their names.
RECIPE_WORDS = {
    "lr": "learning rate",
    "batch_tokens": "batch (tokens)",
    "batch_exponent": "batch grows as tokens^",
    "lr_exponent": "learning rate falls as tokens^",
    "reference_tokens": "both as given at (tokens seen)",
    "weight_decay": "weight decay (share a step)",
    "weight_decay_timescale": "timescale of weight decay (tokens seen)",
    "compile": "compiled kernels",
    "warmup_tokens": "warmup (tokens)",
    "measured": "measured from",
    "lr_curvature": "rise of ln loss one octave of rate away",
    "batch_curvature": "rise of ln loss one octave of batch away",
    "lr_octaves_error": "std. error of the rate (octaves)",
    "batch_octaves_error": "std. error of the batch (octaves)",
    "cost_of_half_lr": "half the rate adds to ln loss",
    "cost_of_double_lr": "twice the rate adds to ln loss",
    "residual": "scatter around the parabolas (ln loss)",
    "at_edge": "best rate at the end of the sweep",
    "batch_at_edge": "best batch at the end of the sweep",
}
KIND_ORDER = {"ladder": 0, "target": 1, "run": 2, "sweep": 3}


def all_tables(contents: StudyContents) -> dict[str, ReportTable]:
    """Every table that has rows, by name, in the order of the page."""
    tables = {"runs": runs(contents.records), "cost": costs(contents.records)}
    if contents.predictor:
        tables["laws"] = law_tables.law_weights(contents.predictor)
        tables["constants"] = law_tables.constants(contents.predictor)
    if contents.plan:
        tables |= {
            "plan": law_tables.plan(contents.plan),
            "optimum": law_tables.optimum(contents.plan),
            "model": law_tables.model(contents.plan),
            "rules": law_tables.published_rules(contents.plan),
        }
    if contents.recipe:
        tables["recipe"] = recipe(contents.recipe, contents.rate)
    if contents.corpus:
        tables["text"] = corpus(contents.corpus)
    tables["environment"] = environments(contents.records)
    return {name: table for name, table in tables.items() if table.rows}


def runs(records: Iterable[RunRecord]) -> ReportTable:
    """Every run that ended: rungs, target, single runs, sweep, each sorted by FLOPs.

    Bits per byte are shown if any tokens are not bytes, epochs if any run reads some text twice.
    """
    ordered = sorted(records, key=lambda r: (KIND_ORDER.get(r.kind, 9), r.flops, r.id))
    shown = dict(_RUN)
    if all(record.loss_unit == "nats per byte" for record in ordered):
        del shown["bits/byte"]
    if all((record.epochs or 0) <= 1 for record in ordered):
        del shown["epochs"]
    rows = tuple(ReportRow(tuple(cell(record) for cell in shown.values()), _mark(record)) for record in ordered)
    return ReportTable(tuple(shown), rows, frozenset({"run", "kind", "status"}))


_RUN: dict[str, Callable[[RunRecord], ReportCell]] = {
    "run": lambda record: ReportCell(record.id),
    "kind": lambda record: ReportCell(record.kind),
    "params": lambda record: cells.count(record.num_params),
    "tokens": lambda record: cells.count(record.tokens),
    "epochs": lambda record: cells.optional(record.epochs, "{:.2g}"),
    "batch": lambda record: cells.count(record.batch_tokens),
    "lr": lambda record: cells.optional(record.lr, "{:.3g}"),
    "FLOPs": lambda record: cells.flops(record.flops),
    "loss": lambda record: cells.optional(record.loss, "{:.4f}"),
    "± s.e.": lambda record: cells.optional(record.loss_se, "{:.4f}"),
    "bits/byte": lambda record: cells.optional(record.bits_per_byte, "{:.4f}"),
    "seconds": lambda record: cells.optional(record.seconds, "{:.1f}"),
    "status": lambda record: ReportCell(record.status + (f": {record.note}" if record.note else "")),
}


def _mark(record: RunRecord) -> str:
    return "diverged" if record.status != "finished" else "target" if record.kind == "target" else ""


def costs(records: Sequence[RunRecord]) -> ReportTable:
    """The cost of each kind of run: FLOPs spent (runs of one trunk share them) and the seconds of all processes."""
    total = sum(record.flops_spent for record in records)
    rows = []
    for kind in sorted({record.kind for record in records}, key=lambda kind: KIND_ORDER.get(kind, 9)):
        group = [record for record in records if record.kind == kind]
        spent, seconds = sum(r.flops_spent for r in group), sum(r.seconds for r in group)
        share = f"{spent / total:.1%}" if total else NONE
        rows.append(row(kind, str(len(group)), cells.flops(spent), share, cells.seconds(seconds)))
    return ReportTable(("kind", "runs", "FLOPs spent", "share", "process time"), tuple(rows), frozenset({"kind"}))


def recipe(stored: Mapping[str, Any], rate: str | None = None) -> ReportTable:
    """The recipe and its evidence, in words; ``rate`` says what its learning rate is."""
    evidence = stored.get("evidence")
    plain = {name: value for name, value in stored.items() if name != "evidence"}
    rows = [
        row(RECIPE_WORDS.get(name, name.replace("_", " ")), cells.value_of(value))
        for name, value in (plain | (evidence if isinstance(evidence, dict) else {})).items()
        if value is not None
    ]
    if rate:
        rows.append(row("the learning rate is", rate))
    return ReportTable(("recipe", ""), tuple(rows), frozenset({"recipe"}))


def corpus(manifest: Mapping[str, Any]) -> ReportTable:
    """The corpus, by the names in its manifest; the shards are added up, each note has a row."""
    rows = []
    for name, value in manifest.items():
        label = name.replace("_", " ")
        if name in ("train", "held_out"):
            rows.append(row(f"{label} tokens", cells.value_of(sum(shard["tokens"] for shard in value))))
            rows.append(row(f"{label} bytes", cells.value_of(sum(shard["bytes"] for shard in value))))
        elif name == "notes":
            rows += [row("note", note) for note in value]
        elif name == "tokenizer" and isinstance(value, Mapping):
            rows.append(row(label, f"{value['name']}, {value['vocab_size']} entries"))
        elif isinstance(value, str | int | float):
            rows.append(row(label, cells.value_of(value)))
    return ReportTable(("text", ""), tuple(rows), frozenset({"text"}))


def environments(records: Iterable[RunRecord]) -> ReportTable:
    """Versions and kinds of machine that trained the runs; several values if runs differ."""
    values: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in record.environment.items():
            values.setdefault(name, {})[str(value)] = None
    rows = [row(name, ", ".join(different)) for name, different in values.items()]
    return ReportTable(("environment", ""), tuple(rows), frozenset({"environment"}))
