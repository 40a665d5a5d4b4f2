"""How the loss still falls at the end of a table's runs: faster and faster, or by tokens alone.

Along the lengths of one size, ln L of any law bends upwards in ln D: the exponent −d ln L / d ln D falls, or stays.
Where it grows up to the longest runs, learning has just begun, and a law fitted there does not tell where it goes.

The run of the most tokens a parameter is the one that more parameters help most. Where they help even that run by less
than a tenth of what tokens do, all runs are short for their sizes: none shows what size is worth, nor which law holds
in the end. Size worth somewhat less than tokens is no such sign: a steady law with a small exponent of N looks so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..run_arrays import RunArrays
from .initial_phase import in_initial_phase

Array = np.ndarray

WINDOW = 8.2  # the last lengths of a size are those within this factor of its longest, and the last three anyway
LEAST_SERIES, LEAST_LENGTHS = 2, 3
# What single runs scatter by at least, as a part of the loss; residuals that are smaller count with three of that.
NOISE, NOISE_RUNS = 0.004, 3
SHORT = 0.1  # what size is worth, as a part of what tokens are, where it is worth nothing that shows
CHANCE = 0.1  # that noise alone makes an exponent grow as much, were it steady; that of a law with a floor falls
SETTINGS = ("lr", "batch_tokens", "batch_sequences", "weight_decay", "warmup")  # of which the best counts


@dataclass(frozen=True)
class LateSlopes:
    """How ln L falls with ln D along the last lengths of each size; the bend is common to all sizes.

    Attributes:
        exponent: −d ln L / d ln D at the longest runs, the median over the sizes.
        error: the standard error of their mean.
        bend: half the second derivative of ln L; above zero where a law may hold.
        bend_error: its standard error.
        freedom: degrees of freedom of the errors (Student's t).
    """

    exponent: float
    error: float
    bend: float
    bend_error: float
    freedom: float

    @property
    def chance(self) -> float:
        """The chance that noise alone bends a straight line as far downwards."""
        from scipy.special import stdtr

        return float(stdtr(self.freedom, self.bend / self.bend_error))

    @property
    def grow(self) -> bool:
        """Whether the exponent grows up to the longest runs, by more than noise explains."""
        return self.chance < CHANCE


@dataclass(frozen=True)
class SizeAgainstTokens:
    """What size and tokens are worth to the run of the most tokens a parameter.

    Attributes:
        row: which run it is.
        by_size, by_tokens: −d ln L / d ln N and −d ln L / d ln D there.
    """

    row: int
    by_size: float
    by_tokens: float

    @property
    def short_of_tokens(self) -> bool:
        """Whether more tokens help it, and more parameters next to nothing."""
        return self.by_tokens > 0 and self.by_size < SHORT * self.by_tokens


def late_slopes(runs: RunArrays) -> LateSlopes | None:
    """How the loss falls at the end of the lengths; None with fewer than two sizes of three lengths each.

    Runs that ended before their loss fell as a law says are left out where the others did get so far.
    """
    runs = best_settings(runs)
    late = _slopes(runs.where(~in_initial_phase(runs.num_params, runs.tokens, runs.loss)))
    return _slopes(runs) if late is None or late.grow else late


def _slopes(runs: RunArrays) -> LateSlopes | None:
    series = _series(runs)
    groups = [rows for one in np.unique(series) if (rows := _last(np.flatnonzero(series == one), runs)) is not None]
    count = len(groups)
    rows = np.concatenate(groups) if groups else np.zeros(0, int)
    if count < LEAST_SERIES or len(rows) < 2 * count + 1:
        return None
    member = np.repeat(np.arange(count), [len(group) for group in groups])
    x = np.log(runs.tokens[rows])
    x = x - np.array([x[member == one].mean() for one in range(count)])[member]
    own = (member[:, None] == np.arange(count)).astype(float)
    solution, covariance, freedom = _least_squares(
        np.concatenate([own, own * x[:, None], (x**2)[:, None]], axis=1), np.log(runs.loss[rows])
    )
    ends = np.array([x[member == one].max() for one in range(count)])
    exponents = -(solution[count : 2 * count] + 2 * solution[-1] * ends)
    mean = np.concatenate([np.zeros(count), np.full(count, 1 / count), [2 * ends.mean()]])
    return LateSlopes(
        exponent=float(np.median(exponents)),
        error=float((mean @ covariance @ mean) ** 0.5),
        bend=float(solution[-1]),
        bend_error=float(covariance[-1, -1] ** 0.5),
        freedom=freedom,
    )


def size_against_tokens(runs: RunArrays) -> SizeAgainstTokens | None:
    """By a quadratic surface of ln L in (ln N, ln D), each group of runs at a level of its own.

    None with fewer than three sizes, three lengths, or two runs more than the surface has constants.
    """
    best = best_settings(runs)
    x, y = np.log(best.num_params), np.log(best.tokens)
    if min(len(np.unique(best.num_params)), len(np.unique(best.tokens))) < 3:
        return None
    x, y = x - x.mean(), y - y.mean()
    group = _code(np.zeros(len(best)), *_kinds(best))
    levels = (group[:, None] == np.unique(group)).astype(float)
    columns = np.concatenate([np.stack([x, y, x**2, x * y, y**2], axis=1), levels], axis=1)
    if len(best) < columns.shape[1] + 2 or np.linalg.matrix_rank(columns) < columns.shape[1]:
        return None
    solution = _least_squares(columns, np.log(best.loss))[0]
    row = int(np.argmax(y - x))
    none = np.zeros(levels.shape[1])
    by_size = -np.array([1, 0, 2 * x[row], y[row], 0.0, *none])
    by_tokens = -np.array([0, 1, 0, x[row], 2 * y[row], *none])
    return SizeAgainstTokens(
        runs.labels.index(best.labels[row]), float(by_size @ solution), float(by_tokens @ solution)
    )


def best_settings(runs: RunArrays) -> RunArrays:
    """Of the runs that differ in batch, rate and the like alone the best; runs that repeat each other all stay."""
    varied = [runs.extra[name] for name in SETTINGS if name in runs.extra and len(np.unique(runs.extra[name])) > 1]
    if not varied:
        return runs
    place = _code(_series(runs), runs.tokens)
    setting = _code(place, *varied)
    kept = np.ones(len(runs), bool)
    for one in np.unique(place):
        rows = np.flatnonzero(place == one)
        best = setting[rows[np.argmin(runs.loss[rows])]]
        kept[rows[setting[rows] != best]] = False
    return runs.where(kept)


def _series(runs: RunArrays) -> Array:
    """A number for the runs that differ in their length alone, apart from ``SETTINGS``."""
    return _code(runs.num_params, *_kinds(runs))


def _kinds(runs: RunArrays) -> list[Array]:
    """The columns of what makes runs of one size and length another experiment."""
    return [runs.extra[name] for name in ("group", "unique_tokens") if name in runs.extra]


def _code(*columns: Array) -> Array:
    """A number for each row, equal where all columns are."""
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        level = np.unique(np.where(np.isnan(column), -1.0, column), return_inverse=True)[1]
        code = np.unique(code * (level.max() + 1) + level, return_inverse=True)[1]
    return code


def _last(rows: Array, runs: RunArrays) -> Array | None:
    """Of the runs of one series those of its last lengths; None where there are fewer than three lengths."""
    tokens = runs.tokens[rows]
    lengths = np.unique(tokens)
    if len(lengths) < LEAST_LENGTHS:
        return None
    return rows[tokens >= min(lengths[-1] / WINDOW, lengths[-LEAST_LENGTHS])]


def _least_squares(columns: Array, y: Array) -> tuple[Array, Array, float]:
    """The solution, its covariance, and the degrees of freedom of that."""
    solution, *_ = np.linalg.lstsq(columns, y, rcond=None)
    freedom, squares = len(y) - columns.shape[1], float(np.sum((y - columns @ solution) ** 2))
    if squares < freedom * NOISE**2:
        freedom, squares = freedom + NOISE_RUNS, squares + NOISE_RUNS * NOISE**2
    return solution, squares / freedom * np.linalg.pinv(columns.T @ columns), float(freedom)
