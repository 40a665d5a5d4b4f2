"""The plan: what to train for a budget, and which loss to expect, written down before the training starts.

A ``Plan`` is a plain record with a JSON form. It keeps the configuration of the model and of the run as dictionaries,
so that planning depends on neither.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import parse_json, write_json
from ..quantities import check_fields, check_numbers, format_count, format_flops, format_seconds
from ..text_table import Row, table
from .batch_and_rate.settings import Interval
from .optimum.optimum_record import Basin, Optimum
from .resources.budget import Budget
from .resources.memory import Layout, Memory
from .rules import Recommendation

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
COUNTED = {"total": "embedding and head included", "matmul": "head included"}


@dataclass(frozen=True)
class Plan:
    """What to train, and what to expect of it.

    Attributes:
        created: time of writing, ISO 8601.
        budget: what the plan was made for.
        optimum: the law's own optimum, before a real model was chosen.
        num_params: of the model that will be trained, counted as the law counts them (``counted``).
        tokens: of the training.
        flops: 6·N·D.
        flops_exact: counted from the shape; None without one.
        counted: which parameters the law counts.
        exact_counts: of the shape: "num_params" (non-embedding), "num_params_matmul" (with the head),
            "num_params_total" (with embedding and head) and "flops_per_token"; empty without a shape.
        batch: in tokens.
        lr: learning rate.
        warmup_tokens: in tokens; None, as ``decay`` and ``weight_decay``, where the user's own recipe decides.
        decay: share of the tokens, at the end, over which the learning rate decays.
        weight_decay: of AdamW.
        rule: where batch and learning rate come from: the name of a rule, "surface" or "recipe".
        recommendations: batch and learning rate by every published rule.
        loss: predicted at ``num_params`` and ``tokens``; ``low`` and ``high`` are its interval at ``level``.
        intervals: of the other choices, by name.
        basin: which sizes are nearly as good, by the exact FLOPs of real shapes; None without an optimum.
        seconds: of the training; ``cost`` its price.
        memory: of each device, in the parallel layout that wastes least.
        inference_flops: of serving after the training.
        model: the configuration of the model, as a dictionary.
        run: the configuration of the run that carries the plan out.
        cautions: what questions the plan itself, such as an optimum outside what was run; they are printed first.
        notes: what else a reader must know.
    """

    created: str
    budget: Budget
    optimum: Optimum
    num_params: float
    tokens: float
    flops: float
    flops_exact: float | None
    counted: str
    exact_counts: dict[str, float]
    batch: float
    lr: float
    warmup_tokens: float | None
    decay: float | None
    weight_decay: float | None
    rule: str
    recommendations: dict[str, Recommendation]
    loss: float
    low: float | None
    high: float | None
    level: float
    intervals: dict[str, Interval]
    basin: Basin | None
    seconds: float | None
    cost: float | None
    memory: Memory | None
    inference_flops: float
    model: dict | None
    run: dict | None
    cautions: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def steps(self) -> float:
        """Optimizer steps: tokens over batch."""
        return self.tokens / self.batch

    @property
    def tokens_per_param(self) -> float:
        """D/N of what will be trained."""
        return self.tokens / self.num_params

    def with_run(self, run: Mapping[str, Any]) -> Plan:
        """The same plan with the configuration of the run that carries it out."""
        return replace(self, run=dict(run))

    def to_json(self) -> dict:
        """A plain dictionary, ready for ``json.dumps``; its ``kind`` is ``plan``."""
        nested: dict[str, Any] = {
            "budget": self.budget.to_json(),
            "optimum": self.optimum.to_json(),
            "recommendations": {name: each.to_json() for name, each in self.recommendations.items()},
            "intervals": {name: each.to_json() for name, each in self.intervals.items()},
            "memory": self.memory.to_json() if self.memory else None,
            "basin": self.basin.to_json() if self.basin else None,
            "cautions": list(self.cautions),
            "notes": list(self.notes),
        }
        return {"kind": "plan"} | vars(self) | nested

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Plan:
        """The plan that ``to_json`` wrote.

        Raises:
            UserError: it is no plan, or fields are missing or unknown.
        """
        if not isinstance(record, Mapping) or record.get("kind") != "plan":
            raise UserError("not a plan: give a record of kind 'plan', as written by allometry plan")
        values = {name: value for name, value in record.items() if name != "kind"}
        known = {field.name for field in fields(cls)}
        if known != set(values):
            wrong = ", ".join(sorted(known ^ set(values)))
            raise UserError(f"not a plan of this version: missing or unknown fields {wrong}; plan again")
        try:
            for kind, value in _parts(values):
                check_fields(kind, value)
            check_numbers("exact_counts", values["exact_counts"])
            if not isinstance(values["model"], Mapping | None) or not isinstance(values["run"], Mapping | None):
                raise TypeError("model and run are no names and values")
            if (values["low"] is None) != (values["high"] is None):
                raise TypeError("its interval has one end")
            nested = {
                "budget": Budget.from_json(values["budget"]),
                "optimum": Optimum.from_json(values["optimum"]),
                "recommendations": {name: Recommendation(**x) for name, x in values["recommendations"].items()},
                "intervals": {name: Interval(**x) for name, x in values["intervals"].items()},
                "memory": Memory.from_json(values["memory"]) if values["memory"] else None,
                "basin": Basin.from_json(values["basin"]) if values["basin"] else None,
                "cautions": tuple(values["cautions"]),
                "notes": tuple(values["notes"]),
            }
            return cls(**values | nested)
        except (TypeError, AttributeError, KeyError) as error:
            raise UserError(f"not a plan of this version: {error}; plan again") from None

    def save(self, path: str | os.PathLike) -> None:
        """Write the plan as JSON; a crash leaves the complete file or the old one."""
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Plan:
        """Read a plan that ``save`` wrote.

        Raises:
            UserError: no such file, no JSON, or no plan.
        """
        try:
            record = parse_json(Path(path).read_text("utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; write one with allometry plan -o {path}") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        except ValueError:
            raise UserError(f"{path}: not JSON; a plan is what allometry plan -o writes") from None
        try:
            return cls.from_json(record)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def __repr__(self) -> str:
        return (
            f"<Plan: {format_count(self.num_params)} parameters on {format_count(self.tokens)} tokens, loss "
            f"{self.loss:.4f}; print(plan.summary())>"
        )

    def _repr_html_(self) -> str:
        from .plan_cards import plan_card

        return plan_card(self).html()

    def summary(self) -> str:
        """The plan as a person reads it, a table without a trailing newline."""
        return describe(self)


def _parts(values: Mapping[str, Any]) -> list[tuple[type, Mapping[str, Any]]]:
    """The records within that of a plan, and its own, with the class of each."""
    parts: list[tuple[type, Mapping[str, Any]]] = [(Plan, values)]
    parts += [(Budget, values["budget"]), (Optimum, values["optimum"])]
    parts += [(Recommendation, each) for each in values["recommendations"].values()]
    parts += [(Interval, each) for each in values["intervals"].values()]
    parts += [(Basin, basin) for basin in (values["basin"], values["optimum"].get("basin")) if basin]
    memory = values["memory"]
    return parts + ([(Memory, memory), (Layout, memory["layout"])] if memory else [])


def describe(plan: Plan) -> str:
    """The cautions; the plan as rows of name, value and interval; the sources of the intervals, and the notes."""
    rows = [("budget", plan.budget.describe(), ""), *_model(plan), *_training(plan), *_law(plan), *_machine(plan)]
    rows.append(("written", plan.created, ""))
    cautions = (f"caution: {caution}" for caution in plan.cautions)
    return "\n".join([*cautions, *table(rows), *_sources(plan), *(f"note: {note}" for note in plan.notes)])


def _model(plan: Plan) -> list[Row]:
    size = f"{format_count(plan.num_params)} parameters, {COUNTED.get(plan.counted, 'non-embedding')}"
    rows = [("model", size, _interval(plan, "num_params", format_count))]
    optimum = plan.optimum
    if f"{plan.num_params:.2g}" != f"{optimum.num_params:.2g}":
        size, tokens = format_count(optimum.num_params), format_count(optimum.tokens)
        rows.append(("optimum by 6ND", f"{size} parameters on {tokens} tokens, before real shapes and exact FLOPs", ""))
    model = plan.model or {}
    if {"width", "layers", "head_dim", "hidden"} <= set(model):
        heads = model["width"] // model["head_dim"]
        shape = f"{model['layers']} layers of width {model['width']}, {heads} heads of {model['head_dim']}"
        shared = model.get("kv_heads")
        if shared and shared != heads:
            shape += f" ({shared} of keys and values)"
        rows.append(("shape", f"{shape}, hidden {model['hidden']}", ""))
        rows.append(("vocabulary", f"{model['vocab_size']}, context {model['context']}", ""))
    if "num_params_total" in plan.exact_counts:
        bare, matmul, total = (
            format_count(plan.exact_counts[f"num_params{name}"]) for name in ("", "_matmul", "_total")
        )
        rows.append(("parameters", f"{bare} non-embedding, {matmul} with output head, {total} total", ""))
    return rows


def _training(plan: Plan) -> list[Row]:
    from ..config.model import kind_of_rate

    flops = f"{format_flops(plan.flops)} by 6ND"
    if plan.flops_exact is not None:
        flops += f", {format_flops(plan.flops_exact)} counted from the shapes"
    tokens = f"{format_count(plan.tokens)} ({plan.tokens_per_param:.3g} per parameter)"
    kind = kind_of_rate((plan.run or {}).get("model", {})) if plan.rule == "recipe" else None
    rate = f"{plan.lr:.3g} (by {plan.rule}{'; ' + kind if kind else ''})"
    rows = [
        ("tokens", tokens, _interval(plan, "tokens", format_count)),
        ("FLOPs", flops, _interval(plan, "flops", format_flops)),
        ("batch", f"{format_count(plan.batch)} tokens, {format_count(plan.steps)} steps",
         _interval(plan, "batch", format_count)),
        ("learning rate", rate, _interval(plan, "lr", "{:.3g}".format)),
    ]  # fmt: skip
    if plan.warmup_tokens is not None and plan.decay is not None and plan.weight_decay is not None:
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
    basin = plan.basin
    if basin is None:
        return rows
    for word, span in (("0.1 %", basin.within_0_1_percent), ("0.5 %", basin.within_0_5_percent)):
        rows.append((f"within {word}", f"{' to '.join(map(format_count, span))} parameters", ""))
    costs = [(basin.cost_of_half_size, "half"), (basin.cost_of_double_size, "twice")]
    words = [f"{100 * cost:+.2g} % at {word} the size" for cost, word in costs if cost is not None]
    return [*rows, ("size off by 2×", f"loss {', '.join(words)}", "")] if words else rows


def _machine(plan: Plan) -> list[Row]:
    rows = []
    if plan.seconds is not None:
        mfu = plan.budget.mfu
        counted = "" if mfu is None else f" at {100 * mfu:g} % MFU (6·N with head and full attention, arXiv 2204.02311)"
        rows.append(("time", format_seconds(plan.seconds) + counted, ""))
    if plan.cost is not None:
        rows.append(("cost", f"{plan.cost:.3g} at {plan.budget.price_per_hour:g} a device hour", ""))
    needed = plan.memory
    if needed is not None:
        rows.append(("memory", needed.describe(), ""))
        if needed.layout.num_devices > 1:
            rows.append(("layout", needed.layout.describe(), ""))
    if plan.inference_flops:
        rows.append(("serving", f"{format_flops(plan.inference_flops)} FLOPs after training", ""))
    return rows


def _sources(plan: Plan) -> list[str]:
    """The source of each interval; choices with the same source stand together."""
    named: dict[str, list[str]] = {}
    for name, interval in plan.intervals.items():
        named.setdefault(interval.source, []).append(_WORDS[name])
    return [f"interval of {' and '.join(names)}: {source}" for source, names in named.items()]


def _interval(plan: Plan, name: str, form: Callable[[float], str]) -> str:
    interval = plan.intervals.get(name)
    if interval is None:
        return ""
    high = "…" if interval.high is None else form(interval.high)
    return f"[{form(interval.low)}, {high}]"
