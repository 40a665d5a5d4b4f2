"""From one measured model to another: a metric carried by a power law in parameters and tokens."""

from __future__ import annotations

import math

from ..errors import UserError
from ..quantities import require_positive


def carry(
    metric: float,
    from_params: float,
    from_tokens: float,
    to_params: float,
    to_tokens: float,
    alpha: float,
    beta: float,
) -> float:
    """P_B = P_A · (N_B/N_A)^α · (D_B/D_A)^β.

    It holds for a metric that follows P = k·N^α·D^β without a floor; a loss has negative exponents. The unknown k
    cancels, so one measured model and the two exponents of a fit are enough.

    Args:
        metric: P_A, measured, above zero.
        from_params: N_A, in the same count as ``to_params``.
        from_tokens: D_A.
        to_params: N_B.
        to_tokens: D_B.
        alpha: exponent of the parameters.
        beta: exponent of the tokens.

    Raises:
        UserError: a number is not finite and above zero, or an exponent is not finite.
    """
    require_positive(
        metric=metric, from_params=from_params, from_tokens=from_tokens, to_params=to_params, to_tokens=to_tokens
    )
    for name, exponent in (("alpha", alpha), ("beta", beta)):
        if not math.isfinite(exponent):
            raise UserError(f"{name} must be a finite number, not {exponent!r}")
    log_factor = alpha * math.log(to_params / from_params) + beta * math.log(to_tokens / from_tokens)
    if not abs(log_factor + math.log(metric)) < 700:
        raise UserError(
            f"alpha {alpha:g} and beta {beta:g} carry {metric:g} beyond what a float holds; are they the exponents?"
        )
    return metric * math.exp(log_factor)
