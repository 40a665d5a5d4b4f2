"""From a backtest to a forecast: the weight of each law, the correction of drift, and the width of the interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..fitting.trunk_noise import TrunkNoise
from ..tables.findings.best_by_compute import excess
from .backtest import LATE, LEAST_ERROR, Backtest, BacktestRow, rows
from .cuts import Origin
from .drift import PUBLIC_TABLES, DriftPrior
from .residuals import ResidualProcess

Array = np.ndarray
FORECAST = "forecast"
# A cut's errors share their fit, so a cut counts as one observation; this many at most are believed in the weights.
MOST_EVIDENCE = 4.0
# One held-out run that a law meets may be luck: with fewer than this many, the backtest counts in proportion.
ENOUGH_PREDICTED = 6
FIT_EVIDENCE = 1.0
# A text has an entropy, so a law without a floor is wrong somewhere; where noise hides where, others are likelier.
FLOORLESS = {"power": 0.5, "kaplan": 0.5}
# The correction rests on the cuts that fitted two thirds of the runs or more, the nearest to the fit that is used, and
# on runs at least a fifth of an e-fold beyond them.
CORRECTION_SHARE = 2 / 3
LEAST_DISTANCE = 0.2
# The most that one run counts, in variances.
MOST_SQUARES = 25.0


class Correction(NamedTuple):
    """What is subtracted from ln L per e-fold of compute beyond the fit, up to ``reach`` e-folds, as tested."""

    slope: float
    reach: float

    def at(self, distance: Array) -> Array:
        """What to subtract at these distances, in e-folds."""
        return self.slope * np.minimum(distance, self.reach)


def law_weights(tested: Backtest, sigmas: Mapping[str, float]) -> dict[str, float]:
    """Weights of the laws from the backtest's scores and the noise that each fit left (``sigmas``, by law name).

    score^(−k) is the likelihood of k independent errors of unknown size: k cuts, at most four, and less where fewer
    than ``ENOUGH_PREDICTED`` runs were held out. The fit's own noise counts too, but little: 1/σ. A law without a floor
    needs more of either.
    """
    evidence = min(MOST_EVIDENCE, len(tested.cuts(LATE))) * min(1.0, tested.predicted / ENOUGH_PREDICTED)
    logs = []
    for name, sigma in sigmas.items():
        predicted = -evidence * np.log(tested.score(name)) if tested.rows else 0.0
        before = np.log(FLOORLESS.get(name, 1.0))
        logs.append(before + predicted - FIT_EVIDENCE * np.log(max(sigma, LEAST_ERROR)))
    weights = np.exp(np.array(logs) - max(logs))
    return {name: float(weight) for name, weight in zip(sigmas, weights / weights.sum(), strict=True)}


def mix(weights: Array, log_loss: Array, spread: Array) -> tuple[Array, Array]:
    """Mean of ln L over the laws (laws, points), and its variance: that of the constants and that between the laws."""
    centre = weights @ log_loss
    return centre, weights @ ((log_loss - centre) ** 2 + spread**2)


def ignorance(mixed: Array, left: Array, noise_share: float) -> Array:
    """The variance of ln L apart from noise and drift.

    Where residuals are noise (``noise_share`` 1), it is that of the constants and between the laws (``mixed``, their
    sum). Where they are what no law follows, these and what the process leaves open (``left``) are three views of one
    ignorance, and their mean is the variance.
    """
    return (mixed * (1 + 2 * noise_share) + left) / 3


def combined(
    origins: Sequence[Origin], weights: Mapping[str, float], constants: float, noise: TrunkNoise | None = None
) -> list[BacktestRow]:
    """The rows of the whole forecast: at every cut the weighted laws and the residuals of the runs below.

    The weights are those of the whole backtest, so these errors are slightly too small.

    Args:
        origins: of the laws.
        weights: law → weight.
        constants: how many constants the weighted laws take from the runs.
        noise: of the trunks; None where no run names one.
    """
    share = np.array(list(weights.values()))
    table = []
    for each in origins:
        below, above, smooth = each.below, each.above, each.smooth
        every = np.stack([each.log_loss[name] for name in weights])
        spread = np.stack([each.spread[name] for name in weights])
        centre, variance = mix(share, every[:, len(below) :], spread)
        observed = np.log(below.loss)
        process = ResidualProcess(
            below.num_params,
            below.tokens,
            observed - share @ every[:, : len(below)],
            excess(smooth),
            constants,
            None if noise is None else noise.trunks_of(below),
        )
        left = process.at(above.num_params, above.tokens, excess(smooth, above.flops, centre))
        shared = 0.0 if noise is None else noise.at(above.num_params)
        unsure = np.sqrt(ignorance(variance, left.spread**2, process.noise_share) + shared**2)
        table += rows(each, FORECAST, centre + left.mean, unsure, left.noise)
    return table


def correct(tested: Backtest, drift: DriftPrior = PUBLIC_TABLES) -> Correction:
    """The systematic slope of the forecast's errors over ln(factor) in the late cuts, after shrinkage.

    Each cut gives one slope. Cuts share runs, so their mean is no surer than one of them: its variance s² is the
    scatter of the slopes and the mean of what spread and noise of predictions allow them, and it is shrunk by
    τ²/(τ² + s²), towards the slope that is known before, whose standard deviation is τ.
    """
    slopes, allowed, reach = [], [], 0.0
    for cut in tested.cuts(CORRECTION_SHARE):
        error, spread, sigma, distance, share = _columns(cut.get(FORECAST, []))
        if len(error) and distance.max() > LEAST_DISTANCE:
            square = (share * distance**2).sum()
            slopes.append((share * error * distance).sum() / square)
            # What is unknown is unknown alike in all runs of a cut; noise is each run's own.
            noise = (share**2 * distance**2 * sigma**2).sum() / square**2
            allowed.append((share * spread**2).sum() / square + noise)
            reach = max(reach, float(distance.max()))
    if len(slopes) < 2:
        return Correction(0.0, 0.0)
    variance = np.var(slopes, ddof=1) + np.mean(allowed)
    beyond = np.mean(slopes) + drift.slope  # errors are those of predictions, the prior's slope that of losses
    return Correction(float(beyond * drift.sd**2 / (drift.sd**2 + variance)), reach)


def calibrate(tested: Backtest, drift: DriftPrior = PUBLIC_TABLES) -> tuple[float, float]:
    """The ratio of the forecast's errors to the prior's scale, and the degrees of freedom.

    The prior variance of an error is σ² + spread² + (drift·ln factor)². The mean square of the errors over it, each cut
    counting once and the prior as its number of cuts, is the square of the factor.
    """
    squares = []
    for cut in tested.cuts():
        error, spread, sigma, distance, share = _columns(cut.get(FORECAST, []))
        if len(error):
            variance = sigma**2 + spread**2 + (drift.sd * distance) ** 2
            error = error + drift.slope * distance
            squares.append(share @ np.minimum(error**2 / variance, MOST_SQUARES))
    scale = np.sqrt((drift.cuts + sum(squares)) / max(drift.cuts + len(squares), 1))
    return float(scale), drift.freedom + len(squares)


def _columns(rows: Sequence[BacktestRow]) -> tuple[Array, Array, Array, Array, Array]:
    """Error, spread, noise and ln(factor) of one cut's runs, and the share of each."""
    table = np.array([(row.error, row.spread, row.sigma, np.log(row.factor), row.weight) for row in rows])
    error, spread, sigma, distance, weight = table.reshape(-1, 5).T
    return error, spread, sigma, distance, weight / max(weight.sum(), 1e-300)
