"""Batches of token windows. Their order is a function of seed and position alone, whatever machine draws them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..data.shards import Shards
from ..errors import UserError

Tokens = np.ndarray | Shards  # of any integer type, in memory or mapped


class Windows:
    """Batches of training windows as a pure function of seed and step.

    The text is cut into windows of ``context`` tokens, at a phase that each epoch draws anew, and every epoch visits
    all of them once in its own order. The batches of a run are consecutive pieces of that endless sequence.

    Raises:
        UserError: the text is too short for the context.
    """

    def __init__(self, tokens: Tokens, context: int, seed: int):
        if len(tokens) < 2 * context + 1:
            raise UserError(f"{len(tokens)} tokens of text are too few for a context of {context}")
        self.tokens, self.context, self.seed = tokens, context, seed
        self.per_epoch = (len(tokens) - 1) // context - 1
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def _draw_epoch(self, epoch: int) -> tuple[int, np.ndarray]:
        """The phase of an epoch, and the order of its windows: kept small, for there may be a hundred million."""
        rng = np.random.default_rng([self.seed, epoch])
        phase = int(rng.integers(self.context))
        order = rng.permutation(self.per_epoch)
        return phase, order.astype(np.uint32) if self.per_epoch < 1 << 32 else order

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of windows ``first`` to ``first + size − 1``, each (size, context) int64."""
        starts = []
        while size:
            epoch, place = divmod(first, self.per_epoch)
            phase, order = self._epoch(epoch)
            taken = order[place : place + size]
            starts.append(phase + self.context * taken.astype(np.int64))
            first, size = first + len(taken), size - len(taken)
        return _gather(self.tokens, np.concatenate(starts), self.context)


def held_out_windows(tokens: Tokens, context: int, most: int) -> tuple[Tensor, Tensor]:
    """At most ``most`` windows spread evenly over the held-out text, the same for every run."""
    available = (len(tokens) - 1) // context
    if available < 1:
        raise UserError(f"{len(tokens)} tokens of held-out text are too few for a context of {context}")
    starts = context * np.unique(np.linspace(0, available - 1, min(most, available)).astype(int))
    return _gather(tokens, starts, context)


def _gather(tokens: Tokens, starts: np.ndarray, context: int) -> tuple[Tensor, Tensor]:
    rows = np.stack([tokens[start : start + context + 1] for start in starts.tolist()])
    inputs, targets = rows[:, :-1].astype(np.int64), rows[:, 1:].astype(np.int64)
    return torch.from_numpy(inputs), torch.from_numpy(targets)
