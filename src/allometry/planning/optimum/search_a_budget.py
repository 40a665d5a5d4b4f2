"""The search along one budget: which size has the lowest predicted loss, and how flat it is there.

A budget of C FLOPs buys a model of N parameters D = C/(6·N) − T/3 tokens, when T tokens are to be served afterwards at
2·N FLOPs each. The search uses only the predictor's losses along that line, so it works for every law and for
mixtures, and does not assume that there is an optimum inside: a pure power law has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...errors import UserError
from ...quantities import format_flops, require_positive
from .optimum_record import Basin
from .predictor import FLOPS_PER_PARAM_TOKEN, Array, Numbers, Predictor, mixture_draws

_GRID = 401
_ZOOM = 41
_FLAT = 1e-9
_GRID_OF_REFITS = 161
SERVED_SHARE = 1 / 3  # FLOPs of a served token over those of a token of training: forward alone


@dataclass(frozen=True)
class BudgetLine:
    """All sizes that one budget buys: ``flops`` in all, including ``served`` tokens after training."""

    predictor: Predictor
    flops: float
    served: float = 0.0
    level: float = 0.9

    def tokens(self, num_params: Numbers) -> Numbers:
        """Tokens left for training; below zero if serving alone costs more than the budget."""
        return self.flops / (FLOPS_PER_PARAM_TOKEN * num_params) - SERVED_SHARE * self.served

    def num_params(self, tokens: float) -> float:
        """The size that so many tokens of training leave."""
        return self.flops / FLOPS_PER_PARAM_TOKEN / (tokens + SERVED_SHARE * self.served)

    def losses(self, log_size: Array) -> Array:
        """Predicted losses at ln N; NaN where the budget buys no token or the law gives no finite loss."""
        sizes = np.exp(log_size)
        tokens = self.tokens(sizes)
        bought = tokens >= 1 - 1e-9
        losses = np.full(sizes.shape, np.nan)
        if bought.any():
            values = self.predictor.predict(sizes[bought], tokens[bought], level=self.level).value
            losses[bought] = np.broadcast_to(np.asarray(values, float), sizes[bought].shape)
        return np.where(np.isfinite(losses), losses, np.nan)

    def span(self, ratios: tuple[float, float]) -> tuple[float, float]:
        """The least and the largest size within a range of tokens per parameter.

        Raises:
            UserError: the range is empty, or the budget does not pay for one parameter and one token in it.
        """
        fewest, most = ratios
        require_positive(tokens_per_param=fewest)
        require_positive(tokens_per_param=most)
        if fewest > most:
            raise UserError(f"the range of tokens per parameter is empty: {fewest:g} to {most:g}")
        # At least one parameter and one token, whatever the ratio.
        lower, upper = max(self.at_ratio(most), 1.0), min(self.at_ratio(fewest), self.num_params(1.0))
        if upper < lower * (1 - 1e-12):
            least = max(1.0, 1 / most) * (FLOPS_PER_PARAM_TOKEN * max(1.0, fewest) + 2 * self.served)
            raise UserError(
                f"a budget of {self.flops:g} FLOPs does not pay for one parameter and its tokens ({least:.3g} FLOPs)"
            )
        return lower, max(lower, upper)

    def lowest(self, ratios: tuple[float, float], points: int = _GRID, precision: float = 1e-8) -> LowestPoint:
        """The size of the lowest loss within a range of tokens per parameter, to a relative ``precision``.

        Raises:
            UserError: the budget is too small, or the law gives no finite loss anywhere.
        """
        start, end = map(math.log, self.span(ratios))
        grid = np.linspace(start, end, points if end - start > 1e-9 else 1)
        losses = self.losses(grid)
        if not np.any(np.isfinite(losses)):
            raise UserError(
                f"the law gives no finite loss for {format_flops(self.flops)} FLOPs at {ratios[0]:g} to {ratios[1]:g} "
                "tokens per parameter"
            )
        is_flat = bool(np.nanmax(losses) - np.nanmin(losses) <= _FLAT * abs(np.nanmin(losses)))
        best = float(grid[grid.size // 2]) if is_flat else _zoom(self, grid, losses, precision)
        return LowestPoint(self, best, grid, losses, is_flat)

    def at_ratio(self, ratio: float) -> float:
        """The size with so many tokens per parameter: 6·ratio·N² + 2·served·N = C."""
        return self.flops / (self.served + math.sqrt(self.served**2 + FLOPS_PER_PARAM_TOKEN * ratio * self.flops))


@dataclass(frozen=True)
class LowestPoint:
    """The size of the lowest loss on a line, with the grid from which the search started."""

    line: BudgetLine
    log_size: float
    grid: Array
    losses: Array
    is_flat: bool

    @property
    def num_params(self) -> float:
        return math.exp(self.log_size)

    @property
    def at_edge(self) -> bool:
        """Whether the loss still decreases at an end of the range."""
        return not self.is_flat and bool(min(self.log_size - self.grid[0], self.grid[-1] - self.log_size) < 1e-6)

    @property
    def falls_to_smaller(self) -> bool:
        """Whether the lowest point lies nearer to the smallest size than to the largest."""
        return self.log_size - self.grid[0] < self.grid[-1] - self.log_size

    def basin(self, loss: float) -> Basin:
        """The valley around the lowest ``loss``."""
        half, double = self.line.losses(self.log_size + np.log([0.5, 2.0]))
        return basin_of(self.grid, self.losses, (self.log_size, loss), half, double)

    def interval(self, level: float) -> tuple[float, float] | None:
        """The sizes that hold ``level`` of the optima of the mixture's draws on this line; None without refits."""
        grid = np.linspace(self.grid[0], self.grid[-1], _GRID_OF_REFITS)
        sizes = np.exp(grid)
        samples = self.line.predictor.weighted_samples(sizes, self.line.tokens(sizes)) if len(self.grid) > 1 else []
        draws = mixture_draws(samples)
        if draws is None:
            return None
        low, high = np.quantile(_minima(grid, draws), [(1 - level) / 2, (1 + level) / 2])
        return math.exp(min(low, self.log_size)), math.exp(max(high, self.log_size))


def basin_of(grid: Array, losses: Array, lowest: tuple[float, float], half: float, double: float) -> Basin:
    """The valley around the ``lowest`` point (ln N, loss) of a grid; ``half`` and ``double``: losses of those sizes."""
    best, loss = lowest
    left, right = grid < best, grid > best

    def within(tolerance: float) -> tuple[float, float]:
        low = _crossing(grid[left][::-1], losses[left][::-1], best, loss, tolerance)
        high = _crossing(grid[right], losses[right], best, loss, tolerance)
        return math.exp(low), math.exp(high)

    costs = (float(each / loss - 1) if math.isfinite(each) else None for each in (half, double))
    return Basin(within(0.001), within(0.005), *costs)


def _zoom(line: BudgetLine, grid: Array, losses: Array, precision: float) -> float:
    """Closer and closer around the lowest point of a grid, until its step no longer matters."""
    while True:
        index = int(np.nanargmin(losses))
        low, high = grid[max(index - 1, 0)], grid[min(index + 1, grid.size - 1)]
        if high - low < precision:
            return float(grid[index])
        grid = np.linspace(low, high, _ZOOM)
        losses = line.losses(grid)


def _minima(grid: Array, losses: Array) -> Array:
    """The lowest point of each row, by the parabola through the grid's lowest three."""
    index = np.clip(np.argmin(np.where(np.isfinite(losses), losses, np.inf), axis=1), 1, len(grid) - 2)
    before, here, after = (np.take_along_axis(losses, (index + i)[:, None], axis=1)[:, 0] for i in (-1, 0, 1))
    bend = before - 2 * here + after
    with np.errstate(all="ignore"):
        shift = np.where(bend > 0, (before - after) / (2 * bend), np.sign(before - after))
    # Beyond the outermost points lies the edge of the search.
    return grid[index] + np.clip(np.nan_to_num(shift), -1, 1) * (grid[1] - grid[0])


def _crossing(path: Array, losses: Array, best: float, loss: float, tolerance: float) -> float:
    """Where the loss first passes (1 + tolerance)·best on the way out, by linear interpolation; else the last point."""
    limit = loss + tolerance * abs(loss)
    here, value = best, loss
    for there, next_value in zip(path, losses, strict=True):
        if not next_value <= limit:
            share = (limit - value) / (next_value - value) if math.isfinite(next_value) else 0.0
            return here + share * (there - here)
        here, value = float(there), float(next_value)
    return here
