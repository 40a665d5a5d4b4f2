"""What a budget buys by the law: the size and tokens of the lowest loss, or the least compute for a loss asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ...errors import UserError
from ...quantities import require_positive
from ..resources.budget import Budget
from .fitted_range import FittedRange
from .predictor import FLOPS_PER_PARAM_TOKEN, Prediction, Predictor
from .repeated_data import Repeated
from .search_a_budget import SERVED_SHARE, Basin, BudgetLine, LowestPoint, lowest

DEFAULT_TOKENS_PER_PARAM = (1.0, 1000.0)
_MOST_FLOPS = 1e45
# While the compute for a loss is sought, the best size need not be known as well as at the end.
_ROUGH = {"points": 81, "precision": 1e-5}


@dataclass(frozen=True)
class Optimum:
    """The size and tokens with the lowest predicted loss for a budget.

    ``flops`` is what training takes, 6·N·D; ``inference_flops`` what serving takes afterwards, 2·N a token.
    ``intervals`` holds, at ``level``, where other refits of the law would put "num_params" and "tokens", and for a loss
    to reach the "flops" between which it will be (None: not assured at any). ``searched`` is the range of sizes looked
    at; ``at_edge`` is True where the best size is the end of it, so that it is no optimum of the law. ``basin`` and
    ``searched`` are None where size or tokens were fixed.
    """

    num_params: float
    tokens: float
    flops: float
    loss: float
    low: float | None
    high: float | None
    level: float
    at_edge: bool = False
    searched: tuple[float, float] | None = None
    basin: Basin | None = None
    notes: tuple[str, ...] = ()
    inference_flops: float = 0.0
    intervals: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)

    @property
    def tokens_per_param(self) -> float:
        """D/N."""
        return self.tokens / self.num_params

    def to_json(self) -> dict:
        """A plain dictionary, as JSON gives it back."""
        return _lists(asdict(self))

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Optimum:
        """The optimum that ``to_json`` wrote."""
        record = dict(record)
        if record.get("basin") is not None:
            record["basin"] = Basin(**_tuples(record["basin"]))
        record["intervals"] = _tuples(record.get("intervals") or {})
        return cls(**_tuples(record) | {"notes": tuple(record.get("notes", ()))})


def optimal(
    predictor: Predictor,
    budget: Budget | float,
    *,
    tokens_per_param_range: tuple[float, float] | None = None,
    fitted_range: FittedRange | None = None,
    level: float = 0.9,
) -> Optimum:
    """The size and tokens that minimise the predicted loss for a budget, training FLOPs counted as 6·N·D.

    With ``budget.inference_tokens`` T the budget pays 6·N·D + 2·N·T (arXiv 2401.00448); with ``tokens_available``
    repeated tokens count as ``Repeated`` says; with ``num_params`` or ``tokens`` the rest is spent on the other. For a
    ``loss`` to reach: the cheapest size and tokens whose predicted loss that is.

    Args:
        predictor: has ``predict(num_params, tokens, level)``, with arrays too; its counts are this function's counts.
        budget: a ``Budget``, or FLOPs.
        tokens_per_param_range: D/N to search; by default that of ``fitted_range``, else 1 to 1000.
        fitted_range: what the fitted runs covered, by default what the predictor says of itself (``FittedRange.by``);
            extrapolation beyond it is noted.
        level: of the intervals.

    Raises:
        UserError: the level is no probability, the budget does not pay for one parameter and one token, the predictor
            gives no finite loss, or never the loss asked for.
    """
    budget = Budget.of(budget)
    if not 0 < level < 1:
        raise UserError(f"level is a probability between 0 and 1, such as 0.9, not {level!r}")
    if budget.tokens_available is not None and not isinstance(predictor, Repeated):
        predictor = Repeated(predictor, budget.tokens_available)
    fitted_range = fitted_range or FittedRange.by(predictor)
    ratios = tokens_per_param_range or (fitted_range.tokens_per_param if fitted_range else DEFAULT_TOKENS_PER_PARAM)
    ask = _Question(predictor, budget, ratios, fitted_range, level)
    return ask.cheapest() if budget.loss is not None else ask.best(budget.flops)


def optimum_at(
    predictor: Predictor,
    num_params: float,
    tokens: float,
    *,
    served: float = 0.0,
    fitted_range: FittedRange | None = None,
    level: float = 0.9,
) -> Optimum:
    """The prediction at one size and number of tokens, in the form of an optimum without a basin.

    Raises:
        UserError: less than one parameter or token, or the predictor gives no finite loss there.
    """
    require_positive(num_params=num_params, tokens=tokens)
    flops = FLOPS_PER_PARAM_TOKEN * num_params * tokens
    _require_whole(flops, num_params, tokens)
    prediction = predictor.predict(float(num_params), float(tokens), level=level)
    loss = _finite(prediction.value)
    if loss is None:
        raise UserError(f"the law gives no finite loss at {num_params:g} parameters and {tokens:g} tokens")
    notes = tuple(fitted_range.notes(num_params, tokens)) if fitted_range else ()
    low, high = _finite(prediction.low), _finite(prediction.high)
    cost = SERVED_SHARE * FLOPS_PER_PARAM_TOKEN * num_params * served
    return Optimum(float(num_params), float(tokens), flops, loss, low, high, level, notes=notes, inference_flops=cost)


@dataclass(frozen=True)
class _Question:
    """Everything about an optimum but the FLOPs, so that it can be asked for many budgets."""

    predictor: Predictor
    budget: Budget
    ratios: tuple[float, float]
    fitted_range: FittedRange | None
    level: float

    @property
    def served(self) -> float:
        return self.budget.inference_tokens or 0.0

    def best(self, flops: float | None) -> Optimum:
        """The optimum for so many FLOPs; None where size and tokens are fixed."""
        if not self._searches:
            return self._at(*self._fixed(flops))
        found = lowest(self._line(flops), self.ratios)
        size = found.num_params
        point = self._at(size, found.line.tokens(size))
        return replace(
            point,
            at_edge=found.at_edge,
            searched=(math.exp(found.grid[0]), math.exp(found.grid[-1])),
            basin=found.basin(point.loss),
            notes=(*self._search_notes(found, point), *point.notes),
            intervals=self._intervals(found),
        )

    def cheapest(self) -> Optimum:
        """The optimum at the least FLOPs whose predicted loss is the one asked for."""
        goal, start = self.budget.loss, self.fitted_range.flops[1] if self.fitted_range else 1e18
        flops = self._compute_for("value", start)
        if flops is None:
            least = float(self._rough(_MOST_FLOPS).value)
            raise UserError(f"no compute reaches a loss of {goal:g}: by this law it never falls below {least:.4g}")
        # Where the interval's lower end passes the goal, that loss is barely possible; where the upper does, sure.
        early, late = (self._compute_for(end, flops) for end in ("low", "high"))
        least, most = (None if each is None else self.best(each) for each in (early, late))
        intervals = {"flops": (least.flops, most.flops if most else None)} if least else {}
        if least and most:
            for name in ("num_params", "tokens"):
                if getattr(self.budget, name) is None:
                    intervals[name] = tuple(sorted((getattr(least, name), getattr(most, name))))
        return replace(self.best(flops), intervals=intervals)

    def _compute_for(self, end: str, start: float) -> float | None:
        """The FLOPs at which the predicted loss, or an end of its interval, is the goal."""
        return _crossing_of(lambda flops: float(getattr(self._rough(flops), end)), self.budget.loss, start)

    @property
    def _searches(self) -> bool:
        return self.budget.num_params is None and self.budget.tokens is None

    def _line(self, flops: float) -> BudgetLine:
        return BudgetLine(self.predictor, flops, self.served, self.level)

    def _at(self, num_params: float, tokens: float) -> Optimum:
        return optimum_at(
            self.predictor, num_params, tokens, served=self.served, fitted_range=self.fitted_range, level=self.level
        )

    def _fixed(self, flops: float | None) -> tuple[float, float]:
        """Size and tokens where at least one of them is given."""
        size, tokens = self.budget.num_params, self.budget.tokens
        if tokens is None:
            tokens = self._line(flops).tokens(size)
            if tokens <= 0:
                raise UserError(
                    f"serving {self.served:g} tokens with {size:g} parameters takes more than {flops:.3g} FLOPs and "
                    "leaves none to train with: give a larger budget, a smaller model or fewer tokens to serve"
                )
            _require_whole(flops, size, tokens)
        elif size is None:
            size = self._line(flops).num_params(tokens)
            _require_whole(flops, size, tokens)
        return size, tokens

    def _rough(self, flops: float) -> Prediction:
        """The prediction at about the best size for so many FLOPs."""
        if self._searches:
            line = self._line(flops)
            size = lowest(line, self.ratios, **_ROUGH).num_params
            return self.predictor.predict(size, float(line.tokens(size)), level=self.level)
        return self.predictor.predict(*map(float, self._fixed(flops)), level=self.level)

    def _intervals(self, found: LowestPoint) -> dict[str, tuple[float, float]]:
        sizes = found.interval(self.level)
        if sizes is None:
            return {}
        few, many = (float(found.line.tokens(size)) for size in reversed(sizes))
        return {"num_params": sizes, "tokens": (few, many)}

    def _search_notes(self, found: LowestPoint, point: Optimum) -> list[str]:
        fewest, most = self.ratios
        if found.is_flat and found.grid.size > 1:
            return ["the law gives every split of the budget the same loss: the middle of the range was taken"]
        if not found.at_edge or found.grid.size == 1:
            return []
        return [
            f"no optimum inside the range searched ({fewest:.3g} to {most:.3g} tokens per parameter): the loss "
            f"still falls at its edge, and {point.tokens_per_param:.3g} was taken only because the range ends there"
        ]


def _crossing_of(curve: Callable[[float], float], goal: float, start: float) -> float | None:
    """The FLOPs at which a falling ``curve`` passes ``goal``; None where it does not before 1e45.

    Brackets by factors of ten from ``start``, then false position in the logarithms (the Illinois variant).

    Raises:
        UserError: the curve is below the goal down to the smallest budget.
    """
    excess = lambda log_flops: math.log(curve(math.exp(log_flops)) / goal)
    here, value = _first(excess, math.log(start))
    step = math.copysign(math.log(10.0), value)
    while abs(step) > 1e-9:
        there = here + step
        if there > math.log(_MOST_FLOPS):
            return None
        try:
            ahead = excess(there)
        except UserError:  # too small a budget: it must pay for a token, and for serving
            step /= 2
            continue
        if not value * ahead > 0:
            return math.exp(_root(excess, (here, value), (there, ahead)))
        here, value = there, ahead
    raise UserError(f"a loss of {goal:g} is above what the law gives even for the smallest run")


def _first(excess: Callable[[float], float], here: float) -> tuple[float, float]:
    """The first point from ``here`` on, in steps of ten, whose budget pays for a token and for serving."""
    while True:
        try:
            return here, excess(here)
        except UserError:
            here += math.log(10.0)
            if here > math.log(_MOST_FLOPS):
                raise


def _root(function: Callable[[float], float], start: tuple[float, float], end: tuple[float, float]) -> float:
    """A root between two points (x, value) of opposite signs."""
    (x, y), (a, b) = start, end
    for _ in range(100):
        if abs(b) < 1e-13 or abs(a - x) < 1e-12:
            break
        middle = a - b * (a - x) / (b - y)
        value = function(middle)
        # The end that stays is trusted half as much, so that both ends move.
        (x, y) = (a, b) if value * b < 0 else (x, y / 2)
        a, b = middle, value
    return a


def _require_whole(flops: float, num_params: float, tokens: float) -> None:
    slack = 1 - 1e-9
    if num_params < slack or tokens < slack:
        raise UserError(
            f"{flops:g} FLOPs are {num_params:.3g} parameters and {tokens:.3g} tokens here, less than one: "
            "give a larger budget"
        )


def _finite(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _lists(value: Any) -> Any:
    """Tuples become the lists that JSON makes of them."""
    if isinstance(value, Mapping):
        return {name: _lists(each) for name, each in value.items()}
    return [_lists(each) for each in value] if isinstance(value, tuple) else value


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    """Lists become the tuples that they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
