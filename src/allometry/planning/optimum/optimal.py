"""What a budget buys by the law: the size and tokens of the lowest loss, or the least compute for a given loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ...errors import UserError
from ...laws import Prediction
from ...laws.prediction import LossPredictor, check_level
from ...quantities import format_count, format_flops, require_positive
from ..resources.budget import Budget
from .fitted_range import FittedRange
from .goal_search import MOST_FLOPS, compute_for, compute_where
from .optimum_record import Optimum
from .predictor import FLOPS_PER_PARAM_TOKEN, Array, Predictor, as_predictor
from .repeated_data import Repeated, early_end_cautions
from .search_a_budget import SERVED_SHARE, BudgetLine, LowestPoint

DEFAULT_TOKENS_PER_PARAM = (1.0, 1000.0)
USUAL_TOKENS_PER_PARAM = 20.0  # arXiv 2203.15556; where a law has no optimum, the size follows it
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
    other. For a ``loss`` to reach: the cheapest size and tokens whose predicted loss that is. For ``num_params`` or
    ``tokens`` alone: the budget whose best size, or tokens, that is.

    Args:
        predictor: a Fit, a Forecast, or your own with ``predict(num_params, tokens, level)``, also of arrays; sizes are
            counted as it counts them.
        budget: a ``Budget``, or FLOPs.
        tokens_per_param_range: D/N to search; by default 1 to 1000 and that of ``fitted_range``.
        fitted_range: of the fitted runs, by default the predictor's own (``FittedRange.by``); a size that lies outside
            it is a caution, extrapolation beyond it a note.
        level: of the intervals.

    Raises:
        UserError: the level is no probability, the budget does not pay for one parameter and one token, the predictor
            gives no finite loss, or never the loss that is the goal, or the answer lies more than a million times
            beyond the runs.
    """
    problem = OptimumProblem.of(
        predictor, budget, tokens_per_param_range=tokens_per_param_range, fitted_range=fitted_range, level=level
    )
    return problem.solve()


@dataclass(frozen=True)
class OptimumProblem:
    """A search for the optimum: the law, the budget, and the tokens per parameter between which it searches.

    ``held``: the user holds the search to these ratios, so that its edge is an answer. ``fitted_range`` is that of the
    runs behind the law (None: not known); ``level`` is that of the intervals.
    """

    predictor: Predictor
    budget: Budget
    tokens_per_param: tuple[float, float]
    held: bool
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
        fewest, most = DEFAULT_TOKENS_PER_PARAM
        if fitted_range:
            fewest, most = min(fewest, fitted_range.tokens_per_param[0]), max(most, fitted_range.tokens_per_param[1])
        held = tokens_per_param_range is not None
        return cls(law, budget, tokens_per_param_range or (fewest, most), held, fitted_range, level)

    @property
    def served(self) -> float:
        """Tokens to be served after training."""
        return self.budget.inference_tokens or 0.0

    def ratio_without_optimum(self, *, falls_to_smaller: bool) -> float:
        """Tokens per parameter where the law's loss falls to an end of the search: the literature's, or the end of what
        was run if that lies further in the direction in which the loss falls."""
        if self.fitted_range is None:
            return USUAL_TOKENS_PER_PARAM
        fewest, most = self.fitted_range.tokens_per_param
        return max(USUAL_TOKENS_PER_PARAM, most) if falls_to_smaller else min(USUAL_TOKENS_PER_PARAM, fewest)

    def solve(self) -> Optimum:
        """The optimum; for a goal, at the least FLOPs that reach it."""
        budget = self.budget
        if budget.loss is not None:
            return self._cheapest(budget.loss)
        if budget.is_frontier:
            return self._on_the_frontier()
        return self.best(budget.flops)

    def best(self, flops: float | None) -> Optimum:
        """The optimum for so many FLOPs; None if size and tokens are fixed."""
        if not self._searches:
            return self.at(*self._fixed(flops))
        lowest = self._line(flops).lowest(self.tokens_per_param)
        has_optimum = self.held or not lowest.at_edge
        size = self._size_at(lowest)
        point = self.at(size, lowest.line.tokens(size))
        return replace(
            point,
            at_edge=lowest.at_edge,
            is_flat=lowest.is_flat and lowest.grid.size > 1,
            searched=(math.exp(lowest.grid[0]), math.exp(lowest.grid[-1])),
            basin=lowest.basin(point.loss) if has_optimum else None,
            cautions=(*self._search_cautions(lowest, point), *point.cautions),
            intervals=self._intervals(lowest, size),
        )

    def best_size(self, flops: float) -> float:
        """The best size for so many FLOPs, nearly, with nothing else worked out."""
        return self._best_place(flops, rough=True)[0]

    def at(self, num_params: float, tokens: float) -> Optimum:
        """The prediction at one size and number of tokens, in the form of an optimum without a basin.

        Raises:
            UserError: less than one parameter or token, the predictor gives no finite loss there, or it lies more than
                a million times beyond the runs.
        """
        require_positive(num_params=num_params, tokens=tokens)
        flops = FLOPS_PER_PARAM_TOKEN * num_params * tokens
        _require_whole(flops, num_params, tokens)
        covered = self.fitted_range
        cautions = covered.cautions(num_params, tokens) if covered else []
        cautions += early_end_cautions(self.predictor, tokens)
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
            notes=tuple(covered.notes(num_params, tokens)) if covered else (),
            cautions=tuple(cautions),
            inference_flops=SERVED_SHARE * FLOPS_PER_PARAM_TOKEN * num_params * self.served,
        )

    def place_cautions(self, point: Optimum, at_edge: bool) -> list[str]:
        """Whether a size that was searched lies where runs were, or where the law alone puts it; and what would show.

        Args:
            point: the size that was chosen.
            at_edge: whether the law has no optimum in what was searched.
        """
        ratio, (fewest, most) = point.tokens_per_param, self.tokens_per_param
        if at_edge and self.held:
            return [
                f"no optimum inside the range searched ({fewest:.3g} to {most:.3g} tokens per parameter): the loss "
                f"still falls at its edge, and {ratio:.3g} was taken only because the range ends there"
            ]
        settled = self._settled_by(ratio)
        if at_edge:
            return [
                f"the law has no best size from {fewest:.3g} to {most:.3g} tokens per parameter: its loss still falls "
                f"at the end; the size follows {ratio:.3g} tokens per parameter, not the law{settled}"
            ]
        if self.fitted_range is None or not self.fitted_range.outside(ratio):
            return []
        low, high = self.fitted_range.tokens_per_param
        return [
            f"the best size lies outside what was run: the law puts it at {ratio:.3g} tokens per parameter, the runs "
            f"have {low:.3g} to {high:.3g}{settled}"
        ]

    def _settled_by(self, ratio: float) -> str:
        """The runs that would show where the best size lies, in words that end a sentence."""
        if self.fitted_range is None:
            return ""
        runs = self.fitted_range.settling_runs(ratio)
        words = [f"{format_count(size)} parameters on {format_count(tokens)} tokens" for size, tokens in runs]
        flops = format_flops(self.fitted_range.flops[1])
        return f"; these runs, of {flops} FLOPs each, would settle it: {', '.join(words)}"

    def _cheapest(self, goal: float) -> Optimum:
        """The optimum at the least FLOPs whose predicted loss is the goal."""
        flops = compute_for(lambda flops: float(self._rough(flops).value), goal, self._start())
        if flops is None:
            least = float(self._rough(MOST_FLOPS).value)
            raise UserError(f"no compute reaches a loss of {goal:g}: by this law it never falls below {least:.4g}")
        return replace(self.best(flops), intervals=self._goal_intervals(goal, flops))

    def _on_the_frontier(self) -> Optimum:
        """The optimum of the budget whose best size, or whose best number of tokens, is the one that is fixed.

        Raises:
            UserError: no budget has it as its best.
        """
        size, tokens = self.budget.num_params, self.budget.tokens
        free = replace(self, budget=replace(self.budget, num_params=None, tokens=None, flops=self._start()))

        def excess(flops: float) -> float:
            one, ahead = free._best_place(flops, rough=True)
            return math.log(one / size) if size is not None else math.log(ahead / float(tokens or 0.0))

        flops = compute_where(excess, self._start())
        if flops is None:
            word = f"{format_count(size)} parameters" if size is not None else f"{format_count(tokens or 0)} tokens"
            raise UserError(f"by this law no budget has {word} as its best choice: give the FLOPs, hours or cost too")
        best = free.best(flops)
        if not best.intervals:
            return best
        # The best ratio hardly changes along the frontier, so its interval is that of the size at fixed tokens.
        (small, large), (few, many) = best.intervals["num_params"], best.intervals["tokens"]
        if large is None or many is None:
            return replace(best, intervals={})
        if size is None:
            given = best.tokens
            return replace(best, intervals={"num_params": (given * small / many, given * large / few)})
        return replace(best, intervals={"tokens": (best.num_params * few / large, best.num_params * many / small)})

    def _best_place(self, flops: float, *, rough: bool) -> tuple[float, float]:
        """The best size and tokens for so many FLOPs."""
        line = self._line(flops)
        ratios = self.tokens_per_param
        lowest = line.lowest(ratios, _ROUGH_POINTS, _ROUGH_PRECISION) if rough else line.lowest(ratios)
        size = self._size_at(lowest)
        return size, float(line.tokens(size))

    def _start(self) -> float:
        """FLOPs from which a search for a goal sets out."""
        return self.fitted_range.flops[1] if self.fitted_range else 1e18

    def _size_at(self, lowest: LowestPoint) -> float:
        """The best size; where the law has none, that of the literature or of the runs."""
        if self.held or not lowest.at_edge:
            return lowest.num_params
        ratio = self.ratio_without_optimum(falls_to_smaller=lowest.falls_to_smaller)
        low, high = lowest.line.span(self.tokens_per_param)
        return min(max(lowest.line.at_ratio(ratio), low), high)

    def _goal_intervals(self, goal: float, flops: float) -> dict[str, tuple[float, float | None]]:
        """Of the FLOPs that reach the goal, and of size and tokens; empty if no end passes the goal."""
        # Where the interval's lower end passes the goal, that loss is barely possible; where the upper does, assured.
        try:
            early = compute_for(lambda flops: float(self._rough(flops).low), goal, flops)
            late = compute_for(lambda flops: float(self._rough(flops).high), goal, flops)
        except UserError:  # so far below the runs that an end never passes the goal
            return {}
        if early is None:
            return {}
        least = self._place(early, rough=False)
        if late is None:
            return {"flops": (early, None)}
        most = self._place(late, rough=False)
        intervals: dict[str, tuple[float, float | None]] = {"flops": (early, late)}
        if self.budget.num_params is None:
            intervals["num_params"] = _ascending(least[0], most[0])
        if self.budget.tokens is None:
            intervals["tokens"] = _ascending(least[1], most[1])
        return intervals

    @property
    def _searches(self) -> bool:
        return self.budget.num_params is None and self.budget.tokens is None

    def _line(self, flops: float | None) -> BudgetLine:
        assert flops is not None  # a Budget has FLOPs unless it is a goal
        return BudgetLine(self.predictor, flops, self.served, self.level)

    def _place(self, flops: float, *, rough: bool) -> tuple[float, float]:
        """Size and tokens for so many FLOPs, the best where neither is fixed."""
        return self._best_place(flops, rough=rough) if self._searches else self._fixed(flops)

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
        size, tokens = self._place(flops, rough=True)
        return self.predictor.predict(float(size), float(tokens), level=self.level)

    def _intervals(self, lowest: LowestPoint, size: float) -> dict[str, tuple[float, float | None]]:
        """Where the draws of the mixture put the size and the tokens; the size chosen is always inside."""
        sizes = lowest.interval(self.level)
        if sizes is None:
            return {}
        low, high = min(sizes[0], size), max(sizes[1], size)
        return {"num_params": (low, high), "tokens": (lowest.line.tokens(high), lowest.line.tokens(low))}

    def _search_cautions(self, lowest: LowestPoint, point: Optimum) -> list[str]:
        if lowest.grid.size == 1:
            return []
        if lowest.is_flat:
            return ["the law gives every split of the budget the same loss: the middle of the range was taken"]
        return self.place_cautions(point, lowest.at_edge)


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
