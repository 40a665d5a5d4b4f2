"""Batch and learning rate along a run, as functions of the number of tokens seen.

The best batch grows with the length of a run (as D^0.4 to D^0.6 in the published measurements), and the best learning
rate decreases or stays. A run with a constant batch would be near its best at one length only. So both follow their
power law *during* the run: at every moment they have the values that the rule gives for a run of the tokens seen so
far. The share of a weight that a step takes off (weight decay) follows the tokens seen too. Therefore one trunk
serves every length, and a larger model, trained for longer, continues along the same path.

At the end the learning rate decays linearly to zero (warmup–stable–decay, arXiv 2404.06395 and 2405.18392).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from .training import TrainConfig


@dataclass(frozen=True)
class Stage:
    """Consecutive steps that have the same batch size, in rows."""

    first_step: int
    first_row: int
    batch: int


class Schedule:
    """The steps of one run. Nothing before :attr:`decay_start` depends on the run's length."""

    def __init__(self, train: TrainConfig, row_tokens: int):
        self.train, self.row_tokens = train, row_tokens
        rows = max(1, round(self.train.tokens / self.row_tokens))
        self.stages = self._stages(rows)
        self._firsts = [stage.first_step for stage in self.stages]
        self.steps = self._step_at(rows)
        self.tokens = self.tokens_before(self.steps)
        decay_rows = max(1, round(self.train.decay * rows))
        self.decay_start = min(self._step_at(rows - decay_rows), self.steps - 1)

    def batch_at(self, step: int) -> tuple[int, int]:
        """First row and number of rows of a step."""
        stage = self.stages[bisect_right(self._firsts, step) - 1]
        return stage.first_row + (step - stage.first_step) * stage.batch, stage.batch

    def tokens_before(self, step: int) -> int:
        """The number of tokens seen when ``step`` begins."""
        return self.batch_at(step)[0] * self.row_tokens

    def lr_factor_at(self, step: int) -> float:
        """The factor by which the base learning rate is multiplied at a step."""
        train = self.train
        first, batch = self.batch_at(step)
        seen = max((first + batch) * self.row_tokens, self._floor)
        factor = (seen / train.reference_tokens) ** -train.lr_exponent
        if train.warmup_tokens:
            factor *= min(1.0, (first + batch) * self.row_tokens / train.warmup_tokens)
        if step >= self.decay_start:
            start = self.tokens_before(self.decay_start)
            factor *= (self.tokens - first * self.row_tokens) / (self.tokens - start)
        return factor

    def weight_decay_at(self, step: int) -> float | None:
        """The share of a weight that a step takes off at the peak of the rate; None where it does not change."""
        timescale = self.train.weight_decay_timescale
        if timescale is None:
            return None
        first, batch = self.batch_at(step)
        before, after = (max(rows * self.row_tokens, self._floor) for rows in (first, first + batch))
        return 1 - (1 - self.train.weight_decay) * (before / after) ** (1 / timescale)

    @property
    def _floor(self) -> float:
        """The power laws are constant below this number of tokens: near zero they would diverge."""
        return max(self.train.warmup_tokens, self.row_tokens)

    def _stages(self, rows: int) -> list[Stage]:
        """Powers of two nearest to the power law in the tokens seen: few shapes, each used for many steps."""
        train = self.train
        reference = train.batch_tokens / self.row_tokens
        at_start = reference * (self._floor / train.reference_tokens) ** train.batch_exponent
        exponent = max(0, round(math.log2(at_start)))
        stages = [Stage(0, 0, 2**exponent)]
        while train.batch_exponent > 0:
            # The number of tokens at which the law, rounded in the logarithm, reaches the next power of two. With a
            # tiny exponent it would exceed any float; a run ends long before 2^100.
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
        """The first step that begins at or after this row."""
        stage = next(stage for stage in reversed(self.stages) if stage.first_row <= rows)
        return stage.first_step + math.ceil((rows - stage.first_row) / stage.batch)
