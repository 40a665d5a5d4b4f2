"""Batch and learning rate along a run, as functions of the tokens seen so far.

The best batch grows with the tokens of a run (as D^0.4 to D^0.6 in the published measurements) and the best rate
falls or stays. A run that used one batch throughout would be near its best at one length only. So both follow their
power law *during* the run: at every moment they are what the rule gives for a run of so many tokens. One trunk then
serves every length, and a larger model, trained for longer, merely goes on along the same path.

At the end the rate falls linearly to zero (warmup–stable–decay, arXiv 2404.06395 and 2405.18392).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from .training import TrainConfig


@dataclass(frozen=True)
class Stage:
    """Consecutive steps of one batch size, in rows."""

    first_step: int
    first_row: int
    batch: int


class Schedule:
    """The steps of one run. Before :attr:`decay_start` nothing depends on the run's length."""

    def __init__(self, train: TrainConfig, row_tokens: int):
        self.train, self.row_tokens = train, row_tokens
        wanted = max(1, round(self.train.tokens / self.row_tokens))  # rows
        self.stages = self._stages(wanted)
        self._firsts = [stage.first_step for stage in self.stages]
        self.steps = self._step_at(wanted)
        self.tokens = self.tokens_before(self.steps)
        fall = max(1, round(self.train.decay * wanted))
        self.decay_start = min(self._step_at(wanted - fall), self.steps - 1)

    def batch_at(self, step: int) -> tuple[int, int]:
        """First row and number of rows of a step."""
        stage = self.stages[bisect_right(self._firsts, step) - 1]
        return stage.first_row + (step - stage.first_step) * stage.batch, stage.batch

    def tokens_before(self, step: int) -> int:
        """Tokens seen when ``step`` begins."""
        return self.batch_at(step)[0] * self.row_tokens

    def lr_factor_at(self, step: int) -> float:
        """The learning rate of a step, as a share of the base rate."""
        train = self.train
        first, batch = self.batch_at(step)
        seen = max((first + batch) * self.row_tokens, self._floor)
        rate = (seen / train.reference_tokens) ** -train.lr_exponent
        if train.warmup_tokens:
            rate *= min(1.0, (first + batch) * self.row_tokens / train.warmup_tokens)
        if step >= self.decay_start:
            start = self.tokens_before(self.decay_start)
            rate *= (self.tokens - first * self.row_tokens) / (self.tokens - start)
        return rate

    @property
    def _floor(self) -> float:
        """Tokens below which the power laws are held, so that they do not run off at the very beginning."""
        return max(self.train.warmup_tokens, self.row_tokens)

    def _stages(self, rows: int) -> list[Stage]:
        """Powers of two nearest to the power law in the tokens seen: few shapes, each kept for long."""
        train = self.train
        reference = train.batch_tokens / self.row_tokens
        at_start = reference * (self._floor / train.reference_tokens) ** train.batch_exponent
        exponent = max(0, round(math.log2(at_start)))
        stages = [Stage(0, 0, 2**exponent)]
        while train.batch_exponent > 0:
            # The tokens at which the law, rounded in the logarithm, reaches the next power of two. A tiny exponent
            # puts them beyond any float; a run ends long before 2^100.
            doublings = (exponent + 0.5 - math.log2(reference)) / train.batch_exponent
            bound = train.reference_tokens * 2 ** min(doublings, 100.0)
            last = stages[-1]
            steps = max(1, math.ceil((bound / self.row_tokens - last.first_row) / last.batch))
            first = last.first_row + steps * last.batch
            if first >= rows:
                break
            exponent += 1
            stages.append(Stage(last.first_step + steps, first, 2**exponent))
        return stages

    def _step_at(self, rows: int) -> int:
        """The first step that begins at or after so many rows."""
        stage = next(stage for stage in reversed(self.stages) if stage.first_row <= rows)
        return stage.first_step + math.ceil((rows - stage.first_row) / stage.batch)
