"""Samples of candidates that a budget pays for, spread evenly over their prices and places.

How often runs of a price are taken: all prices alike where that gives enough runs for a law. Where it does not, the
dearer the seldomer, by the least power of the price that gives enough: dear runs are nearest to what is to be
predicted, and very cheap ones may follow another law. Where no sample has nearly enough, the
cheapest are taken.

Which of them: by the local pivotal method (Grafström, Lundström & Schelin, Biometrics 2012), in which neighbours
compete for their chances, so that hardly two of a sample lie together and no part is left empty.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
PRICE_POWERS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0, 1.5, 2.0)
EDGE = 1e-9
# Where a sample has less than this share of the runs needed, the cheapest are taken.
NEARLY = 0.8


def chances(price: Array, weight: Array, budget: float, enough: float, most: float, least_power: float = 0.0) -> Array:
    """Chances to be taken, as weight/price^power as far as below one, that cost at most the budget.

    Args:
        price: of each candidate.
        weight: how much each is wanted, above zero.
        budget: in the unit of the price.
        enough: candidates, on average, for which the least power is taken; the greatest where none gives so many.
        most: candidates, on average.
    """
    chance = np.zeros(len(price))
    for power in PRICE_POWERS:
        chance = _scaled(weight / (price / price.min()) ** power, price, budget, most)
        if chance.sum() >= min(enough, most, len(price)) * (1 - 1e-6):
            break
    return chance


def _scaled(wanted: Array, price: Array, budget: float, most: float) -> Array:
    """As far in proportion to ``wanted`` as budget and number allow."""
    low, high = 0.0, 1 / float(wanted.min())
    for _ in range(60):
        middle = (low + high) / 2
        chance = np.minimum(1.0, middle * wanted)
        if (chance * price).sum() > budget or chance.sum() > most:
            high = middle
        else:
            low = middle
    # All of them where the budget pays for all: halving never reaches the upper end.
    return np.where(low * wanted > 1 - 1e-6, 1.0, low * wanted)


def balanced_sample(chance: Array, places: Array, generator: np.random.Generator) -> Array:
    """Rows taken by their chances (candidates,), far from each other at their places (candidates, dimensions)."""
    chance = chance.copy()
    free = (chance > EDGE) & (chance < 1 - EDGE)
    while free.sum() > 1:
        rows = np.flatnonzero(free)
        one = int(generator.choice(rows))
        others = rows[rows != one]
        other = int(others[((places[others] - places[one]) ** 2).sum(axis=1).argmin()])
        chance[one], chance[other] = _compete(float(chance[one]), float(chance[other]), float(generator.random()))
        for row in (one, other):
            free[row] = EDGE < chance[row] < 1 - EDGE
    for row in np.flatnonzero(free):  # the last one has no rival
        chance[row] = float(generator.random() < chance[row])
    return np.flatnonzero(chance > 0.5)


def _compete(one: float, other: float, drawn: float) -> tuple[float, float]:
    """The chances of two neighbours after one of them is decided; their sum and each one's mean stay as they are."""
    total = one + other
    if total < 1:
        return (0.0, total) if drawn < other / total else (total, 0.0)
    wins = (1 - other) / (2 - total)
    return (1.0, total - 1) if drawn < wins else (total - 1, 1.0)


def spend_evenly(
    price: Array,
    weight: Array,
    places: Array,
    budget: float,
    enough: int,
    most: int,
    generator: np.random.Generator,
) -> list[int]:
    """Candidates by their chances until the budget pays for no other, or there are ``most``.

    A sample may cost less than the budget; what is left is spent in the same way on the rest.

    Args:
        price: of each candidate, (candidates,).
        weight: how much each is wanted, above zero, (candidates,).
        places: between which distances are taken, (candidates, dimensions).
        budget: in the unit of the price.
        enough: runs for a law; the cheapest are taken where no sample has nearly as many.
        most: runs.
        generator: of the sample.
    """
    chosen: list[int] = []
    left = budget
    while len(chosen) < most:
        free = np.setdiff1d(np.flatnonzero(price <= left * (1 + 1e-12)), chosen)
        if not len(free):
            break
        cheapest = free[np.argsort(price[free], kind="stable")]
        paid = int(np.searchsorted(np.cumsum(price[cheapest]), left * (1 + 1e-12), side="right"))
        needed, most_left = min(enough - len(chosen), paid), most - len(chosen)
        chance = chances(price[free], weight[free], left, needed, most_left)
        if chance.sum() < NEARLY * min(needed, most_left):
            return [*chosen, *cheapest[: min(paid, most_left)].tolist()]
        batch = _affordable(free[balanced_sample(chance, places[free], generator)], price, left)
        # Too little is left for a sample: the dearest that it pays for.
        batch = batch[:most_left] if len(batch) else cheapest[-1:]
        chosen += batch.tolist()
        left -= float(price[batch].sum())
    return chosen


def _affordable(rows: Array, price: Array, budget: float) -> Array:
    """The rows without those, as few and cheap as will do, that the budget does not pay for."""
    rows = rows[np.argsort(price[rows], kind="stable")]
    while len(rows) and (over := price[rows].sum() - budget * (1 + 1e-12)) > 0:
        rows = np.delete(rows, min(int(np.searchsorted(price[rows], over)), len(rows) - 1))
    return rows
