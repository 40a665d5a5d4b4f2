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
from typing import Any, Protocol

import numpy as np

from ..errors import UserError
from ..files import write_json
from ..quantities import format_count, format_flops, format_seconds
from . import rules
from .budget import Budget
from .formula import Recommendation, require_positive
from .optimal import Covered, Optimum, Predictor, at, optimal

DEFAULT_RULE = "step_law"
_FAR_FROM_ASKED = 1.5
_SHAPES = 400  # sizes tried between the ends of the range searched


class Shape(Protocol):
    """A model configuration, as far as a plan reads it: its true non-embedding count, its exact FLOPs a token."""

    num_params: int
    flops_per_token: float


@dataclass(frozen=True)
class Plan:
    """What to train, and what to expect of it.

    ``num_params`` and ``tokens`` are what will be trained (the true count of the rounded shape), ``optimum`` what the
    law asked for. ``batch`` is in tokens. ``flops`` is 6·N·D, ``flops_exact`` counts the shapes (None without one).
    ``loss`` with ``low`` and ``high`` at ``level`` is predicted at ``num_params`` and ``tokens``.
    """

    created: str
    budget: Budget | None
    optimum: Optimum
    num_params: float
    tokens: float
    flops: float
    flops_exact: float | None
    batch: float
    lr: float
    rule: str
    recommendations: dict[str, Recommendation]
    loss: float
    low: float | None
    high: float | None
    level: float
    seconds: float | None
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
        return (
            {"kind": "plan"}
            | record
            | {
                "budget": self.budget.to_json() if self.budget else None,
                "optimum": self.optimum.to_json(),
                "recommendations": {name: each.to_json() for name, each in self.recommendations.items()},
                "notes": list(self.notes),
            }
        )

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
            return cls(
                **values
                | {
                    "budget": Budget.from_json(values["budget"]) if values["budget"] else None,
                    "optimum": Optimum.from_json(values["optimum"]),
                    "recommendations": {
                        name: Recommendation(**each) for name, each in values["recommendations"].items()
                    },
                    "notes": tuple(values["notes"]),
                }
            )
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
        """The plan as a person reads it, a few lines without a trailing newline."""
        return "\n".join(_lines(self))


def plan(
    predictor: Predictor,
    budget: Budget | None = None,
    *,
    shape: Callable[[float], Shape] | None = None,
    recipe: Callable[[float, float], tuple[float, float]] | None = None,
    rule: str = DEFAULT_RULE,
    num_params: float | None = None,
    tokens: float | None = None,
    tokens_per_param_range: tuple[float, float] | None = None,
    covered: Covered | None = None,
    level: float = 0.9,
    tokens_per_second: float | None = None,
    seconds: Callable[[Shape, float], float] | None = None,
    within: float | None = None,
    created: str | None = None,
) -> Plan:
    """Plan the training that a budget buys: size, tokens, batch, learning rate, predicted loss.

    Args:
        predictor: a Fit or Forecast; its parameters are counted as non-embedding, like everything here.
        budget: how much; None only when ``num_params`` and ``tokens`` are both fixed.
        shape: from a number of parameters to a real configuration. The plan is then the best of those that exist,
            each with the tokens that the budget buys at its exact FLOPs a token.
        recipe: from (num_params, tokens) to (batch in tokens, learning rate); takes precedence over published rules.
        rule: the published rule for batch and rate without a recipe; all of them stand in ``recommendations``.
        num_params: fix the size and spend the budget on tokens.
        tokens: fix the tokens and spend the budget on size.
        tokens_per_param_range: D/N to search; by default what ``covered`` covered, else 1 to 1000.
        covered: what the fitted runs covered, by default what the predictor says (``Covered.by``): to tell where the
            plan extrapolates.
        level: of the interval of the predicted loss.
        tokens_per_second: measured at about this size, for the expected seconds; else the budget's own rate, if any.
        seconds: expected seconds of training a configuration on so many tokens; takes precedence over both.
        within: with ``shape`` and ``seconds``, only configurations that take at most so long.
        created: time of writing, ISO 8601; now (UTC) by default.

    Raises:
        UserError: no budget, a budget too small, a rule that gives no batch or no rate here, a recipe or shape that
            returns something else than numbers above zero.
    """
    if rule not in rules.RULES:
        rules.rule(rule)
    require_positive(tokens_per_second=tokens_per_second)
    covered = covered or Covered.by(predictor)
    optimum = optimal(
        predictor,
        budget.flops if budget else None,
        num_params=num_params,
        tokens=tokens,
        tokens_per_param_range=tokens_per_param_range,
        covered=covered,
        level=level,
    )
    if shape is None:
        model, point, notes = None, optimum, list(optimum.notes)
    else:
        every = _candidates(optimum, shape, budget, tokens)
        model, point, notes = _best_in_time(predictor, optimum, every, covered, seconds, within)
    flops_exact = None if model is None else float(model.flops_per_token) * point.tokens
    recommendations = rules.recommend(point.num_params, point.tokens, flops_exact)
    batch, lr, told = _batch_and_rate(point, recipe, rule, recommendations)
    return Plan(
        created=created or datetime.now(UTC).isoformat(timespec="seconds"),
        budget=budget,
        optimum=optimum,
        num_params=point.num_params,
        tokens=point.tokens,
        flops=point.flops,
        flops_exact=flops_exact,
        batch=batch,
        lr=lr,
        rule="recipe" if recipe else rule,
        recommendations=recommendations,
        loss=point.loss,
        low=point.low,
        high=point.high,
        level=level,
        seconds=seconds(model, point.tokens) if seconds and model else _seconds(point, budget, tokens_per_second),
        model=None if model is None else _record(model),
        run=None,
        notes=(*notes, *told),
    )


def _candidates(
    optimum: Optimum, shape: Callable[[float], Shape], budget: Budget | None, tokens: float | None
) -> list[tuple[Shape, float]]:
    """Real configurations in the range that was searched, with the tokens that the budget buys for each."""
    sizes = np.geomspace(*optimum.searched, _SHAPES) if optimum.searched else [optimum.num_params]
    models = {model.num_params: model for model in (shape(float(size)) for size in sizes)}
    found = []
    for model in models.values():
        require_positive(parameters_of_the_shape=model.num_params, flops_per_token_of_the_shape=model.flops_per_token)
        if tokens is None:
            bought = budget.flops / model.flops_per_token if budget else optimum.tokens
        else:
            bought = tokens
        found.append((model, bought))
    return found


def _best_in_time(
    predictor: Predictor,
    optimum: Optimum,
    every: list[tuple[Shape, float]],
    covered: Covered | None,
    seconds: Callable[[Shape, float], float] | None,
    within: float | None,
) -> tuple[Shape, Optimum, list[str]]:
    """The best of the candidates that train ``within`` seconds, with a word if that left some out."""
    limited = within is not None and seconds is not None
    candidates = _in_time(every, seconds, within) if limited else every
    model, point, notes = _best(predictor, optimum, candidates, covered)
    if len(candidates) < len(every):
        notes.append(
            f"of the sizes that the budget buys, only those were considered that train in {format_seconds(within)}"
        )
    return model, point, notes


def _in_time(
    candidates: list[tuple[Shape, float]], seconds: Callable[[Shape, float], float], within: float
) -> list[tuple[Shape, float]]:
    """Those that take at most ``within`` seconds; the fastest alone where none does."""
    durations = [seconds(*candidate) for candidate in candidates]
    kept = [one for one, duration in zip(candidates, durations, strict=True) if duration <= within]
    return kept or [candidates[int(np.argmin(durations))]]


def _best(
    predictor: Predictor, optimum: Optimum, candidates: list[tuple[Shape, float]], covered: Covered | None
) -> tuple[Shape, Optimum, list[str]]:
    """The candidate of lowest predicted loss, and the prediction at its true size and tokens."""
    sizes, tokens = (
        np.array(column, float) for column in zip(*((m.num_params, d) for m, d in candidates), strict=True)
    )
    losses = np.asarray(predictor.predict(sizes, tokens, level=optimum.level).value, float)
    model, bought = candidates[int(np.nanargmin(losses))]
    point = at(predictor, model.num_params, bought, covered=covered, level=optimum.level)
    # What the optimum says of extrapolation is said again for the real size. What it says of the edge of its search
    # holds only if the best shape is at the edge too: by exact FLOPs the best size is another than by 6ND.
    said = [] if covered is None else covered.notes(*_size(optimum))
    if optimum.at_edge and model.num_params not in (sizes.min(), sizes.max()):
        said.append(optimum.notes[0])
    notes = [note for note in optimum.notes if note not in said]
    ratio = model.num_params / optimum.num_params
    if max(ratio, 1 / ratio) > _FAR_FROM_ASKED:
        notes.append(f"the shape that will be trained has {ratio:.2g}× the parameters of the optimum by 6ND")
    return model, point, [*notes, *point.notes]


def _size(optimum: Optimum) -> tuple[float, float]:
    return optimum.num_params, optimum.tokens


def _batch_and_rate(
    point: Optimum,
    recipe: Callable[[float, float], tuple[float, float]] | None,
    rule: str,
    recommendations: dict[str, Recommendation],
) -> tuple[float, float, list[str]]:
    if recipe is not None:
        batch, lr = recipe(point.num_params, point.tokens)
        require_positive(batch_of_the_recipe=batch, learning_rate_of_the_recipe=lr)
        notes = []
    else:
        chosen = recommendations.get(rule)
        if chosen is None or chosen.batch_tokens is None or chosen.lr is None:
            able = [name for name, each in recommendations.items() if None not in tuple(each)]
            raise UserError(f"rule {rule!r} gives no batch and learning rate here; these do: {', '.join(able)}")
        batch, lr = chosen
        notes = [f"batch and learning rate by {rule} ({chosen.source}), not by your own runs"]
        notes += [f"{rule}: {chosen.warning}"] if chosen.warning else []
    if batch > point.tokens:
        raise UserError(
            f"the budget buys {format_count(point.tokens)} tokens, less than one batch of {format_count(batch)}: "
            "give a larger budget or a smaller batch"
        )
    return float(batch), float(lr), notes


def _seconds(point: Optimum, budget: Budget | None, tokens_per_second: float | None) -> float | None:
    if tokens_per_second is not None:
        return point.tokens / tokens_per_second
    return None if budget is None or budget.rate is None else budget.flops / budget.rate


def _record(model: Shape) -> dict:
    """A model configuration as a plain dictionary: its own JSON form, or the fields of the dataclass."""
    for method in ("to_json", "model_dump"):
        if hasattr(model, method):
            return dict(getattr(model, method)())
    if is_dataclass(model):
        return asdict(model)
    raise UserError("the shape must return a configuration with to_json, or a dataclass")


def _interval(plan: Plan) -> str:
    if plan.low is None or plan.high is None:
        return f"{plan.loss:.4g}"
    return f"{plan.loss:.4g} [{plan.low:.4g}, {plan.high:.4g}] at {100 * plan.level:g} %"


def _lines(plan: Plan) -> list[str]:
    rows = [("budget", plan.budget.describe() if plan.budget else "size and tokens fixed")]
    size = f"{format_count(plan.num_params)} non-embedding parameters"
    if plan.num_params != plan.optimum.num_params:
        size += f" (the law asked for {format_count(plan.optimum.num_params)})"
    flops = f"{format_flops(plan.flops)} by 6ND"
    if plan.flops_exact is not None:
        flops += f", {format_flops(plan.flops_exact)} counted from the shapes"
    rows += [
        ("model", size),
        ("tokens", f"{format_count(plan.tokens)} ({plan.tokens_per_param:.3g} per parameter)"),
        ("FLOPs", flops),
        ("batch", f"{format_count(plan.batch)} tokens, {format_count(plan.steps)} steps"),
        ("learning rate", f"{plan.lr:.3g} (by {plan.rule})"),
        ("predicted loss", _interval(plan)),
    ]
    basin = plan.optimum.basin
    if basin is not None:
        low, high = (format_count(size) for size in basin.within_0_5_percent)
        rows.append(("within 0.5 %", f"{low} to {high} parameters"))
        costs = [(basin.cost_of_half_size, "half"), (basin.cost_of_double_size, "twice")]
        told = [f"{word} the size costs {100 * cost:+.2g} %" for cost, word in costs if cost is not None]
        rows += [("wrong by 2×", ", ".join(told))] if told else []
    if plan.seconds is not None:
        rows.append(("time", format_seconds(plan.seconds)))
    rows.append(("written", plan.created))
    return [f"{name:<15} {text}" for name, text in rows] + [f"note: {note}" for note in plan.notes]
