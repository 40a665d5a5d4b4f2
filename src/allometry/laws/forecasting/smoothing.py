"""The losses of runs without their noise, as far as their neighbours tell.

Which runs lie on the frontier is judged by their losses. Where these are noisy the lucky ones would be the frontier,
every other run would lie above it, and a fit that gives most weight to the frontier would predict too low a loss. So
the losses are smoothed for that judgement, and for it alone: a plane or a quadratic in (ln N, ln D) and the residual
process around it. Where residuals are no noise, the process follows them and the losses stay as they are; where noise
is small they stay too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..tables.findings.best_by_compute import excess
from ..tables.observations import Observations
from .residuals import EXCESS_GROWTH, ResidualProcess

FEWEST = 5
ENOUGH_FOR_CURVATURE = 12
# Where the scatter is smaller than this, a low loss is rather one that was trained well than a lucky one.
QUIET = 0.01


def smoothed(runs: Observations) -> Observations:
    """The runs with smooth losses; a few runs as they are."""
    if len(runs) < FEWEST:
        return runs
    n, d, observed = (np.log(x) for x in (runs.num_params, runs.tokens, runs.loss))
    n, d = n - n.mean(), d - d.mean()
    terms = [np.ones_like(n), n, d]
    if len(runs) >= ENOUGH_FOR_CURVATURE:
        terms += [n * n, n * d, d * d]
    design, above = np.stack(terms, axis=1), excess(runs)
    root = np.exp(-EXCESS_GROWTH * above)
    solution, _, rank, _ = np.linalg.lstsq(design * root[:, None], observed * root, rcond=1e-8)
    plain = design @ solution
    process = ResidualProcess(runs.num_params, runs.tokens, observed - plain, above, float(rank))
    left = process.at(runs.num_params, runs.tokens, above)
    noise = left.noise / np.exp(EXCESS_GROWTH * above)
    share = noise**2 / (noise**2 + QUIET**2)
    return replace(runs, loss=np.exp(observed + share * (plain + left.mean - observed)))
