"""Loss curves of one or several runs: step, loss and learning rate, by run and thinned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ...errors import UserError
from ...quantities import plural
from .curve_files.curve_points import CurvePoints
from .curve_files.read_curves import read_curves

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Curves(CurvePoints):
    """The points of all runs one below the other, by run and then by step.

    Attributes:
        names: of the runs.
        run: of each point, as an index into ``names``; int64, does not fall.
        step: optimiser steps done, float64, rising within a run.
        loss: float64, positive.
        lr: learning rate at the step, nan where unknown.
        tokens: seen by then, nan where unknown.
        num_params: of each run, nan where unknown.
        notes: sentences: which columns were taken, which points were left out and why.
    """

    @classmethod
    def read(cls, source: Any, columns: Mapping[str, str] | None = None) -> Curves:
        """Read one table with a column that names the run, or tables of one run each.

        Args:
            source: a file (CSV, TSV, JSONL, JSON, Parquet, gzip too), a list of files, a folder of them, a study, or
                a frame. A file without a column for the run is one run, called after the file: ``cosine_24000.csv``
                is ``cosine_24000``.
            columns: which column holds a field where the names do not say: run, step, loss, lr, tokens, num_params.

        Raises:
            UserError: nothing to read, columns missing or ambiguous, text among numbers, losses not above zero.
        """
        return cls(**vars(read_curves(source, columns)))

    def by_run(self) -> dict[str, tuple[Array, Array, Array]]:
        """Run → its (step, lr, loss)."""
        bounds = np.searchsorted(self.run, np.arange(len(self.names) + 1))
        cuts = [slice(low, high) for low, high in pairwise(bounds)]
        return {
            name: (self.step[cut], self.lr[cut], self.loss[cut]) for name, cut in zip(self.names, cuts, strict=True)
        }

    def where(self, mask: Array) -> Curves:
        """The points where ``mask`` (boolean or index array, one entry a point) holds; runs without any go."""
        index = np.sort(np.arange(len(self))[mask])
        kept, run = np.unique(self.run[index], return_inverse=True)
        points = {name: getattr(self, name)[index] for name in ("step", "loss", "lr", "tokens")}
        names = tuple(self.names[one] for one in kept)
        return replace(self, names=names, run=run, num_params=self.num_params[kept], **points)

    def thin(self, points: int = 300) -> Curves:
        """At most ``points`` points a run, each the mean of a stretch of the curve.

        Half of them are spread evenly over the logarithm of the step, half over the changes of the learning rate, so
        that a decay keeps its shape and a jump of the rate stays between two points.

        Raises:
            UserError: fewer than two points.
        """
        if points < 2:
            raise UserError(f"cannot thin a curve to {plural(points, 'point')}; give at least 2")
        bounds = np.searchsorted(self.run, np.arange(len(self.names) + 1))
        starts = [low + _stretches(self.step[low:high], self.lr[low:high], points) for low, high in pairwise(bounds)]
        starts = np.concatenate(starts)
        counts = np.diff([*starts, len(self)])
        means = {
            name: np.add.reduceat(getattr(self, name), starts) / counts for name in ("step", "loss", "lr", "tokens")
        }
        return replace(self, run=self.run[starts], **means)


def _stretches(step: Array, lr: Array, points: int) -> Array:
    """Where the stretches of one curve begin."""
    if len(step) <= points:
        return np.arange(len(step))
    positive = step[step > 0]
    logs = np.log(np.maximum(step, positive[0] if len(positive) else 1.0))
    along = (logs - logs[0]) / max(logs[-1] - logs[0], 1e-300)
    change = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(lr)))])
    if np.isfinite(change[-1]) and change[-1] > 0:
        along = (along + change / change[-1]) / 2
    stretch = np.minimum(np.floor(along * points), points - 1)
    return np.concatenate([[0], np.flatnonzero(np.diff(stretch) > 0) + 1])
