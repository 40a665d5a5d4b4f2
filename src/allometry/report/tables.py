"""The numbers of a study as rows of text: the same for the terminal and for the page.

A cell keeps the exact value beside the rounded one that people read. Rich is imported only where a table of it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import laws
from ..laws.fitting.fit import GREEK
from ..planning import Outcome, Plan
from ..quantities import format_count, format_flops, format_seconds
from ..runs.record import RunRecord
from ..runs.study import Study
from .study_contents import StudyContents, fits_of, weights_of

if TYPE_CHECKING:
    import rich.table

KIND_ORDER = {"ladder": 0, "target": 1, "run": 2, "sweep": 3}
NONE = "–"


@dataclass(frozen=True)
class ReportCell:
    """What is read, and the exact value where that says more."""

    text: str
    exact: str = ""


@dataclass(frozen=True)
class ReportRow:
    """Cells, and what sets the row apart: "diverged", "target" or nothing."""

    cells: tuple[ReportCell, ...]
    mark: str = ""


@dataclass(frozen=True)
class ReportTable:
    """Column names and rows; ``words`` are the columns of words, which stand to the left."""

    columns: tuple[str, ...]
    rows: tuple[ReportRow, ...]
    words: frozenset[str] = frozenset()


def runs(records: Iterable[RunRecord]) -> ReportTable:
    """Every run that ended: rungs, target, single runs, sweep, each by FLOPs.

    Bits a byte where the text is not trained on as bytes, epochs where some of it came twice.
    """
    ordered = sorted(records, key=lambda r: (KIND_ORDER.get(r.kind, 9), r.config.flops, r.id))
    shown = dict(_RUN)
    if all(record.config.task.tokenizer == "bytes" for record in ordered):
        del shown["bits/byte"]
    if all((record.config.epochs or 0) <= 1 for record in ordered):
        del shown["epochs"]
    rows = tuple(ReportRow(tuple(cell(record) for cell in shown.values()), _mark(record)) for record in ordered)
    return ReportTable(tuple(shown), rows, frozenset({"run", "kind", "status"}))


def costs(records: Sequence[RunRecord]) -> ReportTable:
    """What each kind of run cost: FLOPs really spent (runs of one trunk share it) and the seconds of all processes."""
    total = sum(record.flops_spent for record in records)
    rows = []
    for kind in sorted({record.kind for record in records}, key=lambda kind: KIND_ORDER.get(kind, 9)):
        group = [record for record in records if record.kind == kind]
        spent, seconds = sum(r.flops_spent for r in group), sum(r.seconds for r in group)
        share = f"{spent / total:.1%}" if total else NONE
        rows.append(
            _row(kind, str(len(group)), _flops(spent), share, ReportCell(format_seconds(seconds), repr(seconds)))
        )
    return ReportTable(("kind", "runs", "FLOPs spent", "share", "process time"), tuple(rows), frozenset({"kind"}))


def law_weights(predictor: laws.Fit | laws.Forecast) -> ReportTable:
    """A row for each law, the heaviest first: weight in the forecast, errors of its backtest and of its fit."""
    scores = dict(predictor.backtest.ranking()) if isinstance(predictor, laws.Forecast) else {}
    fits = fits_of(predictor)
    rows = [
        _row(
            name,
            fits[name].law.formula,
            ReportCell(f"{weight:.3f}", repr(weight)),
            ReportCell(f"{scores[name]:.2%}", repr(scores[name])) if name in scores else NONE,
            ReportCell(f"{fits[name].rms:.2%}", repr(fits[name].rms)),
            str(fits[name].num_runs),
        )
        for name, weight in weights_of(predictor).items()
    ]
    columns = ("law", "formula", "weight", "backtest error", "rms of fit", "runs")
    return ReportTable(columns, tuple(rows), frozenset({"law", "formula"}))


def constants(predictor: laws.Fit | laws.Forecast) -> ReportTable:
    """Every constant of every law with its standard error and 90% interval."""
    rows = []
    for name in weights_of(predictor):
        fit = fits_of(predictor)[name]
        errors, intervals = fit.standard_errors, fit.intervals
        for index, (symbol, value) in enumerate(fit.values.items()):
            error, (low, high) = errors[symbol], intervals[symbol]
            known = error == error
            rows.append(
                _row(
                    name if index == 0 else "",
                    GREEK.get(symbol, symbol),
                    _number(value),
                    ReportCell(f"{error:.3g}", repr(error)) if known else NONE,
                    f"{low:.4g} to {high:.4g}" if known else NONE,
                )
            )
    columns = ("law", "constant", "value", "std. error", "90% interval")
    return ReportTable(columns, tuple(rows), frozenset({"law", "constant"}))


def plan(made: Plan) -> ReportTable:
    """What will be trained, and what to expect of it."""
    rows = [
        _row("written", made.created),
        _row("budget", made.budget.describe() if made.budget else "size and tokens were fixed"),
        _row("parameters (non-embedding)", _count(made.num_params)),
        _row("tokens", _count(made.tokens)),
        _row("tokens per parameter", _number(made.tokens_per_param)),
        _row("epochs", _epochs(made)),
        _row("FLOPs, exact", _flops(made.flops_exact) if made.flops_exact else NONE),
        _row("FLOPs, 6·N·D", _flops(made.flops)),
        _row("batch (tokens) at the end", _count(made.batch)),
        _row("steps of that batch", _count(made.steps)),
        _row("learning rate", ReportCell(f"{made.lr:.3g}", repr(made.lr))),
        _row("batch and rate by", made.rule),
        _row("predicted loss", _loss(made.loss)),
        _row(f"{made.level:.0%} interval", _interval(made.low, made.high)),
        _row("expected time", _seconds(made.seconds)),
    ]
    return ReportTable(("plan", ""), tuple(rows), frozenset({"plan"}))


def _epochs(made: Plan) -> ReportCell:
    """How many times the planned run reads its text."""
    there = ((made.run or {}).get("data") or {}).get("train_tokens")
    return ReportCell(NONE) if not there else _or_none(made.tokens / there, "{:.3g}")


def optimum(made: Plan) -> ReportTable:
    """Where the law alone, by 6·N·D and with sizes of any fraction, would spend the plan's budget."""
    best, basin = made.optimum, made.optimum.basin
    rows = [
        _row("optimum by 6·N·D: parameters", _count(best.num_params)),
        _row("tokens", _count(best.tokens)),
        _row("loss", _loss(best.loss)),
        _row(f"{best.level:.0%} interval", _interval(best.low, best.high)),
        _row("at the edge of the search", "yes" if best.at_edge else "no"),
    ]
    if best.searched:
        rows.append(_row("sizes searched", _span(best.searched)))
    if basin:
        rows += [
            _row("sizes within 0.1% of its loss", _span(basin.within_0_1_percent)),
            _row("sizes within 0.5%", _span(basin.within_0_5_percent)),
            _row("cost of half the size", _percent(basin.cost_of_half_size)),
            _row("cost of twice the size", _percent(basin.cost_of_double_size)),
        ]
    return ReportTable(("optimum", ""), tuple(rows), frozenset({"optimum"}))


def model(made: Plan) -> ReportTable:
    """The shape that will be trained, by the names of its configuration."""
    rows = [_row(name.replace("_", " "), _value(value)) for name, value in (made.model or {}).items()]
    return ReportTable(("model", ""), tuple(rows), frozenset({"model"}))


def published_rules(made: Plan) -> ReportTable:
    """What the published rules would choose at the plan's size and tokens."""
    rows = [
        _row(
            name,
            NONE if rule.batch_tokens is None else _count(rule.batch_tokens),
            NONE if rule.lr is None else ReportCell(f"{rule.lr:.3g}", repr(rule.lr)),
            rule.source,
            rule.warning or {True: "within its measured range", None: NONE}.get(rule.in_range, "outside its range"),
        )
        for name, rule in made.recommendations.items()
    ]
    columns = ("rule", "batch (tokens)", "lr", "source", "range")
    return ReportTable(columns, tuple(rows), frozenset({"rule", "source", "range"}))


def recipe(stored: Mapping[str, Any]) -> ReportTable:
    """The recipe and its evidence, by the names of the record."""
    evidence = stored.get("evidence") or {}
    plain = {name: value for name, value in stored.items() if name != "evidence"}
    rows = [_row(name.replace("_", " "), _value(value)) for name, value in (plain | evidence).items()]
    return ReportTable(("recipe", ""), tuple(rows), frozenset({"recipe"}))


def corpus(manifest: Mapping[str, Any]) -> ReportTable:
    """The text, by the names of its manifest; its shards and its notes added up."""
    rows = []
    for name, value in manifest.items():
        said = name.replace("_", " ")
        if name in ("train", "held_out"):
            rows.append(_row(f"{said} tokens", _value(sum(shard["tokens"] for shard in value))))
            rows.append(_row(f"{said} bytes", _value(sum(shard["bytes"] for shard in value))))
        elif name == "notes":
            rows += [_row("note", note) for note in value]
        elif name == "tokenizer" and isinstance(value, Mapping):
            rows.append(_row(said, f"{value['name']}, {value['vocab_size']} entries"))
        elif isinstance(value, str | int | float):
            rows.append(_row(said, _value(value)))
    return ReportTable(("text", ""), tuple(rows), frozenset({"text"}))


def environments(records: Iterable[RunRecord]) -> ReportTable:
    """Versions and kinds of machine that trained the runs; several values where runs differ."""
    seen: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in record.environment.items():
            seen.setdefault(name, {})[str(value)] = None
    rows = [_row(name, ", ".join(values)) for name, values in seen.items()]
    return ReportTable(("environment", ""), tuple(rows), frozenset({"environment"}))


def outcome_lines(outcome: Outcome) -> list[str]:
    """Prediction against outcome, a line for each thing to say."""
    low, high, actual, predicted = outcome.low, outcome.high, outcome.actual, outcome.predicted
    where = ""
    if low is not None and high is not None:
        where = ", inside the interval" if low <= actual <= high else ", OUTSIDE the interval"
    error = abs(outcome.relative_error)
    side = "above" if predicted > actual else "below"
    bits = outcome.bits_per_byte
    lines = [
        f"predicted  {predicted:.4f} {_interval(low, high).text}",
        f"actual     {actual:.4f}{where}" + (f"; {bits:.4f} bits a byte of text" if bits else ""),
        f"error      {error:.2%}: the prediction was {side} the outcome",
    ]
    if outcome.compute_ratio is not None:
        lines.append(f"reach      {outcome.compute_ratio:.3g} times the compute of the largest rung")
    lines.append(f"ladder     {outcome.ladder_share:.1%} of all compute")
    return [*lines, f"note       {outcome.note}"] if outcome.note else lines


def runs_table(study: Study) -> rich.table.Table:
    """The runs of a study, for the terminal."""
    return to_rich(runs(study.records()))


def fit_table(predictor: laws.Fit | laws.Forecast) -> rich.table.Table:
    """The laws of a fit or forecast, for the terminal."""
    return to_rich(law_weights(predictor))


def plan_table(made: Plan) -> rich.table.Table:
    """A plan, for the terminal."""
    return to_rich(plan(made))


def to_rich(table: ReportTable) -> rich.table.Table:
    """A table for the terminal. Cells are text, whatever brackets they hold."""
    from rich import box
    from rich.table import Table as Rich
    from rich.text import Text

    styles = {"diverged": "red", "target": "bold", "": ""}
    made = Rich(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in table.columns:
        made.add_column(Text(name), justify="left" if name in table.words else "right")
    for row in table.rows:
        made.add_row(*(Text(cell.text) for cell in row.cells), style=styles[row.mark])
    return made


def everything(contents: StudyContents) -> dict[str, ReportTable]:
    """All tables that there is something for, by name, in the order of the page."""
    made = {"runs": runs(contents.records), "cost": costs(contents.records)}
    if contents.predictor:
        made |= {"laws": law_weights(contents.predictor), "constants": constants(contents.predictor)}
    if contents.plan:
        made |= {"plan": plan(contents.plan), "optimum": optimum(contents.plan), "model": model(contents.plan)}
        made["rules"] = published_rules(contents.plan)
    if contents.recipe:
        made["recipe"] = recipe(contents.recipe)
    if contents.corpus:
        made["text"] = corpus(contents.corpus)
    made["environment"] = environments(contents.records)
    return {name: table for name, table in made.items() if table.rows}


_RUN: dict[str, Callable[[RunRecord], ReportCell]] = {
    "run": lambda record: ReportCell(record.id),
    "kind": lambda record: ReportCell(record.kind),
    "params": lambda record: _count(record.config.num_params),
    "tokens": lambda record: _count(record.config.tokens),
    "epochs": lambda record: _or_none(record.config.epochs, "{:.2g}"),
    "batch": lambda record: _count(record.config.train.batch_tokens),
    "lr": lambda record: _or_none(record.config.train.lr, "{:.3g}"),
    "FLOPs": lambda record: _flops(record.config.flops),
    "loss": lambda record: _or_none(record.loss, "{:.4f}"),
    "± s.e.": lambda record: _or_none(record.loss_se, "{:.4f}"),
    "bits/byte": lambda record: _or_none(record.bits_per_byte, "{:.4f}"),
    "seconds": lambda record: _or_none(record.seconds, "{:.1f}"),
    "status": lambda record: ReportCell(record.status + (f": {record.note}" if record.note else "")),
}


def _mark(record: RunRecord) -> str:
    return "diverged" if record.status != "finished" else "target" if record.kind == "target" else ""


def _or_none(value: float | None, form: str) -> ReportCell:
    return ReportCell(NONE) if value is None else ReportCell(form.format(value), repr(value))


def _row(*values: str | ReportCell) -> ReportRow:
    return ReportRow(tuple(value if isinstance(value, ReportCell) else ReportCell(value) for value in values))


def _count(value: float) -> ReportCell:
    return ReportCell(format_count(value), f"{value:,.15g}")


def _flops(value: float) -> ReportCell:
    return ReportCell(format_flops(value), f"{value:.15g}")


def _loss(value: float) -> ReportCell:
    return ReportCell(f"{value:.4f}", repr(value))


def _number(value: float) -> ReportCell:
    return ReportCell(f"{value:.5g}", repr(value))


def _percent(value: float | None) -> ReportCell:
    return ReportCell(NONE) if value is None else ReportCell(f"{value:+.2%}", repr(value))


def _interval(low: float | None, high: float | None) -> ReportCell:
    if low is None or high is None:
        return ReportCell("no interval")
    return ReportCell(f"[{low:.4f}, {high:.4f}]", f"{low!r} to {high!r}")


def _span(ends: tuple[float, float]) -> ReportCell:
    return ReportCell(" to ".join(map(format_count, ends)), f"{ends[0]!r} to {ends[1]!r}")


def _seconds(value: float | None) -> ReportCell:
    return ReportCell("not known") if value is None else ReportCell(format_seconds(value), repr(value))


def _value(value: Any) -> ReportCell:
    """A value of a record whose name is all that is known of it."""
    if isinstance(value, bool):
        return ReportCell("yes" if value else "no")
    if isinstance(value, int):
        return ReportCell(f"{value:,}")
    return ReportCell(f"{value:.4g}", repr(value)) if isinstance(value, float) else ReportCell(str(value))
