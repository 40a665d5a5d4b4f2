"""Plans for mixtures of experts: how many active parameters, how many experts, how many tokens for a budget.

A law of experts predicts the loss from the active parameters, the tokens and the experts. For each number of experts
the budget buys a line of active sizes and tokens, as for a dense model, since only active parameters take FLOPs; all of
them take memory. With E times as many experts as a token uses, the feed-forward layers, two thirds of a block, are E
times as large (arXiv 2202.01169), so of N active parameters there are N·(1 + 2·E)/3 in all.

>>> planning.plan_experts(law, planning.Budget(flops=1e23, device="h100", num_devices=256)).summary()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from ..errors import UserError
from ..laws import Fit, Forecast, Prediction
from ..laws.any_inputs.input_forecast import InputForecast
from ..quantities import format_bytes, format_count, format_flops, plural, require_positive
from ..text_table import table
from .optimum.fitted_range import FittedRange
from .optimum.optimal import OptimumProblem
from .resources.budget import Budget
from .resources.memory import BYTES_PER_PARAM, USABLE

Array = np.ndarray
EXPERTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FEED_FORWARD = 2 / 3  # of the parameters of a block
NO_EXPERTS = "no number of experts to choose from: give experts=[1, 8, 64]"


class ExpertsLaw(Protocol):
    """A law of your own of active parameters, tokens and experts."""

    def predict(
        self, num_params: float | Array, tokens: float | Array, level: float = 0.9, *, num_experts: float = 1.0
    ) -> Prediction: ...


@dataclass(frozen=True)
class ExpertsChoice:
    """One number of experts with its best active size and tokens, their FLOPs (6·active·tokens), and the loss.

    ``total`` counts all experts; ``states`` are the bytes of weights and optimiser on each device (None: no machine),
    ``fits`` says whether they leave room in its memory.
    """

    num_experts: int
    active: float
    total: float
    tokens: float
    flops: float
    loss: float
    low: float | None
    high: float | None
    states: float | None
    fits: bool | None
    cautions: tuple[str, ...]


@dataclass(frozen=True)
class ExpertsPlan:
    """The numbers of experts side by side, first of those that fit: the lowest predicted loss or, where the budget is a
    loss to reach, the fewest FLOPs; ``notes`` say which were left out."""

    budget: Budget
    choices: tuple[ExpertsChoice, ...]
    level: float
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> ExpertsChoice:
        """The best choice that fits."""
        return self.choices[0]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for ``json.dumps``."""
        choices = [asdict(each) | {"cautions": list(each.cautions)} for each in self.choices]
        return {"kind": "experts_plan", "budget": self.budget.to_json(), "level": self.level, "choices": choices} | {
            "notes": list(self.notes)
        }

    def summary(self) -> str:
        """The choices as a table, for people."""
        rows = [("budget", self.budget.describe(), "")]
        for each in self.choices:
            sizes = f"{format_count(each.active)} active of {format_count(each.total)}"
            what = f"{sizes}, {format_count(each.tokens)} tokens"
            if self.budget.flops is None:
                what += f", {format_flops(each.flops)} FLOPs"
            loss = f"loss {each.loss:.4g}"
            if each.low is not None and each.high is not None:
                loss += f" [{each.low:.4g}, {each.high:.4g}]"
            if each.states is not None:
                loss += f", states {format_bytes(each.states)} a device"
            if each.fits is False:
                loss += ": too much"
            rows.append((f"{each.num_experts} experts" if each.num_experts > 1 else "dense", what, loss))
        cautions = (f"caution: {caution}" for caution in self.best.cautions)
        return "\n".join([*cautions, *table(rows), *(f"note: {text}" for text in self.notes)])


def plan_experts(
    law: ExpertsLaw | InputForecast,
    budget: Budget | float,
    *,
    experts: Sequence[int] = EXPERTS,
    columns: Mapping[str, str] | None = None,
    level: float = 0.9,
) -> ExpertsPlan:
    """Active parameters, tokens and number of experts with the lowest predicted loss for a budget.

    Args:
        law: a forecast of any inputs, or your own ``ExpertsLaw``.
        budget: FLOPs, or a ``Budget``: 6·active·tokens. With a machine, experts whose weights and optimiser states do
            not fit on its devices are ranked last. For a loss to reach, the fewest FLOPs come first; a size or tokens
            alone are no budget on which numbers of experts could be compared.
        experts: how many times as many experts as a token uses; those outside a forecast's runs are left out.
        columns: of a forecast: what its columns are called, "num_params" (active), "tokens", "num_experts" → column.
        level: of the intervals.

    Raises:
        UserError: a law that reads no number of experts, a forecast that lacks one of the three columns, no number of
            experts is left, and what ``optimal`` raises.
    """
    budget = Budget.of(budget)
    require_positive(**{f"experts_{index}": each for index, each in enumerate(experts)})
    if isinstance(law, Fit | Forecast) or not hasattr(law, "predict"):
        raise UserError(
            "the law does not read a number of experts: give a forecast of active parameters, tokens and experts "
            "(laws.Observations.read(…, inputs=[…])), or a law of your own with predict(…, num_experts=…)"
        )
    names = {name: (columns or {}).get(name, name) for name in ("num_params", "tokens", "num_experts")}
    if isinstance(law, InputForecast):
        experts = _covered(law, names, experts)
    if budget.is_frontier:
        raise UserError(
            "a size or tokens alone give every number of experts another compute: give FLOPs, hours, money or a loss "
            "too"
        )
    choices, notes = [], []
    for each in experts:
        try:
            choices.append(_choice(_AtExperts(law, each, names), budget, each, level))
        except UserError as error:  # with so many experts no compute reaches the loss
            notes.append(f"{plural(each, 'expert')}: {error}")
    if not choices:
        raise UserError(notes[0].partition(": ")[2] if notes else NO_EXPERTS)
    reaches = budget.loss is not None
    choices.sort(key=lambda each: (each.fits is False, each.flops if reaches else each.loss))
    return ExpertsPlan(budget, tuple(choices), level, tuple(notes))


def total_params(active: float, experts: float) -> float:
    """All parameters where the feed-forward layers have so many times as many experts as a token uses."""
    return active * (1 - FEED_FORWARD + FEED_FORWARD * experts)


@dataclass(frozen=True)
class _AtExperts:
    """A law of experts at one number of them, as a law of size and tokens."""

    law: ExpertsLaw | InputForecast
    num_experts: float
    names: Mapping[str, str]

    def predict(self, num_params: float | Array, tokens: float | Array, level: float = 0.9) -> Prediction:
        law = self.law
        if not isinstance(law, InputForecast):
            return law.predict(num_params, tokens, level, num_experts=self.num_experts)
        n, d = np.broadcast_arrays(np.asarray(num_params, float), np.asarray(tokens, float))
        frame = {self.names["num_params"]: n.ravel(), self.names["tokens"]: d.ravel()}
        frame[self.names["num_experts"]] = np.full(n.size, self.num_experts)
        predicted = law.predict(frame, level=level)
        value, low, high = (
            np.asarray(each).reshape(n.shape) for each in (predicted.value, predicted.low, predicted.high)
        )
        if not n.ndim:
            return Prediction(float(value), float(low), float(high), level)
        return Prediction(value, low, high, level)


def _covered(law: InputForecast, names: Mapping[str, str], experts: Sequence[int]) -> list[int]:
    """The numbers of experts between those of the runs.

    Raises:
        UserError: a column is missing, or no number is left.
    """
    missing = [column for column in names.values() if column not in law.inputs]
    if missing:
        raise UserError(
            f"the forecast does not read {', '.join(missing)}; it reads {', '.join(law.inputs)}: name the columns of "
            "active parameters, tokens and experts by columns="
        )
    runs = law.runs.points[:, law.inputs.index(names["num_experts"])]
    kept = [each for each in experts if runs.min() <= each <= runs.max()]
    if not kept:
        raise UserError(f"the runs have {runs.min():g} to {runs.max():g} experts: give numbers between them")
    return kept


def _choice(law: _AtExperts, budget: Budget, experts: int, level: float) -> ExpertsChoice:
    covered = None
    if isinstance(law.law, InputForecast):
        columns = [law.law.inputs.index(law.names[name]) for name in ("num_params", "tokens")]
        covered = FittedRange.of(*(law.law.runs.points[:, column].tolist() for column in columns))
    best = OptimumProblem.of(law, budget, fitted_range=covered, level=level).solve()
    total = total_params(best.num_params, experts)
    states = BYTES_PER_PARAM * total / (budget.num_devices or 1) if budget.device else None
    limit = budget.memory_per_device
    fits = None if states is None or limit is None else states <= USABLE * limit
    return ExpertsChoice(
        experts,
        best.num_params,
        total,
        best.tokens,
        6 * best.num_params * best.tokens,
        best.loss,
        best.low,
        best.high,
        states,
        fits,
        best.cautions,
    )
