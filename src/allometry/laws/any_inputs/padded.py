"""Runs by group, padded to one length, so that all groups are solved at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..tables.measurements import Measurements

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Padded:
    """Runs by group; entries without a run have weight zero.

    Attributes:
        log: logarithms of the inputs from ``middle``, (inputs, groups, runs); 0 where an input is not above zero.
        raw: the inputs, (inputs, groups, runs).
        values: the target, (groups, runs).
        weights: of the runs, (groups, runs).
        index: group and place of each run, (2, runs).
    """

    log: Array
    raw: Array
    values: Array
    weights: Array
    index: Array

    @property
    def apart(self) -> Padded:
        """The same with the groups as a batch of one group each, so that each has a θ of its own."""
        log, raw = self.log[:, :, None], self.raw[:, :, None]
        return Padded(log, raw, self.values[:, None], self.weights[:, None], self.index)


def middle_of(runs: Measurements) -> Array:
    """The middle of the logarithms of each input, (inputs,); 0 for one that is not worked with by its logarithm."""
    positive = runs.by_logarithm
    return np.where(positive, np.log(np.where(positive, runs.points, 1)).mean(axis=0), 0.0)


def logs(points: Array, middle: Array) -> Array:
    """Logarithms of points (…, inputs) from the middle; 0 where an input is not above zero."""
    with np.errstate(all="ignore"):
        return np.where(points > 0, np.log(np.where(points > 0, points, 1)) - middle, 0.0)


def pad(runs: Measurements, middle: Array, weights: Array | None = None) -> Padded:
    """The runs in rows of one group each."""
    groups = len(runs.group_names)
    order = np.argsort(runs.group, kind="stable")
    times = np.bincount(runs.group, minlength=groups)
    place = np.empty(len(runs), int)
    place[order] = np.arange(len(runs)) - np.repeat(np.cumsum(times) - times, times)
    index = np.stack([runs.group, place])
    shape = (groups, max(int(times.max(initial=0)), 1))
    weight = np.zeros(shape)
    weight[index[0], index[1]] = 1.0 if weights is None else weights
    values = np.zeros(shape)
    values[index[0], index[1]] = runs.values
    raw = np.ones((runs.points.shape[1], *shape))
    raw[:, index[0], index[1]] = runs.points.T
    log = np.zeros_like(raw)
    log[:, index[0], index[1]] = logs(runs.points, middle).T
    return Padded(log, raw, values, weight, index)
