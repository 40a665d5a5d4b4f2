"""When the budget changes half way: continue from a checkpoint, or start a new model with what is left.

Both are plans by the same law. A checkpoint brings the tokens that it has already seen; a new model has the size that
suits the budget. The law predicts which reaches the lower loss, and its refits how certain that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import UserError
from ..laws.prediction import LossPredictor
from ..quantities import format_count, format_flops, format_seconds, require_positive
from ..text_table import table
from .make_plan import plan
from .optimum.fitted_range import FittedRange
from .optimum.predictor import FLOPS_PER_PARAM_TOKEN, Predictor, as_predictor, mixture_draws
from .optimum.repeated_data import Repeated
from .optimum.search_a_budget import SERVED_SHARE
from .plan_record import Plan
from .resources.budget import Budget
from .resources.shapes import Shape, size_of

_SAME = 0.001  # of the loss: closer alternatives are as good
_SHOWN = 8


@dataclass(frozen=True)
class Checkpoint:
    """A model that has seen ``tokens``: its size and, if known, its configuration and a name.

    ``num_params`` is counted as the law counts it; with a ``model``, ``resume`` counts that instead.

    ``decayed``: its learning rate has already decayed, so continuing begins with another warmup, and no law here knows
    what that costs.
    """

    num_params: float
    tokens: float
    model: Shape | None = None
    name: str = "the checkpoint"
    decayed: bool = False

    def __post_init__(self) -> None:
        require_positive(num_params=self.num_params, tokens_done=self.tokens)


@dataclass(frozen=True)
class Alternative:
    """One way to spend what is left: ``plan`` is the whole training, of which ``tokens_done`` are already trained.

    ``checkpoint`` is the name of what it continues (None: a new model). ``flops`` and ``seconds`` are those still to be
    spent. ``preferred`` is the share of the law's refits by which this one ends lowest (None without refits).
    """

    plan: Plan
    flops: float
    seconds: float | None
    checkpoint: str | None = None
    tokens_done: float = 0.0
    preferred: float | None = None

    @property
    def continues(self) -> bool:
        """Whether it continues a checkpoint."""
        return self.checkpoint is not None

    @property
    def name(self) -> str:
        """What is done, in words."""
        return f"continue {self.checkpoint}" if self.continues else "a new model"

    @property
    def new_tokens(self) -> float:
        """Tokens still to be trained on."""
        return self.plan.tokens - self.tokens_done

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        return {
            "name": self.name,
            "flops": self.flops,
            "seconds": self.seconds,
            "checkpoint": self.checkpoint,
            "tokens_done": self.tokens_done,
            "preferred": self.preferred,
            "new_tokens": self.new_tokens,
            "plan": self.plan.to_json(),
        }


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
        return {
            "kind": "continuation",
            "budget": self.budget.to_json(),
            "alternatives": [each.to_json() for each in self.alternatives],
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """The alternatives side by side, then the best one's plan."""
        best, shown = self.best, [x for i, x in enumerate(self.alternatives) if i < _SHOWN or not x.continues]
        left = len(self.alternatives) - len(shown)
        spent = f"{format_flops(best.flops)} FLOPs"
        if best.seconds is not None:
            spent += f", {format_seconds(best.seconds)}"
        lines = [f"left: {self.budget.describe()}", *table([_row(each) for each in shown])]
        lines += [f"and {left} more with higher losses"] if left > 0 else []
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, "", f"best: {best.name}, {spent}", best.plan.summary()])


def _row(each: Alternative) -> tuple[str, str, str]:
    whole = each.plan
    what = f"{format_count(whole.num_params)} parameters, {format_count(each.new_tokens)} tokens to come"
    if each.continues:
        what += f" after {format_count(each.tokens_done)}"
    loss = f"loss {whole.loss:.4g}"
    if whole.low is not None and whole.high is not None:
        loss += f" [{whole.low:.4g}, {whole.high:.4g}]"
    if each.preferred is not None:
        loss += f", lowest by {each.preferred:.0%} of refits"
    return each.name, what, loss


def resume(
    predictor: LossPredictor,
    budget: Budget | float,
    checkpoints: Sequence[Checkpoint],
    *,
    fitted_range: FittedRange | None = None,
    level: float = 0.9,
    **options: Any,
) -> Continuation:
    """The best use of what is left, given the checkpoints that exist.

    Args:
        predictor: a Fit or Forecast, or your own.
        budget: what is left: FLOPs, or the hours or money left on the devices that are available now.
        checkpoints: what could be continued.
        fitted_range: as for ``optimal``.
        level: of the intervals.
        **options: as for ``plan``: shape, surface, recipe, rule, tokens_per_param_range, created.

    Raises:
        UserError: no checkpoint, a budget that is a goal or fixes size or tokens, and what ``plan`` raises.
    """
    budget, law = Budget.of(budget), as_predictor(predictor)
    if budget.flops is None or budget.num_params is not None or budget.tokens is not None:
        raise UserError("what is left is an amount: give flops, hours or cost, without a fixed size or fixed tokens")
    if not checkpoints:
        raise UserError("there is no checkpoint to continue")
    options |= {"fitted_range": fitted_range or FittedRange.by(law), "level": level}
    continued = (_go_on(law, budget, budget.flops, checkpoint, options) for checkpoint in checkpoints)
    alternatives, notes = [each for each in continued if each is not None], []
    try:
        alternatives.append(_new_model(law, budget, options))
    except UserError as error:  # too little is left for a new model
        if not alternatives:
            raise
        notes.append(f"a new model is out of reach: {error}")
    alternatives.sort(key=lambda each: each.plan.loss)
    losses = [each.plan.loss for each in alternatives]
    if len(alternatives) > 1 and losses[1] <= losses[0] * (1 + _SAME):
        notes.append(f"{alternatives[1].name} is as good within {_SAME:.1%} of the loss")
    if budget.tokens_available is not None:
        law = Repeated(law, budget.tokens_available)
    shares = _preferences(law, alternatives)
    ranked = tuple(replace(each, preferred=share) for each, share in zip(alternatives, shares, strict=True))
    return Continuation(budget, ranked, tuple(notes))


def _go_on(
    law: Predictor, budget: Budget, flops: float, checkpoint: Checkpoint, options: dict[str, Any]
) -> Alternative | None:
    """More tokens for a checkpoint; None if the budget pays for none."""
    size = checkpoint.num_params if checkpoint.model is None else size_of(checkpoint.model, law.counted)
    model = checkpoint.model
    tokens = flops / (
        FLOPS_PER_PARAM_TOKEN * size if model is None else budget.flops_per_token(model)
    ) - SERVED_SHARE * (budget.inference_tokens or 0.0)
    if tokens < 1:
        return None
    # The same machine and data, for a fixed size and all its tokens instead of an amount.
    whole = replace(budget, flops=None, hours=None, cost=None, num_params=size, tokens=checkpoint.tokens + tokens)
    shape = None if model is None else lambda _: model
    fixed: dict[str, Any] = options | {"shape": shape}
    planned = plan(law, whole, **fixed)
    per_token = FLOPS_PER_PARAM_TOKEN * size if model is None else budget.machine_flops_per_token(model)
    seconds = budget.seconds(tokens * per_token)
    notes = [f"continues {checkpoint.name} after {format_count(checkpoint.tokens)} tokens"]
    if checkpoint.decayed:
        notes.append(
            "its learning rate has already decayed: warm up again; the prediction does not include what that costs"
        )
    planned = replace(
        planned, budget=budget, seconds=seconds, cost=budget.money(seconds), notes=(*notes, *planned.notes)
    )
    exact = FLOPS_PER_PARAM_TOKEN * size if model is None else float(model.flops_per_token)
    return Alternative(planned, tokens * exact, seconds, checkpoint.name, checkpoint.tokens)


def _new_model(law: Predictor, budget: Budget, options: dict[str, Any]) -> Alternative:
    """The plan for the budget as if there were no checkpoint."""
    planned = plan(law, budget, **options)
    return Alternative(planned, planned.flops_exact or planned.flops, planned.seconds)


def _preferences(law: Predictor, alternatives: list[Alternative]) -> list[float | None]:
    """By what share of the refits each alternative has the lowest loss."""
    sizes, tokens = np.array([(each.plan.num_params, each.plan.tokens) for each in alternatives], float).T
    draws = mixture_draws(law.weighted_samples(sizes, tokens))
    if draws is None:
        return [None] * len(alternatives)
    shares = np.bincount(draws.argmin(axis=1), minlength=len(alternatives)) / len(draws)
    return shares.tolist()
