"""Choose the model shape nearest to the law's optimum that the budget and the time allow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..errors import UserError
from ..quantities import format_count, format_flops, format_seconds, require_positive
from .optimum.optimal import OptimumProblem
from .optimum.optimum_record import Basin, Optimum
from .optimum.search_a_budget import SERVED_SHARE, basin_of
from .resources.shapes import Shape, size_of

_FAR_FROM_OPTIMUM = 1.5
_SHAPES = 400  # sizes tried between the ends of the range searched
_ROUNDS, _NEAR = 12, 0.01  # until a shape meets a size in another count than its own
_BELOW = 8.0  # with fixed tokens: how far below the law's size to search for one whose exact FLOPs the budget pays


@dataclass(frozen=True)
class RealModel:
    """The shape that was chosen, the prediction there, how flat the loss is over the shapes, and notes."""

    shape: Shape
    point: Optimum
    basin: Basin | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _ShapeCurve:
    """The predicted losses of real shapes, ordered by size, each with the tokens that the budget buys for it."""

    log_sizes: np.ndarray
    losses: np.ndarray

    @property
    def lowest(self) -> int:
        return int(np.nanargmin(self.losses))

    def basin(self, loss: float) -> Basin:
        """The valley of the shapes around the lowest; half and twice its size by interpolation."""
        best = float(self.log_sizes[self.lowest])
        half, double = np.interp(best + np.log([0.5, 2.0]), self.log_sizes, self.losses, left=math.nan, right=math.nan)
        return basin_of(self.log_sizes, self.losses, (best, loss), half, double)


@dataclass(frozen=True)
class RealModelSearch:
    """Real shapes for the optimum of a problem, and the time that they take.

    ``shape`` gives a configuration for a number of non-embedding parameters. ``seconds`` gives the time of training a
    shape on so many tokens; with ``within`` only shapes that take at most so long are considered, or else the fastest.
    """

    problem: OptimumProblem
    shape: Callable[[float], Shape]
    seconds: Callable[[Shape, float], float] | None = None
    within: float | None = None

    def best(self, optimum: Optimum) -> RealModel:
        """The shape of the lowest predicted loss, with the prediction at its true size and tokens.

        Raises:
            UserError: the budget pays for no shape.
        """
        every = self._candidates(optimum)
        candidates = self._in_time(every)
        curve = self._curve(every)
        at_edge = optimum.at_edge and curve.lowest in (0, len(every) - 1)
        if at_edge and not self.problem.held:  # the law does not choose; the literature does
            ratio = self.problem.ratio_without_optimum(falls_to_smaller=curve.lowest == 0)
            away = [abs(math.log(tokens / self._size(model) / ratio)) for model, tokens in candidates]
            chosen = candidates[int(np.argmin(away))]
        else:
            chosen = candidates[self._curve(candidates).lowest]
        point = self.problem.at(self._size(chosen[0]), chosen[1])
        basin = optimum.basin
        if basin is not None and len(every) > 1:
            basin = None if at_edge else curve.basin(point.loss)
        if optimum.searched is not None:
            cautions = [optimum.cautions[0]] if optimum.is_flat else self.problem.place_cautions(point, at_edge)
            point = replace(point, cautions=(*cautions, *point.cautions))
        notes = self._notes(optimum, point, len(candidates) < len(every))
        return RealModel(chosen[0], point, basin, tuple(notes))

    def _candidates(self, optimum: Optimum) -> list[tuple[Shape, float]]:
        """Real shapes with the tokens that the budget buys for each at its exact FLOPs a token."""
        budget = self.problem.budget
        fixed, flops = budget.tokens, budget.flops
        served = SERVED_SHARE * self.problem.served
        models = self._models(optimum)
        if flops is None:
            return [(model, self._goal_tokens(model, optimum)) for model in models]
        bought = [(model, flops / self._price(model) - served) for model in models]
        least = 1.0 if fixed is None else fixed
        paid = [(model, tokens if fixed is None else fixed) for model, tokens in bought if tokens >= least * (1 - 1e-9)]
        if not paid:
            smallest = min(models, key=self._price)
            cost = self._price(smallest) * (least + served)
            some = "one token" if least == 1 else f"{format_count(least)} tokens"
            raise UserError(
                f"{format_flops(flops)} FLOPs pay for no model here: one of {format_count(smallest.num_params)} "
                f"parameters on {some} takes {format_flops(cost)}; give a larger budget"
            )
        return paid

    def _models(self, optimum: Optimum) -> list[Shape]:
        """The shapes nearest to the sizes that were searched, each once."""
        budget, size = self.problem.budget, optimum.num_params
        sizes = [size]
        if budget.flops is not None and optimum.searched is not None:
            sizes = np.geomspace(*optimum.searched, _SHAPES).tolist()
        elif budget.flops is not None and budget.tokens is not None:
            sizes = np.geomspace(size / _BELOW, size, _SHAPES // 4).tolist()
        models = {model.num_params: model for model in map(self._nearest, sizes)}
        return sorted(models.values(), key=self._size)

    def _nearest(self, size: float) -> Shape:
        """The shape nearest to a size as the law counts it; ``shape`` itself takes non-embedding parameters only."""
        target, tried = size, []
        for _ in range(_ROUNDS):
            model = self.shape(target)
            counted = self._size(model)
            require_positive(parameters_of_the_shape=counted, flops_per_token_of_the_shape=model.flops_per_token)
            ratio = size / counted
            tried.append((abs(math.log(ratio)), model))
            if counted == model.num_params or abs(math.log(ratio)) < _NEAR:
                break
            target *= ratio
        return min(tried, key=lambda pair: pair[0])[1]

    def _price(self, model: Shape) -> float:
        """FLOPs of a token, as the budget counts them."""
        return self.problem.budget.flops_per_token(model)

    def _size(self, model: Shape) -> float:
        return size_of(model, self.problem.predictor.counted)

    def _goal_tokens(self, model: Shape, optimum: Optimum) -> float:
        """The tokens that a shape needs for the goal."""
        budget = self.problem.budget
        if budget.tokens is not None:
            return budget.tokens
        if budget.loss is None:
            return optimum.tokens
        return replace(self.problem, budget=replace(budget, num_params=self._size(model))).solve().tokens

    def _in_time(self, candidates: list[tuple[Shape, float]]) -> list[tuple[Shape, float]]:
        """Those that take at most ``within`` seconds; the fastest alone if none does."""
        if self.within is None or self.seconds is None:
            return candidates
        durations = [self.seconds(*candidate) for candidate in candidates]
        kept = [one for one, duration in zip(candidates, durations, strict=True) if duration <= self.within]
        return kept or [candidates[int(np.argmin(durations))]]

    def _curve(self, candidates: list[tuple[Shape, float]]) -> _ShapeCurve:
        problem = self.problem
        sizes, tokens = np.array([(self._size(model), bought) for model, bought in candidates], float).T
        losses = np.asarray(problem.predictor.predict(sizes, tokens, level=problem.level).value, float)
        return _ShapeCurve(np.log(sizes), losses)

    def _notes(self, optimum: Optimum, point: Optimum, limited: bool) -> list[str]:
        notes = []
        ratio = point.num_params / optimum.num_params
        if max(ratio, 1 / ratio) > _FAR_FROM_OPTIMUM:
            notes.append(f"the shape that will be trained has {ratio:.2g}× the parameters of the optimum by 6ND")
        notes += point.notes
        if limited and self.within is not None:
            notes.append(
                "of the sizes that the budget buys, only those were considered that train in "
                f"{format_seconds(self.within)}"
            )
        return notes
