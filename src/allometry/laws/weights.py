"""Which runs tell most about a larger, well-trained run: the weights of fits that are made to predict.

Large runs are nearer to what is asked for. Runs far above the best loss that their compute could buy (a large model
on few tokens, say) are where every simple law bends: one 10 % above counts about a third, one 40 % above a fiftieth.
On public tables both weights lower the error of every law beyond the data; on data that a law describes exactly they
cost next to nothing.
"""

from __future__ import annotations

import numpy as np

from .observations import Observations

COMPUTE_POWER = 0.25
EXCESS_POWER = 12.0


def relevance(observations: Observations) -> np.ndarray:
    """(best loss at no more compute / loss)^12 of each run, in (0, 1]: 1 for runs on the frontier of the table."""
    order = np.argsort(observations.flops, kind="stable")
    compute, best = observations.flops[order], np.minimum.accumulate(observations.loss[order])
    # Runs of one budget differ in compute by rounding of sizes and steps; they share a frontier.
    last = np.searchsorted(compute, 1.01 * observations.flops, side="right") - 1
    return (best[last] / observations.loss) ** EXCESS_POWER


def prediction_weights(observations: Observations) -> np.ndarray:
    """(C/C_max)^¼ · ``relevance``, one weight a run, positive."""
    compute = (observations.flops / observations.flops.max()) ** COMPUTE_POWER
    return np.maximum(compute * relevance(observations), 1e-12)
