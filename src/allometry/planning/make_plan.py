"""From a law and a budget to a plan: the optimum, a real model near it, batch and learning rate, and the cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from ..errors import UserError
from ..laws.prediction import LossPredictor
from ..quantities import format_count, plural
from .batch_and_rate.settings import DEFAULT_RULE, BatchAndRate, Interval, Settings, choose_settings
from .batch_and_rate.surface import Surface
from .optimum.fitted_range import FittedRange
from .optimum.optimal import OptimumProblem
from .optimum.optimum_record import Optimum
from .optimum.predictor import Predictor
from .optimum.repeated_data import Repeated
from .plan_record import Plan
from .real_model import RealModelSearch
from .resources.budget import Budget
from .resources.memory import Memory
from .resources.parallel_layout import advice, fit_layout
from .resources.shapes import Shape, Shapes, counts_of, record_of, row_tokens_of
from .rules import RULES
from .rules import rule as rule_of


def plan(
    predictor: LossPredictor,
    budget: Budget | float,
    *,
    shape: Callable[[float], Shape] | None = Shapes(),  # noqa: B008 (frozen)
    surface: Surface | None = None,
    recipe: BatchAndRate | None = None,
    rule: str = DEFAULT_RULE,
    seconds: Callable[[Shape, float], float] | None = None,
    within: float | None = None,
    tokens_per_param_range: tuple[float, float] | None = None,
    fitted_range: FittedRange | None = None,
    level: float = 0.9,
    created: str | None = None,
) -> Plan:
    """Plan a training: size, tokens and shape; batch, learning rate and schedule; predicted loss, time, memory, money.

    Args:
        predictor: a Fit or Forecast, or your own (``as_predictor``); sizes are counted as it counts them.
        budget: what may be spent, or the goal, and what else the plan must respect; a number is FLOPs.
        shape: from a number of parameters to a real configuration. The plan is the best of those that exist, each with
            the tokens that the budget buys at its exact FLOPs a token. None: the law's own size, counted as 6·N·D.
        surface: batch and learning rate from your own runs, by ``planning.surface``.
        recipe: any function from (num_params, tokens) to (batch in tokens, learning rate). Surface and recipe take
            precedence over published rules.
        rule: the published rule for batch and learning rate without surface or recipe; ``recommendations`` of the plan
            hold all of them.
        seconds: expected seconds of training a shape on so many tokens; by default from the budget's machine.
        within: with ``seconds``, only shapes that take at most so long.
        tokens_per_param_range, fitted_range, level: as for ``optimal``.
        created: time of writing, ISO 8601; now (UTC) by default.

    Raises:
        UserError: a budget too small or a goal out of reach, a rule that gives no batch or no learning rate here, a
            recipe or shape that returns anything else than numbers above zero.
    """
    rule_of(rule)
    problem = OptimumProblem.of(
        predictor, budget, tokens_per_param_range=tokens_per_param_range, fitted_range=fitted_range, level=level
    )
    optimum = problem.solve()
    real = None if shape is None else RealModelSearch(problem, shape, seconds, within).best(optimum)
    model, point = (None, optimum) if real is None else (real.shape, real.point)
    settings = choose_settings(
        point.num_params if model is None else model.num_params,
        point.tokens,
        None if model is None else _exact_flops(model, point),
        surface=surface,
        recipe=recipe,
        rule=rule,
        least_batch=_row_tokens(model),
        level=level,
    )
    row = _row_tokens(model)
    settings = settings.in_whole_rows(row)
    machine = problem.budget
    needed = fit_layout(model, machine.num_devices or 1, settings.batch, machine.memory_per_device, machine.per_node)
    if needed is not None and settings.rule in RULES and _is_near(needed.layout.sequences * row, settings.batch):
        settings = settings.with_batch(needed.layout.sequences * row)
    duration = seconds(model, point.tokens) if seconds and model else None
    now = created or datetime.now(UTC).isoformat(timespec="seconds")
    planned = _record(problem, optimum, model, point, settings, needed, duration, now)
    basin, notes = (optimum.basin, optimum.notes) if real is None else (real.basin, real.notes)
    return replace(planned, basin=basin, notes=(*notes, *planned.notes))


def _record(
    problem: OptimumProblem,
    optimum: Optimum,
    model: Shape | None,
    point: Optimum,
    settings: Settings,
    needed: Memory | None,
    seconds: float | None,
    created: str,
) -> Plan:
    """The plan for a model (None: the law's own size) that is trained at ``point`` with these settings.

    ``needed`` is the memory in the layout chosen. ``seconds`` is the time of training; None: by the budget's machine.
    """
    budget = problem.budget
    exact = None if model is None else _exact_flops(model, point)
    per_token = point.flops / point.tokens if model is None else budget.machine_flops_per_token(model)
    duration = budget.seconds(per_token * point.tokens) if seconds is None else seconds
    data_notes = _data_notes(problem.predictor, point, settings)
    impossible, machine_notes = _of_machine(model, needed, settings.batch, budget.per_node)
    return Plan(
        created=created,
        budget=budget,
        optimum=optimum,
        num_params=point.num_params,
        tokens=point.tokens,
        flops=point.flops,
        flops_exact=exact,
        counted=problem.predictor.counted,
        exact_counts={} if model is None else counts_of(model),
        batch=settings.batch,
        lr=settings.lr,
        warmup_tokens=settings.warmup_tokens,
        decay=settings.decay,
        weight_decay=settings.weight_decay,
        rule=settings.rule,
        recommendations=settings.recommendations,
        loss=point.loss,
        low=point.low,
        high=point.high,
        level=point.level,
        intervals=_law_intervals(optimum, point) | settings.intervals,
        seconds=duration,
        cost=budget.money(duration),
        memory=needed,
        inference_flops=_serving(budget, point, model),
        model=None if model is None else record_of(model),
        run=None,
        basin=None,
        cautions=(*point.cautions, *impossible),
        notes=(*settings.notes, *data_notes, *machine_notes),
    )


def _is_near(one: float, other: float) -> bool:
    """Whether a batch is as good as another: within a tenth."""
    return abs(math.log(one / other)) < math.log(1.1)


def _exact_flops(model: Shape, point: Optimum) -> float:
    return float(model.flops_per_token) * point.tokens


def _row_tokens(model: Shape | None) -> float:
    """Tokens of the smallest possible batch: one sequence."""
    return 1.0 if model is None else float(row_tokens_of(model))


def _law_intervals(optimum: Optimum, point: Optimum) -> dict[str, Interval]:
    """The intervals of the law's optimum; those of size and tokens moved by the factor between it and the shape."""
    source = f"{100 * optimum.level:g} % of the optima over refits of the laws together"
    if "flops" in optimum.intervals:
        source = f"where the {100 * optimum.level:g} % interval of the loss meets the goal"
    factors = {"num_params": point.num_params / optimum.num_params, "tokens": point.tokens / optimum.tokens}
    intervals = {}
    for name, (low, high) in optimum.intervals.items():
        factor = factors.get(name, 1.0)
        intervals[name] = Interval(low * factor, None if high is None else high * factor, source)
    return intervals


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
    passes = f"reads the data {point.tokens / unique:.3g} times"
    if predictor.measured:
        return [passes]
    worth = float(predictor.effective(point.num_params, point.tokens)[1])
    fresh = f"worth {format_count(worth)} fresh tokens by arXiv 2305.16264, not by your own runs"
    return [f"{passes}, {fresh}; the interval allows for data that wear out faster or more slowly"]


def _of_machine(model: Shape | None, needed: Memory | None, batch: float, per_node: int) -> tuple[list[str], list[str]]:
    """Whether model and batch suit the devices: why they cannot train it, and what else is to know."""
    if needed is None:
        return [], []
    advised = advice(model, needed, batch, per_node)
    impossible, notes = [], [] if advised is None else [advised]
    if needed.fits is False:
        impossible, notes = [f"this machine cannot train the plan: {text}" for text in notes], []
    sequences = batch / _row_tokens(model)
    if needed.layout.sequences > 1.02 * sequences:
        devices = plural(needed.layout.num_devices, "device")
        notes.append(
            f"a batch is {plural(round(sequences), 'sequence')}, too few for {devices}: some of them are idle, or the "
            "batch is larger than planned"
        )
    return impossible, notes
