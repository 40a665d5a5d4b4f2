"""Batches of token windows. Their order is a function of seed and position alone, whatever machine draws them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError


class Windows:
    """Batches of training windows as a pure function of seed and step.

    The text is cut into windows of ``context`` tokens, at a phase that each epoch draws anew, and every epoch visits
    all of them once in its own order. The batches of a run are consecutive pieces of that endless sequence.
    """

    def __init__(self, tokens: np.ndarray, context: int, seed: int):
        if len(tokens) < 2 * context + 1:
            raise UserError(f"{len(tokens)} tokens of text are too few for a context of {context}")
        self.tokens, self.context, self.seed = tokens, context, seed
        self.per_epoch = (len(tokens) - 1) // context - 1
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def _draw_epoch(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch])
        phase = rng.integers(self.context)
        return phase + self.context * rng.permutation(self.per_epoch)

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of windows ``first`` to ``first + size − 1``, each (size, context) int64."""
        starts = [self._epoch(i // self.per_epoch)[i % self.per_epoch] for i in range(first, first + size)]
        return _gather(self.tokens, np.array(starts), self.context)


def held_out_windows(tokens: np.ndarray, context: int, most: int) -> tuple[Tensor, Tensor]:
    """At most ``most`` windows spread evenly over the held-out text, the same for every run."""
    available = (len(tokens) - 1) // context
    if available < 1:
        raise UserError(f"{len(tokens)} tokens of held-out text are too few for a context of {context}")
    starts = context * np.unique(np.linspace(0, available - 1, min(most, available)).astype(int))
    return _gather(tokens, starts, context)


def _gather(tokens: np.ndarray, starts: np.ndarray, context: int) -> tuple[Tensor, Tensor]:
    rows = torch.from_numpy(tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64))
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
