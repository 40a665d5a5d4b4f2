"""How much each run counts in a fit that is made to predict a larger, well-trained run.

Large runs are nearer to the prediction and count more. Runs far above the best loss for their compute (a large model
on few tokens, for example) count less, because every simple law is wrong there: a run 5 % above counts about a third,
one 20 % above an eightieth. On public tables both weights lower the error of every law beyond the data; on data that a
law describes exactly they cost almost nothing. Runs off the frontier still enter predictions by ``residuals``. How far
above the frontier a run is follows from smoothed losses, so that luck has no weight.
"""

from __future__ import annotations

import numpy as np

from ..tables.findings.best_by_compute import excess
from ..tables.observations import Observations
from .smoothing import smoothed

COMPUTE_POWER = 0.25
EXCESS_POWER = 24.0


def relevance(observations: Observations) -> np.ndarray:
    """(best loss at no more compute / loss)^24 of each run, in (0, 1]: 1 for runs on the frontier of the table."""
    return relevance_of(smoothed(observations))


def relevance_of(smooth: Observations) -> np.ndarray:
    """``relevance`` where the losses are smooth already."""
    return np.exp(-EXCESS_POWER * excess(smooth))


def prediction_weights(observations: Observations) -> np.ndarray:
    """(C/C_max)^¼ · ``relevance``, one weight a run, positive."""
    return weights_of(observations, relevance(observations))


def weights_of(observations: Observations, relevant: np.ndarray) -> np.ndarray:
    """``prediction_weights`` where the relevance of the runs is known already."""
    compute = (observations.flops / observations.flops.max()) ** COMPUTE_POWER
    return np.maximum(compute * relevant, 1e-12)
