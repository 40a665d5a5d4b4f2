"""Where a FLOP budget buys the lowest predicted loss: a search over model size along C = 6·N·D, and its flat basin.

The search asks nothing of the predictor but ``predict(num_params, tokens, level)``, so it works for every law and for
mixtures, and it does not assume that an interior optimum exists: a pure power law has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from ..errors import UserError
from ..quantities import format_count, format_flops
from .formula import require_positive

FLOPS_PER_PARAM_TOKEN = 6.0
DEFAULT_TOKENS_PER_PARAM = (1.0, 1000.0)
_GRID = 401
_ZOOM = 41
_FLAT = 1e-9


class Prediction(Protocol):
    """A predicted loss with its interval; floats or arrays."""

    value: float
    low: float
    high: float


class Predictor(Protocol):
    """Anything that predicts a loss from non-embedding parameters and tokens: a Fit, a Forecast, your own.

    A predictor may also say what it was fitted on, as a mapping ``range``: see ``Covered.by``.
    """

    def predict(self, num_params, tokens, level: float = 0.9) -> Prediction: ...


@dataclass(frozen=True)
class Covered:
    """What the fitted runs covered, as (least, most): beyond it a prediction extrapolates."""

    num_params: tuple[float, float]
    tokens: tuple[float, float]
    flops: tuple[float, float]
    tokens_per_param: tuple[float, float]

    @classmethod
    def of(cls, num_params: Sequence[float], tokens: Sequence[float]) -> Covered:
        """From the runs' parameters and tokens; FLOPs by 6·N·D.

        Raises:
            UserError: no runs, unequal lengths, or counts that are not above zero.
        """
        n, d = np.asarray(num_params, dtype=float), np.asarray(tokens, dtype=float)
        if n.size == 0 or n.shape != d.shape or not (np.all(np.isfinite(n * d)) and np.all(n > 0) and np.all(d > 0)):
            raise UserError("covered runs need as many parameters as tokens, all finite and above zero")
        spans = (n, d, FLOPS_PER_PARAM_TOKEN * n * d, d / n)
        return cls(*((float(span.min()), float(span.max())) for span in spans))

    @classmethod
    def by(cls, predictor: Predictor) -> Covered | None:
        """From ``predictor.range``: "num_params", "tokens", perhaps "flops" and "tokens_per_param" → (least, most).

        None where the predictor has no such mapping. What is missing in it is bounded by the corners of the rest.
        """
        spans = getattr(predictor, "range", None)
        if not (isinstance(spans, Mapping) and {"num_params", "tokens"} <= set(spans)):
            return None
        corners = cls.of(*zip(*((n, d) for n in spans["num_params"] for d in spans["tokens"]), strict=True))
        names = ("num_params", "tokens", "flops", "tokens_per_param")
        return cls(*(tuple(map(float, spans.get(name, getattr(corners, name)))) for name in names))

    def notes(self, num_params: float, tokens: float) -> list[str]:
        """One sentence for each way in which a target lies beyond the runs."""
        flops = FLOPS_PER_PARAM_TOKEN * num_params * tokens
        found = []
        if flops > self.flops[1]:
            found.append(f"extrapolates to {flops / self.flops[1]:.3g}× the compute of the largest fitted run")
        for word, value, (low, high) in (
            ("parameters", num_params, self.num_params),
            ("tokens", tokens, self.tokens),
            ("tokens per parameter", tokens / num_params, self.tokens_per_param),
        ):
            # A bound that the search itself was held to is met up to rounding.
            if not low * (1 - 1e-6) <= value <= high * (1 + 1e-6):
                side, edge = ("above the most", high) if value > high else ("below the fewest", low)
                found.append(f"{format_count(value)} {word}: {side} that was fitted ({format_count(edge)})")
        return found


@dataclass(frozen=True)
class Basin:
    """How flat the optimum is.

    Sizes within 0.1 % and 0.5 % of the best loss, clipped to the range searched; and the relative loss that half or
    twice the size costs at the same FLOPs (None where the law gives none).
    """

    within_0_1_percent: tuple[float, float]
    within_0_5_percent: tuple[float, float]
    cost_of_half_size: float | None
    cost_of_double_size: float | None


@dataclass(frozen=True)
class Optimum:
    """The size and tokens with the lowest predicted loss for a budget; 6·N·D = ``flops``.

    ``searched`` is the range of sizes looked at; ``at_edge`` is True where the best size is the end of it, so that it
    is no optimum of the law. ``basin`` and ``searched`` are None where size or tokens were fixed.
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

    @property
    def tokens_per_param(self) -> float:
        """D/N."""
        return self.tokens / self.num_params

    def to_json(self) -> dict:
        """A plain dictionary, ready for ``json.dumps``."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict) -> Optimum:
        """The optimum that ``to_json`` wrote."""
        record = dict(record)
        if record.get("basin") is not None:
            record["basin"] = Basin(
                **{name: tuple(x) if isinstance(x, list | tuple) else x for name, x in record["basin"].items()}
            )
        if record.get("searched") is not None:
            record["searched"] = tuple(record["searched"])
        return cls(**record | {"notes": tuple(record.get("notes", ()))})


def optimal(
    predictor: Predictor,
    flops: float | None = None,
    *,
    num_params: float | None = None,
    tokens: float | None = None,
    tokens_per_param_range: tuple[float, float] | None = None,
    covered: Covered | None = None,
    level: float = 0.9,
) -> Optimum:
    """The size and tokens that minimise the predicted loss at C = 6·N·D.

    Give ``flops`` to search; ``flops`` and one of ``num_params`` and ``tokens`` to fix that one and spend the rest on
    the other; both without ``flops`` to predict there.

    Args:
        predictor: has ``predict(num_params, tokens, level)``, with arrays too; its counts are this function's counts.
        flops: training FLOPs, counted as 6·N·D.
        num_params: fixed non-embedding parameters.
        tokens: fixed tokens.
        tokens_per_param_range: D/N to search; by default what ``covered`` covered, else 1 to 1000.
        covered: what the fitted runs covered, by default what the predictor says of itself (``Covered.by``);
            extrapolation beyond it is noted.
        level: of the interval of the predicted loss.

    Raises:
        UserError: too few or too many of the three are given, a number is not above zero, the level is no probability,
            the budget does not pay for one parameter and one token, or the predictor gives no finite loss.
    """
    require_positive(flops=flops, num_params=num_params, tokens=tokens)
    if not 0 < level < 1:
        raise UserError(f"level is a probability between 0 and 1, such as 0.9, not {level!r}")
    if (flops, num_params, tokens).count(None) > 1 and flops is None:
        raise UserError("give flops, or flops with num_params or tokens, or num_params and tokens")
    if None not in (flops, num_params, tokens):
        raise UserError("flops, num_params and tokens together are one too many: flops = 6·num_params·tokens")
    covered = covered or Covered.by(predictor)
    if num_params is None and tokens is None:
        return _search(predictor, flops, tokens_per_param_range, covered, level)
    if flops is not None:
        product = flops / FLOPS_PER_PARAM_TOKEN
        num_params, tokens = (num_params, product / num_params) if tokens is None else (product / tokens, tokens)
    return at(predictor, num_params, tokens, covered=covered, level=level)


def at(
    predictor: Predictor, num_params: float, tokens: float, *, covered: Covered | None = None, level: float = 0.9
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
    notes = tuple(covered.notes(num_params, tokens)) if covered else ()
    low, high = _finite(prediction.low), _finite(prediction.high)
    return Optimum(float(num_params), float(tokens), flops, loss, low, high, level, notes=notes)


def _search(
    predictor: Predictor,
    flops: float,
    ratios: tuple[float, float] | None,
    covered: Covered | None,
    level: float,
) -> Optimum:
    ratios = ratios or (covered.tokens_per_param if covered else DEFAULT_TOKENS_PER_PARAM)
    lower, upper = _size_range(flops, ratios)
    line = _IsoFlop(predictor, flops, level)
    start, end = math.log(lower), math.log(upper)
    grid = np.linspace(start, end, _GRID if end - start > 1e-9 else 1)
    losses = line(grid)
    if not np.any(np.isfinite(losses)):
        span = f"{ratios[0]:g} to {ratios[1]:g} tokens per parameter"
        raise UserError(f"the law gives no finite loss for {format_flops(flops)} FLOPs at {span}")
    notes, at_edge = [], False
    if np.nanmax(losses) - np.nanmin(losses) <= _FLAT * abs(np.nanmin(losses)):
        best = float(grid[grid.size // 2])
        if grid.size > 1:
            notes.append("the law gives every split of the budget the same loss: the middle of the range was taken")
    else:
        best = line.refine(grid, losses)
        at_edge = bool(min(best - grid[0], grid[-1] - best) < 1e-6)
    size = math.exp(best)
    point = at(predictor, size, flops / (FLOPS_PER_PARAM_TOKEN * size), covered=covered, level=level)
    if at_edge:
        notes.append(_edge_note(point, ratios))
    basin = _basin(line, best, point.loss, grid, losses)
    extra = {"at_edge": at_edge, "searched": (lower, upper), "basin": basin, "notes": (*notes, *point.notes)}
    return Optimum(**{name: getattr(point, name) for name in point.__dataclass_fields__} | extra)


class _IsoFlop:
    """The predicted loss along one budget, as a function of ln N; not finite becomes NaN."""

    def __init__(self, predictor: Predictor, flops: float, level: float) -> None:
        self.predictor, self.flops, self.level = predictor, flops, level

    def __call__(self, log_size: np.ndarray) -> np.ndarray:
        sizes = np.exp(log_size)
        tokens = self.flops / (FLOPS_PER_PARAM_TOKEN * sizes)
        values = np.asarray(self.predictor.predict(sizes, tokens, level=self.level).value, dtype=float)
        values = np.broadcast_to(values, sizes.shape)
        return np.where(np.isfinite(values), values, np.nan)

    def refine(self, grid: np.ndarray, losses: np.ndarray) -> float:
        """Zoom in around the lowest point of a grid until its step no longer matters (1e-8 of the size)."""
        while True:
            index = int(np.nanargmin(losses))
            low, high = grid[max(index - 1, 0)], grid[min(index + 1, grid.size - 1)]
            if high - low < 1e-8:
                return float(grid[index])
            grid = np.linspace(low, high, _ZOOM)
            losses = self(grid)


def _size_range(flops: float, ratios: tuple[float, float]) -> tuple[float, float]:
    fewest, most = ratios
    require_positive(tokens_per_param=fewest)
    require_positive(tokens_per_param=most)
    if fewest > most:
        raise UserError(f"the range of tokens per parameter is empty: {fewest:g} to {most:g}")
    product = flops / FLOPS_PER_PARAM_TOKEN
    # At least one parameter and one token, whatever the ratio.
    lower, upper = max(math.sqrt(product / most), 1.0), min(math.sqrt(product / fewest), product)
    if upper < lower * (1 - 1e-12):
        least = FLOPS_PER_PARAM_TOKEN * max(1.0, fewest, 1 / most)
        raise UserError(
            f"a budget of {flops:g} FLOPs does not pay for one parameter and its tokens ({least:.3g} FLOPs)"
        )
    return lower, max(lower, upper)


def _require_whole(flops: float, num_params: float, tokens: float) -> None:
    slack = 1 - 1e-9
    if num_params < slack or tokens < slack:
        raise UserError(
            f"{flops:g} FLOPs are {num_params:.3g} parameters and {tokens:.3g} tokens here, less than one: "
            "give a larger budget"
        )


def _basin(line: _IsoFlop, best: float, loss: float, grid: np.ndarray, losses: np.ndarray) -> Basin:
    half, double = line(np.array([best - math.log(2), best + math.log(2)])) / loss - 1.0
    spans = []
    for tolerance in (0.001, 0.005):
        left = _crossing(grid[grid < best][::-1], losses[grid < best][::-1], best, loss, tolerance)
        right = _crossing(grid[grid > best], losses[grid > best], best, loss, tolerance)
        spans.append((math.exp(left), math.exp(right)))
    return Basin(spans[0], spans[1], _finite(half), _finite(double))


def _crossing(path: np.ndarray, losses: np.ndarray, best: float, loss: float, tolerance: float) -> float:
    """Where the loss first passes (1 + tolerance)·best on the way out, by linear interpolation; else the last point."""
    limit = loss + tolerance * abs(loss)
    here, value = best, loss
    for there, next_value in zip(path, losses, strict=True):
        if not next_value <= limit:
            share = (limit - value) / (next_value - value) if math.isfinite(next_value) else 0.0
            return here + share * (there - here)
        here, value = float(there), float(next_value)
    return here


def _edge_note(point: Optimum, ratios: tuple[float, float]) -> str:
    return (
        f"no optimum inside the range searched ({ratios[0]:.3g} to {ratios[1]:.3g} tokens per parameter): the loss "
        f"still falls at its edge, and {point.tokens_per_param:.3g} was taken only because the range ends there"
    )


def _finite(value: float) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
