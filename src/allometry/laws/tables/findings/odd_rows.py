"""Rows that can hardly be runs of one table: impossible counts, other units of compute, points along a run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ....quantities import plural
from ..rows.points_along import run_of
from ..run_arrays import RunArrays
from .finding import Finding, finding

Array = np.ndarray

# The logarithm of a vocabulary of a million: the loss of a model that guesses.
MOST_LOSS = float(np.log(1e6))
MOST_LIKELY_RATIO = 1e4
# Between levels of C/(6·N·D), as a logarithm; exact counts differ from 6·N·D smoothly, and by less between neighbours.
LEAST_LEVEL = np.log(1.4)


def impossible(runs: RunArrays) -> Iterator[Finding]:
    """Counts and losses that no language model has."""
    n, d, share = runs.num_params, runs.tokens, runs.flops / _six_nd(runs)
    for wrong, text in (
        (
            runs.loss > MOST_LOSS,
            "a loss above that of guessing among a million words; is it a perplexity (take its logarithm), or a "
            "sum over tokens (divide by their number)?",
        ),
        ((n < 1e2) | (d < 1e3), "counts too small for a language model; are some cells in millions or billions?"),
        ((n > 1e14) | (d > 1e16), "counts beyond any model or corpus; are the columns exchanged?"),
        (d < n / 1000, "less than one token for a thousand parameters; are tokens in the same unit everywhere?"),
        (
            (d / n > MOST_LIKELY_RATIO) & (n < 1e6),
            "more tokens a parameter than anybody trains on; are sizes in thousands, or tokens in a larger unit?",
        ),
        (
            share < 1 / 3,
            "less compute than one forward pass, 2·N·D; does N count parameters that are not active?",
        ),
    ):
        if wrong.any():
            yield finding("impossible", runs, np.flatnonzero(wrong), text)


def levels_of_compute(runs: RunArrays) -> Iterator[Finding]:
    """Runs whose C/(6·N·D) lies on another level than that of the others, by the scatter of the table itself."""
    share = np.log(runs.flops / _six_nd(runs))
    order = np.argsort(share, kind="stable")
    gaps = np.diff(share[order])
    if not len(gaps) or (at := int(np.argmax(gaps))) < 0 or gaps[at] < LEAST_LEVEL:
        return
    below, above = order[: at + 1], order[at + 1 :]
    scatter = max(np.ptp(share[below]), np.ptp(share[above]))
    if scatter > gaps[at] / 3:
        return
    sizes = [runs.num_params[rows] for rows in (below, above)]
    smooth = scatter > 0.02 or min(len(np.unique(one)) for one in sizes) == 1
    if smooth and sizes[1].max() < sizes[0].min():
        return  # it falls with the size, as attention and a head make it
    few, many = sorted((below, above), key=len)
    times = float(np.exp(np.median(share[few]) - np.median(share[many])))
    yield finding(
        "levels",
        runs,
        np.sort(few),
        f"C/(6·N·D) is {times:.3g} times that of the other {plural(len(many), 'run')}; are size, tokens or compute of "
        "these counted in another way?",
    )


def checkpoints(runs: RunArrays) -> Iterator[Finding]:
    """Rows that are points along a run: by their share of it, or by a label that several rows have."""
    share = runs.extra.get("share_of_run")
    text = "points along a run and not its end; a law is of finished runs, so leave them out"
    if share is not None:
        inside = np.flatnonzero(share < 0.999)
        if len(inside):
            yield finding("checkpoints", runs, inside, text)
        return
    places: dict[str, list[int]] = {}
    for row, label in enumerate(runs.labels):
        places.setdefault(run_of(label), []).append(row)
    along = []
    for rows in places.values():
        n, d = runs.num_params[rows], runs.tokens[rows]
        if len(rows) > 2 and np.ptp(n) == 0 and len(np.unique(d)) == len(rows):
            along += [row for row in rows if runs.tokens[row] < d.max()]
    if 2 * len(along) > len(runs):
        yield finding("checkpoints", runs, np.sort(along), text)


def _six_nd(runs: RunArrays) -> Array:
    return 6 * runs.num_params * runs.tokens
