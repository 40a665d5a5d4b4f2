"""From the optimum of a law to a model that exists: real shapes, their exact FLOPs, the time they may take."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..errors import UserError
from ..quantities import format_count, format_flops, format_seconds, require_positive
from .optimum.fitted_range import FittedRange
from .optimum.optimal import Optimum, optimal, optimum_at
from .optimum.predictor import Predictor
from .optimum.search_a_budget import SERVED_SHARE
from .resources.budget import Budget
from .resources.shapes import Shape, size_of

_FAR_FROM_ASKED = 1.5
_SHAPES = 400  # sizes tried between the ends of the range searched
_ROUNDS, _NEAR = 12, 0.01  # until a shape meets a size in another count than its own
_BELOW = 8.0  # with fixed tokens, how far below the law's size one is sought whose exact FLOPs the budget pays


@dataclass(frozen=True)
class RealModelSearch:
    """How a law's optimum becomes real: shapes, and the seconds they take.

    ``counted`` says which parameters the law counts. ``seconds`` gives the time of training a shape on so many tokens;
    with ``within`` only shapes that take at most so long are considered, or else the fastest.
    """

    predictor: Predictor
    budget: Budget
    shape: Callable[[float], Shape]
    fitted_range: FittedRange | None
    counted: str = "unknown"
    seconds: Callable[[Shape, float], float] | None = None
    within: float | None = None

    def best(self, optimum: Optimum) -> tuple[Shape, Optimum, list[str]]:
        """The shape of the lowest predicted loss, the prediction at its true size and tokens, and notes on both.

        Raises:
            UserError: the budget pays for no shape.
        """
        every = self._candidates(optimum)
        candidates = self._in_time(every)
        model, point, notes = self._lowest(optimum, candidates)
        if len(candidates) < len(every):
            notes.append(
                "of the sizes that the budget buys, only those were considered that train in "
                f"{format_seconds(self.within)}"
            )
        return model, point, notes

    def _candidates(self, optimum: Optimum) -> list[tuple[Shape, float]]:
        """Real shapes with the tokens that the budget buys for each at its exact FLOPs a token."""
        fixed, flops = self.budget.tokens, self.budget.flops
        served = SERVED_SHARE * (self.budget.inference_tokens or 0.0)
        models = self._models(optimum)
        if flops is None:
            return [(model, self._goal_tokens(model, optimum)) for model in models]
        bought = [(model, flops / model.flops_per_token - served) for model in models]
        least = 1.0 if fixed is None else fixed
        paid = [(model, tokens if fixed is None else fixed) for model, tokens in bought if tokens >= least * (1 - 1e-9)]
        if not paid:
            smallest = min(models, key=lambda model: model.flops_per_token)
            cost = smallest.flops_per_token * (least + served)
            raise UserError(
                f"{format_flops(flops)} FLOPs pay for no model here: one of {format_count(smallest.num_params)} "
                f"parameters on {format_count(least)} tokens takes {format_flops(cost)}; give a larger budget"
            )
        return paid

    def _models(self, optimum: Optimum) -> list[Shape]:
        if optimum.searched and self.budget.flops is not None:
            sizes = np.geomspace(*optimum.searched, _SHAPES)
        elif self.budget.tokens is not None and self.budget.flops is not None:
            sizes = np.geomspace(optimum.num_params / _BELOW, optimum.num_params, _SHAPES // 4)
        else:
            sizes = [optimum.num_params]
        return list({model.num_params: model for model in (self._nearest(float(size)) for size in sizes)}.values())

    def _nearest(self, size: float) -> Shape:
        """The shape nearest to a size as the law counts it; a call of ``shape`` knows non-embedding parameters only."""
        asked, found = size, []
        for _ in range(_ROUNDS):
            model = self.shape(asked)
            counted = size_of(model, self.counted)
            require_positive(parameters_of_the_shape=counted, flops_per_token_of_the_shape=model.flops_per_token)
            ratio = size / counted
            found.append((abs(math.log(ratio)), model))
            if counted == model.num_params or abs(math.log(ratio)) < _NEAR:
                break
            asked *= ratio
        return min(found, key=lambda pair: pair[0])[1]

    def _goal_tokens(self, model: Shape, optimum: Optimum) -> float:
        """The tokens that a goal asks of a shape."""
        if self.budget.loss is None or self.budget.tokens is not None:
            return optimum.tokens
        asked = replace(self.budget, num_params=size_of(model, self.counted))
        return optimal(self.predictor, asked, fitted_range=self.fitted_range, level=optimum.level).tokens

    def _in_time(self, candidates: list[tuple[Shape, float]]) -> list[tuple[Shape, float]]:
        """Those that take at most ``within`` seconds; the fastest alone where none does."""
        if self.within is None or self.seconds is None:
            return candidates
        durations = [self.seconds(*candidate) for candidate in candidates]
        kept = [one for one, duration in zip(candidates, durations, strict=True) if duration <= self.within]
        return kept or [candidates[int(np.argmin(durations))]]

    def _lowest(self, optimum: Optimum, candidates: list[tuple[Shape, float]]) -> tuple[Shape, Optimum, list[str]]:
        sizes, tokens = np.array([(size_of(model, self.counted), bought) for model, bought in candidates], float).T
        losses = np.asarray(self.predictor.predict(sizes, tokens, level=optimum.level).value, float)
        best = int(np.nanargmin(losses))
        served = self.budget.inference_tokens or 0.0
        point = optimum_at(
            self.predictor,
            sizes[best],
            tokens[best],
            served=served,
            fitted_range=self.fitted_range,
            level=optimum.level,
        )
        # What the optimum says of extrapolation is said again for the real size. What it says of the edge of its search
        # holds only if the best shape is at the edge too: by exact FLOPs the best size is another than by 6ND.
        said = [] if self.fitted_range is None else self.fitted_range.notes(optimum.num_params, optimum.tokens)
        if optimum.at_edge and point.num_params not in (sizes.min(), sizes.max()):
            said.append(optimum.notes[0])
        notes = [note for note in optimum.notes if note not in said]
        ratio = point.num_params / optimum.num_params
        if max(ratio, 1 / ratio) > _FAR_FROM_ASKED:
            notes.append(f"the shape that will be trained has {ratio:.2g}× the parameters of the optimum by 6ND")
        return candidates[best][0], point, [*notes, *point.notes]
