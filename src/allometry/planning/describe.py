"""A plan and a continuation as tables of text for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..quantities import format_count, format_flops, format_seconds

if TYPE_CHECKING:
    from .plan import Plan

Row = tuple[str, str, str]
_WORDS = {
    "num_params": "model",
    "tokens": "tokens",
    "flops": "FLOPs",
    "batch": "batch",
    "lr": "learning rate",
    "warmup_tokens": "warmup",
    "decay": "decay",
    "weight_decay": "weight decay",
}
_COUNTED = {"total": "embedding and head included", "matmul": "head included"}


def describe(plan: Plan) -> str:
    """The plan as rows of name, value and interval; then what the intervals rest on, and its notes."""
    rows = [("budget", plan.budget.describe(), ""), *_model(plan), *_training(plan), *_law(plan), *_machine(plan)]
    rows.append(("written", plan.created, ""))
    return "\n".join([*table(rows), *_sources(plan), *(f"note: {note}" for note in plan.notes)])


def table(rows: list[Row]) -> list[str]:
    """Rows as aligned lines; a value too long for its column keeps a line of its own."""
    name = max(len(row[0]) for row in rows)
    value = max((len(row[1]) for row in rows if row[2]), default=0)
    return [f"{row[0]:<{name}}  {row[1]:<{value if row[2] else 0}}  {row[2]}".rstrip() for row in rows]


def _model(plan: Plan) -> list[Row]:
    size = f"{format_count(plan.num_params)} parameters, {_COUNTED.get(plan.count, 'non-embedding')}"
    rows = [("model", size, _interval(plan, "num_params", format_count))]
    asked = plan.optimum
    if f"{plan.num_params:.2g}" != f"{asked.num_params:.2g}":
        size, tokens = format_count(asked.num_params), format_count(asked.tokens)
        rows.append(("by 6ND alone", f"the law asked for {size} parameters on {tokens} tokens", ""))
    model = plan.model or {}
    if {"width", "layers", "head_dim", "hidden"} <= set(model):
        heads = model["width"] // model["head_dim"]
        shape = f"{model['layers']} layers of width {model['width']}, {heads} heads of {model['head_dim']}"
        rows.append(("shape", f"{shape}, hidden {model['hidden']}", ""))
        rows.append(("reads", f"vocabulary {model['vocab_size']}, context {model['context']}", ""))
    if "num_params_total" in plan.counts:
        bare, matmul, total = (format_count(plan.counts[f"num_params{name}"]) for name in ("", "_matmul", "_total"))
        rows.append(("counts", f"{bare} without embedding and head, {matmul} with the head, {total} in all", ""))
    return rows


def _training(plan: Plan) -> list[Row]:
    flops = f"{format_flops(plan.flops)} by 6ND"
    if plan.flops_exact is not None:
        flops += f", {format_flops(plan.flops_exact)} counted from the shapes"
    tokens = f"{format_count(plan.tokens)} ({plan.tokens_per_param:.3g} per parameter)"
    rate = f"{plan.lr:.3g} (by {plan.rule})"
    rows = [
        ("tokens", tokens, _interval(plan, "tokens", format_count)),
        ("FLOPs", flops, _interval(plan, "flops", format_flops)),
        ("batch", f"{format_count(plan.batch)} tokens, {format_count(plan.steps)} steps",
         _interval(plan, "batch", format_count)),
        ("learning rate", rate, _interval(plan, "lr", "{:.3g}".format)),
    ]  # fmt: skip
    if plan.warmup_tokens is not None:
        warmup, steps = format_count(plan.warmup_tokens), format_count(plan.warmup_tokens / plan.batch)
        rows += [
            ("warmup", f"{warmup} tokens, {steps} steps", _interval(plan, "warmup_tokens", format_count)),
            ("decay", f"over the last {plan.decay:.0%} of the tokens", _interval(plan, "decay", "{:.0%}".format)),
            ("weight decay", f"{plan.weight_decay:.3g}", _interval(plan, "weight_decay", "{:.3g}".format)),
        ]
    return rows


def _law(plan: Plan) -> list[Row]:
    within = ""
    if plan.low is not None and plan.high is not None:
        within = f"[{plan.low:.4g}, {plan.high:.4g}] at {100 * plan.level:g} %"
    rows = [("predicted loss", f"{plan.loss:.4g}", within)]
    basin = plan.optimum.basin
    if basin is None:
        return rows
    for word, span in (("0.1 %", basin.within_0_1_percent), ("0.5 %", basin.within_0_5_percent)):
        rows.append((f"within {word}", f"{' to '.join(map(format_count, span))} parameters", ""))
    costs = [(basin.cost_of_half_size, "half"), (basin.cost_of_double_size, "twice")]
    told = [f"{word} the size costs {100 * cost:+.2g} %" for cost, word in costs if cost is not None]
    return [*rows, ("wrong by 2×", ", ".join(told), "")] if told else rows


def _machine(plan: Plan) -> list[Row]:
    rows = []
    if plan.seconds is not None:
        rows.append(("time", format_seconds(plan.seconds), ""))
    if plan.cost is not None:
        rows.append(("cost", f"{plan.cost:.3g} at {plan.budget.price_per_hour:g} a device hour", ""))
    needed = plan.memory
    if needed is not None:
        where = "on one device" if needed.count == 1 else "a device"
        states, activations = bytes_of(needed.states), bytes_of(needed.activations)
        text = f"{bytes_of(needed.total)} {where}: states {states}, one sequence {activations}"
        if needed.limit is not None:
            text += f"; it has {bytes_of(needed.limit)}"
        rows.append(("memory", text, ""))
    if plan.inference_flops:
        rows.append(("serving", f"{format_flops(plan.inference_flops)} FLOPs after training", ""))
    return rows


def bytes_of(value: float) -> str:
    """Bytes with three digits: ``13.5 GB``."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"


def _sources(plan: Plan) -> list[str]:
    """What each interval rests on; those that rest on the same together."""
    named: dict[str, list[str]] = {}
    for name, interval in plan.intervals.items():
        named.setdefault(interval.source, []).append(_WORDS[name])
    return [f"interval of {' and '.join(names)}: {source}" for source, names in named.items()]


def _interval(plan: Plan, name: str, form: Callable[[float], str]) -> str:
    found = plan.intervals.get(name)
    if found is None:
        return ""
    high = "…" if found.high is None else form(found.high)
    return f"[{form(found.low)}, {high}]"
