"""The plan: what to train for a budget, and which loss to expect, written down before the training starts.

A ``Plan`` is a plain record with a JSON form: it keeps the configuration of the model and of the run as dictionaries,
so that this room needs to know neither.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_json
from ..quantities import format_count
from . import rules
from .budget import Budget
from .covered import Covered
from .formula import Recommendation
from .memory import Memory, memory
from .optimal import Optimum, optimal
from .predictor import Predictor, count_of
from .realize import Realizer
from .repeat import Repeated
from .settings import DEFAULT_RULE, Interval, Recipe, Settings, Surface, choose
from .shapes import Shape, Shapes


@dataclass(frozen=True)
class Plan:
    """What to train, and what to expect of it.

    ``num_params`` and ``tokens`` are what will be trained, ``optimum`` what the law asked for; parameters are counted
    as the law counts them (``count``). ``flops`` is 6·N·D; ``flops_exact`` counts the shapes, and ``counts`` holds
    "num_params" (non-embedding), "num_params_matmul" (with the head), "num_params_total" (with embedding and head) and
    "flops_per_token" (None, empty: no shape). ``batch`` and
    ``warmup_tokens`` are in tokens, ``decay`` is the share of the tokens over which the rate falls at the end; these
    and ``weight_decay`` are None where the recipe decides. ``loss`` with ``low`` and ``high`` at ``level`` is predicted
    at ``num_params`` and ``tokens``; ``intervals`` are those of the other choices, by name. ``seconds`` and ``cost``
    are of the training, ``inference_flops`` of serving afterwards.
    """

    created: str
    budget: Budget
    optimum: Optimum
    num_params: float
    tokens: float
    flops: float
    flops_exact: float | None
    count: str
    counts: dict[str, float]
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
    seconds: float | None
    cost: float | None
    memory: Memory | None
    inference_flops: float
    model: dict | None
    run: dict | None
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
        """The same plan with the run configuration that carries it out."""
        return replace(self, run=dict(run))

    def to_json(self) -> dict:
        """A plain dictionary, ready for ``json.dumps``; its ``kind`` is ``plan``."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        nested = {
            "budget": self.budget.to_json(),
            "optimum": self.optimum.to_json(),
            "recommendations": {name: each.to_json() for name, each in self.recommendations.items()},
            "intervals": {name: each.to_json() for name, each in self.intervals.items()},
            "memory": self.memory.to_json() if self.memory else None,
            "notes": list(self.notes),
        }
        return {"kind": "plan"} | record | nested

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Plan:
        """The plan that ``to_json`` wrote.

        Raises:
            UserError: it is no plan, or fields are missing or unknown.
        """
        if not isinstance(record, Mapping) or record.get("kind") != "plan":
            raise UserError("not a plan: a record of kind 'plan' is wanted, as written by allometry plan")
        values = {name: value for name, value in record.items() if name != "kind"}
        wanted = {field.name for field in fields(cls)}
        if wanted != set(values):
            wrong = ", ".join(sorted(wanted ^ set(values)))
            raise UserError(f"not a plan of this version: missing or unknown fields {wrong}; plan again")
        try:
            nested = {
                "budget": Budget.from_json(values["budget"]),
                "optimum": Optimum.from_json(values["optimum"]),
                "recommendations": {name: Recommendation(**x) for name, x in values["recommendations"].items()},
                "intervals": {name: Interval(**x) for name, x in values["intervals"].items()},
                "memory": Memory(**values["memory"]) if values["memory"] else None,
                "notes": tuple(values["notes"]),
            }
            return cls(**values | nested)
        except (TypeError, AttributeError) as error:
            raise UserError(f"not a plan of this version: {error}; plan again") from None

    def save(self, path: str | os.PathLike) -> None:
        """Write the plan as JSON, whole or not at all."""
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Plan:
        """Read a plan that ``save`` wrote.

        Raises:
            UserError: no such file, no JSON, or no plan.
        """
        try:
            record = json.loads(Path(path).read_text("utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; write one with allometry plan -o {path}") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise UserError(f"{path}: not JSON; a plan is what allometry plan -o writes") from None
        try:
            return cls.from_json(record)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def summary(self) -> str:
        """The plan as a person reads it, a table without a trailing newline."""
        from .describe import describe

        return describe(self)


def plan(
    predictor: Predictor,
    budget: Budget | float,
    *,
    shape: Callable[[float], Shape] | None = Shapes(),  # noqa: B008 (frozen)
    recipe: Recipe | Surface | None = None,
    rule: str = DEFAULT_RULE,
    seconds: Callable[[Shape, float], float] | None = None,
    within: float | None = None,
    tokens_per_param_range: tuple[float, float] | None = None,
    covered: Covered | None = None,
    level: float = 0.9,
    created: str | None = None,
) -> Plan:
    """Plan a training: size, tokens and shape; batch, rate and schedule; predicted loss, time, memory and money.

    Args:
        predictor: a Fit or Forecast; its ``count`` says which parameters it counts, non-embedding if it does not.
        budget: what may be spent, or the goal, and what the plan is held to; a number is FLOPs.
        shape: from a number of parameters to a real configuration. The plan is the best of those that exist, each with
            the tokens that the budget buys at its exact FLOPs a token. None: the law's own size, counted as 6·N·D.
        recipe: a ``surface`` of your own runs, or anything from (num_params, tokens) to (batch in tokens, learning
            rate); takes precedence over published rules.
        rule: the published rule for batch and rate without a recipe; all of them stand in ``recommendations``.
        seconds: expected seconds of training a shape on so many tokens; by default from the budget's machine.
        within: with ``seconds``, only shapes that take at most so long.
        tokens_per_param_range, covered, level: as for ``optimal``.
        created: time of writing, ISO 8601; now (UTC) by default.

    Raises:
        UserError: a budget too small or a goal out of reach, a rule that gives no batch or no rate here, a recipe or
            shape that returns something else than numbers above zero.
    """
    budget = Budget.of(budget)
    rules.rule(rule)
    covered, count = covered or Covered.by(predictor), count_of(predictor)
    if budget.tokens_available is not None and not isinstance(predictor, Repeated):
        predictor = Repeated(predictor, budget.tokens_available)
    optimum = optimal(predictor, budget, tokens_per_param_range=tokens_per_param_range, covered=covered, level=level)
    model, point, notes = None, optimum, list(optimum.notes)
    if shape is not None:
        model, point, notes = Realizer(predictor, budget, shape, covered, count, seconds, within).best(optimum)
    exact = None if model is None else float(model.flops_per_token) * point.tokens
    size, least = getattr(model, "num_params", point.num_params), float(getattr(model, "context", 1))
    settings = choose(size, point.tokens, exact, recipe=recipe, rule=rule, least_batch=least, level=level)
    duration = seconds(model, point.tokens) if seconds and model else budget.seconds(exact or point.flops)
    needed = None if model is None else memory(model, budget.count or 1, budget.memory_per_device)
    notes += [*settings.notes, *_data_notes(predictor, point, settings), *_machine_notes(needed, settings, model)]
    return Plan(
        created=created or datetime.now(UTC).isoformat(timespec="seconds"),
        budget=budget,
        optimum=optimum,
        **{name: getattr(point, name) for name in ("num_params", "tokens", "flops", "loss", "low", "high", "level")},
        **{name: getattr(settings, name) for name in _OF_SETTINGS},
        intervals=_law_intervals(optimum, point) | settings.intervals,
        flops_exact=exact,
        count=count,
        counts=_counts(model),
        seconds=duration,
        cost=budget.money(duration),
        memory=needed,
        inference_flops=_serving(budget, point, model),
        model=None if model is None else _record(model),
        run=None,
        notes=tuple(notes),
    )


_OF_SETTINGS = ("batch", "lr", "warmup_tokens", "decay", "weight_decay", "rule", "recommendations")


def _law_intervals(optimum: Optimum, point: Optimum) -> dict[str, Interval]:
    """Those of the law's optimum; of size and tokens moved by the factor between it and the shape."""
    source = f"{100 * optimum.level:g} % over refits of the law"
    if "flops" in optimum.intervals:
        source = f"where the {100 * optimum.level:g} % interval of the loss meets the goal"
    found = {}
    for name, (low, high) in optimum.intervals.items():
        factor = 1.0 if name == "flops" else getattr(point, name) / getattr(optimum, name)
        found[name] = Interval(low * factor, None if high is None else high * factor, source)
    return found


def _counts(model: Shape | None) -> dict[str, float]:
    """The counts of a shape, as far as it has them."""
    names = ("num_params", "num_params_matmul", "num_params_total", "flops_per_token")
    return {name: getattr(model, name) for name in names if hasattr(model, name)}


def _serving(budget: Budget, point: Optimum, model: Shape | None) -> float:
    """FLOPs of serving: a forward pass, a third of training, for each token."""
    if model is None or budget.inference_tokens is None:
        return point.inference_flops
    return budget.inference_tokens * model.flops_per_token / 3


def _data_notes(predictor: Predictor, point: Optimum, settings: Settings) -> list[str]:
    """What repeating the data does to the plan.

    Raises:
        UserError: there are fewer tokens than one batch.
    """
    if not isinstance(predictor, Repeated):
        return []
    unique = predictor.unique_tokens
    if unique < settings.batch:
        raise UserError(
            f"{format_count(unique)} tokens available are less than one batch of {format_count(settings.batch)}: "
            "give more, or a rule or recipe with a smaller batch"
        )
    if point.tokens <= unique:
        return []
    told = f"reads the data {point.tokens / unique:.3g} times"
    if predictor.measured:
        return [told]
    worth = float(predictor.effective(point.num_params, point.tokens)[1])
    return [f"{told}, worth {format_count(worth)} fresh tokens by arXiv 2305.16264, not by your own runs"]


def _machine_notes(needed: Memory | None, settings: Settings, model: Shape | None) -> list[str]:
    """Whether model and batch suit the devices."""
    if needed is None:
        return []
    notes = [needed.note()] if needed.note() else []
    sequences = settings.batch / model.context
    if needed.count > sequences:
        notes.append(
            f"a batch is {sequences:.3g} sequences, fewer than the {needed.count} devices: data parallelism alone "
            "leaves some of them idle"
        )
    return notes


def _record(model: Shape) -> dict:
    """A model configuration as a plain dictionary: its own JSON form, or the fields of the dataclass."""
    for method in ("to_json", "model_dump"):
        if hasattr(model, method):
            return dict(getattr(model, method)())
    if is_dataclass(model):
        return asdict(model)
    raise UserError("the shape must return a configuration with to_json, or a dataclass")
