"""What a design cannot tell: one size, one ratio, too few runs, a loss that rises."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ....errors import UserError
from ....quantities import format_count, plural
from ..run_arrays import RunArrays
from .finding import Finding

LEAST_RUNS = 3  # with so many, not even the law of the fewest constants, power, can be fitted


def check_design(runs: RunArrays, name: str, num_constants: int) -> None:
    """Refuse a table that does not determine the constants of a law in N and D, and name a run that would help.

    Raises:
        UserError: fewer runs than ``num_constants`` + 1, one size, one token count, N and D tied to each other, or a
            loss that rises with both (``power`` may fit that).
    """
    tied = _tied(runs)
    if tied:
        raise UserError(tied)
    if name != "power" and (rising := _rising(runs)):
        raise UserError(rising)
    if len(runs) < num_constants + 1:
        smaller = ", or fit a smaller law such as power" if name != "power" and len(runs) > LEAST_RUNS else ""
        raise UserError(
            f"{plural(len(runs), 'run')} {'is' if len(runs) == 1 else 'are'} too few "
            f"for law {name} with {num_constants} constants; add runs up to {num_constants + 1}{smaller}"
        )


def design_findings(runs: RunArrays) -> Iterator[Finding]:
    """One loss everywhere, N and D tied to each other, or a loss that rises."""
    everyone = tuple(runs.labels)
    if len(runs) > 2 and np.ptp(runs.loss) == 0:
        text = f"all {len(runs)} runs have one loss ({runs.loss[0]:g}); is that column the loss of each run?"
        yield Finding("constant", everyone, text)
    if text := _tied(runs):
        yield Finding("collinear", everyone, text)
    if text := _rising(runs):
        yield Finding("rising", everyone, text)


def _tied(runs: RunArrays) -> str:
    """Why the effects of N and D cannot be separated, and the run to add; empty if they can."""
    log_n, log_d = np.log(runs.num_params), np.log(runs.tokens)
    size, tokens = float(np.exp(np.median(log_n))), float(np.exp(np.median(log_d)))
    who = f"all {len(runs)} runs have" if len(runs) > 1 else "the only run has"
    if np.ptp(log_n) < 0.05:
        return (
            f"{who} one size ({format_count(size)} parameters): a law in N needs at least "
            f"two; add a run at {format_count(4 * size)} parameters and {format_count(tokens)} tokens"
        )
    if np.ptp(log_d) < 0.05:
        return (
            f"{who} one token count ({format_count(tokens)}): a law in D needs at least "
            f"two; add a run at {format_count(size)} parameters and {format_count(4 * tokens)} tokens"
        )
    slope, offset = np.polyfit(log_n, log_d, 1)
    if np.std(log_d - slope * log_n - offset) >= 0.03:
        return ""
    ratio = f"one ratio of {tokens / size:.3g} tokens a parameter" if abs(slope - 1) < 0.05 else "one line in (N, D)"
    return (
        f"all {len(runs)} runs lie on {ratio}, so the effects of N and of D cannot be separated; "
        f"add a run at {format_count(size)} parameters and {format_count(4 * tokens)} tokens"
    )


def _rising(runs: RunArrays) -> str:
    """What to do about a loss that rises with size and with tokens; empty if it falls."""
    if len(runs) < 4:
        return ""
    log_n, log_d, log_l = (np.log(x) for x in (runs.num_params, runs.tokens, runs.loss))
    slopes = np.linalg.lstsq(np.stack([np.ones_like(log_n), log_n, log_d], axis=1), log_l, rcond=None)[0][1:]
    log_c, log_l = log_n + log_d - (log_n + log_d).mean(), log_l - log_l.mean()
    together = log_c @ log_l > 0.5 * np.sqrt((log_c @ log_c) * (log_l @ log_l))
    if not (together and (slopes > 0).all()):
        return ""
    return (
        "the loss rises with size and with tokens: is the column an accuracy or another score? "
        "Choose the loss with columns={'loss': ...}, or fit the law power, which may rise"
    )
