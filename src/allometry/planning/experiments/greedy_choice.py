"""Spend a budget on candidate runs, one after the other, each time on the one that tells most about the target.

The knowledge about the target is Gaussian: laws around their constants (``posterior``). Greedy by gain per cost, or by
gain alone: either can be far from the best choice; the better of the two cannot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

Array = np.ndarray
# Gains are divided by the price to these powers.
PRICE_POWERS = (1.0, 0.0)


class TargetKnowledge(Protocol):
    """What is known of a target, and what a run of each candidate would add."""

    @property
    def price(self) -> Array:
        """What each candidate costs, (candidates,)."""
        ...

    def useful(self) -> Array:
        """Which candidates may be chosen, (candidates,)."""
        ...

    def spread(self) -> float:
        """Standard deviation of the prediction at the target."""
        ...

    def spread_after(self) -> Array:
        """The same after a run of each candidate, (candidates,)."""
        ...

    def after(self, index: int) -> Self:
        """What is known after a run of that candidate."""
        ...


@dataclass(frozen=True)
class ChosenRun:
    """A chosen candidate, and the spread at the target before and after it."""

    index: int
    before: float
    after: float


def spend(
    knowledge: TargetKnowledge, budget: float, most: int, power: float, least_gain: float = 0.0
) -> list[ChosenRun]:
    """Greedily the candidates of the most gain over price^power that the budget pays for.

    Args:
        knowledge: of the target.
        budget: in units of the price.
        most: candidates at most.
        power: 1: by gain per cost; 0: by gain.
        least_gain: the share of the spread that each but the first must take away.
    """
    chosen: list[ChosenRun] = []
    left, weight = budget, knowledge.price**power
    while len(chosen) < most:
        before, after = knowledge.spread(), knowledge.spread_after()
        worth = np.where((knowledge.price <= left) & knowledge.useful(), (before - after) / weight, -np.inf)
        if chosen:
            worth[before - after < least_gain * before] = -np.inf
        index = int(np.argmax(worth))
        if worth[index] == -np.inf or (chosen and worth[index] <= 0):
            break
        chosen.append(ChosenRun(index, before, float(after[index])))
        left -= float(knowledge.price[index])
        knowledge = knowledge.after(index)
    return chosen


def best_choice(
    knowledge: TargetKnowledge,
    budget: float,
    most: int,
    least_gain: float = 0.0,
) -> list[ChosenRun]:
    """The choice that leaves the least spread, of those by each power of the price; empty if the budget pays none."""
    choices = [spend(knowledge, budget, most, power, least_gain) for power in PRICE_POWERS]
    choices = [choice for choice in choices if choice]
    return min(choices, key=lambda choice: choice[-1].after, default=[])
