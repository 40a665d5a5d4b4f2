"""How the next token is chosen from logits: temperature, top-k, top-p, min-p, repetition penalty, seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UserError

LEAST_TEMPERATURE = 1e-3  # below it the likeliest token has all the probability, which 0 asks for


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, in the order of the fields; the defaults change nothing.

    Attributes:
        repetition_penalty: logits of tokens that are in the text already are divided by this if positive, multiplied if
            negative (CTRL, arXiv 1909.05858). 1: no penalty.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: only so many of the likeliest tokens; 0: all.
        top_p: only the likeliest tokens that together have this probability (nucleus, arXiv 1904.09751). 1: all.
        min_p: only tokens at least this many times as likely as the likeliest (arXiv 2407.01082). 0: all.
        seed: text number i of a batch draws by seed + i, so it does not depend on the others.

    Raises:
        UserError: a value out of its range.
    """

    repetition_penalty: float = 1.0
    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or LEAST_TEMPERATURE <= self.temperature < math.inf):
            raise UserError(
                f"--temperature {self.temperature:g}: give a finite number from {LEAST_TEMPERATURE:g} up, "
                "or 0 for always the likeliest token"
            )
        if not 1e-3 <= self.repetition_penalty <= 1e3:
            raise UserError(
                f"--repetition-penalty {self.repetition_penalty:g}: give a number from 0.001 to 1000; 1 is none"
            )
        if self.top_k < 0:
            raise UserError(f"--top-k {self.top_k}: give a number of tokens, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p:g}: give a probability above 0; 1 is all tokens")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"--min-p {self.min_p:g}: give a share from 0 to 1; 0 is all tokens")
        if not 0 <= self.seed < 1 << 62:
            raise UserError(f"--seed {self.seed}: give a whole number from 0 to {1 << 62}")

    def generator(self, index: int = 0) -> torch.Generator:
        """The source of randomness of text number ``index`` of a batch."""
        return torch.Generator().manual_seed(self.seed + index)

    def probabilities(self, logits: Tensor, text: Sequence[int]) -> Tensor:
        """The odds of each token (vocab) after ``text``, in float64; they need not sum to 1.

        Raises:
            UserError: a logit is NaN or infinite.
        """
        logits = _finite(logits).double()
        if self.repetition_penalty != 1.0:
            seen = torch.tensor(sorted(set(text)), dtype=torch.long)
            of_seen = logits[seen]
            penalty = self.repetition_penalty
            logits[seen] = torch.where(of_seen > 0, of_seen / penalty, of_seen * penalty)
        if self.temperature == 0:
            odds = torch.zeros_like(logits)
            odds[logits.argmax()] = 1
            return odds
        odds = torch.softmax(logits / self.temperature, -1)
        if self.top_k and self.top_k < len(odds):
            odds[odds < odds.topk(self.top_k).values[-1]] = 0
        if self.top_p < 1:
            ordered, order = odds.sort(descending=True, stable=True)
            before = ordered.cumsum(0) - ordered  # what stands above a token; the likeliest always stays
            odds[order[before >= self.top_p * ordered.sum()]] = 0
        if self.min_p > 0:
            odds[odds < self.min_p * odds.max()] = 0
        return odds

    def choose(self, logits: Tensor, text: Sequence[int], generator: torch.Generator) -> int:
        """The next token after ``text`` by logits (vocab).

        Raises:
            UserError: a logit is NaN or infinite.
        """
        if self.temperature == 0 and self.repetition_penalty == 1.0:
            return int(_finite(logits).argmax())
        odds = self.probabilities(logits, text)
        return int(torch.multinomial(odds, 1, generator=generator))


def _finite(logits: Tensor) -> Tensor:
    if not math.isfinite(logits.sum().item()) and not bool(logits.isfinite().all()):
        raise UserError("the model's logits are not finite: its training diverged; take another run")
    return logits.cpu()
