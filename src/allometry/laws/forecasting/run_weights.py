"""Which runs tell most about a larger, well-trained run: the weights of fits that are made to predict.

Large runs are nearer to what is asked for. Runs far above the best loss that their compute could buy (a large model
on few tokens, say) are where every simple law bends: one 5 % above counts about a third, one 20 % above an eightieth.
On public tables both weights lower the error of every law beyond the data; on data that a law describes exactly they
cost next to nothing. What happens off the frontier is not lost: ``residuals`` adds it to the prediction there.
"""

from __future__ import annotations

import numpy as np

from ..tables.diagnosis import excess
from ..tables.observations import Observations

COMPUTE_POWER = 0.25
EXCESS_POWER = 24.0


def relevance(observations: Observations) -> np.ndarray:
    """(best loss at no more compute / loss)^24 of each run, in (0, 1]: 1 for runs on the frontier of the table."""
    return np.exp(-EXCESS_POWER * excess(observations))


def prediction_weights(observations: Observations) -> np.ndarray:
    """(C/C_max)^¼ · ``relevance``, one weight a run, positive."""
    compute = (observations.flops / observations.flops.max()) ** COMPUTE_POWER
    return np.maximum(compute * relevance(observations), 1e-12)
