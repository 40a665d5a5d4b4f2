"""Whether a law can be fitted to the runs of a ladder, asked before any of them is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...config.run import RunConfig
from ...errors import UserError
from ...laws import LAWS, Observations
from ...laws.tables.findings.undetermined import check_design

SMALLEST = LAWS["power"]  # of the fewest constants


def check_rungs(rungs: Sequence[RunConfig]) -> None:
    """Refuse runs that tell no law, however well they end.

    Raises:
        UserError: one size or one length, sizes and lengths tied to each other, or too few runs.
    """
    sizes = np.array([rung.num_params for rung in rungs], float)
    tokens = np.array([rung.tokens for rung in rungs], float)
    falling = (sizes * tokens) ** -0.1
    rows = zip(sizes, tokens, falling, strict=True)
    planned = Observations.from_records([{"num_params": n, "tokens": d, "loss": loss} for n, d, loss in rows])
    try:
        check_design(planned, SMALLEST.name, SMALLEST.num_constants)
    except UserError as error:
        raise UserError(f"this ladder would tell no law: {error}") from None
