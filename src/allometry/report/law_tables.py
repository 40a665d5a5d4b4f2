"""Tables of laws and plans: weights, constants, what will be trained, the law's optimum, the published rules."""

from __future__ import annotations

from .. import laws
from ..laws.fitting.fit import GREEK
from ..planning import Plan
from ..planning.plan_record import COUNTED
from . import cells
from .cells import NONE, ReportCell, ReportTable, row
from .study_contents import fits_of, weights_of


def law_weights(predictor: laws.Fit | laws.Forecast) -> ReportTable:
    """A row for each law, the largest weight first: weight in the forecast, errors of its backtest and of its fit."""
    scores = dict(predictor.backtest.ranking()) if isinstance(predictor, laws.Forecast) else {}
    fits = fits_of(predictor)
    rows = [
        row(
            name,
            fits[name].law.formula,
            ReportCell(f"{weight:.3f}", repr(weight)),
            cells.optional(scores.get(name), "{:.2%}"),
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
        for symbol, value in fit.values.items():
            error, (low, high) = errors[symbol], intervals[symbol]
            known = error == error
            rows.append(
                row(
                    name,
                    GREEK.get(symbol, symbol),
                    cells.number(value),
                    ReportCell(f"{error:.3g}", repr(error)) if known else NONE,
                    f"{low:.4g} to {high:.4g}" if known else NONE,
                )
            )
    columns = ("law", "constant", "value", "std. error", "90% interval")
    return ReportTable(columns, tuple(rows), frozenset({"law", "constant"}))


def plan(plan: Plan) -> ReportTable:
    """What will be trained, and the loss to expect."""
    rows = [
        row("written", cells.moment(plan.created)),
        row("budget", plan.budget.describe() if plan.budget else "size and tokens were fixed"),
        row(f"parameters ({COUNTED.get(plan.counted, 'non-embedding')})", cells.count(plan.num_params)),
        row("tokens", cells.count(plan.tokens)),
        row("tokens per parameter", cells.number(plan.tokens_per_param)),
        row("epochs", _epochs(plan)),
        row("FLOPs, exact", cells.flops(plan.flops_exact) if plan.flops_exact else NONE),
        row("FLOPs, 6·N·D", cells.flops(plan.flops)),
        row("batch (tokens) at the end", cells.count(plan.batch)),
        row("steps of that batch", cells.count(plan.steps)),
        row("learning rate", ReportCell(f"{plan.lr:.3g}", repr(plan.lr))),
        row("batch and learning rate by", plan.rule),
        row("predicted loss", cells.loss(plan.loss)),
        row(f"{plan.level:.0%} interval", cells.interval(plan.low, plan.high)),
        row("expected time", "not known" if plan.seconds is None else cells.seconds(plan.seconds)),
    ]
    if plan.basin:
        rows += [
            row("sizes within 0.1% of the lowest loss", cells.span(plan.basin.within_0_1_percent)),
            row("sizes within 0.5%", cells.span(plan.basin.within_0_5_percent)),
            row("cost of half the size", cells.optional(plan.basin.cost_of_half_size, "{:+.2%}")),
            row("cost of twice the size", cells.optional(plan.basin.cost_of_double_size, "{:+.2%}")),
        ]
    return ReportTable(("plan", ""), tuple(rows), frozenset({"plan"}))


def _epochs(plan: Plan) -> ReportCell:
    """How many times the planned run reads its corpus."""
    available = ((plan.run or {}).get("task") or {}).get("train_tokens")
    return cells.optional(plan.tokens / available if available else None, "{:.3g}")


def optimum(plan: Plan) -> ReportTable:
    """How the law alone would spend the plan's budget: by 6·N·D, and with any size, even a fraction."""
    best = plan.optimum
    rows = [
        row("optimum by 6·N·D: parameters", cells.count(best.num_params)),
        row("tokens", cells.count(best.tokens)),
        row("loss", cells.loss(best.loss)),
        row(f"{best.level:.0%} interval", cells.interval(best.low, best.high)),
        row("at the edge of the search", "yes" if best.at_edge else "no"),
    ]
    if best.searched:
        rows.append(row("sizes searched", cells.span(best.searched)))
    return ReportTable(("optimum", ""), tuple(rows), frozenset({"optimum"}))


def model(plan: Plan) -> ReportTable:
    """The model that will be trained, by the names of its configuration."""
    rows = [row(name.replace("_", " "), cells.value_of(value)) for name, value in (plan.model or {}).items()]
    return ReportTable(("model", ""), tuple(rows), frozenset({"model"}))


def published_rules(plan: Plan) -> ReportTable:
    """What the published rules would choose at the plan's size and tokens."""
    rows = [
        row(
            name,
            NONE if rule.batch_tokens is None else cells.count(rule.batch_tokens),
            cells.optional(rule.lr, "{:.3g}"),
            rule.source,
            rule.warning or {True: "within its measured range", None: NONE}.get(rule.in_range, "outside its range"),
        )
        for name, rule in plan.recommendations.items()
    ]
    columns = ("rule", "batch (tokens)", "lr", "source", "range")
    return ReportTable(columns, tuple(rows), frozenset({"rule", "source", "range"}))
