"""From a law and a budget to a plan: the optimum, a real model near it, its batch and rate, what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime

from ..errors import UserError
from ..quantities import format_count
from .batch_and_rate.settings import DEFAULT_RULE, Interval, Recipe, Settings, Surface, choose
from .optimum.fitted_range import FittedRange
from .optimum.optimal import Optimum, optimal
from .optimum.predictor import Predictor, count_of
from .optimum.repeated_data import Repeated
from .plan_record import Plan
from .real_model import RealModelSearch
from .resources.budget import Budget
from .resources.memory import Memory, memory
from .resources.shapes import Shape, Shapes
from .rules import rule as rule_of


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
    fitted_range: FittedRange | None = None,
    level: float = 0.9,
    created: str | None = None,
) -> Plan:
    """Plan a training: size, tokens and shape; batch, rate and schedule; predicted loss, time, memory and money.

    Args:
        predictor: a Fit or Forecast; its ``counted`` says which parameters it counts, non-embedding if it does not.
        budget: what may be spent, or the goal, and what the plan is held to; a number is FLOPs.
        shape: from a number of parameters to a real configuration. The plan is the best of those that exist, each with
            the tokens that the budget buys at its exact FLOPs a token. None: the law's own size, counted as 6·N·D.
        recipe: a ``surface`` of your own runs, or anything from (num_params, tokens) to (batch in tokens, learning
            rate); takes precedence over published rules.
        rule: the published rule for batch and rate without a recipe; all of them stand in ``recommendations``.
        seconds: expected seconds of training a shape on so many tokens; by default from the budget's machine.
        within: with ``seconds``, only shapes that take at most so long.
        tokens_per_param_range, fitted_range, level: as for ``optimal``.
        created: time of writing, ISO 8601; now (UTC) by default.

    Raises:
        UserError: a budget too small or a goal out of reach, a rule that gives no batch or no rate here, a recipe or
            shape that returns something else than numbers above zero.
    """
    budget = Budget.of(budget)
    rule_of(rule)
    fitted_range, counted = fitted_range or FittedRange.by(predictor), count_of(predictor)
    if budget.tokens_available is not None and not isinstance(predictor, Repeated):
        predictor = Repeated(predictor, budget.tokens_available)
    optimum = optimal(
        predictor, budget, tokens_per_param_range=tokens_per_param_range, fitted_range=fitted_range, level=level
    )
    model, point, notes = None, optimum, list(optimum.notes)
    if shape is not None:
        model, point, notes = RealModelSearch(predictor, budget, shape, fitted_range, counted, seconds, within).best(
            optimum
        )
    exact = None if model is None else float(model.flops_per_token) * point.tokens
    size, least = getattr(model, "num_params", point.num_params), float(getattr(model, "context", 1))
    settings = choose(size, point.tokens, exact, recipe=recipe, rule=rule, least_batch=least, level=level)
    duration = seconds(model, point.tokens) if seconds and model else budget.seconds(exact or point.flops)
    needed = None if model is None else memory(model, budget.num_devices or 1, budget.memory_per_device)
    notes += [*settings.notes, *_data_notes(predictor, point, settings), *_machine_notes(needed, settings, model)]
    return Plan(
        created=created or datetime.now(UTC).isoformat(timespec="seconds"),
        budget=budget,
        optimum=optimum,
        **{name: getattr(point, name) for name in ("num_params", "tokens", "flops", "loss", "low", "high", "level")},
        **{name: getattr(settings, name) for name in _OF_SETTINGS},
        intervals=_law_intervals(optimum, point) | settings.intervals,
        flops_exact=exact,
        counted=counted,
        exact_counts=_counts(model),
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
    if needed.num_devices > sequences:
        notes.append(
            f"a batch is {sequences:.3g} sequences, fewer than the {needed.num_devices} devices: data parallelism "
            "alone leaves some of them idle"
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
