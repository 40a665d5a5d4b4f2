"""The order of samples along a run, a function of seed and position alone; and a model as it is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from .contract import Processes


class SampleOrder:
    """An endless sequence of samples: every epoch visits all of them once, in an order of its own."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self._epoch = lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)

    def rows(self, first: int, size: int) -> np.ndarray:
        """The samples that stand at rows ``first`` to ``first + size − 1``."""
        parts = []
        while size > 0:
            epoch, place = divmod(first, self.count)
            part = self._epoch(epoch)[place : place + size]
            parts.append(part)
            first, size = first + len(part), size - len(part)
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients, and in evaluation mode; the modes of all modules are as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def turns(parts: int, processes: Processes) -> Iterator[tuple[int, bool]]:
    """The parts of an evaluation that a process computes, by number, and whether each counts.

    One whose share is done repeats the last part, which counts for nothing: a sharded model computes only where all
    processes do.
    """
    for turn in range(-(-parts // processes.size)):
        mine = turn * processes.size + processes.rank
        yield min(mine, parts - 1), mine < parts
