"""When the budget changes half way: go on with a checkpoint that exists, or begin another model with what is left.

Both are plans by the same law. A checkpoint brings the tokens that it has seen for nothing; a new model brings the size
that suits the budget. Which reaches the lower loss is the law's to say, and its refits say how surely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..errors import UserError
from ..quantities import format_count, format_flops, format_seconds, require_positive
from ..text_table import table
from .make_plan import plan
from .optimum.fitted_range import FittedRange
from .optimum.predictor import FLOPS_PER_PARAM_TOKEN, Predictor, refits
from .optimum.repeated_data import Repeated
from .optimum.search_a_budget import SERVED_SHARE
from .plan_record import Plan
from .resources.budget import Budget
from .resources.shapes import Shape

_SAME = 0.001  # of the loss: closer alternatives are as good
_SHOWN = 8
# What of a budget holds for the whole training too.
_KEPT = (
    "device",
    "num_devices",
    "mfu",
    "flops_per_second",
    "price_per_hour",
    "memory",
    "tokens_available",
    "inference_tokens",
)


@dataclass(frozen=True)
class Checkpoint:
    """A model that has seen ``tokens``: its size and, where known, its configuration and a name.

    ``decayed`` says that its learning rate has fallen already: going on begins with another warmup, and what that costs
    no law here knows.
    """

    num_params: float
    tokens: float
    model: Shape | None = None
    name: str = "the checkpoint"
    decayed: bool = False

    def __post_init__(self) -> None:
        require_positive(num_params=self.num_params, tokens_done=self.tokens)

    @property
    def flops_per_token(self) -> float:
        """Exact where the configuration is known, else 6·N."""
        return FLOPS_PER_PARAM_TOKEN * self.num_params if self.model is None else float(self.model.flops_per_token)


@dataclass(frozen=True)
class Alternative:
    """One way to spend what is left: ``plan`` is the whole training, of which ``tokens_done`` are behind it.

    ``checkpoint`` is the name of what it continues (None: it begins anew). ``flops`` and ``seconds`` are of what is to
    come. ``preferred`` is the share of the law's refits by which this one ends lowest (None without refits).
    """

    plan: Plan
    flops: float
    seconds: float | None
    checkpoint: str | None = None
    tokens_done: float = 0.0
    preferred: float | None = None

    @property
    def goes_on(self) -> bool:
        """Whether it continues a checkpoint."""
        return self.checkpoint is not None

    @property
    def name(self) -> str:
        """What is done, in words."""
        return f"go on with {self.checkpoint}" if self.goes_on else "another model anew"

    @property
    def new_tokens(self) -> float:
        """Tokens still to be trained on."""
        return self.plan.tokens - self.tokens_done

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        record = asdict(replace(self, plan=None))
        return {"name": self.name} | record | {"new_tokens": self.new_tokens, "plan": self.plan.to_json()}


@dataclass(frozen=True)
class Continuation:
    """The alternatives for the rest of a budget, lowest predicted loss first."""

    budget: Budget
    alternatives: tuple[Alternative, ...]
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Alternative:
        """The alternative of the lowest predicted loss."""
        return self.alternatives[0]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``; its ``kind`` is ``continuation``."""
        alternatives = [each.to_json() for each in self.alternatives]
        return {
            "kind": "continuation",
            "budget": self.budget.to_json(),
            "alternatives": alternatives,
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """The alternatives side by side, then the best one's plan."""
        best, shown = self.best, [x for i, x in enumerate(self.alternatives) if i < _SHOWN or not x.goes_on]
        left = len(self.alternatives) - len(shown)
        spent = f"{format_flops(best.flops)} FLOPs"
        if best.seconds is not None:
            spent += f", {format_seconds(best.seconds)}"
        lines = [f"left: {self.budget.describe()}", *table([_row(each) for each in shown])]
        lines += [f"and {left} more with higher losses"] if left > 0 else []
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, "", f"best: {best.name}, {spent}", best.plan.summary()])


def _row(each: Alternative) -> tuple[str, str, str]:
    made = each.plan
    what = f"{format_count(made.num_params)} parameters, {format_count(each.new_tokens)} tokens to come"
    if each.goes_on:
        what += f" after {format_count(each.tokens_done)}"
    loss = f"loss {made.loss:.4g}"
    if made.low is not None and made.high is not None:
        loss += f" [{made.low:.4g}, {made.high:.4g}]"
    if each.preferred is not None:
        loss += f", lowest by {each.preferred:.0%} of refits"
    return each.name, what, loss


def resume(
    predictor: Predictor,
    budget: Budget | float,
    checkpoints: Sequence[Checkpoint],
    *,
    fitted_range: FittedRange | None = None,
    level: float = 0.9,
    **options: Any,
) -> Continuation:
    """The best use of what is left, given the checkpoints that exist.

    Args:
        predictor: a Fit or Forecast.
        budget: what is left: FLOPs, or the hours or money left on the devices that there are now.
        checkpoints: what could be continued.
        fitted_range: as for ``optimal``.
        level: of the intervals.
        **options: as for ``plan``: shape, recipe, rule, tokens_per_param_range, created.

    Raises:
        UserError: no checkpoint, a budget that is a goal or fixes size or tokens, and what ``plan`` raises.
    """
    budget = Budget.of(budget)
    if budget.flops is None or budget.num_params is not None or budget.tokens is not None:
        raise UserError("what is left to go on with is an amount: flops, hours or cost, and nothing fixed beside it")
    if not checkpoints:
        raise UserError("there is no checkpoint to go on with")
    options |= {"fitted_range": fitted_range or FittedRange.by(predictor), "level": level}
    made = [_go_on(predictor, budget, checkpoint, options) for checkpoint in checkpoints]
    found, notes = [each for each in made if each is not None], []
    try:
        found.append(_anew(predictor, budget, _as_far(options, found)))
    except UserError as error:  # too little is left for a new model
        if not found:
            raise
        notes.append(f"another model anew is out of reach: {error}")
    found.sort(key=lambda each: each.plan.loss)
    losses = [each.plan.loss for each in found]
    if len(found) > 1 and losses[1] <= losses[0] * (1 + _SAME):
        notes.append(f"{found[1].name} is as good within {_SAME:.1%} of the loss")
    if budget.tokens_available is not None:
        predictor = Repeated(predictor, budget.tokens_available)
    shares = _preferences(predictor, found)
    ranked = tuple(replace(each, preferred=share) for each, share in zip(found, shares, strict=True))
    return Continuation(budget, ranked, tuple(notes))


def _go_on(predictor: Predictor, budget: Budget, checkpoint: Checkpoint, options: dict[str, Any]) -> Alternative | None:
    """More tokens for a checkpoint; None where the budget pays for none."""
    each = checkpoint.flops_per_token
    tokens = budget.flops / each - SERVED_SHARE * (budget.inference_tokens or 0.0)
    if tokens < 1:
        return None
    whole = Budget(
        num_params=checkpoint.num_params,
        tokens=checkpoint.tokens + tokens,
        **{name: getattr(budget, name) for name in _KEPT},
    )
    shape = None if checkpoint.model is None else lambda _: checkpoint.model
    made = plan(predictor, whole, **options | {"shape": shape})
    seconds = budget.seconds(tokens * each)
    notes = [f"continues {checkpoint.name} after {format_count(checkpoint.tokens)} tokens"]
    if checkpoint.decayed:
        notes.append("its learning rate had fallen: warm up again; what that costs is not in the prediction")
    made = replace(made, budget=budget, seconds=seconds, cost=budget.money(seconds), notes=(*notes, *made.notes))
    return Alternative(made, tokens * each, seconds, checkpoint.name, checkpoint.tokens)


def _as_far(options: dict[str, Any], found: list[Alternative]) -> dict[str, Any]:
    """The search for another model reaches as many and as few tokens a parameter as the checkpoints will have."""
    fitted_range = options["fitted_range"]
    if options.get("tokens_per_param_range") or fitted_range is None:
        return options
    ratios = [*fitted_range.tokens_per_param, *(each.plan.tokens_per_param for each in found)]
    return options | {"tokens_per_param_range": (min(ratios), max(ratios))}


def _anew(predictor: Predictor, budget: Budget, options: dict[str, Any]) -> Alternative:
    """The plan for the budget as if there were no checkpoint."""
    made = plan(predictor, budget, **options)
    return Alternative(made, made.flops_exact or made.flops, made.seconds)


def _preferences(predictor: Predictor, found: list[Alternative]) -> list[float | None]:
    """By what share of the refits each alternative has the lowest loss."""
    sizes, tokens = np.array([(each.plan.num_params, each.plan.tokens) for each in found], float).T
    samples = refits(predictor, sizes, tokens)
    if not samples:
        return [None] * len(found)
    total = sum(weight for weight, _ in samples)
    lowest = [
        weight * np.bincount(losses.argmin(axis=1), minlength=len(found)) / len(losses) for weight, losses in samples
    ]
    return [float(share) for share in sum(lowest) / total]
