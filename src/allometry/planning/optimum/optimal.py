"""What a budget buys by the law: the size and tokens of the lowest loss, or the least compute for a given loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ...errors import UserError
from ...laws import Prediction
from ...laws.prediction import LossPredictor, check_level
from ...quantities import require_positive
from ..resources.budget import Budget
from .fitted_range import FittedRange
from .goal_search import MOST_FLOPS, compute_for
from .optimum_record import Optimum
from .predictor import FLOPS_PER_PARAM_TOKEN, Array, Predictor, as_predictor
from .repeated_data import Repeated
from .search_a_budget import SERVED_SHARE, BudgetLine, LowestPoint

DEFAULT_TOKENS_PER_PARAM = (1.0, 1000.0)
# While the compute for a loss is searched, the best size need not be known as well as at the end.
_ROUGH_POINTS, _ROUGH_PRECISION = 81, 1e-5


def optimal(
    predictor: LossPredictor,
    budget: Budget | float,
    *,
    tokens_per_param_range: tuple[float, float] | None = None,
    fitted_range: FittedRange | None = None,
    level: float = 0.9,
) -> Optimum:
    """The size and tokens that minimise the predicted loss for a budget, training FLOPs counted as 6·N·D.

    With ``budget.inference_tokens`` T the budget pays 6·N·D + 2·N·T (arXiv 2401.00448); with ``tokens_available``
    repeated tokens are worth what ``Repeated`` predicts; with ``num_params`` or ``tokens`` the rest is spent on the
    other. For a ``loss`` to reach: the cheapest size and tokens whose predicted loss that is.

    Args:
        predictor: a Fit, a Forecast, or your own with ``predict(num_params, tokens, level)``, also of arrays; sizes are
            counted as it counts them.
        budget: a ``Budget``, or FLOPs.
        tokens_per_param_range: D/N to search; by default that of ``fitted_range``, else 1 to 1000.
        fitted_range: of the fitted runs, by default the predictor's own (``FittedRange.by``); extrapolation beyond it
            is noted.
        level: of the intervals.

    Raises:
        UserError: the level is no probability, the budget does not pay for one parameter and one token, the predictor
            gives no finite loss, or never the loss that is the goal.
    """
    problem = OptimumProblem.of(
        predictor, budget, tokens_per_param_range=tokens_per_param_range, fitted_range=fitted_range, level=level
    )
    return problem.solve()


@dataclass(frozen=True)
class OptimumProblem:
    """A search for the optimum: the law, the budget, and the tokens per parameter between which it searches.

    ``fitted_range`` is that of the runs behind the law (None: not known); ``level`` is that of the intervals.
    """

    predictor: Predictor
    budget: Budget
    tokens_per_param: tuple[float, float]
    fitted_range: FittedRange | None
    level: float

    @classmethod
    def of(
        cls,
        predictor: LossPredictor,
        budget: Budget | float,
        *,
        tokens_per_param_range: tuple[float, float] | None = None,
        fitted_range: FittedRange | None = None,
        level: float = 0.9,
    ) -> OptimumProblem:
        """The problem with the defaults of ``optimal`` filled in.

        Raises:
            UserError: the budget or the level is invalid.
        """
        budget, law = Budget.of(budget), as_predictor(predictor)
        check_level(level)
        if budget.tokens_available is not None and not isinstance(law, Repeated):
            law = Repeated(law, budget.tokens_available)
        fitted_range = fitted_range or FittedRange.by(law)
        ratios = fitted_range.tokens_per_param if fitted_range else DEFAULT_TOKENS_PER_PARAM
        return cls(law, budget, tokens_per_param_range or ratios, fitted_range, level)

    @property
    def served(self) -> float:
        """Tokens to be served after training."""
        return self.budget.inference_tokens or 0.0

    def solve(self) -> Optimum:
        """The optimum; for a loss to reach, at the least FLOPs whose predicted loss that is."""
        return self.best(self.budget.flops) if self.budget.loss is None else self._cheapest(self.budget.loss)

    def best(self, flops: float | None) -> Optimum:
        """The optimum for so many FLOPs; None if size and tokens are fixed."""
        if not self._searches:
            return self.at(*self._fixed(flops))
        lowest = self._line(flops).lowest(self.tokens_per_param)
        size = lowest.num_params
        point = self.at(size, lowest.line.tokens(size))
        return replace(
            point,
            at_edge=lowest.at_edge,
            searched=(math.exp(lowest.grid[0]), math.exp(lowest.grid[-1])),
            basin=lowest.basin(point.loss),
            notes=(*self._search_notes(lowest, point), *point.notes),
            intervals=self._intervals(lowest),
        )

    def at(self, num_params: float, tokens: float) -> Optimum:
        """The prediction at one size and number of tokens, in the form of an optimum without a basin.

        Raises:
            UserError: less than one parameter or token, or the predictor gives no finite loss there.
        """
        require_positive(num_params=num_params, tokens=tokens)
        flops = FLOPS_PER_PARAM_TOKEN * num_params * tokens
        _require_whole(flops, num_params, tokens)
        prediction = self.predictor.predict(float(num_params), float(tokens), level=self.level)
        loss = _finite(prediction.value)
        if loss is None:
            raise UserError(f"the law gives no finite loss at {num_params:g} parameters and {tokens:g} tokens")
        return Optimum(
            float(num_params),
            float(tokens),
            flops,
            loss,
            _finite(prediction.low),
            _finite(prediction.high),
            self.level,
            notes=tuple(self.fitted_range.notes(num_params, tokens)) if self.fitted_range else (),
            inference_flops=SERVED_SHARE * FLOPS_PER_PARAM_TOKEN * num_params * self.served,
        )

    def _cheapest(self, goal: float) -> Optimum:
        """The optimum at the least FLOPs whose predicted loss is the goal."""
        start = self.fitted_range.flops[1] if self.fitted_range else 1e18
        flops = compute_for(lambda flops: float(self._rough(flops).value), goal, start)
        if flops is None:
            least = float(self._rough(MOST_FLOPS).value)
            raise UserError(f"no compute reaches a loss of {goal:g}: by this law it never falls below {least:.4g}")
        return replace(self.best(flops), intervals=self._goal_intervals(goal, flops))

    def _goal_intervals(self, goal: float, flops: float) -> dict[str, tuple[float, float | None]]:
        """Of the FLOPs that reach the goal, and of size and tokens; empty if no FLOPs make it possible."""
        # Where the interval's lower end passes the goal, that loss is barely possible; where the upper does, assured.
        early = compute_for(lambda flops: float(self._rough(flops).low), goal, flops)
        late = compute_for(lambda flops: float(self._rough(flops).high), goal, flops)
        if early is None:
            return {}
        least = self.best(early)
        if late is None:
            return {"flops": (least.flops, None)}
        most = self.best(late)
        intervals: dict[str, tuple[float, float | None]] = {"flops": (least.flops, most.flops)}
        if self.budget.num_params is None:
            intervals["num_params"] = _ascending(least.num_params, most.num_params)
        if self.budget.tokens is None:
            intervals["tokens"] = _ascending(least.tokens, most.tokens)
        return intervals

    @property
    def _searches(self) -> bool:
        return self.budget.num_params is None and self.budget.tokens is None

    def _line(self, flops: float | None) -> BudgetLine:
        assert flops is not None  # a Budget has FLOPs unless it has a loss to reach, or both size and tokens
        return BudgetLine(self.predictor, flops, self.served, self.level)

    def _fixed(self, flops: float | None) -> tuple[float, float]:
        """Size and tokens, at least one of which the budget fixes; the FLOPs give the other."""
        size, tokens = self.budget.num_params, self.budget.tokens
        if size is not None and tokens is not None:
            return size, tokens
        line = self._line(flops)
        if size is None:
            assert tokens is not None
            size = line.num_params(tokens)
        else:
            tokens = line.tokens(size)
            if tokens <= 0:
                raise UserError(
                    f"serving {self.served:g} tokens with {size:g} parameters takes more than {line.flops:.3g} FLOPs "
                    "and leaves none to train with: give a larger budget, a smaller model or fewer tokens to serve"
                )
        _require_whole(line.flops, size, tokens)
        return size, tokens

    def _rough(self, flops: float) -> Prediction:
        """The prediction at about the best size for so many FLOPs."""
        if self._searches:
            line = self._line(flops)
            size = line.lowest(self.tokens_per_param, _ROUGH_POINTS, _ROUGH_PRECISION).num_params
            return self.predictor.predict(size, float(line.tokens(size)), level=self.level)
        size, tokens = self._fixed(flops)
        return self.predictor.predict(float(size), float(tokens), level=self.level)

    def _intervals(self, lowest: LowestPoint) -> dict[str, tuple[float, float | None]]:
        """Where the refits of the law put the size and the tokens."""
        sizes = lowest.interval(self.level)
        if sizes is None:
            return {}
        few, many = (lowest.line.tokens(size) for size in reversed(sizes))
        return {"num_params": sizes, "tokens": (few, many)}

    def _search_notes(self, lowest: LowestPoint, point: Optimum) -> list[str]:
        fewest, most = self.tokens_per_param
        if lowest.is_flat and lowest.grid.size > 1:
            return ["the law gives every split of the budget the same loss: the middle of the range was taken"]
        if not lowest.at_edge or lowest.grid.size == 1:
            return []
        return [
            f"no optimum inside the range searched ({fewest:.3g} to {most:.3g} tokens per parameter): the loss still "
            f"falls at its edge, and {point.tokens_per_param:.3g} was taken only because the range ends there"
        ]


def _require_whole(flops: float, num_params: float, tokens: float) -> None:
    slack = 1 - 1e-9
    if num_params < slack or tokens < slack:
        raise UserError(
            f"{flops:g} FLOPs are {num_params:.3g} parameters and {tokens:.3g} tokens here, less than one: "
            "give a larger budget"
        )


def _ascending(one: float, other: float) -> tuple[float, float]:
    return (one, other) if one <= other else (other, one)


def _finite(value: float | Array) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
