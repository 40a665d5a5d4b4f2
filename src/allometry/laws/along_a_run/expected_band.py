"""Where the training loss of a run should lie while the run is under way, by a law and the curves of other runs.

A law predicts the loss of runs that have ended. Before its end a run lies above the law, because its learning rate has
not decayed yet. By how much follows from the curves of runs that have ended: the logarithm of their training loss over
the law *at the number of tokens seen so far*, averaged over sizes. Before the decay nothing depends on a run's length
(:mod:`allometry.config.schedule`), so sizes are compared at equal tokens; during decay, at equal decay progress. In ten
recorded ladders of five sizes, the sizes agree within 0.5 to 2 % of the loss.

The width of the band combines the differences between sizes, the scatter of the loss along the corpus, and the law's
own interval for the run. A loss has left the band when several readings in a row lie outside on one side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import UserError
from ..prediction import LossPredictor

WIDTH = 4.0  # standard deviations to either side
READINGS = 3  # in a row, outside on one side
LEAST_SIZES = 3
PER_DECADE = 12
RECENT = 8.0  # the scatter along the corpus is measured over the last such factor of the tokens
SHARES = np.linspace(0, 1, 11)  # of the decay
_LEVEL, _DEVIATIONS = 0.9, 1.6449


@dataclass(frozen=True)
class Course:
    """What the band needs of a run.

    Attributes:
        num_params: its size.
        tokens: its length.
        decay_start: tokens seen when its learning rate begins to decay.
        curve: (tokens, smoothed training loss) of its readings, if it has ended.
    """

    num_params: float
    tokens: float
    decay_start: float
    curve: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Band:
    """Low and high of the training loss along one run.

    ``tokens`` are ascending; there is no band below the first of them.
    """

    tokens: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def at(self, tokens: float) -> tuple[float, float] | None:
        """Low and high when so many tokens have been seen; None outside the band's tokens."""
        if not self.tokens[0] <= tokens <= self.tokens[-1] * (1 + 1e-9):
            return None
        place = math.log(tokens)
        low, high = (np.interp(place, np.log(self.tokens), np.log(side)) for side in (self.low, self.high))
        return math.exp(low), math.exp(high)

    def first_outside(self, curve: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
        """The tokens and the loss of the reading by which a curve has left the band; None if it has not."""
        watch = Watch(self)
        return next((point for point in curve if watch(*point)), None)


class Watch:
    """Takes the readings of one run and reports, once, that they have left its band."""

    def __init__(self, band: Band):
        self.band = band
        self._side, self._count, self._reported = 0, 0, False

    def __call__(self, tokens: float, loss: float) -> bool:
        """Whether the loss has left the band by this reading."""
        limits = self.band.at(tokens)
        if limits is None or self._reported:
            return False
        side = 1 if not loss <= limits[1] else -1 if loss < limits[0] else 0  # NaN is above
        self._count = self._count + 1 if side and side == self._side else abs(side)
        self._side = side
        self._reported = self._count >= READINGS
        return self._reported


def band(predictor: LossPredictor, ended: Sequence[Course], run: Course) -> Band:
    """The band of a run, by a law and by runs that have ended (none of the run's own trunk).

    Raises:
        UserError: the runs that have ended are of too few sizes, or too short, or the law gives no loss along a run.
    """
    sizes = {course.num_params for course in ended}
    if len(sizes) < LEAST_SIZES:
        raise UserError(f"a band needs curves of {LEAST_SIZES} sizes, and there are {len(sizes)}")
    grid = _grid(max(course.tokens for course in ended))
    before, after = _above_the_law(predictor, ended, grid)
    count = np.isfinite(before).sum(0)
    known = count > 0
    if known.sum() < 2:
        raise UserError("the curves are too short to learn a band from")
    mean = np.nansum(before[:, known], 0) / count[known]
    seen = grid[known]
    late = seen >= seen[-1] / RECENT
    shared = count[known] > 1
    spare = max(1, int((count[known][shared] - 1).sum()))
    between = math.sqrt(float(np.nansum((before[:, known] - mean)[:, shared] ** 2)) / spare)
    along = float(np.std(mean[late], ddof=1)) if late.sum() > 1 else between

    tokens = np.unique(np.concatenate([_grid(run.decay_start)[_grid(run.decay_start) >= seen[0]], [run.decay_start]]))
    decaying = run.decay_start + SHARES[1:] * (run.tokens - run.decay_start)
    above = np.interp(np.log(tokens), np.log(seen), mean)
    above[tokens > seen[-1]] = mean[late].mean()
    middle = np.concatenate([above, after.mean(0)[1:]])
    after_decay = math.sqrt(float(np.mean(after.var(0, ddof=1))))
    scatter = np.concatenate([np.full(len(tokens), math.hypot(between, along)), np.full(len(decaying), after_decay)])
    width = WIDTH * np.sqrt(scatter**2 * (1 + 1 / len(sizes)) + _law_error(predictor, run) ** 2)
    places = np.concatenate([tokens, decaying])
    centre = middle + _log_law(predictor, run.num_params, places)
    return Band(places, np.exp(centre - width), np.exp(centre + width))


def _grid(last: float) -> np.ndarray:
    """Places in the tokens, equally spaced in the logarithm, the same for all runs."""
    return 10.0 ** (np.arange(0, math.floor(PER_DECADE * math.log10(last)) + 1) / PER_DECADE)


def _above_the_law(
    predictor: LossPredictor, ended: Sequence[Course], grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """ln of training loss over the law: a row a size at the tokens of ``grid``, and a row a run at ``SHARES``."""
    trunks: dict[float, np.ndarray] = {}
    during_decay = []
    for course in sorted(ended, key=lambda course: course.tokens):  # of a size, the longest trunk counts
        tokens, losses = np.asarray(course.curve, float).T
        above = np.log(losses) - _log_law(predictor, course.num_params, tokens)
        on_trunk = tokens <= course.decay_start
        if on_trunk.sum() > 1:
            trunks[course.num_params] = np.interp(
                np.log(grid), np.log(tokens[on_trunk]), above[on_trunk], left=np.nan, right=np.nan
            )
        during_decay.append(
            np.interp(SHARES, (tokens - course.decay_start) / (course.tokens - course.decay_start), above)
        )
    rows = list(trunks.values()) or [np.full(len(grid), np.nan)]
    return np.array(rows), np.array(during_decay)


def _log_law(predictor: LossPredictor, num_params: float, tokens: np.ndarray) -> np.ndarray:
    losses = np.asarray(predictor.predict(np.full(len(tokens), float(num_params)), tokens).value, float)
    if not np.all((losses > 0) & np.isfinite(losses)):
        raise UserError(f"the law gives no finite loss above zero for {num_params:g} parameters along the run")
    return np.log(losses)


def _law_error(predictor: LossPredictor, run: Course) -> float:
    """The law's standard error of the run's final ln loss, from its interval; 0 without an interval."""
    prediction = predictor.predict(float(run.num_params), float(run.tokens), level=_LEVEL)
    if prediction.low is None or prediction.high is None:
        return 0.0
    return float(np.log(prediction.high / prediction.low)) / (2 * _DEVIATIONS)
